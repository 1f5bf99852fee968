//! Hosts: case-insensitive, the port only where the pattern names one.

use super::text::Pattern;
use crate::host::{Host, is_host_byte, normalise_host};
use crate::ports::parse_port;
use crate::store::{Run, Store, StoreBuilder, Text, append};

/// In normal form, like the hosts it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPattern<T> {
    pub(crate) name: Pattern<T>,
    pub(crate) port: Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
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

impl HostPattern<&str> {
    fn matches(self, host: &Host<'_>) -> HostMatch {
        if !self.name.matches(host.name.as_bytes()) {
            return HostMatch::No;
        }
        match (self.port, host.port) {
            (Port::Unsaid, _) | (Port::Any, Some(_)) => HostMatch::Yes,
            (Port::Number(wanted), Some(port)) if wanted == port => HostMatch::Yes,
            (Port::Number(_), Some(_)) => HostMatch::No,
            (Port::Any | Port::Number(_), None) => HostMatch::Unknown,
        }
    }

    /// As it is written in a policy.
    pub(crate) fn written(self) -> String {
        let name = self.name.written();
        match self.port {
            Port::Unsaid => name,
            Port::Any => format!("{name}:*"),
            Port::Number(port) => format!("{name}:{port}"),
        }
    }
}

impl Store {
    pub(crate) fn host(&self, pattern: HostPattern<Text>) -> HostPattern<&str> {
        HostPattern {
            name: self.pattern(pattern.name),
            port: pattern.port,
        }
    }

    /// Any of them.
    pub(crate) fn matches_host(
        &self,
        patterns: Run<HostPattern<Text>>,
        host: &Host<'_>,
    ) -> HostMatch {
        let mut result = HostMatch::No;
        for &pattern in patterns.of(&self.hosts) {
            match self.host(pattern).matches(host) {
                HostMatch::Yes => return HostMatch::Yes,
                HostMatch::Unknown => result = HostMatch::Unknown,
                HostMatch::No => {}
            }
        }
        result
    }
}

impl StoreBuilder {
    pub(crate) fn hosts(
        &mut self,
        values: &[String],
        refuse: &mut dyn FnMut(usize, String),
    ) -> Run<HostPattern<Text>> {
        let mut patterns = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match self.host(value) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => refuse(index, message),
            }
        }
        append(&mut self.hosts, patterns)
    }

    fn host(&mut self, value: &str) -> Result<HostPattern<Text>, String> {
        if value == "*" {
            return Ok(HostPattern {
                name: Pattern::Any,
                port: Port::Unsaid,
            });
        }
        let never = |error: &dyn std::fmt::Display| format!("`{value}` can never match: {error}");
        if value.starts_with('[') && !value.ends_with('*') {
            let host = normalise_host(value).map_err(|error| never(&error))?;
            return Ok(HostPattern {
                name: Pattern::Exact(self.text(&host.name)),
                port: host.port.map_or(Port::Unsaid, Port::Number),
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
        let name = Pattern::parse_of(normal, is_host_byte, "a host")?;
        if let Pattern::Exact(text) = name {
            normalise_host(text).map_err(|error| never(&error))?;
        }
        Ok(HostPattern {
            name: name.map(|text| self.text(text)),
            port,
        })
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
            let mut builder = StoreBuilder::default();
            let run = builder.hosts(&[pattern.to_owned()], &mut |_, m| panic!("{m}"));
            let host = normalise_host(host).unwrap();
            assert_eq!(
                builder.finish().matches_host(run, &host),
                expected,
                "{pattern} {host:?}"
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
            StoreBuilder::default().hosts(&[value.to_owned()], &mut |_, _| refused = true);
            assert!(refused, "{value}");
        }
    }
}
