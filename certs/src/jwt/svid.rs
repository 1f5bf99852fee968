//! JWT-SVIDs: what the SPIFFE standard asks of a token beyond RFC 7519.

use std::time::SystemTime;

use super::{Algorithm, Jwks, Jwt, JwtError, short};
use crate::SpiffeId;

/// A JWT-SVID whose signature a key of its own trust domain made. Only [`verify`](Self::verify) makes one.
/// Whether it is for us (`aud`) and of now (`exp`, `nbf`) is the caller's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSvid {
    id: SpiffeId,
    exp: SystemTime,
}

impl JwtSvid {
    /// Verifies `token` as a JWT-SVID of `trust_domain` (a bare name) with that domain's `keys`.
    ///
    /// `iss` is not looked at: the standard doesn't define it, and a trust domain speaks for itself alone.
    pub fn verify(token: &Jwt, trust_domain: &str, keys: &Jwks) -> Result<JwtSvid, JwtError> {
        // JWT-SVID 2.1: RFC 7518 sections 3.3 to 3.5 and nothing else; Ed25519 is in RFC 8037.
        if token.alg() == Algorithm::EdDsa {
            return Err(JwtError::Algorithm {
                alg: token.alg().to_string(),
            });
        }
        // 2.3: `typ` is optional; if set, it is one of two.
        if !matches!(token.typ(), None | Some("JWT" | "JOSE")) {
            return Err(JwtError::NotAnSvid(
                "has another `typ` than JWT or JOSE (JWT-SVID 2.3)",
            ));
        }
        // 3.1: the subject is the workload's SPIFFE ID.
        let subject = token
            .subject()
            .ok_or(JwtError::NotAnSvid("has no subject (JWT-SVID 3.1)"))?;
        let id = SpiffeId::parse(subject).map_err(|_| {
            JwtError::NotAnSvid("has a subject that is no SPIFFE ID (JWT-SVID 3.1)")
        })?;
        if id.path().is_empty() {
            return Err(JwtError::NotAnSvid(
                "has a trust domain for a subject, not a workload (JWT-SVID 3.1)",
            ));
        }
        // SPIFFE_Trust_Domain_and_Bundle 3: keys are authoritative for their own trust domain.
        if id.trust_domain() != trust_domain {
            return Err(JwtError::ForeignSubject {
                subject: short(subject),
                trust_domain: trust_domain.to_owned(),
            });
        }
        // 3.2: one audience or more.
        if token.audiences().next().is_none() {
            return Err(JwtError::NotAnSvid("has no audience (JWT-SVID 3.2)"));
        }
        // 3.3: it ends.
        let exp = token
            .exp()
            .ok_or(JwtError::NotAnSvid("has no end, `exp` (JWT-SVID 3.3)"))?;
        // 4.
        token.verify_signature(keys)?;
        Ok(JwtSvid { id, exp })
    }

    /// Whom it was issued to.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub fn exp(&self) -> SystemTime {
        self.exp
    }
}
