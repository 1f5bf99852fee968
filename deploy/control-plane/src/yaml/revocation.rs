//! Revocation: what is no longer valid although it has not expired.

use std::time::SystemTime;

use aws_lc_rs::digest;
use kith_xds_client::api::mesh as api;
use schemars::JsonSchema;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::document::{Document, Place};
use super::value::{SpiffeId, TrustDomain};
use super::words;
use crate::catalog::lower_hex;
use crate::crd::revocation as demand;
use crate::problem::Problem;

/// As long as a sentence; it goes to every sidecar.
pub(crate) const MAX_REASON: usize = 256;
/// RFC 5280 section 4.1.2.2.
pub(crate) const MAX_SERIAL: usize = 20;
const SHA256_HEX: usize = 64;
/// 9999-12-31T23:59:59Z, where the range of a Timestamp ends.
const LAST_SECOND: i64 = 253_402_300_799;

/// One thing that is revoked, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub what: Revoked,
    /// When it would have expired anyway.
    pub until: SystemTime,
    /// For people.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    Principal(kith_certs::SpiffeId),
    Certificate {
        trust_domain: kith_certs::TrustDomain,
        /// Lower-case hex without leading zeros.
        serial: String,
    },
    /// The SHA-256 of the token or of its `jti`, in lower-case hex.
    Token(String),
}

impl Revocation {
    pub(crate) fn to_wire(&self) -> api::Revocation {
        use api::revocation::What;
        let what = match &self.what {
            Revoked::Principal(id) => What::Principal(id.to_string()),
            Revoked::Certificate {
                trust_domain,
                serial,
            } => What::Certificate(api::CertificateSerial {
                trust_domain: trust_domain.to_string(),
                serial: serial.clone(),
            }),
            Revoked::Token(id) => What::TokenId(id.clone()),
        };
        api::Revocation {
            what: Some(what),
            until: Some(self.until.into()),
            reason: self.reason.clone(),
        }
    }
}

/// What is no longer valid although it has not expired: exactly one of `principal`, `certificate` and `token`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::spec)]
pub(crate) struct Spec {
    /// A SPIFFE ID: every certificate of it, those that are issued later too.
    principal: Option<SpiffeId>,
    /// One certificate.
    certificate: Option<Certificate>,
    /// One token.
    token: Option<Token>,
    /// When it would have expired anyway, as RFC 3339 has it, such as `2030-01-31T00:00:00Z`. Required: the entry has no
    /// effect after that.
    #[schemars(transform = demand::until)]
    until: Option<String>,
    /// Why, in one line of at most 256 bytes. Required: the sidecars' records tell it.
    #[schemars(transform = demand::reason)]
    reason: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Certificate {
    /// The trust domain of its issuer.
    trust_domain: TrustDomain,
    /// Its serial number in hex, as any tool prints it: `4B:C3:7B` or `4bc37b`.
    #[schemars(transform = demand::serial)]
    serial: String,
}

/// Exactly one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = demand::token)]
struct Token {
    /// The SHA-256 of the whole token, 64 hex digits.
    #[schemars(transform = demand::sha256)]
    sha256: Option<String>,
    /// The token's `jti` (RFC 7519 section 4.1.7).
    #[schemars(transform = demand::jti)]
    jti: Option<String>,
}

pub(super) fn convert(document: Document<Spec>) -> Result<Document<Revocation>, Vec<Problem>> {
    let Document {
        place,
        metadata,
        spec,
    } = document;
    let what = what(&place, spec.principal, spec.certificate, spec.token);
    let until = until(&place, spec.until.as_deref());
    let reason = reason(&place, spec.reason);
    match (what, until, reason) {
        (Ok(what), Ok(until), Ok(reason)) => Ok(Document {
            place,
            metadata,
            spec: Revocation {
                what,
                until,
                reason,
            },
        }),
        (what, until, reason) => Err([what.err(), until.err(), reason.err()]
            .into_iter()
            .flatten()
            .collect()),
    }
}

fn what(
    place: &Place,
    principal: Option<SpiffeId>,
    certificate: Option<Certificate>,
    token: Option<Token>,
) -> Result<Revoked, Problem> {
    match (principal, certificate, token) {
        (Some(principal), None, None) => Ok(Revoked::Principal(principal.0)),
        (None, Some(certificate), None) => {
            let serial = canonical_serial(&certificate.serial)
                .map_err(|message| place.problem("spec.certificate.serial", message))?;
            Ok(Revoked::Certificate {
                trust_domain: certificate.trust_domain.0,
                serial,
            })
        }
        (None, None, Some(token)) => token_id(place, token).map(Revoked::Token),
        _ => Err(place.problem("spec", words::ONE_REVOKED)),
    }
}

/// `4B:C3:7B`, `4bc37b` and `004BC37B` are one number.
fn canonical_serial(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("`{text}`{}", words::NOT_A_SERIAL));
    }
    let significant = digits.trim_start_matches('0').to_ascii_lowercase();
    if significant.is_empty() {
        return Err(words::SERIAL_ZERO.into());
    }
    if significant.len() > 2 * MAX_SERIAL {
        return Err(serial_too_long());
    }
    Ok(significant)
}

pub(crate) fn serial_too_long() -> String {
    format!(
        "longer than the {MAX_SERIAL} bytes that a serial number may have (RFC 5280 section 4.1.2.2)"
    )
}

pub(crate) fn reason_too_long() -> String {
    format!("more than {MAX_REASON} bytes, or more than one line")
}

fn token_id(place: &Place, token: Token) -> Result<String, Problem> {
    match (token.sha256, token.jti) {
        (Some(hash), None) => {
            let hash = hash.to_ascii_lowercase();
            if hash.len() == SHA256_HEX && hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                Ok(hash)
            } else {
                Err(place.problem("spec.token.sha256", words::NOT_A_HASH))
            }
        }
        (None, Some(jti)) if !jti.is_empty() => Ok(lower_hex(
            digest::digest(&digest::SHA256, jti.as_bytes()).as_ref(),
        )),
        (None, Some(_)) => Err(place.problem("spec.token.jti", words::EMPTY_JTI)),
        _ => Err(place.problem("spec.token", words::ONE_TOKEN)),
    }
}

fn until(place: &Place, text: Option<&str>) -> Result<SystemTime, Problem> {
    const FIELD: &str = "spec.until";
    let Some(text) = text else {
        return Err(place.problem(FIELD, words::NO_UNTIL));
    };
    let parsed = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| place.problem(FIELD, format!("`{text}`{}", words::NOT_A_TIME)))?;
    // RFC 3339 with an offset reaches further than a Timestamp, and one entry that a sidecar can't honour has it
    // refuse the whole list.
    if !(0..=LAST_SECOND).contains(&parsed.unix_timestamp()) {
        let message = format!("`{text}`{}", words::OUT_OF_TIME);
        return Err(place.problem(FIELD, message));
    }
    Ok(parsed.into())
}

fn reason(place: &Place, text: Option<String>) -> Result<String, Problem> {
    const FIELD: &str = "spec.reason";
    let text = text.unwrap_or_default();
    if text.trim().is_empty() {
        return Err(place.problem(FIELD, words::NO_REASON));
    }
    if text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(place.problem(FIELD, reason_too_long()));
    }
    Ok(text)
}
