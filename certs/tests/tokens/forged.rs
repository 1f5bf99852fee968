//! Tokens that say how they want to be verified.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_certs::jwt::{Jwt, JwtError, MAX_TRIED};
use serde_json::{Value, json};

use crate::{accept, claims, issuer, join, jwks, keys_of, parts};

fn unsigned(header: &Value, signature: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", encode(header), encode(&claims()))
}

#[test]
fn an_unsigned_token_is_never_good() {
    let issuer = issuer("RS256");
    let keys = jwks(&issuer.jwks());
    let good = issuer.sign(&claims()).unwrap();
    let signature = good.rsplit('.').next().unwrap();
    for alg in [
        "none", "None", "NONE", "nOnE", "", " RS256", "rs256", "RS256\0",
    ] {
        for signature in ["", signature] {
            let token = unsigned(&json!({"alg": alg, "kid": issuer.kid()}), signature);
            let refused = accept(&token, &keys).unwrap_err();
            assert!(
                matches!(refused, JwtError::Algorithm { .. }),
                "{alg:?}: {refused}"
            );
            assert_eq!(refused.reason().as_str(), "token-untrusted");
        }
    }
    let token = unsigned(&json!({"alg": "RS256", "kid": issuer.kid()}), "");
    assert!(accept(&token, &keys).is_err());
}

/// CVE-2015-9235: the public key, which everybody knows, as the secret.
#[test]
fn a_public_key_is_no_hmac_secret() {
    let issuer = issuer("RS256");
    let keys = jwks(&issuer.jwks());
    let n = issuer.jwk()["n"].as_str().unwrap().to_owned();
    let secrets = [
        n.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(&n).unwrap(),
        issuer.jwks().into_bytes(),
    ];
    for secret in secrets {
        for (alg, hash) in [
            ("HS256", hmac::HMAC_SHA256),
            ("HS384", hmac::HMAC_SHA384),
            ("HS512", hmac::HMAC_SHA512),
            ("RS256", hmac::HMAC_SHA256),
        ] {
            let header = json!({"alg": alg, "kid": issuer.kid()});
            let mut token = unsigned(&header, "");
            let message = token.trim_end_matches('.');
            let tag = hmac::sign(&hmac::Key::new(hash, &secret), message.as_bytes());
            token.push_str(&URL_SAFE_NO_PAD.encode(tag));
            assert!(accept(&token, &keys).is_err(), "{alg}");
        }
    }
}

#[test]
fn a_key_serves_its_own_algorithm_only() {
    let rsa = issuer("RS256");
    let header = |alg: &str| json!({"alg": alg, "kid": rsa.kid()});
    // The key says RS256, so a token can't call itself PS256 or RS512.
    for alg in [
        "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "EdDSA",
    ] {
        let token = rsa.sign_with_header(&header(alg), &claims()).unwrap();
        assert!(matches!(
            accept(&token, &jwks(&rsa.jwks())),
            Err(JwtError::NoKey { .. })
        ));
    }
    // A key that says nothing serves its whole kind, but a signature only its own padding and digest.
    let mut any = rsa.jwk();
    any.as_object_mut().unwrap().remove("alg");
    let any = jwks(&json!({"keys": [any]}).to_string());
    assert!(accept(&rsa.sign(&claims()).unwrap(), &any).is_ok());
    for alg in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
        let token = rsa.sign_with_header(&header(alg), &claims()).unwrap();
        assert!(matches!(
            accept(&token, &any),
            Err(JwtError::Signature { tried: 1, .. })
        ));
    }
    // ES256 is P-256 and nothing else (RFC 7518 section 3.4).
    let p384 = issuer("ES384");
    let mut key = p384.jwk();
    key.as_object_mut().unwrap().remove("alg");
    let key = jwks(&json!({"keys": [key]}).to_string());
    let token = p384
        .sign_with_header(&json!({"alg": "ES256", "kid": p384.kid()}), &claims())
        .unwrap();
    assert!(matches!(accept(&token, &key), Err(JwtError::NoKey { .. })));
}

#[test]
fn a_header_cannot_bring_its_own_key() {
    let (ours, attacker) = (issuer("ES256"), issuer("ES256"));
    let keys = jwks(&ours.jwks());
    for (name, value) in [
        ("jwk", attacker.jwk()),
        ("jku", json!("https://attacker.example/keys")),
        ("x5u", json!("https://attacker.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        for kid in [attacker.kid(), ours.kid()] {
            let header = json!({"alg": "ES256", "kid": kid, name: value});
            let token = attacker.sign_with_header(&header, &claims()).unwrap();
            assert!(accept(&token, &keys).is_err(), "{name}");
        }
        // They change nothing of a good token either.
        let header = json!({"alg": "ES256", "kid": ours.kid(), name: value});
        let token = ours.sign_with_header(&header, &claims()).unwrap();
        assert!(accept(&token, &keys).is_ok(), "{name}");
    }
}

#[test]
fn critical_headers_and_unencoded_payloads_are_refused() {
    let ours = issuer("ES256");
    let keys = jwks(&ours.jwks());
    for extra in [
        json!({"crit": ["exp"], "exp": 1}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": []}),
        json!({"crit": null}),
        json!({"b64": false}),
        json!({"b64": true}),
    ] {
        let mut header = json!({"alg": "ES256", "kid": ours.kid()});
        header
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let token = ours.sign_with_header(&header, &claims()).unwrap();
        let refused = accept(&token, &keys).unwrap_err();
        assert!(refused.to_string().contains("isn't supported"), "{refused}");
    }
}

#[test]
fn all_keys_that_fit_are_tried_and_not_more_than_a_few() {
    let issuers: Vec<_> = (0..MAX_TRIED + 8).map(|_| issuer("ES256")).collect();
    // Of one name: the last that is tried still verifies, the next doesn't.
    let same: Vec<_> = issuers.into_iter().map(|it| it.with_kid("same")).collect();
    let keys = keys_of(&same);
    let of = |index: usize| same[index].sign(&claims()).unwrap();
    assert!(accept(&of(0), &keys).is_ok());
    assert!(accept(&of(MAX_TRIED - 1), &keys).is_ok());
    assert!(matches!(
        accept(&of(MAX_TRIED), &keys),
        Err(JwtError::Signature {
            tried: MAX_TRIED,
            ..
        })
    ));
    // Without a name in the token all of the algorithm are candidates; of others none.
    let (es256, es384) = (issuer("ES256"), issuer("ES384"));
    let header = json!({"alg": "ES256"});
    let nameless = es256.sign_with_header(&header, &claims()).unwrap();
    assert!(accept(&nameless, &keys_of([&es384, &same[0], &es256])).is_ok());
    assert!(matches!(
        accept(&nameless, &keys_of([&es384])),
        Err(JwtError::NoKey { kid: None, .. })
    ));
    // A key without a name may be anybody's; one with another name isn't it.
    let mut unnamed = es256.jwk();
    unnamed.as_object_mut().unwrap().remove("kid");
    let unnamed = jwks(&json!({"keys": [unnamed]}).to_string());
    assert!(accept(&es256.sign(&claims()).unwrap(), &unnamed).is_ok());
    let renamed = es256.with_kid("renamed");
    assert!(accept(&nameless, &keys_of([&renamed])).is_ok());
    let header = json!({"alg": "ES256", "kid": "original"});
    let token = renamed.sign_with_header(&header, &claims()).unwrap();
    assert!(matches!(
        accept(&token, &keys_of([&renamed])),
        Err(JwtError::NoKey { kid: Some(_), .. })
    ));
}

/// A revoked token must not come back in another dress: whoever holds an ECDSA signature can make one more.
#[test]
fn the_twin_of_an_ecdsa_signature_is_known() {
    // The orders of the groups, from FIPS 186-5 by way of SEC 2, in another notation than the code's.
    let orders = [
        (
            "ES256",
            "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        ),
        (
            "ES384",
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        ),
        (
            "ES512",
            "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        ),
    ];
    for (name, order) in orders {
        let issuer = issuer(name);
        let keys = jwks(&issuer.jwks());
        let original = issuer.sign(&claims()).unwrap();
        let mut twin = parts(&original);
        let half = twin[2].len() / 2;
        assert_eq!(order.len(), half * 2);
        let mut borrow = 0_i16;
        for at in (0..half).rev() {
            let digit = i16::from_str_radix(&order[2 * at..2 * at + 2], 16).unwrap();
            let value = digit - i16::from(twin[2][half + at]) - borrow;
            borrow = i16::from(value < 0);
            twin[2][half + at] = value.rem_euclid(256) as u8;
        }
        let twin = join(&twin);
        assert_ne!(twin, original);
        let (twin, original) = (
            accept(&twin, &keys).unwrap(),
            accept(&original, &keys).unwrap(),
        );
        assert_eq!(original.digests(), (original.digest(), Some(twin.digest())));
        assert_eq!(twin.digests(), (twin.digest(), Some(original.digest())));
    }
    for name in ["RS256", "PS256", "EdDSA"] {
        let token = issuer(name).sign(&claims()).unwrap();
        let token = Jwt::parse(&token).unwrap();
        assert_eq!(token.digests(), (token.digest(), None));
    }
}

#[test]
fn ecdsa_signatures_have_one_form() {
    let issuer = issuer("ES256");
    let keys = jwks(&issuer.jwks());
    let original = parts(&issuer.sign(&claims()).unwrap());
    let with = |signature: Vec<u8>| {
        let mut changed = original.clone();
        changed[2] = signature;
        accept(&join(&changed), &keys)
    };
    let (r, s) = original[2].split_at(32);
    let order: Vec<u8> = [
        &[0xff; 4][..],
        &[0; 4],
        &[0xff; 8],
        &[0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84],
        &[0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51],
    ]
    .concat();
    // DER, as X.509 and TLS have it.
    let integer = |number: &[u8]| [&[2, 33, 0][..], number].concat();
    let der = [&[0x30, 70][..], &integer(r), &integer(s)].concat();
    for (case, signature) in [
        ("DER", der),
        ("empty", Vec::new()),
        ("half", r.to_vec()),
        ("zeros", vec![0; 64]),
        ("r zero", [&[0; 32][..], s].concat()),
        ("s zero", [r, &[0; 32]].concat()),
        ("s is the order", [r, &order[..]].concat()),
        ("r is the order", [&order[..], s].concat()),
        ("all ones", vec![0xff; 64]),
        ("padded", [&[0][..], r, &[0], s].concat()),
        ("swapped", [s, r].concat()),
        ("twice", [&original[2][..], &original[2]].concat()),
    ] {
        assert!(with(signature).is_err(), "{case}");
    }
    assert!(with(original[2].clone()).is_ok());
}
