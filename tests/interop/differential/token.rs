//! Tokens that requests carry: real ones, because Envoy verifies them. Kith's engine gets their claims.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// A token, and what it claims.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) signed: String,
    pub(crate) claims: Map<String, Value>,
}

/// The key that verifies them, and all there are.
pub(crate) fn all() -> (Value, Vec<Token>) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let keys = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k", "x": encode(x), "y": encode(y),
    }]});
    let sign = |claims: Value| {
        let head = json!({"alg": "ES256", "kid": "k", "typ": "JWT"}).to_string();
        let text = format!(
            "{}.{}",
            encode(head.as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        let Value::Object(claims) = claims else {
            unreachable!("claims are an object")
        };
        Token {
            signed: format!("{text}.{}", encode(signature.as_ref())),
            claims,
        }
    };
    let tokens = [
        json!({
            "iss": "https://issuer.test", "sub": "alice", "aud": "shop", "azp": "web", "group": "admin",
            "scope": "read write", "nested": {"group": "dev"},
        }),
        json!({
            "iss": "https://issuer.test", "sub": "bob", "aud": ["shop", "pay"], "group": ["dev", "ops"],
            "scope": "read", "nested": {"group": ["admin", "devs"]},
        }),
        json!({"iss": "https://other.test/a", "sub": "alice", "aud": "pay", "azp": "api", "group": 7}),
        json!({"iss": "accounts", "sub": "bob", "aud": ["sharp"], "group": "ops", "scope": "write", "nested": "dev"}),
        json!({"iss": "accounts", "sub": "malice", "group": true, "scope": "reader"}),
    ];
    (keys, tokens.map(sign).into())
}
