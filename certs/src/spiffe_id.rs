//! SPIFFE IDs and trust domains in their one canonical form.
//!
//! Stricter than the standard asks of a parser: what isn't canonical is refused, never
//! folded, so that two IDs are the same principal exactly when their bytes are equal.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// SPIFFE-ID section 2.3: IDs of up to 2048 bytes must be supported, longer ones not generated.
pub const MAX_ID_BYTES: usize = 2048;
/// SPIFFE-ID section 2.1: the trust domain name is at most 255 bytes.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// A SPIFFE ID, e.g. `spiffe://example.org/ns/shop/sa/web`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Where the trust domain ends in `uri`.
    path_at: usize,
}

/// The name of a trust domain, e.g. `example.org`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// Why a text is no canonical SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("is longer than {MAX_ID_BYTES} bytes (SPIFFE-ID 2.3)")]
    TooLong,
    #[error("does not begin with `spiffe://` in lower case (SPIFFE-ID 2)")]
    Scheme,
    #[error("has no trust domain (SPIFFE-ID 2.1)")]
    NoTrustDomain,
    #[error("has a trust domain longer than {MAX_TRUST_DOMAIN_BYTES} bytes (SPIFFE-ID 2.1)")]
    TrustDomainTooLong,
    #[error(
        "has {0:?} in its trust domain; only a-z, 0-9, `.`, `-`, `_` are allowed (SPIFFE-ID 2.1)"
    )]
    TrustDomainCharacter(char),
    #[error(
        "has {0:?} in its path; only letters, digits, `.`, `-`, `_` are allowed (SPIFFE-ID 2.2)"
    )]
    PathCharacter(char),
    #[error("has an empty path segment or a trailing `/` (SPIFFE-ID 2.2)")]
    EmptySegment,
    #[error("has a `.` or `..` path segment (SPIFFE-ID 2.2)")]
    DotSegment,
    #[error("has a path, but should name a trust domain")]
    UnexpectedPath,
}

impl SpiffeId {
    /// Parses the canonical form and nothing else.
    pub fn parse(text: &str) -> Result<SpiffeId, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let trust_domain_len = rest.find('/').unwrap_or(rest.len());
        let (trust_domain, path) = rest.split_at(trust_domain_len);
        check_trust_domain(trust_domain)?;
        if let Some(segments) = path.strip_prefix('/') {
            segments.split('/').try_for_each(check_segment)?;
        }
        Ok(SpiffeId {
            uri: text.into(),
            path_at: SCHEME.len() + trust_domain_len,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.uri
    }

    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.path_at]
    }

    /// With its leading `/`; empty for the ID of a trust domain.
    pub fn path(&self) -> &str {
        &self.uri[self.path_at..]
    }
}

impl TrustDomain {
    /// Parses a bare name such as `example.org`.
    pub fn parse(name: &str) -> Result<TrustDomain, SpiffeIdError> {
        check_trust_domain(name)?;
        Ok(TrustDomain(name.into()))
    }

    /// Parses the SPIFFE ID of a trust domain, `spiffe://example.org`, as the Workload API
    /// writes the keys of its bundle maps. The path must be empty.
    pub fn from_id(id: &str) -> Result<TrustDomain, SpiffeIdError> {
        let id = SpiffeId::parse(id)?;
        if !id.path().is_empty() {
            return Err(SpiffeIdError::UnexpectedPath);
        }
        Ok(TrustDomain(id.trust_domain().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, `spiffe://example.org`.
    pub fn id(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeIdError::TrustDomainTooLong);
    }
    match name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
    {
        Some(c) => Err(SpiffeIdError::TrustDomainCharacter(c)),
        None => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => return Err(SpiffeIdError::EmptySegment),
        "." | ".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    match segment
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
    {
        Some(c) => Err(SpiffeIdError::PathCharacter(c)),
        None => Ok(()),
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        SpiffeId::parse(text)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        TrustDomain::parse(name)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

// Sound for maps: equality and hash of a trust domain are those of its text.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_ids_apart() {
        let id = SpiffeId::parse("spiffe://example.org/ns/shop/sa/web").unwrap();
        assert_eq!(
            (id.trust_domain(), id.path()),
            ("example.org", "/ns/shop/sa/web")
        );
        let id = SpiffeId::parse("spiffe://example.org").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("example.org", ""));
        assert_eq!(
            TrustDomain::from_id("spiffe://a.b").unwrap().as_str(),
            "a.b"
        );
    }

    #[test]
    fn accepts_the_longest_id_and_trust_domain() {
        let prefix = "spiffe://example.org/";
        let id = format!("{prefix}{}", "x".repeat(MAX_ID_BYTES - prefix.len()));
        assert!(SpiffeId::parse(&id).is_ok());
        assert_eq!(
            SpiffeId::parse(&format!("{id}x")),
            Err(SpiffeIdError::TooLong)
        );
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
        assert_eq!(
            TrustDomain::parse(&"a".repeat(256)),
            Err(SpiffeIdError::TrustDomainTooLong)
        );
    }

    #[test]
    fn refuses_everything_that_is_not_canonical() {
        use SpiffeIdError::*;
        for (text, expected) in [
            ("", Scheme),
            ("https://example.org/a", Scheme),
            ("SPIFFE://example.org/a", Scheme),
            ("spiffe:/example.org/a", Scheme),
            ("spiffe:///a", NoTrustDomain),
            ("spiffe://Example.org/a", TrustDomainCharacter('E')),
            ("spiffe://example.org:80/a", TrustDomainCharacter(':')),
            ("spiffe://me@example.org/a", TrustDomainCharacter('@')),
            ("spiffe://example%2eorg/a", TrustDomainCharacter('%')),
            (
                "spiffe://ex\u{e4}mple.org/a",
                TrustDomainCharacter('\u{e4}'),
            ),
            ("spiffe://example.org/", EmptySegment),
            ("spiffe://example.org//a", EmptySegment),
            ("spiffe://example.org/a/", EmptySegment),
            ("spiffe://example.org/a//b", EmptySegment),
            ("spiffe://example.org/.", DotSegment),
            ("spiffe://example.org/a/../b", DotSegment),
            ("spiffe://example.org/%2e%2e", PathCharacter('%')),
            ("spiffe://example.org/a?b=c", PathCharacter('?')),
            ("spiffe://example.org?b", TrustDomainCharacter('?')),
            ("spiffe://example.org/a#b", PathCharacter('#')),
            ("spiffe://example.org/a\0", PathCharacter('\0')),
            ("spiffe://example.org/\u{e4}", PathCharacter('\u{e4}')),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(expected), "{text:?}");
        }
        assert_eq!(
            TrustDomain::from_id("spiffe://example.org/a"),
            Err(UnexpectedPath)
        );
    }
}
