//! JSON Web Tokens: what a bearer token says, and whether a key that we trust signed it.
//!
//! Pure verification, free of IO and clocks. [`Jwt::parse`] reads a token without believing it;
//! [`Jwt::verify_signature`] asks whether a key of a [`Jwks`] signed it; [`JwtSvid::verify`] adds what the
//! JWT-SVID standard demands. Issuer, audience and times are compared by whoever knows which are wanted.
//!
//! - `algorithm`: RS, PS, ES and EdDSA, and nothing that shares a secret
//! - `json`: objects in which no name occurs twice
//! - `jwks`: the keys of one issuer (RFC 7517)
//! - `token`: one token in JWS compact form (RFC 7515, RFC 7519)
//! - `svid`: JWT-SVID
//!
//! **Architecture invariant:** a token never says what it is verified with. Keys come from the
//! configuration or the Workload API; `jwk`, `jku`, `x5c` and `x5u` of a header are not read (RFC 8725 3.10).

mod algorithm;
mod jwks;
mod svid;
mod token;

pub use algorithm::Algorithm;
pub use jwks::{Jwks, JwksError, MAX_JWKS_BYTES, MAX_KEYS, MAX_TRIED, UnusableKey};
pub use svid::JwtSvid;
pub use token::{Jwt, MAX_TOKEN_BYTES};

/// Why a token isn't good. No text of it repeats claims or signatures, so that it may be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// The sender's: not a JWT at all.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes; have its issuer put less into it")]
    TooLong,
    /// The sender's: not the one serialization that is taken.
    #[error("the token {0}; send a signed JWT in compact form (RFC 7515 3.1)")]
    Form(&'static str),
    /// The issuer's: a part that can't be read.
    #[error("the token's {part} {fault}; have its issuer make proper ones (RFC 7519 7.2)")]
    Part { part: &'static str, fault: String },
    /// The issuer's: a registered claim of another type than RFC 7519 section 4.1 has it.
    #[error("the token's claim `{claim}` {fault}; have its issuer make proper ones (RFC 7519 4.1)")]
    Claim {
        claim: &'static str,
        fault: &'static str,
    },
    /// The issuer's: `none`, HMAC and everything unknown.
    #[error(
        "the token's `alg` is {alg:?}, which proves nothing here; \
         sign with RS256, PS256, ES256 (or their 384 and 512) or EdDSA"
    )]
    Algorithm { alg: String },
    /// Nobody we trust has such a key: a forged token, or keys that aren't current.
    #[error("no trusted key for {algorithm}{} fits the token; check its issuer and that the keys are current", Kid(.kid.as_deref()))]
    NoKey {
        algorithm: Algorithm,
        kid: Option<String>,
    },
    /// Keys fit, but none of them made the signature: a forged or damaged token.
    #[error(
        "the token's {algorithm} signature matches none of the {tried} trusted keys that fit it"
    )]
    Signature { algorithm: Algorithm, tried: usize },
    /// Signed by a trust domain, but its subject is none of that trust domain's.
    #[error(
        "the token's subject is {subject:?}, which trust domain {trust_domain} can't vouch for"
    )]
    ForeignSubject {
        subject: String,
        trust_domain: String,
    },
    /// A good JWT that breaks the JWT-SVID standard.
    #[error("the token {0}; it is no JWT-SVID")]
    NotAnSvid(&'static str),
}

/// What a [`JwtError`] means, as records and metrics have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JwtReason {
    Malformed,
    Untrusted,
}

impl JwtReason {
    pub fn as_str(self) -> &'static str {
        match self {
            JwtReason::Malformed => "token-malformed",
            JwtReason::Untrusted => "token-untrusted",
        }
    }
}

impl JwtError {
    pub fn reason(&self) -> JwtReason {
        match self {
            JwtError::TooLong
            | JwtError::Form(_)
            | JwtError::Part { .. }
            | JwtError::Claim { .. }
            | JwtError::NotAnSvid(_) => JwtReason::Malformed,
            JwtError::Algorithm { .. }
            | JwtError::NoKey { .. }
            | JwtError::Signature { .. }
            | JwtError::ForeignSubject { .. } => JwtReason::Untrusted,
        }
    }
}

struct Kid<'a>(Option<&'a str>);

impl std::fmt::Display for Kid<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(kid) => write!(f, " and `kid` {kid:?}"),
            None => Ok(()),
        }
    }
}

/// A text from an attacker, cut to what a log line can bear.
pub(crate) fn short(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
