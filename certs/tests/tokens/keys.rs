//! Documents of keys: what each key must be to be used.

use kith_certs::jwt::{Jwks, MAX_JWKS_BYTES, MAX_KEYS};
use serde_json::{Value, json};

use crate::{issuer, jwks};

/// Beside a good key, `jwk` changed by `change` isn't used, for this reason.
fn refused(jwk: &Value, change: &Value, why: &str) {
    let mut spoilt = jwk.clone();
    for (name, value) in change.as_object().unwrap() {
        spoilt[name] = value.clone();
    }
    let good = issuer("ES256");
    let keys = jwks(&json!({"keys": [spoilt, good.jwk()]}).to_string());
    assert_eq!(keys.len(), 1, "{change}");
    let [unusable] = keys.unusable() else {
        panic!("{change}: {keys:?}")
    };
    assert_eq!(unusable.index, 0);
    assert!(unusable.why.contains(why), "{change}: {unusable}");
}

#[test]
fn keys_that_are_not_for_verifying_are_left_out_and_named() {
    let ec = issuer("ES256").jwk();
    for (change, why) in [
        (json!({"use": "enc"}), "not for tokens"),
        (json!({"use": "x509-svid"}), "not for tokens"),
        (json!({"use": 7}), "no string"),
        (json!({"key_ops": ["sign"]}), "key_ops"),
        (json!({"key_ops": []}), "key_ops"),
        (json!({"key_ops": "verify"}), "key_ops"),
        (json!({"alg": "ES384"}), "its kind can't do"),
        (json!({"alg": "RS256"}), "its kind can't do"),
        (json!({"alg": "HS256"}), "aren't signed with"),
        (json!({"alg": "ECDH-ES"}), "aren't signed with"),
        (json!({"alg": "none"}), "aren't signed with"),
        (json!({"alg": null}), "no string"),
        (json!({"d": "AA"}), "compromised"),
        (json!({"k": "AA"}), "compromised"),
        (json!({"kid": 7}), "no string"),
        (json!({"kty": "oct"}), "symmetric"),
        (json!({"kty": "AKP"}), "unknown type"),
        (json!({"kty": 7}), "no string"),
        (json!({"crv": "P-384"}), "bytes; on P-384 it has 48"),
        (json!({"crv": "secp256k1"}), "isn't supported"),
        (json!({"x": "AA"}), "of 1 bytes"),
        (json!({"x": ec["y"], "y": ec["x"]}), "no point"),
        (
            json!({"y": format!("{}=", ec["y"].as_str().unwrap())}),
            "base64url",
        ),
        (json!({"y": null}), "no string"),
    ] {
        refused(&ec, &change, why);
    }
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
    refused(&symmetric, &json!({}), "compromised");
    refused(&json!({}), &json!({}), "no `kty`");
    let okp = issuer("EdDSA").jwk();
    refused(&okp, &json!({"crv": "X25519"}), "isn't supported");
    refused(&okp, &json!({"crv": "Ed448"}), "isn't supported");
    refused(&okp, &json!({"x": "AA"}), "no point");
    refused(&okp, &json!({"alg": "ES256"}), "its kind can't do");
}

#[test]
fn rsa_keys_have_2048_bits_or_more() {
    let rsa = issuer("RS256").jwk();
    let number = |bytes: usize, first: u8| {
        use base64::Engine as _;
        let mut number = vec![0xff; bytes];
        number[0] = first;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(number)
    };
    for (change, why) in [
        (json!({"n": number(128, 0xff)}), "has 1024 bits"),
        (json!({"n": number(256, 0x7f)}), "has 2047 bits"),
        (json!({"n": number(2048, 0xff)}), "has 16384 bits"),
        (json!({"n": ""}), "has 0 bits"),
        (json!({"e": ""}), "exponent"),
        (json!({"e": "AA"}), "exponent"),
        (json!({"e": "AQ"}), "exponent"),
        (json!({"e": "AAAB"}), "exponent"),
        (json!({"e": "Ag"}), "exponent"),
        (json!({"e": number(300, 0xff)}), "exponent"),
        (json!({"alg": "ES256"}), "its kind can't do"),
        (json!({"alg": "RSA-OAEP"}), "aren't signed with"),
        (json!({"p": "AA", "q": "AA"}), "compromised"),
    ] {
        refused(&rsa, &change, why);
    }
    // A leading zero, as some libraries write it, is no reason.
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut zero = rsa.clone();
    let mut n = base64.decode(rsa["n"].as_str().unwrap()).unwrap();
    n.insert(0, 0);
    zero["n"] = json!(base64.encode(n));
    assert_eq!(jwks(&json!({"keys": [zero]}).to_string()).len(), 1);
}

#[test]
fn unknown_members_and_certificates_are_no_reason() {
    let mut key = issuer("ES256").jwk();
    key["x5c"] = json!(["MIIB"]);
    key["x5t#S256"] = json!("AA");
    key["key_ops"] = json!(["verify", "wrapKey"]);
    key["use"] = json!("jwt-svid");
    key["nonsense"] = json!({"d": 1});
    assert_eq!(
        jwks(&json!({"keys": [key], "more": 1}).to_string()).len(),
        1
    );
}

#[test]
fn a_document_that_is_no_key_set_is_refused_whole() {
    let why = |document: &[u8]| Jwks::parse(document).unwrap_err().to_string();
    for (document, part) in [
        (&b""[..], "EOF"),
        (b"[]", "no JSON object"),
        (b"{}", "no array `keys`"),
        (b"{\"keys\":{}}", "no array `keys`"),
        (b"{\"keys\":null}", "no array `keys`"),
        (b"{\"keys\":[],\"keys\":[]}", "twice"),
        (b"{\"keys\":[{\"kty\":\"EC\",\"kty\":\"RSA\"}]}", "twice"),
        (b"{\"keys\":[]}x", "trailing"),
        (b"{\"keys\":[\"\xff\"]}", "proper JSON"),
    ] {
        let refused = why(document);
        assert!(refused.contains(part), "{refused}");
    }
    let many = format!("{{\"keys\":[{}7]}}", "7,".repeat(MAX_KEYS));
    assert!(why(many.as_bytes()).contains("more than 256 keys"));
    let long = format!("{{\"keys\":[],\"a\":\"{}\"}}", "a".repeat(MAX_JWKS_BYTES));
    assert!(why(long.as_bytes()).contains("longer than"));
    let deep = format!(
        "{{\"keys\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(why(deep.as_bytes()).contains("recursion limit"));
}

/// SPIFFE_Trust_Domain_and_Bundle 4.2.2, JWT-SVID 6.1; SPIRE's plain JWKS have no `use`.
#[test]
fn keys_of_a_trust_domain_say_so() {
    let key = issuer("ES256").jwk();
    let usable = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut key = key.clone();
        change(key.as_object_mut().unwrap());
        let document = json!({"keys": [key]}).to_string();
        Jwks::parse_spiffe_bundle(document.as_bytes())
            .unwrap()
            .len()
            == 1
    };
    assert!(usable(&|key| key["use"] = json!("jwt-svid")));
    assert!(usable(&|key| drop(key.remove("use"))));
    assert!(!usable(&|key| key["use"] = json!("sig")));
    assert!(!usable(&|key| key["use"] = json!("x509-svid")));
    assert!(!usable(&|key| {
        key.remove("use");
        key.remove("kid");
    }));
}
