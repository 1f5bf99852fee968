//! SPIFFE IDs and trust domains in their one canonical form.
//!
//! The grammar is that of the `spiffe` crate. Stricter than it, what isn't canonical is refused and never
//! folded, so that two IDs are the same principal exactly when their bytes are equal.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// SPIFFE-ID section 2.3: IDs of up to 2048 bytes must be supported, longer ones not generated.
pub const MAX_ID_BYTES: usize = 2048;
/// SPIFFE-ID section 2.1: the trust domain name is at most 255 bytes.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// A SPIFFE ID, e.g. `spiffe://example.org/ns/shop/sa/web`. Cheap to clone.
#[derive(Clone)]
pub struct SpiffeId(Arc<Parsed>);

struct Parsed {
    /// As it was written; `id` is only its parts.
    uri: Box<str>,
    id: spiffe::SpiffeId,
}

/// The name of a trust domain, e.g. `example.org`. Cheap to clone.
#[derive(Clone)]
pub struct TrustDomain(Arc<spiffe::TrustDomain>);

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
    #[error("is no SPIFFE ID: {0}")]
    Other(String),
}

impl SpiffeId {
    /// Parses the canonical form and nothing else.
    pub fn parse(text: &str) -> Result<SpiffeId, SpiffeIdError> {
        // The crate knows no such limit.
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        // The crate takes `SPIFFE://` as well.
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        refuse_folded(trust_domain)?;
        let id = spiffe::SpiffeId::new(text).map_err(|why| explain(&why, trust_domain, path))?;
        let uri = text.into();
        Ok(SpiffeId(Arc::new(Parsed { uri, id })))
    }

    pub fn as_str(&self) -> &str {
        &self.0.uri
    }

    pub fn trust_domain(&self) -> &str {
        self.0.id.trust_domain_name()
    }

    /// With its leading `/`; empty for the ID of a trust domain.
    pub fn path(&self) -> &str {
        self.0.id.path()
    }
}

impl TrustDomain {
    /// Parses a bare name such as `example.org`.
    pub fn parse(name: &str) -> Result<TrustDomain, SpiffeIdError> {
        refuse_folded(name)?;
        let domain = spiffe::TrustDomain::new(name).map_err(|why| explain(&why, name, ""))?;
        Ok(TrustDomain(Arc::new(domain)))
    }

    /// Parses the SPIFFE ID of a trust domain, `spiffe://example.org`, as the Workload API
    /// writes the keys of its bundle maps. The path must be empty.
    pub fn from_id(id: &str) -> Result<TrustDomain, SpiffeIdError> {
        let id = SpiffeId::parse(id)?;
        if !id.path().is_empty() {
            return Err(SpiffeIdError::UnexpectedPath);
        }
        Ok(TrustDomain(Arc::new(id.0.id.trust_domain().clone())))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The SPIFFE ID of the trust domain itself, `spiffe://example.org`.
    pub fn id(&self) -> String {
        self.0.id_string()
    }
}

/// What the crate would make another name of: it folds upper case, and takes `spiffe://name/path` for `name`.
fn refuse_folded(trust_domain: &str) -> Result<(), SpiffeIdError> {
    match trust_domain
        .chars()
        .find(|c| c.is_ascii_uppercase() || matches!(c, ':' | '/'))
    {
        Some(c) => Err(SpiffeIdError::TrustDomainCharacter(c)),
        None => Ok(()),
    }
}

/// The crate's verdict, with the character at fault, which it doesn't name.
fn explain(why: &spiffe::SpiffeIdError, trust_domain: &str, path: &str) -> SpiffeIdError {
    use spiffe::SpiffeIdError as Why;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    let other = || SpiffeIdError::Other(why.to_string());
    let culprit = |text: &str| text.chars().find(|c| !allowed(*c));
    match why {
        Why::WrongScheme => SpiffeIdError::Scheme,
        Why::MissingTrustDomain => SpiffeIdError::NoTrustDomain,
        Why::TrustDomainTooLong { .. } => SpiffeIdError::TrustDomainTooLong,
        Why::BadTrustDomainChar => {
            culprit(trust_domain).map_or_else(other, SpiffeIdError::TrustDomainCharacter)
        }
        Why::BadPathSegmentChar => culprit(path).map_or_else(other, SpiffeIdError::PathCharacter),
        Why::EmptySegment | Why::TrailingSlash => SpiffeIdError::EmptySegment,
        Why::DotSegment => SpiffeIdError::DotSegment,
        _ => other(),
    }
}

// Equality, order and hash are those of the text: that is what makes `Borrow<str>` sound for maps.
macro_rules! as_its_text {
    ($($name:ident),*) => {$(
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl FromStr for $name {
            type Err = SpiffeIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $name::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

as_its_text!(SpiffeId, TrustDomain);

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        self.as_str()
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
        for (name, expected) in [
            ("", NoTrustDomain),
            ("Example.org", TrustDomainCharacter('E')),
            ("spiffe://example.org", TrustDomainCharacter(':')),
            ("example.org/a", TrustDomainCharacter('/')),
            ("example.org:80", TrustDomainCharacter(':')),
            ("example org", TrustDomainCharacter(' ')),
        ] {
            assert_eq!(TrustDomain::parse(name), Err(expected), "{name:?}");
        }
    }
}
