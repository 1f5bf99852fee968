//! The keys of one issuer (RFC 7517), each one usable for what it says or not at all.

use std::fmt;

use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::CURVES;
use super::{Algorithm, JwtError, short};
use crate::json;

/// The longest document that is read. Issuers publish a few kilobytes.
pub const MAX_JWKS_BYTES: usize = 1024 * 1024;
/// The most keys that a document may have.
pub const MAX_KEYS: usize = 256;
/// How many keys are tried on one token: what a forged token may cost us.
pub const MAX_TRIED: usize = 32;

/// Members that only private or symmetric keys have (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A set of public keys that tokens may be signed with. Holds none that verify anything but signatures.
pub struct Jwks {
    keys: Vec<Key>,
    unusable: Vec<UnusableKey>,
}

/// Why a document is no key set. Of its keys it says nothing: those are judged one by one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    #[error("it is longer than {MAX_JWKS_BYTES} bytes")]
    TooLong,
    #[error("it {0}")]
    Json(String),
    #[error("it has no array `keys` (RFC 7517 5.1)")]
    NoKeys,
    #[error("it has more than {MAX_KEYS} keys")]
    TooManyKeys,
}

/// A key that no token is verified with, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableKey {
    /// Its place in the document, from 0.
    pub index: usize,
    pub kid: Option<String>,
    pub why: String,
}

struct Key {
    kid: Option<String>,
    /// The key's own `alg`: it serves that one and no other (RFC 8725 section 3.1).
    only: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Elliptic(Algorithm, ParsedPublicKey),
}

/// Where a document comes from, which decides what its keys must say of themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Issuer,
    SpiffeBundle,
}

impl Jwks {
    /// Reads an issuer's document. A key that can't be used is left out and named in
    /// [`unusable`](Self::unusable); a document without a usable key verifies nothing.
    pub fn parse(document: &[u8]) -> Result<Jwks, JwksError> {
        Jwks::of_kind(document, Kind::Issuer)
    }

    /// Reads a trust domain's document as the Workload API hands it over. Its keys have a `kid`
    /// (JWT-SVID 6.1) and are for JWT-SVIDs: `use` is `jwt-svid`, or absent as in SPIRE's plain JWKS
    /// (SPIFFE_Workload_API 6.2.2; SPIFFE_Trust_Domain_and_Bundle 4.2.2).
    pub fn parse_spiffe_bundle(document: &[u8]) -> Result<Jwks, JwksError> {
        Jwks::of_kind(document, Kind::SpiffeBundle)
    }

    fn of_kind(document: &[u8], kind: Kind) -> Result<Jwks, JwksError> {
        if document.len() > MAX_JWKS_BYTES {
            return Err(JwksError::TooLong);
        }
        let mut document = json::object(document).map_err(JwksError::Json)?;
        let Some(Value::Array(entries)) = document.remove("keys") else {
            return Err(JwksError::NoKeys);
        };
        if entries.len() > MAX_KEYS {
            return Err(JwksError::TooManyKeys);
        }
        let mut jwks = Jwks {
            keys: Vec::with_capacity(entries.len()),
            unusable: Vec::new(),
        };
        for (index, entry) in entries.iter().enumerate() {
            match Key::parse(entry, kind) {
                Ok(key) => jwks.keys.push(key),
                Err(why) => jwks.unusable.push(UnusableKey {
                    index,
                    kid: entry.get("kid").and_then(Value::as_str).map(short),
                    why,
                }),
            }
        }
        Ok(jwks)
    }

    /// How many of the keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no token can be good.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn unusable(&self) -> &[UnusableKey] {
        &self.unusable
    }

    /// Whether one of the keys that fit made `signature`. A token's `kid` picks the keys of that name, of
    /// which there may be several, and those without a name; without one all keys of the algorithm are tried.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), JwtError> {
        let named = |key: &&Key| kid.is_none() || key.kid.as_deref() == kid;
        let unnamed = |key: &&Key| kid.is_some() && key.kid.is_none();
        let fitting = self
            .keys
            .iter()
            .filter(named)
            .chain(self.keys.iter().filter(unnamed))
            .filter(|key| key.serves(algorithm));
        let mut tried = 0;
        for key in fitting.take(MAX_TRIED) {
            if key.verify(algorithm, message, signature) {
                return Ok(());
            }
            tried += 1;
        }
        if tried == 0 {
            return Err(JwtError::NoKey {
                algorithm,
                kid: kid.map(short),
            });
        }
        Err(JwtError::Signature { algorithm, tried })
    }
}

impl Key {
    fn parse(entry: &Value, kind: Kind) -> Result<Key, String> {
        let key = entry.as_object().ok_or("is no JSON object")?;
        let text = |name: &str| text(key, name);
        if let Some(secret) = SECRET_MEMBERS.iter().find(|name| key.contains_key(**name)) {
            return Err(format!(
                "has the member `{secret}` of a private or shared key; it is compromised, replace it"
            ));
        }
        let kid = text("kid")?;
        match text("use")? {
            None | Some("jwt-svid") => {}
            Some("sig") if kind == Kind::Issuer => {}
            Some(other) => {
                return Err(format!("is for {:?}, not for tokens (`use`)", short(other)));
            }
        }
        if kind == Kind::SpiffeBundle && kid.is_none_or(str::is_empty) {
            return Err("has no `kid` (JWT-SVID 6.1)".to_owned());
        }
        may_verify(key)?;
        let only = match text("alg")? {
            None => None,
            Some(alg) => Some(Algorithm::from_name(alg).ok_or_else(|| {
                format!(
                    "is for {:?}, which tokens aren't signed with (`alg`)",
                    short(alg)
                )
            })?),
        };
        let material = match text("kty")? {
            Some("RSA") => rsa(key)?,
            Some("EC") => ec(key)?,
            Some("OKP") => okp(key)?,
            Some("oct") => return Err("is symmetric: whoever verifies could sign".to_owned()),
            Some(other) => return Err(format!("is of unknown type {:?} (`kty`)", short(other))),
            None => return Err("has no `kty` (RFC 7517 4.1)".to_owned()),
        };
        let key = Key {
            kid: kid.map(str::to_owned),
            only,
            material,
        };
        match only {
            Some(only) if !key.serves(only) => {
                Err(format!("says `alg` {only}, which its kind can't do"))
            }
            _ => Ok(key),
        }
    }

    fn serves(&self, algorithm: Algorithm) -> bool {
        let can = match &self.material {
            Material::Rsa(_) => algorithm.rsa().is_some(),
            Material::Elliptic(own, _) => *own == algorithm,
        };
        can && self.only.is_none_or(|only| only == algorithm)
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, algorithm.rsa()) {
            (Material::Rsa(key), Some(parameters)) => {
                key.verify(parameters, message, signature).is_ok()
            }
            (Material::Elliptic(own, key), None) if *own == algorithm => {
                key.verify_sig(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// A member that, if it is there, must be a string.
fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("has a `{name}` that is no string")),
    }
}

/// RFC 7517 section 4.3.
fn may_verify(key: &Map<String, Value>) -> Result<(), String> {
    match key.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(operations)) if operations.iter().any(|op| op == "verify") => Ok(()),
        Some(_) => Err("is not for verifying (`key_ops`)".to_owned()),
    }
}

/// A number or coordinate (RFC 7518 section 2, Base64urlUInt).
fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(key, name)?.ok_or_else(|| format!("has no `{name}`"))?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| format!("has a `{name}` that is no base64url without padding"))
}

/// RFC 7518 section 6.3.1. Some libraries write a leading zero, which changes nothing.
fn rsa(key: &Map<String, Value>) -> Result<Material, String> {
    let number = |name| {
        let mut bytes = bytes(key, name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeros);
        Ok::<_, String>(bytes)
    };
    let (n, e) = (number("n")?, number("e")?);
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(format!(
            "has {bits} bits; RSA keys have 2048 to 8192 (RFC 7518 3.3)"
        ));
    }
    // NIST SP 800-56B 6.2 asks for more than 2^16; 3 is still met. With 1 anybody could sign, and a long one
    // only costs us time.
    let odd = e.last().is_some_and(|byte| byte & 1 == 1);
    if !odd || e == [1] || e.len() > 5 {
        return Err("has an exponent that isn't odd, from 3 to 5 bytes (RFC 8017 3.1)".to_owned());
    }
    let key = RsaPublicKeyComponents { n, e };
    // Parsed once to see whether it can be; each signature's padding and digest come with the signature.
    Algorithm::Rs256
        .rsa()
        .and_then(|parameters| key.to_parsed_public_key(parameters).ok())
        .ok_or("is no RSA key: modulus and exponent don't fit")?;
    Ok(Material::Rsa(key))
}

/// RFC 7518 section 6.2.1: coordinates at full length, of a point on the curve.
fn ec(key: &Map<String, Value>) -> Result<Material, String> {
    let name = text(key, "crv")?.ok_or("has no `crv`")?;
    let curve = CURVES
        .iter()
        .find(|curve| curve.name == name)
        .ok_or_else(|| format!("is on the curve {:?}, which isn't supported", short(name)))?;
    // Uncompressed: 0x04, x, y (SEC 1 section 2.3.3).
    let mut point = vec![4];
    for coordinate in ["x", "y"] {
        let value = bytes(key, coordinate)?;
        if value.len() != curve.bytes {
            return Err(format!(
                "has a `{coordinate}` of {} bytes; on {name} it has {} (RFC 7518 6.2.1.2)",
                value.len(),
                curve.bytes
            ));
        }
        point.extend_from_slice(&value);
    }
    elliptic(curve.algorithm, &point)
}

/// RFC 8037 section 2. X25519 is for key agreement and Ed448 for nobody we know.
fn okp(key: &Map<String, Value>) -> Result<Material, String> {
    match text(key, "crv")? {
        Some("Ed25519") => elliptic(Algorithm::EdDsa, &bytes(key, "x")?),
        Some(other) => Err(format!(
            "is on the curve {:?}, which isn't supported",
            short(other)
        )),
        None => Err("has no `crv`".to_owned()),
    }
}

fn elliptic(algorithm: Algorithm, public: &[u8]) -> Result<Material, String> {
    algorithm
        .elliptic()
        .and_then(|verification| ParsedPublicKey::new(verification, public).ok())
        .map(|key| Material::Elliptic(algorithm, key))
        .ok_or_else(|| "is no point on its curve".to_owned())
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids = self
            .keys
            .iter()
            .map(|key| key.kid.as_deref().unwrap_or_default());
        f.debug_struct("Jwks")
            .field("kids", &kids.collect::<Vec<_>>())
            .field("unusable", &self.unusable)
            .finish()
    }
}

impl fmt::Display for UnusableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "key {kid:?} {}", self.why),
            None => write!(f, "key {} {}", self.index, self.why),
        }
    }
}
