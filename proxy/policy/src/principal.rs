//! A SPIFFE ID that names a workload, parsed once and compared whole.
//!
//! Grammar: SPIFFE-ID section 2, as identity.md "SPIFFE ID" has it. A form that is not canonical is
//! refused, never folded: two texts name the same principal exactly if they are equal bytes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::index::Fingerprint;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID section 2.3: implementations support 2048 bytes, and must not generate more.
const MAX_ID: usize = 2048;
/// SPIFFE-ID section 2.1.
const MAX_TRUST_DOMAIN: usize = 255;

/// A validated SPIFFE ID with a path. Cloning costs one reference count.
#[derive(Clone)]
pub struct Principal {
    id: Arc<str>,
    /// Where the path begins in `id`; the trust domain ends there.
    path: u16,
    /// Where namespace and service account are, for a path that is exactly `/ns/<ns>/sa/<sa>`.
    workload: Option<Workload>,
    fingerprint: Fingerprint,
}

#[derive(Clone, Copy)]
struct Workload {
    namespace_end: u16,
    account_start: u16,
}

/// Why a text is not the SPIFFE ID of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PrincipalError {
    #[error("a SPIFFE ID starts with `spiffe://`")]
    Scheme,
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    #[error("a trust domain has at most 255 bytes")]
    TrustDomainTooLong,
    #[error(
        "a trust domain consists of a-z, 0-9, `.`, `_` and `-`: no upper case, port, user or encoding"
    )]
    TrustDomainCharacter,
    #[error("it names a trust domain, not a workload: a path is missing")]
    NoPath,
    #[error("a path does not end with `/`")]
    TrailingSlash,
    #[error("a path segment is empty")]
    EmptySegment,
    #[error("a path segment is `.` or `..`")]
    DotSegment,
    #[error(
        "a path segment consists of a-z, A-Z, 0-9, `.`, `_` and `-`: no query, fragment or encoding"
    )]
    PathCharacter,
}

impl Principal {
    pub fn parse(id: &str) -> Result<Self, PrincipalError> {
        let rest = id.strip_prefix(SCHEME).ok_or(PrincipalError::Scheme)?;
        if id.len() > MAX_ID {
            return Err(PrincipalError::TooLong);
        }
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(trust_domain)?;
        check_path(path)?;
        // Offsets fit: `id` has at most 2048 bytes.
        let offset = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        let start = SCHEME.len() + trust_domain.len();
        let workload = namespace_and_account(path).map(|(namespace, _)| {
            let namespace_end = start + "/ns/".len() + namespace.len();
            Workload {
                namespace_end: offset(namespace_end),
                account_start: offset(namespace_end + "/sa/".len()),
            }
        });
        Ok(Self {
            id: id.into(),
            path: offset(start),
            workload,
            fingerprint: Fingerprint::of(trust_domain, path),
        })
    }

    /// The whole ID, `spiffe://…`.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    pub fn trust_domain(&self) -> &str {
        &self.id[SCHEME.len()..usize::from(self.path)]
    }

    /// The path, with its leading `/`.
    pub fn path(&self) -> &str {
        &self.id[usize::from(self.path)..]
    }

    /// Only for a path that is exactly `/ns/<namespace>/sa/<account>` (resources.md, stricter rule 8).
    pub fn namespace(&self) -> Option<&str> {
        let end = usize::from(self.workload?.namespace_end);
        Some(&self.id[usize::from(self.path) + "/ns/".len()..end])
    }

    /// Only for a path that is exactly `/ns/<namespace>/sa/<account>` (resources.md, stricter rule 8).
    pub fn service_account(&self) -> Option<&str> {
        Some(&self.id[usize::from(self.workload?.account_start)..])
    }

    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

pub(crate) fn check_trust_domain(trust_domain: &str) -> Result<(), PrincipalError> {
    if trust_domain.is_empty() {
        return Err(PrincipalError::EmptyTrustDomain);
    }
    if trust_domain.len() > MAX_TRUST_DOMAIN {
        return Err(PrincipalError::TrustDomainTooLong);
    }
    if !trust_domain.bytes().all(is_trust_domain_byte) {
        return Err(PrincipalError::TrustDomainCharacter);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), PrincipalError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Err(PrincipalError::NoPath);
    };
    if segments.is_empty() || segments.ends_with('/') {
        return Err(PrincipalError::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

pub(crate) fn check_segment(segment: &str) -> Result<(), PrincipalError> {
    match segment {
        "" => Err(PrincipalError::EmptySegment),
        "." | ".." => Err(PrincipalError::DotSegment),
        _ if segment.bytes().all(is_segment_byte) => Ok(()),
        _ => Err(PrincipalError::PathCharacter),
    }
}

pub(crate) fn is_trust_domain_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')
}

pub(crate) fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

pub(crate) fn namespace_and_account(path: &str) -> Option<(&str, &str)> {
    let (namespace, account) = path.strip_prefix("/ns/")?.split_once("/sa/")?;
    (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::parse(id)
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialOrd for Principal {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Principal {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id.cmp(&other.id)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.id)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_parts_of_a_workload_identity() {
        let principal = Principal::parse("spiffe://example.org/ns/shop/sa/web").unwrap();
        assert_eq!(principal.as_str(), "spiffe://example.org/ns/shop/sa/web");
        assert_eq!(principal.trust_domain(), "example.org");
        assert_eq!(principal.path(), "/ns/shop/sa/web");
        assert_eq!(principal.namespace(), Some("shop"));
        assert_eq!(principal.service_account(), Some("web"));
    }

    #[test]
    fn stricter_08_reads_namespace_and_account_only_from_a_path_of_exactly_that_form() {
        for path in [
            "/ns/shop/sa/web/extra",
            "/x/ns/shop/sa/web",
            "/ns/shop",
            "/ns/shop/sa",
            "/ns/a/b/sa/web",
            "/NS/shop/sa/web",
            "/ns/shop/SA/web",
            "/sa/web/ns/shop",
            "/ns/shop/x/sa/web",
            "/workload",
        ] {
            let principal = Principal::parse(&format!("spiffe://td{path}")).unwrap();
            assert_eq!(
                (principal.namespace(), principal.service_account()),
                (None, None),
                "{path}"
            );
        }
        let odd = Principal::parse("spiffe://td/ns/sa/sa/sa").unwrap();
        assert_eq!(
            (odd.namespace(), odd.service_account()),
            (Some("sa"), Some("sa"))
        );
    }

    #[test]
    fn refuses_what_the_grammar_forbids() {
        use PrincipalError::*;
        let long_domain = format!("spiffe://{}/a", "d".repeat(256));
        let long_id = format!("spiffe://td/{}", "a".repeat(2049 - 12));
        for (id, expected) in [
            ("", Scheme),
            ("td/ns/a/sa/b", Scheme),
            ("SPIFFE://td/a", Scheme),
            ("https://td/a", Scheme),
            ("spiffe:///a", EmptyTrustDomain),
            ("spiffe://", EmptyTrustDomain),
            ("spiffe://Td/a", TrustDomainCharacter),
            ("spiffe://td:80/a", TrustDomainCharacter),
            ("spiffe://user@td/a", TrustDomainCharacter),
            ("spiffe://td?x", TrustDomainCharacter),
            ("spiffe://t%64/a", TrustDomainCharacter),
            ("spiffe://td", NoPath),
            ("spiffe://td/", TrailingSlash),
            ("spiffe://td/a/", TrailingSlash),
            ("spiffe://td//a", EmptySegment),
            ("spiffe://td/a//b", EmptySegment),
            ("spiffe://td/./a", DotSegment),
            ("spiffe://td/a/..", DotSegment),
            ("spiffe://td/%2e", PathCharacter),
            ("spiffe://td/a?b", PathCharacter),
            ("spiffe://td/a#b", PathCharacter),
            ("spiffe://td/a\0", PathCharacter),
            ("spiffe://td/é", PathCharacter),
            ("spiffe://td/*", PathCharacter),
            (&long_domain, TrustDomainTooLong),
            (&long_id, TooLong),
        ] {
            assert_eq!(Principal::parse(id), Err(expected), "{id}");
        }
    }

    #[test]
    fn accepts_up_to_the_limits() {
        let id = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        assert_eq!(Principal::parse(&id).unwrap().as_str(), id);
        assert!(Principal::parse(&format!("spiffe://{}/a", "d".repeat(255))).is_ok());
        assert!(Principal::parse("spiffe://1.2.3.4/...").is_ok());
    }
}
