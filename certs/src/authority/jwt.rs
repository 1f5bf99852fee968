//! JWT-SVIDs (JWT-SVID standard) signed with ES256, and the JWKS they are verified with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::AuthorityError;
use crate::SpiffeId;

/// An ES256 key with its key id.
pub(super) struct JwtKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    key_id: String,
}

impl JwtKey {
    pub(super) fn generate() -> Result<JwtKey, AuthorityError> {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| AuthorityError::Key("no random numbers for a JWT key".to_owned()))?;
        JwtKey::from_pkcs8(pkcs8.as_ref())
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<JwtKey, AuthorityError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|e| AuthorityError::Key(format!("the JWT key is unusable: {e}")))?;
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pair.public_key().as_ref());
        let key_id = crate::lower_hex(&digest.as_ref()[..8]);
        Ok(JwtKey {
            pair,
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            key_id,
        })
    }

    pub(super) fn to_text(&self) -> String {
        STANDARD.encode(&*self.pkcs8)
    }

    pub(super) fn from_text(text: &str) -> Result<JwtKey, AuthorityError> {
        let pkcs8 = STANDARD
            .decode(text)
            .map_err(|e| AuthorityError::Key(format!("the JWT key is unusable: {e}")))?;
        JwtKey::from_pkcs8(&pkcs8)
    }

    /// SPIFFE bundle form of a JWT authority (JWT-SVID section 6.1): `use` and `kid` are set.
    pub(super) fn jwk(&self) -> Value {
        // Uncompressed point: 0x04, x, y (SEC 1 section 2.3.3).
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "jwt-svid", "kid": self.key_id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// JWT-SVID sections 2 and 3: `alg`, `kid`; `sub`, `aud`, `exp`, `iat`.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = json!({"alg": "ES256", "kid": self.key_id, "typ": "JWT"});
        let claims = json!({"sub": id.as_str(), "aud": audience, "iat": issued, "exp": issued + ttl.as_secs()});
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| AuthorityError::Key("signing a JWT-SVID failed".to_owned()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed, that is for `audience` and not expired.
    /// None when another key signed it.
    pub(super) fn validate(
        &self,
        token: &str,
        audience: &str,
        now: SystemTime,
    ) -> Option<Result<Map<String, Value>, String>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = decode(header)?;
        if header.get("alg")? != "ES256" || header.get("kid")?.as_str()? != self.key_id {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(signed.as_bytes(), &signature).ok()?;
        let claims = decode(claims)?;
        let meant_for_us = claims
            .get("aud")
            .and_then(Value::as_array)
            .is_some_and(|audiences| audiences.iter().any(|a| a.as_str() == Some(audience)));
        if !meant_for_us {
            return Some(Err(format!("the token isn't for audience {audience:?}")));
        }
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if claims
            .get("exp")
            .and_then(Value::as_u64)
            .is_none_or(|exp| exp <= seconds)
        {
            return Some(Err("the token has expired".to_owned()));
        }
        Some(Ok(claims))
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decode(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Claims as the Workload API hands them over.
pub(super) fn to_struct(claims: Map<String, Value>) -> prost_types::Struct {
    prost_types::Struct {
        fields: claims
            .into_iter()
            .map(|(name, value)| (name, to_protobuf(value)))
            .collect(),
    }
}

fn to_protobuf(value: Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(to_protobuf).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}
