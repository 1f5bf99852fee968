//! Hosts: case-insensitive, the port only where the pattern names one.

use std::sync::Arc;

use super::text::{Interner, Pattern};
use crate::host::{Host, is_host_byte, normalise_host};
use crate::ports::parse_port;

/// Any of several host patterns.
#[derive(Debug, Default)]
pub(crate) struct HostSet(Box<[HostPattern]>);

#[derive(Debug)]
struct HostPattern {
    name: Name,
    port: Port,
}

/// In normal form, like the hosts it is compared with.
#[derive(Debug)]
enum Name {
    Any,
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Unsaid,
    Any,
    Number(u16),
}

/// A host without a port may mean the one that a pattern names, or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostMatch {
    Yes,
    No,
    Unknown,
}

impl HostSet {
    pub(crate) fn matches(&self, host: &Host<'_>) -> HostMatch {
        let mut result = HostMatch::No;
        for pattern in &self.0 {
            if pattern.name.matches(&host.name) {
                match (pattern.port, host.port) {
                    (Port::Unsaid, _) | (Port::Any, Some(_)) => return HostMatch::Yes,
                    (Port::Number(wanted), Some(port)) if wanted == port => return HostMatch::Yes,
                    (Port::Number(_), Some(_)) => {}
                    (Port::Any | Port::Number(_), None) => result = HostMatch::Unknown,
                }
            }
        }
        result
    }

    pub(crate) fn parse(
        values: &[String],
        interner: &mut Interner,
        refuse: &mut dyn FnMut(usize, String),
    ) -> Self {
        let mut patterns = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match HostPattern::parse(value, interner) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => refuse(index, message),
            }
        }
        Self(patterns.into())
    }
}

impl HostPattern {
    fn parse(value: &str, interner: &mut Interner) -> Result<Self, String> {
        if value == "*" {
            return Ok(Self {
                name: Name::Any,
                port: Port::Unsaid,
            });
        }
        let never = |error: &dyn std::fmt::Display| format!("`{value}` can never match: {error}");
        if value.starts_with('[') && !value.ends_with('*') {
            let host = normalise_host(value).map_err(|error| never(&error))?;
            let port = host.port.map_or(Port::Unsaid, Port::Number);
            return Ok(Self {
                name: Name::Exact(interner.intern(&host.name)),
                port,
            });
        }
        let (name, port) = match value.split_once(':') {
            None => (value, Port::Unsaid),
            Some((name, "*")) => (name, Port::Any),
            Some((name, number)) => (name, Port::Number(parse_port(number)?)),
        };
        let lower = name.to_ascii_lowercase();
        // In a prefix a dot at the end is one in the middle of the host.
        let normal = if lower.ends_with('*') {
            &*lower
        } else {
            lower.strip_suffix('.').unwrap_or(&lower)
        };
        let name = match Pattern::parse_of(normal, is_host_byte, "a host")? {
            Pattern::Any => Name::Any,
            Pattern::Exact(text) => {
                normalise_host(text).map_err(|error| never(&error))?;
                Name::Exact(interner.intern(text))
            }
            Pattern::Prefix(text) => Name::Prefix(interner.intern(text)),
            Pattern::Suffix(text) => Name::Suffix(interner.intern(text)),
        };
        Ok(Self { name, port })
    }
}

impl Name {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => **text == *name,
            Self::Prefix(text) => name.starts_with(&**text),
            Self::Suffix(text) => name.ends_with(&**text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_04_hosts_match_whatever_their_case_port_and_trailing_dot() {
        use HostMatch::*;
        for (pattern, host, expected) in [
            ("example.org", "EXAMPLE.org.:8080", Yes),
            ("Example.ORG.", "example.org", Yes),
            ("example.org", "evil-example.org", No),
            ("*.example.org", "a.example.org:80", Yes),
            ("*.example.org", "example.org", No),
            ("*.EXAMPLE.org.", "a.b.example.org", Yes),
            ("example.*", "example.com", Yes),
            ("*", "x", Yes),
            ("example.org:8080", "example.org:8080", Yes),
            ("example.org:8080", "example.org:80", No),
            ("example.org:8080", "example.org", Unknown),
            ("example.org:8080", "other.org", No),
            ("example.org:*", "example.org:80", Yes),
            ("example.org:*", "example.org", Unknown),
            ("*:8080", "x:8080", Yes),
            ("[::1]", "[0:0::1]:80", Yes),
            ("[0::1]:80", "[::1]:80", Yes),
            ("[::1]:80", "[::1]:81", No),
            ("[::ffff:10.0.0.1]", "10.0.0.1", Yes),
        ] {
            let set = HostSet::parse(
                &[pattern.to_owned()],
                &mut Interner::default(),
                &mut |_, m| panic!("{m}"),
            );
            assert_eq!(
                set.matches(&normalise_host(host).unwrap()),
                expected,
                "{pattern} {host}"
            );
        }
    }

    #[test]
    fn a_host_that_can_never_match_is_refused() {
        for value in [
            "", "http://a", "a/b", "a b", "a*b", "a:80*", "a:0", "a:x", "a:", ":80", "a..b",
            "[::1", "::1", "[a*", "*a*", "ä",
        ] {
            let mut refused = false;
            HostSet::parse(
                &[value.to_owned()],
                &mut Interner::default(),
                &mut |_, _| refused = true,
            );
            assert!(refused, "{value}");
        }
    }
}
