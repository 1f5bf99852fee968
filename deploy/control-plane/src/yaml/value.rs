//! Values that are right once they exist: addresses, hosts, trust domains, SPIFFE IDs, labels, durations.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Deserialize;

use super::words;

/// An IP address in canonical form: IPv4-mapped IPv6 is IPv4 (security.md, row 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(pub IpAddr);

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address: IpAddr = text
            .parse()
            .map_err(|_| format!("`{text}`{}", words::NOT_AN_ADDRESS))?;
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return Err(format!("`{text}`{}", words::NOT_ONE_MACHINE));
        }
        Ok(Self(address))
    }
}

/// A host name in lower case without a trailing dot, as `Address` resources are named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Host(pub String);

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let host = text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase();
        if host.parse::<IpAddr>().is_ok() {
            return Err(format!("`{text}`{}", words::HOST_IS_ADDRESS));
        }
        let fits = !host.is_empty() && host.len() <= 253 && host.split('.').all(is_host_label);
        if fits {
            Ok(Self(host))
        } else {
            Err(format!("`{text}`{}", words::NOT_A_HOST))
        }
    }
}

/// RFC 1123 section 2.1, and the underscore that people use in practice.
fn is_host_label(label: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A trust domain name, SPIFFE-ID section 2.1. Never folded to lower case: what is written is compared.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TrustDomain(pub kith_certs::TrustDomain);

impl TryFrom<String> for TrustDomain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match kith_certs::TrustDomain::parse(&text) {
            Ok(trust_domain) => Ok(Self(trust_domain)),
            Err(_) if text.starts_with("spiffe://") => {
                Err(format!("`{text}`{}", words::TRUST_DOMAIN_ALONE))
            }
            Err(error) => Err(format!("`{text}` {error}")),
        }
    }
}

/// The SPIFFE ID of a workload: canonical, with a path (SPIFFE-ID section 2, X509-SVID section 2).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SpiffeId(pub kith_certs::SpiffeId);

impl TryFrom<String> for SpiffeId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let id = kith_certs::SpiffeId::parse(&text).map_err(|error| format!("`{text}` {error}"))?;
        if id.path().is_empty() {
            return Err(format!("`{text}`{}", words::NO_WORKLOAD));
        }
        Ok(Self(id))
    }
}

/// A port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "i64")]
pub struct Port(NonZeroU16);

impl TryFrom<i64> for Port {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        port.map(Self)
            .ok_or_else(|| format!("{number}{}", words::NOT_A_PORT_NUMBER))
    }
}

impl Port {
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// A label selector that names at least nothing: empty selects everything in reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Labels(pub BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = String;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, String> {
        for (key, value) in &labels {
            // Istio refuses wildcards here too; taken literally they would select nothing, silently.
            if key.is_empty() || key.contains('*') || value.contains('*') {
                return Err(format!("label `{key}: {value}`{}", words::LABEL_NEVER));
            }
        }
        Ok(Self(labels))
    }
}

/// A length of time as Istio and Go write it: `5s`, `500ms`, `1m30s`, `1.5h`. At most a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Duration(pub std::time::Duration);

impl TryFrom<String> for Duration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_duration(&text)
            .map(Self)
            .ok_or_else(|| format!("`{text}`{}", words::NOT_A_DURATION))
    }
}

fn parse_duration(text: &str) -> Option<std::time::Duration> {
    const DAY: f64 = 86_400.0;
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let unit = rest[digits..]
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .map_or(rest.len(), |length| digits + length);
        // No sign, no exponent, no "infinity": only digits come this far.
        let number: f64 = rest[..digits].parse().ok()?;
        seconds += number
            * match &rest[digits..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty() && seconds <= DAY)
        .then(|| std::time::Duration::try_from_secs_f64(seconds).ok())?
}

/// A Kubernetes object name (RFC 1123 subdomain): it becomes one half of `namespace/name`.
pub(super) fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.iter().all(|b| inside(*b))
        && edge(bytes.first())
        && edge(bytes.last())
}

/// A segment of a SPIFFE ID's path, SPIFFE-ID section 2.2.
pub(super) fn is_path_segment(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(inside)
}
