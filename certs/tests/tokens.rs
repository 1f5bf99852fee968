//! Tokens: signed with real keys by the dev authority's issuers, and spoilt in every way we could think of.

#![allow(clippy::unwrap_used)]

#[path = "tokens/forged.rs"]
mod forged;
#[path = "tokens/keys.rs"]
mod keys;
#[path = "tokens/read.rs"]
mod read;
#[path = "tokens/svid.rs"]
mod svid;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_certs::authority::jwt::Issuer;
use kith_certs::jwt::{Algorithm, Jwks, Jwt, JwtError};
use serde_json::{Value, json};

const ALGORITHMS: [&str; 10] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

fn issuer(algorithm: &str) -> Issuer {
    Issuer::generate(Algorithm::from_name(algorithm).unwrap()).unwrap()
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "sub": "alice", "aud": "orders", "exp": 2_000_000_000})
}

fn jwks(document: &str) -> Jwks {
    Jwks::parse(document.as_bytes()).unwrap()
}

fn keys_of<'a>(issuers: impl IntoIterator<Item = &'a Issuer>) -> Jwks {
    let keys: Vec<Value> = issuers.into_iter().map(Issuer::jwk).collect();
    jwks(&json!({"keys": keys}).to_string())
}

/// What a receiver does: reads the token and verifies its signature.
fn accept(token: &str, keys: &Jwks) -> Result<Jwt, JwtError> {
    let token = Jwt::parse(token)?;
    token.verify_signature(keys)?;
    Ok(token)
}

/// The three parts, decoded.
fn parts(token: &str) -> [Vec<u8>; 3] {
    let parts: Vec<Vec<u8>> = token
        .split('.')
        .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap())
        .collect();
    parts.try_into().unwrap()
}

fn join(parts: &[Vec<u8>; 3]) -> String {
    parts
        .iter()
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .collect::<Vec<_>>()
        .join(".")
}

#[test]
fn every_algorithm_verifies_with_its_key_and_no_other() {
    for name in ALGORITHMS {
        let (ours, stranger) = (issuer(name), issuer(name));
        let token = ours.sign(&claims()).unwrap();
        let verified = accept(&token, &jwks(&ours.jwks())).unwrap();
        assert_eq!(verified.alg().as_str(), name);
        assert_eq!(verified.kid(), Some(ours.kid()));
        assert!(matches!(
            accept(&token, &jwks(&stranger.jwks())),
            Err(JwtError::NoKey { .. })
        ));
        let impostor = stranger.with_kid(ours.kid());
        assert!(matches!(
            accept(&token, &jwks(&impostor.jwks())),
            Err(JwtError::Signature { tried: 1, .. })
        ));
        let nobody = accept(&token, &jwks(r#"{"keys":[]}"#)).unwrap_err();
        assert_eq!(nobody.reason().as_str(), "token-untrusted");
    }
}

/// RFC 7515 appendix A.2 and A.3: others' signatures over bytes that no serializer of ours would write.
#[test]
fn verifies_the_examples_of_rfc_7515() {
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let examples = [
        (
            r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ];
    for (key, header, signature) in examples {
        let keys = jwks(&format!("{{\"keys\":[{key}]}}"));
        let token = accept(&format!("{header}.{CLAIMS}.{signature}"), &keys).unwrap();
        assert_eq!((token.issuer(), token.kid()), (Some("joe"), None));
        assert_eq!(token.claims()["http://example.com/is_root"], true);
    }
}

#[test]
fn nothing_of_a_token_can_be_changed() {
    for name in ALGORITHMS {
        let issuer = issuer(name);
        let keys = jwks(&issuer.jwks());
        let token = issuer.sign(&claims()).unwrap();
        let original = parts(&token);
        for part in 0..3 {
            for at in 0..original[part].len() {
                let mut changed = original.clone();
                changed[part][at] ^= 1 << (at % 8);
                assert!(
                    accept(&join(&changed), &keys).is_err(),
                    "{name}: byte {at} of part {part}"
                );
            }
            let mut shorter = original.clone();
            shorter[part].pop();
            assert!(accept(&join(&shorter), &keys).is_err(), "{name}: shorter");
            let mut longer = original.clone();
            longer[part].push(0);
            assert!(accept(&join(&longer), &keys).is_err(), "{name}: longer");
        }
        // As text: a letter changed, dropped or put in anywhere.
        for at in 0..token.len() {
            let (before, after) = token.split_at(at);
            assert!(accept(&format!("{before}{}", &after[1..]), &keys).is_err());
            for letter in [" ", "\n", "=", ".", "A", "+", "\u{e4}"] {
                assert!(
                    accept(&format!("{before}{letter}{after}"), &keys).is_err(),
                    "{letter:?} at {at}"
                );
            }
        }
        for changed in [
            format!(" {token}"),
            format!("{token} "),
            format!("{token}\n"),
            format!("{token}="),
            format!("{token}."),
            token.to_ascii_uppercase(),
        ] {
            assert!(accept(&changed, &keys).is_err());
        }
    }
}
