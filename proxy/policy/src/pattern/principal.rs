//! Principals and service accounts: the trust domain and the path are compared apart (rows 10 and 11).

use std::sync::Arc;

use super::text::{Interner, Pattern};
use crate::principal::{Principal, check_segment, check_trust_domain, is_segment_byte};

/// What `cluster.local` is written for in a principal.
const LOCAL: &str = "cluster.local";

/// The trust domain that a principal pattern asks for: always a part of the match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Domain {
    /// `cluster.local`: the local trust domain and its aliases, whatever their names.
    Local,
    /// `*` as a whole.
    Any,
    Named(Arc<str>),
}

impl Domain {
    fn parse(trust_domain: &str, interner: &mut Interner) -> Self {
        match trust_domain {
            LOCAL => Self::Local,
            "*" => Self::Any,
            name => Self::Named(interner.intern(name)),
        }
    }

    fn matches(&self, peer: &Principal, peer_is_local: bool) -> bool {
        match self {
            Self::Local => peer_is_local,
            Self::Any => true,
            Self::Named(name) => **name == *peer.trust_domain(),
        }
    }
}

/// Any of several principal patterns.
#[derive(Debug, Default)]
pub(crate) struct PrincipalSet {
    /// `*`: any principal at all.
    any: bool,
    /// Sorted by path.
    exact: Box<[(Arc<str>, Domain)]>,
    prefixes: Box<[(Arc<str>, Domain)]>,
}

/// One parsed principal pattern; the text is a path.
enum PrincipalPattern<'a> {
    Any,
    Exact(&'a str, &'a str),
    Prefix(&'a str, &'a str),
}

impl PrincipalSet {
    pub(crate) fn matches(&self, peer: &Principal, peer_is_local: bool) -> bool {
        if self.any {
            return true;
        }
        let path = peer.path();
        let first = self.exact.partition_point(|(exact, _)| **exact < *path);
        self.exact[first..]
            .iter()
            .take_while(|(exact, _)| **exact == *path)
            .any(|(_, domain)| domain.matches(peer, peer_is_local))
            || self.prefixes.iter().any(|(prefix, domain)| {
                path.starts_with(&**prefix) && domain.matches(peer, peer_is_local)
            })
    }

    pub(crate) fn is_any(&self) -> bool {
        self.any
    }

    pub(crate) fn exact(&self) -> &[(Arc<str>, Domain)] {
        &self.exact
    }

    pub(crate) fn prefixes(&self) -> &[(Arc<str>, Domain)] {
        &self.prefixes
    }

    /// Parses every value; `refuse` is told the index and the reason of each that cannot be honoured.
    pub(crate) fn parse(
        values: &[String],
        interner: &mut Interner,
        refuse: &mut dyn FnMut(usize, String),
    ) -> Self {
        let (mut any, mut exact, mut prefixes) = (false, Vec::new(), Vec::new());
        for (index, value) in values.iter().enumerate() {
            match PrincipalPattern::parse(value) {
                Err(message) => refuse(index, message),
                Ok(PrincipalPattern::Any) => any = true,
                Ok(PrincipalPattern::Exact(domain, path)) => {
                    exact.push((interner.intern(path), Domain::parse(domain, interner)));
                }
                Ok(PrincipalPattern::Prefix(domain, path)) => {
                    prefixes.push((interner.intern(path), Domain::parse(domain, interner)));
                }
            }
        }
        exact.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            any,
            exact: exact.into(),
            prefixes: prefixes.into(),
        }
    }
}

impl<'a> PrincipalPattern<'a> {
    /// `*`, `td/path`, `td/path*` or `*/path` (stricter rule 8): what is written is a whole trust
    /// domain, or `*` for all of them, and a path from its beginning.
    fn parse(value: &'a str) -> Result<Self, String> {
        let pattern = Pattern::parse(value)?;
        if pattern == Pattern::Any {
            return Ok(Self::Any);
        }
        let value = value.strip_prefix("spiffe://").unwrap_or(value);
        let Some(slash) = value.find('/') else {
            return Err(format!(
                "`{value}` has no path; a principal is `trust-domain/path`; for a whole trust domain use trustDomains"
            ));
        };
        let (domain, path) = value.split_at(slash);
        if domain.contains('*') && domain != "*" {
            return Err(format!(
                "`{value}`: the trust domain of a principal is literal, or `*` as a whole"
            ));
        }
        if domain != "*" {
            check_trust_domain(domain)
                .map_err(|error| format!("`{value}` can never match: {error}"))?;
        }
        match path.strip_suffix('*') {
            None => match check_path(path, false) {
                Ok(()) => Ok(Self::Exact(domain, path)),
                Err(error) => Err(format!("`{value}` can never match: {error}")),
            },
            // Already refused for a first `*`: there is at most one.
            Some(prefix) => match check_path(prefix, true) {
                Ok(()) => Ok(Self::Prefix(domain, prefix)),
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

/// Any of several service accounts: `ns/sa`, or `sa` in the policy's own namespace, or `*`.
#[derive(Debug, Default)]
pub(crate) struct ServiceAccountSet {
    any: bool,
    accounts: Box<[Account]>,
}

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) namespace: Arc<str>,
    pub(crate) account: Arc<str>,
    pub(crate) wildcard: Wildcard,
}

/// Where the `*` of a service account stands; the part without it is compared whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wildcard {
    Nowhere,
    /// `ns/sa*`, `ns/*`, `sa*`
    AfterAccount,
    /// `*sa`
    BeforeAccount,
    /// `*ns/sa`, `*/sa`
    BeforeNamespace,
}

impl Account {
    fn matches(&self, namespace: &str, account: &str) -> bool {
        let namespace_fits = match self.wildcard {
            Wildcard::BeforeNamespace => namespace.ends_with(&*self.namespace),
            _ => *namespace == *self.namespace,
        };
        namespace_fits
            && match self.wildcard {
                Wildcard::AfterAccount => account.starts_with(&*self.account),
                Wildcard::BeforeAccount => account.ends_with(&*self.account),
                Wildcard::Nowhere | Wildcard::BeforeNamespace => *account == *self.account,
            }
    }
}

impl ServiceAccountSet {
    pub(crate) fn matches(&self, namespace: &str, account: &str) -> bool {
        self.any
            || self
                .accounts
                .iter()
                .any(|pattern| pattern.matches(namespace, account))
    }

    pub(crate) fn is_any(&self) -> bool {
        self.any
    }

    pub(crate) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    pub(crate) fn parse(
        values: &[String],
        policy_namespace: &str,
        interner: &mut Interner,
        refuse: &mut dyn FnMut(usize, String),
    ) -> Self {
        let (mut any, mut accounts) = (false, Vec::new());
        for (index, value) in values.iter().enumerate() {
            match account(value, policy_namespace, interner) {
                Err(message) => refuse(index, message),
                Ok(None) => any = true,
                Ok(Some(account)) => accounts.push(account),
            }
        }
        Self {
            any,
            accounts: accounts.into(),
        }
    }
}

/// `None` is `*`: any account at all.
fn account(
    value: &str,
    policy_namespace: &str,
    interner: &mut Interner,
) -> Result<Option<Account>, String> {
    let of_account = |byte| is_segment_byte(byte) || byte == b'/';
    let pattern = Pattern::parse_of(value, of_account, "a service account")?;
    let (namespace, account) = pattern
        .literal()
        .split_once('/')
        .unwrap_or((policy_namespace, pattern.literal()));
    if account.contains('/') {
        return Err(format!(
            "`{value}` can never match: a service account is `namespace/account` or `account`"
        ));
    }
    let wildcard = match pattern {
        Pattern::Any => return Ok(None),
        Pattern::Exact(_) => Wildcard::Nowhere,
        Pattern::Prefix(_) => Wildcard::AfterAccount,
        Pattern::Suffix(text) if text.contains('/') => Wildcard::BeforeNamespace,
        Pattern::Suffix(_) => Wildcard::BeforeAccount,
    };
    if (account.is_empty() && wildcard != Wildcard::AfterAccount)
        || (namespace.is_empty() && wildcard != Wildcard::BeforeNamespace)
    {
        return Err(format!(
            "`{value}` can never match: the namespace or the account is empty"
        ));
    }
    Ok(Some(Account {
        namespace: interner.intern(namespace),
        account: interner.intern(account),
        wildcard,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principals(value: &str) -> Result<PrincipalSet, String> {
        let mut error = None;
        let set = PrincipalSet::parse(
            &[value.to_owned()],
            &mut Interner::default(),
            &mut |_, message| {
                error = Some(message);
            },
        );
        error.map_or(Ok(set), Err)
    }

    fn matches(pattern: &str, id: &str) -> bool {
        let peer = Principal::parse(id).unwrap();
        principals(pattern)
            .unwrap()
            .matches(&peer, matches!(peer.trust_domain(), "td" | "alias"))
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

    #[test]
    fn a_service_account_without_namespace_is_in_that_of_the_policy() {
        for (pattern, matching, other) in [
            (
                "shop/web",
                &["shop/web"][..],
                &["shop/webx", "shopx/web", "x/web"][..],
            ),
            ("web", &["own/web"], &["shop/web", "own/webx"]),
            ("shop/*", &["shop/web", "shop/api"], &["shopx/web"]),
            ("shop/w*", &["shop/web"], &["shop/api", "own/web"]),
            ("*/web", &["shop/web", "own/web"], &["shop/xweb"]),
            ("*op/web", &["shop/web"], &["own/web"]),
            ("w*", &["own/web"], &["shop/web", "own/api"]),
            ("*eb", &["own/web"], &["shop/web"]),
            ("*", &["own/web", "shop/api"], &[]),
        ] {
            let set = ServiceAccountSet::parse(
                &[pattern.to_owned()],
                "own",
                &mut Interner::default(),
                &mut |_, message| panic!("{message}"),
            );
            let check = |text: &str| text.split_once('/').is_some_and(|(n, a)| set.matches(n, a));
            assert!(matching.iter().all(|text| check(text)), "{pattern}");
            assert!(!other.iter().any(|text| check(text)), "{pattern}");
        }
        for refused in ["a/b/c", "/a", "a/", "*/", "", "a*/b", "a b"] {
            let mut refusals = 0;
            ServiceAccountSet::parse(
                &[refused.to_owned()],
                "own",
                &mut Interner::default(),
                &mut |_, _| refusals += 1,
            );
            assert_eq!(refusals, 1, "{refused}");
        }
    }
}
