//! What of a JWK Set goes to the sidecars: public keys that can verify a signature, and nothing else.

use kith_certs::jwt::Jwks;
use serde_json::{Map, Value, json};

/// Every sidecar that needs it gets it whole.
pub(super) const MAX_BYTES: usize = 256 * 1024;

/// What a public key consists of and is known by (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).
/// Certificates (`x5c`) take the most room and are not looked at.
const MEMBERS: [&str; 9] = ["kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"];

/// What a JWK Set (RFC 7517 section 5) has to verify with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys {
    /// In canonical form: the same keys are the same text.
    pub json: String,
    pub usable: usize,
    /// The others, and why.
    pub skipped: Vec<String>,
}

impl PublicKeys {
    /// Why none of them can be used, if so.
    pub(super) fn none_usable(&self) -> Option<String> {
        let why = match &*self.skipped {
            _ if self.usable > 0 => return None,
            [] => "it is empty".into(),
            skipped => skipped.join("; "),
        };
        Some(format!("has no key that can be used: {why}"))
    }
}

/// Takes from a JWK Set the public parts of the keys that a sidecar can use. What is private or a shared secret
/// never goes any further.
///
/// # Errors
/// It is no JWK Set, or none of its keys can be used.
pub fn public_keys(text: &[u8]) -> Result<PublicKeys, String> {
    let keys = judge(text)?;
    keys.none_usable().map_or(Ok(keys), Err)
}

/// As [`public_keys`], but a set without any that can be used is one too.
pub(super) fn judge(text: &[u8]) -> Result<PublicKeys, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is longer than {} KiB", MAX_BYTES / 1024));
    }
    let no_set = |why: String| format!("is not a JWK Set (RFC 7517): {why}");
    let judged = Jwks::parse(text).map_err(|error| no_set(error.to_string()))?;
    let mut set: Value = serde_json::from_slice(text).map_err(|error| no_set(error.to_string()))?;
    let skipped: Vec<String> = (judged.unusable().iter())
        .map(|key| match &key.kid {
            Some(kid) => format!("key `{kid}` {}", key.why),
            None => format!("key {} {}", key.index, key.why),
        })
        .collect();
    let keys = set.get_mut("keys").and_then(Value::as_array_mut);
    let keys = keys.map(std::mem::take).unwrap_or_default();
    let unusable = |index: &usize| judged.unusable().iter().any(|key| key.index == *index);
    let public: Vec<Value> = keys
        .into_iter()
        .enumerate()
        .filter(|(index, _)| !unusable(index))
        .map(|(_, key)| public_part(key))
        .collect();
    Ok(PublicKeys {
        json: json!({ "keys": public }).to_string(),
        usable: judged.len(),
        skipped,
    })
}

fn public_part(mut key: Value) -> Value {
    let part: Map<String, Value> = MEMBERS
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), key.get_mut(name)?.take())))
        .collect();
    Value::Object(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#""crv":"P-256","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    #[test]
    fn only_the_public_part_of_usable_keys_goes_on() {
        let set = format!(
            r#"{{"issuer": "x", "keys": [{{"x5c": ["MIIB"], "key_ops": ["verify"], "kid": "a", {KEY}}}, {{"kid": "b", "d": "secret", {KEY}}}, {{"kty": "oct", "k": "secret"}}]}}"#
        );
        let keys = public_keys(set.as_bytes()).unwrap();
        assert_eq!(
            keys.json,
            r#"{"keys":[{"crv":"P-256","kid":"a","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#
        );
        assert_eq!((keys.usable, keys.skipped.len()), (1, 2));
        assert!(
            keys.skipped[0].starts_with("key `b` "),
            "{:?}",
            keys.skipped
        );
        assert!(keys.skipped[1].starts_with("key 2 "), "{:?}", keys.skipped);
        // What went on is what comes of it again.
        assert_eq!(public_keys(keys.json.as_bytes()).unwrap().json, keys.json);
    }
}
