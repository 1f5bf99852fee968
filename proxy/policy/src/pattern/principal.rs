//! Principals: the trust domain and the path are compared apart (rows 10 and 11).

use super::text::Pattern;
use std::sync::Arc;

use crate::principal::{Principal, check_segment, check_trust_domain, is_segment_byte};
use crate::store::{Run, Store, StoreBuilder, Text, append};
use crate::words;

/// So many are compared one by one; of more, the exact ones are searched.
const FEW: usize = 8;

/// What `cluster.local` is written for in a principal.
const LOCAL: &str = "cluster.local";

/// The trust domain that a principal pattern asks for: always a part of the match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domain<T> {
    /// `cluster.local`: the local trust domain and its aliases, whatever their names.
    Local,
    /// `*` as a whole.
    Any,
    Named(T),
}

/// One principal pattern: a trust domain, and a path or the beginning of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrincipalPattern<T> {
    /// `*`: any principal at all.
    Any,
    Prefix(Domain<T>, T),
    Exact(Domain<T>, T),
}

impl<'a> Domain<&'a str> {
    fn parse(trust_domain: &'a str) -> Self {
        match trust_domain {
            LOCAL => Self::Local,
            "*" => Self::Any,
            name => Self::Named(name),
        }
    }

    fn written(self) -> &'a str {
        match self {
            Self::Local => LOCAL,
            Self::Any => "*",
            Self::Named(name) => name,
        }
    }
}

impl<T: AsRef<[u8]>> PrincipalPattern<T> {
    pub(crate) fn matches(&self, peer: &Principal, peer_is_local: bool) -> bool {
        let path = peer.path().as_bytes();
        let (domain, path_fits) = match self {
            Self::Any => return true,
            Self::Prefix(domain, prefix) => (domain, path.starts_with(prefix.as_ref())),
            Self::Exact(domain, exact) => (domain, *exact.as_ref() == *path),
        };
        path_fits
            && match domain {
                Domain::Local => peer_is_local,
                Domain::Any => true,
                Domain::Named(name) => *name.as_ref() == *peer.trust_domain().as_bytes(),
            }
    }
}

impl<T: Copy> PrincipalPattern<T> {
    fn map<U>(self, mut map: impl FnMut(T) -> U) -> PrincipalPattern<U> {
        let mut domain = |domain: Domain<T>, path| {
            let domain = match domain {
                Domain::Local => Domain::Local,
                Domain::Any => Domain::Any,
                Domain::Named(name) => Domain::Named(map(name)),
            };
            (domain, map(path))
        };
        match self {
            Self::Any => PrincipalPattern::Any,
            Self::Prefix(of, path) => {
                let (of, path) = domain(of, path);
                PrincipalPattern::Prefix(of, path)
            }
            Self::Exact(of, path) => {
                let (of, path) = domain(of, path);
                PrincipalPattern::Exact(of, path)
            }
        }
    }
}

impl Store {
    pub(crate) fn principal(&self, pattern: PrincipalPattern<Text>) -> PrincipalPattern<&str> {
        pattern.map(|text| self.text(text))
    }

    /// Any of them.
    pub(crate) fn matches_principal(
        &self,
        patterns: Run<PrincipalPattern<Text>>,
        peer: &Principal,
        peer_is_local: bool,
    ) -> bool {
        let mut patterns = patterns.of(&self.principals);
        if patterns.len() > FEW {
            let (others, exact) = patterns.split_at(exact_start(patterns));
            let exact = self.with_path(exact, peer.path());
            if exact.iter().any(|p| self.one(p, peer, peer_is_local)) {
                return true;
            }
            patterns = others;
        }
        patterns.iter().any(|p| self.one(p, peer, peer_is_local))
    }

    /// Any of them, when one name of the local trust domain stands for all: `local` has them, and the peer is of one.
    pub(crate) fn means_alias(
        &self,
        patterns: Run<PrincipalPattern<Text>>,
        peer: &Principal,
        local: &[Arc<str>],
    ) -> bool {
        let of_local = |domain: Domain<&str>| match domain {
            Domain::Named(name) => local.iter().any(|local| **local == *name),
            Domain::Local | Domain::Any => false,
        };
        let patterns = patterns.of(&self.principals).iter();
        patterns
            .map(|&pattern| self.principal(pattern))
            .any(|pattern| match pattern {
                PrincipalPattern::Any => false,
                PrincipalPattern::Exact(domain, path) => path == peer.path() && of_local(domain),
                PrincipalPattern::Prefix(domain, prefix) => {
                    peer.path().starts_with(prefix) && of_local(domain)
                }
            })
    }

    /// Any of them, when the `*` of `*/path` stands for segments of the path too: the peer's path goes on before it.
    pub(crate) fn matches_end_of_principal(
        &self,
        patterns: Run<PrincipalPattern<Text>>,
        peer: &Principal,
    ) -> bool {
        let patterns = patterns.of(&self.principals);
        let exact = &patterns[exact_start(patterns)..];
        let path = peer.path();
        path.match_indices('/').skip(1).any(|(start, _)| {
            self.with_path(exact, &path[start..])
                .iter()
                .any(|p| matches!(p, PrincipalPattern::Exact(Domain::Any, _)))
        })
    }

    /// Of exact ones, those with this path.
    fn with_path<'s>(
        &self,
        exact: &'s [PrincipalPattern<Text>],
        path: &str,
    ) -> &'s [PrincipalPattern<Text>] {
        let path = path.as_bytes();
        let exact = &exact[exact.partition_point(|p| self.path(p) < path)..];
        &exact[..exact.partition_point(|p| self.path(p) == path)]
    }

    fn one(&self, pattern: &PrincipalPattern<Text>, peer: &Principal, is_local: bool) -> bool {
        pattern.map(|text| self.bytes(text)).matches(peer, is_local)
    }

    fn path(&self, pattern: &PrincipalPattern<Text>) -> &[u8] {
        match pattern {
            PrincipalPattern::Any => b"",
            PrincipalPattern::Prefix(_, path) | PrincipalPattern::Exact(_, path) => {
                self.bytes(*path)
            }
        }
    }
}

fn exact_start(patterns: &[PrincipalPattern<Text>]) -> usize {
    patterns.partition_point(|p| !matches!(p, PrincipalPattern::Exact(..)))
}

impl StoreBuilder {
    /// `refuse` is told the index and the reason of each that cannot be honoured.
    pub(crate) fn principals(
        &mut self,
        values: &[String],
        refuse: &mut dyn FnMut(usize, String),
    ) -> Run<PrincipalPattern<Text>> {
        let mut patterns = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match PrincipalPattern::parse(value) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => refuse(index, message),
            }
        }
        // Exact ones last, by their path: so they are found.
        patterns.sort_by_key(|pattern| match *pattern {
            PrincipalPattern::Any => (0, ""),
            PrincipalPattern::Prefix(_, path) => (1, path),
            PrincipalPattern::Exact(_, path) => (2, path),
        });
        let patterns: Vec<_> = patterns
            .into_iter()
            .map(|pattern| pattern.map(|text| self.text(text)))
            .collect();
        append(&mut self.principals, patterns)
    }
}

impl<'a> PrincipalPattern<&'a str> {
    /// As it is written in a policy.
    pub(crate) fn written(self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Prefix(domain, prefix) => format!("{}{prefix}*", domain.written()),
            Self::Exact(domain, path) => format!("{}{path}", domain.written()),
        }
    }

    /// `*`, `td/path`, `td/path*` or `*/path` (stricter rule 8): what is written is a whole trust
    /// domain, or `*` for all of them, and a path from its beginning.
    fn parse(value: &'a str) -> Result<Self, String> {
        let pattern = Pattern::parse(value)?;
        if pattern == Pattern::Any {
            return Ok(Self::Any);
        }
        let value = value.strip_prefix("spiffe://").unwrap_or(value);
        let Some(slash) = value.find('/') else {
            return Err(format!("`{value}`{}", words::NO_PATH));
        };
        let (domain, path) = value.split_at(slash);
        if domain.contains('*') && domain != "*" {
            return Err(format!("`{value}`{}", words::TRUST_DOMAIN_NOT_LITERAL));
        }
        if domain != "*" {
            check_trust_domain(domain)
                .map_err(|error| format!("`{value}` can never match: {error}"))?;
        }
        match path.strip_suffix('*') {
            None => match check_path(path, false) {
                Ok(()) => Ok(Self::Exact(Domain::parse(domain), path)),
                Err(error) => Err(format!("`{value}` can never match: {error}")),
            },
            // Already refused for a first `*`: there is at most one.
            Some(prefix) => match check_path(prefix, true) {
                Ok(()) => Ok(Self::Prefix(Domain::parse(domain), prefix)),
                Err(error) => Err(format!("`{value}` can never match: {error}")),
            },
        }
    }
}

/// The last segment of a prefix may be cut off anywhere.
fn check_path(path: &str, prefix: bool) -> Result<(), String> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if prefix && segments.peek().is_none() {
            return match segment.bytes().all(is_segment_byte) {
                true => Ok(()),
                false => Err(crate::PrincipalError::PathCharacter.to_string()),
            };
        }
        check_segment(segment).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principals(value: &str) -> Result<PrincipalPattern<&str>, String> {
        PrincipalPattern::parse(value)
    }

    fn matches(pattern: &str, id: &str) -> bool {
        let peer = Principal::parse(id).unwrap();
        principals(pattern)
            .unwrap()
            .matches(&peer, matches!(peer.trust_domain(), "td" | "alias"))
    }

    #[test]
    fn any_of_many_principals_is_found() {
        let mut builder = StoreBuilder::default();
        let values = [
            "td/b",
            "td/c",
            "other/c",
            "*/d",
            "td/p/*",
            "td/a",
            "td/c",
            "cluster.local/e",
            "td/z",
        ];
        let values = values.map(str::to_owned);
        let run = builder.principals(&values, &mut |_, message| panic!("{message}"));
        let store = builder.finish();
        for (id, expected) in [
            ("spiffe://td/a", true),
            ("spiffe://td/b", true),
            ("spiffe://td/c", true),
            ("spiffe://other/c", true),
            ("spiffe://third/c", false),
            ("spiffe://other/b", false),
            ("spiffe://third/d", true),
            ("spiffe://td/e", true),
            ("spiffe://third/e", false),
            ("spiffe://td/p/q", true),
            ("spiffe://td/f", false),
        ] {
            let peer = Principal::parse(id).unwrap();
            let local = peer.trust_domain() == "td";
            assert_eq!(store.matches_principal(run, &peer, local), expected, "{id}");
        }
    }

    #[test]
    fn row_11_the_trust_domain_is_always_part_of_the_match() {
        for (pattern, id, expected) in [
            ("td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", true),
            ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", true),
            ("td/ns/a/sa/b", "spiffe://evil/ns/a/sa/b", false),
            ("td/ns/a/sa/b", "spiffe://evil/td/ns/a/sa/b", false),
            ("td/ns/a/*", "spiffe://td/ns/a/sa/b", true),
            ("td/ns/a/*", "spiffe://td.evil/ns/a/sa/b", false),
            ("td/*", "spiffe://td/x", true),
            ("td/*", "spiffe://tdx/x", false),
            ("*", "spiffe://anything/at/all", true),
        ] {
            assert_eq!(matches(pattern, id), expected, "{pattern} {id}");
        }
    }

    #[test]
    fn cluster_local_stands_for_the_local_trust_domain_and_its_aliases() {
        for (id, expected) in [
            ("spiffe://td/ns/a/sa/b", true),
            ("spiffe://alias/ns/a/sa/b", true),
            ("spiffe://other/ns/a/sa/b", false),
            ("spiffe://cluster.local/ns/a/sa/b", false),
        ] {
            assert_eq!(matches("cluster.local/ns/a/sa/b", id), expected, "{id}");
            assert_eq!(
                matches("spiffe://cluster.local/ns/a/*", id),
                expected,
                "{id}"
            );
        }
    }

    #[test]
    fn stricter_08_a_wildcard_never_makes_segments_appear_before_what_is_written() {
        assert!(matches("*/ns/a/sa/b", "spiffe://any/ns/a/sa/b"));
        assert!(!matches("*/ns/a/sa/b", "spiffe://any/x/ns/a/sa/b"));
        assert!(!matches("*/sa/b", "spiffe://any/ns/a/sa/b"));
        for refused in [
            "*b",
            "*td/ns/a/sa/b",
            "td*",
            "*.org/ns/a/sa/b",
            "td/*/sa/b",
            "*/ns/*",
        ] {
            assert!(principals(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn row_10_a_principal_that_can_never_match_is_refused() {
        for refused in [
            "td",
            "td/",
            "Td/ns/a/sa/b",
            "td/ns/a/sa/b/",
            "td//a",
            "td/a b",
            "td/a?b",
            "td/../b",
            "td/../*",
            "td/a|b",
            "https://td/a",
            "/ns/a/sa/b",
            "td/.*",
            "",
        ] {
            let result = principals(refused);
            assert_eq!(result.is_err(), refused != "td/.*", "{refused}: {result:?}");
        }
        // A prefix is literal: `.` is a dot.
        assert!(!matches("td/.*", "spiffe://td/abc"));
    }
}
