//! Issuers of tokens: the keys that JWT-SVIDs are signed with, and issuers of any name for tests and the demo.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use x509_parser::asn1_rs::{Any, FromDer as _};
use zeroize::Zeroizing;

use super::AuthorityError;
use crate::SpiffeId;
use crate::jwt::Algorithm;

/// Somebody who signs tokens with one key. It signs whatever it is given, proper or not.
pub struct Issuer {
    algorithm: Algorithm,
    key_id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Issuer {
    /// With a fresh key, of 2048 bits for RSA, whose `kid` is a digest of it.
    pub fn generate(algorithm: Algorithm) -> Result<Issuer, AuthorityError> {
        let no_key = |_| AuthorityError::Key(format!("no key for {algorithm} could be made"));
        let ecdsa = |curve| EcdsaKeyPair::generate(curve).map(Pair::Ecdsa);
        let pair = match algorithm {
            Algorithm::Es256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::Es512 => ecdsa(&ECDSA_P521_SHA512_FIXED_SIGNING),
            Algorithm::EdDsa => Ed25519KeyPair::generate().map(Pair::Ed25519),
            _ => RsaKeyPair::generate(KeySize::Rsa2048).map(|pair| Pair::Rsa(Box::new(pair))),
        };
        Ok(Issuer::with_pair(algorithm, pair.map_err(no_key)?))
    }

    fn with_pair(algorithm: Algorithm, pair: Pair) -> Issuer {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pair.public());
        Issuer {
            algorithm,
            key_id: crate::lower_hex(&digest.as_ref()[..8]),
            pair,
        }
    }

    /// The same key under another name.
    #[must_use]
    pub fn with_kid(self, kid: &str) -> Issuer {
        Issuer {
            key_id: kid.to_owned(),
            ..self
        }
    }

    pub fn kid(&self) -> &str {
        &self.key_id
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key (RFC 7517) with `kid`, `alg` and `use: sig`.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            // RSAPublicKey (RFC 8017 appendix A.1.1): two integers, which begin with a zero where DER wants one.
            Pair::Rsa(_) => {
                let integers = Any::from_der(self.pair.public())
                    .and_then(|(_, both)| {
                        let (rest, n) = Any::from_der(both.data)?;
                        let (_, e) = Any::from_der(rest)?;
                        Ok((n.data, e.data))
                    })
                    .unwrap_or_default();
                let text = |integer: &[u8]| {
                    URL_SAFE_NO_PAD.encode(integer.strip_prefix(&[0]).unwrap_or(integer))
                };
                json!({"kty": "RSA", "n": text(integers.0), "e": text(integers.1)})
            }
            // Uncompressed point: 0x04, x, y (SEC 1 section 2.3.3).
            Pair::Ecdsa(_) => {
                let point = &self.pair.public()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match self.algorithm {
                    Algorithm::Es384 => "P-384",
                    Algorithm::Es512 => "P-521",
                    _ => "P-256",
                };
                json!({"kty": "EC", "crv": curve,
                    "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
            }
            Pair::Ed25519(_) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.pair.public())})
            }
        };
        jwk["kid"] = json!(self.key_id);
        jwk["alg"] = json!(self.algorithm.as_str());
        jwk["use"] = json!("sig");
        jwk
    }

    /// A JWKS document with this key alone.
    pub fn jwks(&self) -> String {
        json!({"keys": [self.jwk()]}).to_string()
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String, AuthorityError> {
        let header = json!({"alg": self.algorithm.as_str(), "kid": self.key_id, "typ": "JWT"});
        self.sign_with_header(&header, claims)
    }

    /// A token with this header, which may say anything: the signature is made by our key as ever.
    pub fn sign_with_header(
        &self,
        header: &Value,
        claims: &Value,
    ) -> Result<String, AuthorityError> {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A token of these two texts, which needn't be JSON.
    pub fn sign_text(&self, header: &str, claims: &str) -> Result<String, AuthorityError> {
        let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signature(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        let failed = |_| AuthorityError::Key("signing a token failed".to_owned());
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding = match self.algorithm {
                    Algorithm::Rs384 => &RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &RSA_PKCS1_SHA512,
                    Algorithm::Ps256 => &RSA_PSS_SHA256,
                    Algorithm::Ps384 => &RSA_PSS_SHA384,
                    Algorithm::Ps512 => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&random, message).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl Pair {
    fn public(&self) -> &[u8] {
        match self {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }
}

/// An authority's key for JWT-SVIDs, signing with ES256.
pub(super) struct JwtKey {
    issuer: Issuer,
    pkcs8: Zeroizing<Vec<u8>>,
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
        Ok(JwtKey {
            issuer: Issuer::with_pair(Algorithm::Es256, Pair::Ecdsa(pair)),
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
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
        let mut jwk = self.issuer.jwk();
        jwk["use"] = json!("jwt-svid");
        jwk
    }

    /// JWT-SVID sections 2 and 3: `alg`, `kid`, `typ`; `sub`, `aud`, `exp`, `iat`. `claims` are added, and
    /// replace those of the same name: that is how a test gets a token that breaks the standard.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
        claims: Map<String, Value>,
    ) -> Result<String, AuthorityError> {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut all = json!({"sub": id.as_str(), "aud": audience, "iat": issued, "exp": issued + ttl.as_secs()});
        for (name, value) in claims {
            all[name] = value;
        }
        self.issuer.sign(&all)
    }
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
