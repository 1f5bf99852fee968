//! Is this token good? Its signature is verified once; whatever may change is asked on every use.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith_certs::TrustSnapshot;
use kith_certs::jwt::{Jwks, Jwt, JwtError, JwtReason, JwtSvid};
use kith_policy::{Reason, Token};

use super::claims;
use super::rules::{Rule, Rules, Trust};
use crate::record::EndUser;

/// `iat` says when a token was made and forbids nothing (RFC 7519 section 4.1.6). One far from the future is forged or
/// of a broken clock; a fresh one of a clock that is a little ahead must pass.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// A token whose signature was verified by the keys of its rule. Only [`verify`] makes one.
pub(crate) struct Verified {
    jwt: Jwt,
    rule: RefCell<Arc<Rule>>,
    /// For a JWT-SVID the keys of its trust domain; an issuer's are part of its rule.
    keys: Option<Arc<Jwks>>,
    /// `exp`, and what the rule tolerates.
    ends: SystemTime,
    /// What it is bound to (RFC 8705 section 3.1).
    thumbprint: Option<[u8; 32]>,
    /// What it may be revoked under; an ECDSA signature has a twin that is as good.
    digests: ([u8; 32], Option<[u8; 32]>),
    headers: Vec<(String, Vec<u8>)>,
    end_user: Rc<EndUser>,
}

/// Not good, or not known to be.
pub(super) struct Refused {
    pub(super) reason: Reason,
    /// For the log. Never has a token in it, nor claims that are not proved.
    pub(super) why: String,
    pub(super) end_user: Option<Rc<EndUser>>,
}

/// What a use of a token depends on besides the token.
pub(super) struct Circumstances<'a> {
    pub(super) now: SystemTime,
    /// Who we are, and the keys of trust domains; there only if a rule is about a trust domain.
    pub(super) own: Option<&'a TrustSnapshot>,
    /// SHA-256 of the certificate that the peer proved itself with.
    pub(super) thumbprint: Option<&'a [u8; 32]>,
    pub(super) revoked: &'a dyn Fn(&Verified, SystemTime) -> bool,
}

/// Signature, and what never changes.
pub(super) fn verify(
    text: &str,
    rules: &Rules,
    own: Option<&TrustSnapshot>,
) -> Result<Verified, Refused> {
    let jwt =
        Jwt::parse(text).map_err(|error| refused(&error, EndUser::of_digest(digest(text))))?;
    let digests = jwt.digests();
    let nobody = || EndUser::of_digest(digests.0);
    let untrusted = |why: String| Refused {
        reason: Reason::TokenUntrusted,
        why,
        end_user: Some(nobody().into()),
    };
    let Some(rule) = rules.of(jwt.issuer(), jwt.subject()) else {
        return Err(untrusted("no rule is about its issuer".into()));
    };
    let mut keys = None;
    match &rule.trust {
        Trust::Issuer {
            keys: issuer_keys, ..
        } => {
            let Some(issuer_keys) = &issuer_keys.keys else {
                return Err(untrusted("the keys of its issuer are not here yet".into()));
            };
            jwt.verify_signature(issuer_keys)
                .map_err(|error| refused(&error, nobody()))?;
        }
        Trust::TrustDomain { name, .. } => {
            let Some(bundle) = own.and_then(|own| own.jwt_keys(name)) else {
                let why = format!("the Workload API has no JWT bundle for trust domain {name}");
                return Err(untrusted(why));
            };
            JwtSvid::verify(&jwt, name, bundle).map_err(|error| refused(&error, nobody()))?;
            keys = Some(Arc::clone(bundle));
        }
    }
    let end_user = Rc::new(EndUser {
        issuer: rule.issuer().into(),
        subject: jwt.subject().unwrap_or_default().into(),
        expires: jwt.exp(),
        ..nobody()
    });
    let proved = |reason: Reason, why: &str| Refused {
        reason,
        why: why.to_owned(),
        end_user: Some(Rc::clone(&end_user)),
    };
    // RFC 7519 lets a token live for ever; here nothing is allowed for ever on a bearer's word (resources.md).
    let Some(exp) = jwt.exp() else {
        return Err(proved(Reason::TokenMalformed, "it has no end, `exp`"));
    };
    // A binding that can't be compared is none that was kept.
    let thumbprint = jwt
        .certificate_thumbprint()
        .map_err(|error| proved(Reason::TokenUnbound, &error.to_string()))?;
    let headers = headers(rule, &jwt);
    Ok(Verified {
        ends: exp + rule.skew,
        thumbprint,
        digests,
        headers,
        end_user,
        keys,
        rule: RefCell::new(Arc::clone(rule)),
        jwt,
    })
}

fn refused(error: &JwtError, end_user: EndUser) -> Refused {
    Refused {
        reason: match error.reason() {
            JwtReason::Malformed => Reason::TokenMalformed,
            JwtReason::Untrusted => Reason::TokenUntrusted,
        },
        why: error.to_string(),
        end_user: Some(end_user.into()),
    }
}

fn digest(text: &str) -> [u8; 32] {
    let mut sha256 = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    sha256.copy_from_slice(digest.as_ref());
    sha256
}

fn headers(rule: &Rule, jwt: &Jwt) -> Vec<(String, Vec<u8>)> {
    let payload = rule.payload_header.iter().filter_map(|header| {
        // RFC 7515 section 3.1: the middle part is the claims in base64url.
        let payload = jwt.as_str().split('.').nth(1)?;
        Some((header.clone(), payload.as_bytes().to_vec()))
    });
    let claims = rule.claim_headers.iter().filter_map(|it| {
        let value = claims::header_value(jwt.claims(), &it.claim)?;
        Some((it.header.clone(), value))
    });
    payload.chain(claims).collect()
}

impl Verified {
    pub(super) fn text(&self) -> &str {
        self.jwt.as_str()
    }

    pub(super) fn rule(&self) -> Arc<Rule> {
        Arc::clone(&self.rule.borrow())
    }

    pub(super) fn headers(&self) -> &[(String, Vec<u8>)] {
        &self.headers
    }

    pub(super) fn end_user(&self) -> &Rc<EndUser> {
        &self.end_user
    }

    pub(super) fn ends(&self) -> SystemTime {
        self.ends
    }

    pub(super) fn policy_token(&self) -> Token<'_> {
        Token {
            issuer: &self.end_user.issuer,
            subject: &self.end_user.subject,
            claims: self.jwt.claims(),
        }
    }

    /// SHA-256 of the token, and of its twin where there is one.
    pub(crate) fn digests(&self) -> ([u8; 32], Option<[u8; 32]>) {
        self.digests
    }

    pub(crate) fn jti(&self) -> Option<&str> {
        self.jwt.jti()
    }

    /// What it costs to keep, roughly.
    pub(super) fn weight(&self) -> usize {
        // The text, the claims parsed from three quarters of it, and the headers made of them.
        let headers: usize = self.headers.iter().map(|(_, value)| value.len()).sum();
        512 + 4 * self.text().len() + headers
    }

    /// The rule and the keys that verified it are those of today.
    pub(super) fn is_current(&self, rules: &Rules, own: Option<&TrustSnapshot>) -> bool {
        let mut known = self.rule.borrow_mut();
        if !rules.holds(&known) {
            // Another revision of the configuration, often with the same rule.
            match rules.of(self.jwt.issuer(), self.jwt.subject()) {
                Some(rule) if **rule == **known => *known = Arc::clone(rule),
                _ => return false,
            }
        }
        match &known.trust {
            Trust::Issuer { .. } => true,
            Trust::TrustDomain { name, .. } => {
                match (&self.keys, own.and_then(|own| own.jwt_keys(name))) {
                    (Some(known), Some(keys)) => Arc::ptr_eq(known, keys),
                    _ => false,
                }
            }
        }
    }

    /// What may change from use to use. `listed`: the token stood where its rule expects one.
    pub(super) fn check(&self, listed: bool, now: &Circumstances<'_>) -> Result<(), Refused> {
        self.problem(listed, now).map_or(Ok(()), |(reason, why)| {
            Err(Refused {
                reason,
                why: why.to_owned(),
                end_user: Some(Rc::clone(&self.end_user)),
            })
        })
    }

    fn problem(&self, listed: bool, today: &Circumstances<'_>) -> Option<(Reason, &'static str)> {
        let rule = self.rule.borrow();
        let now = today.now;
        let early =
            |time: Option<SystemTime>, tolerance| time.is_some_and(|time| time > now + tolerance);
        if !listed {
            return Some((
                Reason::TokenUntrusted,
                "its issuer's rule has tokens in another place",
            ));
        }
        // RFC 7519 section 4.1.4: on or after which it must not be accepted.
        if now >= self.ends {
            return Some((Reason::TokenExpired, "it has expired"));
        }
        if early(self.jwt.nbf(), rule.skew) {
            return Some((Reason::TokenUntrusted, "it is not valid yet, `nbf`"));
        }
        if early(self.jwt.iat(), rule.skew.max(CLOCKS_DIFFER)) {
            return Some((Reason::TokenUntrusted, "it was issued in the future, `iat`"));
        }
        if !self.is_for_us(&rule, today.own) {
            return Some((Reason::TokenAudience, "it is for another audience"));
        }
        if (today.revoked)(self, now) {
            return Some((Reason::TokenRevoked, "it is revoked"));
        }
        match (&self.thumbprint, today.thumbprint) {
            (None, _) if rule.bound => Some((
                Reason::TokenUnbound,
                "it is not bound to a certificate, and must be",
            )),
            (Some(_), None) => Some((
                Reason::TokenUnbound,
                "it is bound to a certificate, and the peer has none",
            )),
            (Some(bound), Some(peer)) if bound != peer => Some((
                Reason::TokenUnbound,
                "it is bound to another certificate than the peer's",
            )),
            _ => None,
        }
    }

    fn is_for_us(&self, rule: &Rule, own: Option<&TrustSnapshot>) -> bool {
        if !rule.audiences.is_empty() {
            return self
                .jwt
                .audiences()
                .any(|said| rule.audiences.iter().any(|ours| ours == said));
        }
        match (&rule.trust, own) {
            (Trust::Issuer { .. }, _) => true,
            (Trust::TrustDomain { .. }, Some(own)) => self
                .jwt
                .audiences()
                .any(|said| said == own.principal().as_str()),
            (Trust::TrustDomain { .. }, None) => false,
        }
    }
}
