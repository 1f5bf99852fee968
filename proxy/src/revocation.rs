//! What is no longer valid although it has not expired: principals, certificate serials and tokens.
//!
//! A list once received stays in force until another replaces it: when the control plane is away, after a
//! restart (it is kept with the last good resources), and when the control plane takes the resource back, which
//! is refused. A list that was never received is no reason to deny: nothing has been revoked that one knows of,
//! and a control plane that has nothing to revoke need not serve one.
//!
//! Free of IO and clocks: `now` is passed in. An entry has no effect from its `until` on.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use kith_policy::{FieldError, Principal, Reason};
use kith_xds_client::api::mesh as wire;

/// The one name under which the control plane publishes the list.
pub const NAME: &str = "mesh";

/// A SHA-256.
type Digest = [u8; 32];

/// RFC 5280 section 4.1.2.2: a serial number has at most 20 octets.
const LONGEST_SERIAL: usize = 40;

/// The last second of the year 9999, where the range of a Timestamp ends.
const LAST_SECOND: u64 = 253_402_300_799;

/// A `RevocationList` that can be honoured exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    principals: HashMap<Box<str>, SystemTime>,
    /// By trust domain, then by serial without leading zeros: authorities number their certificates independently.
    serials: HashMap<Box<str>, HashMap<Box<str>, SystemTime>>,
    /// SHA-256 of a token, or of its `jti`.
    tokens: HashMap<Digest, SystemTime>,
}

impl Revocations {
    /// All or nothing: an entry that can't be honoured exactly is an error that names the field.
    pub fn new(name: &str, list: &wire::RevocationList) -> Result<Self, Vec<FieldError>> {
        let mut revocations = Self::default();
        let mut errors = Vec::new();
        if name != NAME {
            errors.push(error(
                "name".into(),
                format!("a RevocationList is named {NAME}, not {name}"),
            ));
        }
        for (index, entry) in list.revocations.iter().enumerate() {
            let at = |field: &str| format!("revocations[{index}].{field}");
            let until = until(entry).map_err(|why| error(at("until"), why));
            let added = until.and_then(|until| revocations.add(entry, until, at));
            errors.extend(added.err());
        }
        if errors.is_empty() {
            Ok(revocations)
        } else {
            Err(errors)
        }
    }

    fn add(
        &mut self,
        entry: &wire::Revocation,
        until: SystemTime,
        at: impl Fn(&str) -> String,
    ) -> Result<(), FieldError> {
        use wire::revocation::What;
        let known = match &entry.what {
            None => {
                let why = "says nothing that is revoked: principal, certificate or token_id".into();
                return Err(error(at("what"), why));
            }
            Some(What::Principal(id)) => {
                Principal::parse(id).map_err(|why| error(at("principal"), why.to_string()))?;
                self.principals.entry(id.as_str().into()).or_insert(until)
            }
            Some(What::Certificate(certificate)) => {
                let wire::CertificateSerial {
                    trust_domain,
                    serial,
                } = certificate;
                // The grammar is that of a principal's.
                Principal::parse(&format!("spiffe://{trust_domain}/of"))
                    .ok()
                    .filter(|parsed| parsed.trust_domain() == trust_domain)
                    .ok_or_else(|| {
                        let why = format!("{trust_domain:?} is not a trust domain");
                        error(at("certificate.trust_domain"), why)
                    })?;
                check_serial(serial).map_err(|why| error(at("certificate.serial"), why))?;
                let serials = self.serials.entry(trust_domain.as_str().into());
                let serials = serials.or_default();
                serials.entry(serial.as_str().into()).or_insert(until)
            }
            Some(What::TokenId(id)) => {
                let id = parse_digest(id).ok_or_else(|| {
                    let why = "is not a SHA-256 in 64 lower-case hex digits".into();
                    error(at("token_id"), why)
                })?;
                self.tokens.entry(id).or_insert(until)
            }
        };
        // Of two entries about the same thing the longer holds.
        *known = until.max(*known);
        Ok(())
    }

    /// Nothing is revoked: nothing need be asked, and no clock be read.
    pub fn is_empty(&self) -> bool {
        self.principals.is_empty() && self.serials.is_empty() && self.tokens.is_empty()
    }

    /// How many things are on the list, those past their `until` included.
    pub fn len(&self) -> usize {
        let serials: usize = self.serials.values().map(HashMap::len).sum();
        self.principals.len() + serials + self.tokens.len()
    }

    /// Whether this SPIFFE ID is revoked.
    pub fn principal(&self, id: &str, now: SystemTime) -> bool {
        holds(self.principals.get(id), now)
    }

    /// Whether the certificate with this serial number, in lower-case hex, is revoked.
    pub fn serial(&self, trust_domain: &str, serial: &str, now: SystemTime) -> bool {
        let Some(serials) = self.serials.get(trust_domain) else {
            return false;
        };
        // Certificates show whole octets.
        let significant = serial.trim_start_matches('0');
        let significant = if significant.is_empty() {
            "0"
        } else {
            significant
        };
        holds(serials.get(significant), now)
    }

    /// Whether the token with this SHA-256 (of its compact form) and this `jti` is revoked.
    pub fn token(&self, sha256: &[u8; 32], jti: Option<&str>, now: SystemTime) -> bool {
        if self.tokens.is_empty() {
            return false;
        }
        let by_id = |jti: &str| {
            let id = digest(&SHA256, jti.as_bytes());
            <&Digest>::try_from(id.as_ref()).is_ok_and(|id| holds(self.tokens.get(id), now))
        };
        holds(self.tokens.get(sha256), now) || jti.is_some_and(by_id)
    }

    /// Why a peer with this SVID is not to be dealt with, if so.
    pub fn svid(&self, principal: &Principal, serial: &str, now: SystemTime) -> Option<Reason> {
        if self.principal(principal.as_str(), now) {
            Some(Reason::PrincipalRevoked)
        } else if self.serial(principal.trust_domain(), serial, now) {
            Some(Reason::SvidRevoked)
        } else {
            None
        }
    }
}

fn holds(until: Option<&SystemTime>, now: SystemTime) -> bool {
    until.is_some_and(|until| now < *until)
}

fn until(entry: &wire::Revocation) -> Result<SystemTime, String> {
    let Some(until) = &entry.until else {
        return Err("is required: until when the revocation matters".into());
    };
    let seconds = u64::try_from(until.seconds)
        .ok()
        .filter(|seconds| *seconds <= LAST_SECOND);
    let nanos = u32::try_from(until.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    let (Some(seconds), Some(nanos)) = (seconds, nanos) else {
        return Err(format!(
            "{} s and {} ns is no time between 1970 and 9999",
            until.seconds, until.nanos
        ));
    };
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::new(seconds, nanos))
        .ok_or_else(|| "is later than this machine can tell".into())
}

fn check_serial(serial: &str) -> Result<(), String> {
    let digits = (1..=LONGEST_SERIAL).contains(&serial.len()) && serial.bytes().all(is_hex);
    if !digits {
        return Err(format!(
            "{serial:?} is not a serial number: 1 to {LONGEST_SERIAL} lower-case hex digits, no separators"
        ));
    }
    if serial.starts_with('0') && serial != "0" {
        return Err(format!("{serial:?} has leading zeros; leave them out"));
    }
    Ok(())
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn parse_digest(text: &str) -> Option<Digest> {
    if text.len() != 64 || !text.bytes().all(is_hex) {
        return None;
    }
    let mut id = Digest::default();
    for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

fn error(field: String, message: String) -> FieldError {
    FieldError { field, message }
}

#[cfg(test)]
mod tests;
