//! One token in JWS compact form (RFC 7515 section 3.1) with the claims of a JWT (RFC 7519).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Algorithm, Jwks, JwtError, short};
use crate::{json, sha256};

/// The longest token that is read; request headers are seldom allowed to be longer.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// A token that was read and not believed: nothing that it says is proved before
/// [`verify_signature`](Self::verify_signature). Registered claims have their types.
#[derive(Clone)]
pub struct Jwt {
    text: Box<str>,
    /// How much of the text is signed: header, dot, claims.
    signed: usize,
    algorithm: Algorithm,
    kid: Option<String>,
    typ: Option<String>,
    claims: Map<String, Value>,
    signature: Vec<u8>,
    exp: Option<SystemTime>,
    nbf: Option<SystemTime>,
    iat: Option<SystemTime>,
}

impl Jwt {
    /// Takes a token apart. What it can't honour exactly it refuses: encryption, `crit`, unencoded
    /// payloads, `none` and HMAC, a name twice, padding, claims of the wrong type.
    pub fn parse(token: &str) -> Result<Jwt, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Form(match token.split('.').count() {
                5 => "is encrypted, which isn't supported",
                _ => "doesn't consist of three parts",
            }));
        };
        let header = object("header", header)?;
        let algorithm = algorithm(&header)?;
        // RFC 7515 section 4.1.11: what is critical must be understood, and there is nothing that we
        // understand. RFC 7797 section 6 has `b64` listed there; without that it would be ignored, and
        // the signature taken over other bytes than the sender's.
        for name in ["crit", "b64"] {
            if header.contains_key(name) {
                return Err(part(
                    "header",
                    format!("has `{name}`, which isn't supported"),
                ));
            }
        }
        let kid = header_text(&header, "kid")?;
        let typ = header_text(&header, "typ")?;
        let claims = object("claims", claims)?;
        for claim in ["iss", "sub", "jti"] {
            if claims.get(claim).is_some_and(|value| !value.is_string()) {
                return Err(JwtError::Claim {
                    claim,
                    fault: "is no string",
                });
            }
        }
        check_audience(&claims)?;
        Ok(Jwt {
            signed: token.len() - signature.len() - 1,
            signature: decode("signature", signature)?,
            text: token.into(),
            algorithm,
            kid,
            typ,
            exp: numeric_date(&claims, "exp")?,
            nbf: numeric_date(&claims, "nbf")?,
            iat: numeric_date(&claims, "iat")?,
            claims,
        })
    }

    /// Whether a key of this set signed the token (RFC 7515 section 5.2).
    pub fn verify_signature(&self, keys: &Jwks) -> Result<(), JwtError> {
        let kid = self.kid.as_deref();
        let message = &self.text.as_bytes()[..self.signed];
        keys.verify(self.algorithm, kid, message, &self.signature)
    }

    pub fn alg(&self) -> Algorithm {
        self.algorithm
    }

    /// The header's name for the key (RFC 7515 section 4.1.4).
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The header's `typ` (RFC 7515 section 4.1.9), as it was written.
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// `iss` (RFC 7519 section 4.1.1).
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// `sub` (RFC 7519 section 4.1.2).
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// `aud` (RFC 7519 section 4.1.3): one string, or any number in a list.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let audience = self.claims.get("aud");
        let one = audience.and_then(Value::as_str);
        let several = audience.and_then(Value::as_array).into_iter().flatten();
        one.into_iter().chain(several.filter_map(Value::as_str))
    }

    /// `jti` (RFC 7519 section 4.1.7).
    pub fn jti(&self) -> Option<&str> {
        self.claims.get("jti").and_then(Value::as_str)
    }

    /// `exp` (RFC 7519 section 4.1.4): the token is good before it, not at it.
    pub fn exp(&self) -> Option<SystemTime> {
        self.exp
    }

    /// `nbf` (RFC 7519 section 4.1.5).
    pub fn nbf(&self) -> Option<SystemTime> {
        self.nbf
    }

    /// `iat` (RFC 7519 section 4.1.6).
    pub fn iat(&self) -> Option<SystemTime> {
        self.iat
    }

    /// `cnf` `x5t#S256` (RFC 8705 section 3.1): SHA-256 of the certificate that the token is bound to.
    /// An error when the token is bound, but to something that can't be compared with a certificate.
    pub fn certificate_thumbprint(&self) -> Result<Option<[u8; 32]>, JwtError> {
        let fault = |fault| JwtError::Claim {
            claim: "cnf",
            fault,
        };
        let Some(confirmation) = self.claims.get("cnf") else {
            return Ok(None);
        };
        let thumbprint = confirmation
            .as_object()
            .ok_or(fault("is no object"))?
            .get("x5t#S256")
            .ok_or(fault(
                "binds the token to something else than a certificate",
            ))?;
        thumbprint
            .as_str()
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Some)
            .ok_or(fault("has an `x5t#S256` that is no SHA-256 in base64url"))
    }

    /// The token as it was sent. A secret for as long as it is good.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the token as it was sent.
    pub fn digest(&self) -> [u8; 32] {
        sha256(self.text.as_bytes())
    }

    /// Every SHA-256 under which the token may have been revoked. Of an ECDSA signature (r, s) everyone can
    /// make another, (r, n-s), that is as good (FIPS 186-5 doesn't forbid it), so a revoked token could come
    /// back under another digest. Its twin's is given too, None for other algorithms.
    pub fn digests(&self) -> ([u8; 32], Option<[u8; 32]>) {
        let twin = self.algorithm.curve().and_then(|curve| {
            let (r, s) = self.signature.split_at_checked(curve.bytes)?;
            let other = subtract(curve.order, s)?;
            let signature = URL_SAFE_NO_PAD.encode([r, &other].concat());
            Some(sha256(
                format!("{}.{signature}", &self.text[..self.signed]).as_bytes(),
            ))
        });
        (self.digest(), twin)
    }
}

fn object(name: &'static str, encoded: &str) -> Result<Map<String, Value>, JwtError> {
    let bytes = decode(name, encoded)?;
    json::object(&bytes).map_err(|fault| part(name, fault))
}

/// RFC 7515 section 2: no padding, no line breaks, and each text of bits in one way only.
fn decode(name: &'static str, encoded: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| part(name, "is no base64url without padding".to_owned()))
}

fn part(part: &'static str, fault: String) -> JwtError {
    JwtError::Part { part, fault }
}

fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, JwtError> {
    match header.get("alg") {
        Some(Value::String(alg)) => {
            Algorithm::from_name(alg).ok_or_else(|| JwtError::Algorithm { alg: short(alg) })
        }
        Some(_) => Err(part("header", "has an `alg` that is no string".to_owned())),
        None => Err(part("header", "has no `alg`".to_owned())),
    }
}

fn header_text(header: &Map<String, Value>, name: &str) -> Result<Option<String>, JwtError> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(part("header", format!("has a `{name}` that is no string"))),
    }
}

fn check_audience(claims: &Map<String, Value>) -> Result<(), JwtError> {
    let proper = match claims.get("aud") {
        None | Some(Value::String(_)) => true,
        Some(Value::Array(audiences)) => audiences.iter().all(Value::is_string),
        Some(_) => false,
    };
    if proper {
        return Ok(());
    }
    Err(JwtError::Claim {
        claim: "aud",
        fault: "is neither a string nor a list of strings",
    })
}

/// RFC 7519 section 2, NumericDate: seconds since 1970, fractions allowed.
fn numeric_date(
    claims: &Map<String, Value>,
    claim: &'static str,
) -> Result<Option<SystemTime>, JwtError> {
    let fault = |fault| Err(JwtError::Claim { claim, fault });
    let since_1970 = match claims.get(claim) {
        None => return Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) if seconds <= LAST_SECOND => Duration::from_secs(seconds),
            (None, Some(seconds)) if (0.0..=LAST_SECOND as f64).contains(&seconds) => {
                Duration::from_secs_f64(seconds)
            }
            _ => return fault("is before 1970 or after the year 9999"),
        },
        Some(_) => return fault("is no number of seconds"),
    };
    Ok(Some(UNIX_EPOCH + since_1970))
}

/// `a - b`, big-endian and of equal length; None when there is no such number.
fn subtract(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    if a.len() != b.len() {
        return None;
    }
    let mut borrow = false;
    let mut difference = vec![0; a.len()];
    for ((digit, &a), &b) in difference.iter_mut().zip(a).zip(b).rev() {
        let (without_borrow, first) = a.overflowing_sub(b);
        let (value, second) = without_borrow.overflowing_sub(u8::from(borrow));
        *digit = value;
        borrow = first || second;
    }
    (!borrow).then_some(difference)
}

// By hand: a token is a secret for as long as it is good.
impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt")
            .field("algorithm", &self.algorithm)
            .field("kid", &self.kid.as_deref().map(short))
            .finish_non_exhaustive()
    }
}
