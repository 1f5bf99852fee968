//! The wide reading of who a policy means: Istio's (its `pilot/pkg/security/authz/model/generator.go`), in which a
//! namespace stands anywhere in a SPIFFE ID, of whatever trust domain, a `*` takes in whole segments, and the local trust
//! domain and its aliases (`bundle.go` beside it) stand for one another.
//!
//! A match that is for the caller needs the narrow reading (stricter rules 1 and 8). One that is against the caller, in a
//! DENY or in what an ALLOW excludes, must not be escaped by it: there, what only the wide reading matches is
//! [`Matched::Unknown`](super::Matched::Unknown). Whatever the narrow reading matches, the wide one does.
//!
//! No regular expression is built for it (row 10): the ID is taken apart at its slashes. `N` and `A` below are the values
//! of a policy, in which `*` stands for any text.

use std::str::Split;

use super::Facts;
use crate::constraint::Attribute;
use crate::pattern::{Account, Pattern, Wildcard};
use crate::store::{Run, Store, Text};

impl Attribute {
    /// Does the wide reading match, where there is one?
    pub(super) fn may_mean_peer(&self, store: &Store, facts: &Facts<'_>) -> bool {
        let Some(peer) = facts.peer() else {
            return false;
        };
        match *self {
            Self::Principal(patterns) => {
                store.matches_end_of_principal(patterns, peer)
                    || facts.peer_is_local && store.means_alias(patterns, peer, facts.local)
            }
            Self::TrustDomain(patterns) => {
                facts.peer_is_local
                    && (facts.local.iter()).any(|name| store.matches(patterns, name.as_bytes()))
            }
            Self::Namespace(patterns, _) => in_namespace(store, patterns, peer.as_str()),
            Self::ServiceAccount(accounts, _) => accounts
                .of(&store.accounts)
                .iter()
                .any(|&account| is_account(store.account(account), peer.as_str())),
            _ => false,
        }
    }
}

/// Any of them: `…/ns/N/…`.
fn in_namespace(store: &Store, patterns: Run<Pattern<Text>>, id: &str) -> bool {
    let mut segments = id.split('/');
    while segments.any(is_ns) {
        let mut behind = segments.clone();
        if let (Some(namespace), Some(_)) = (behind.next(), behind.next())
            && store.matches(patterns, namespace.as_bytes())
        {
            return true;
        }
    }
    // What `*` stands for may have slashes.
    patterns
        .of(&store.patterns)
        .iter()
        .filter(|pattern| matches!(pattern, Pattern::Suffix(_)))
        .any(|&suffix| {
            behind_namespace(id, store.pattern(suffix)).is_some_and(|mut s| s.next().is_some())
        })
}

/// `…/ns/N/…sa/A` or `…/ns/N/…sa/A/…`.
fn is_account(wanted: Account<&str>, id: &str) -> bool {
    let namespace = match wanted.wildcard {
        Wildcard::Alone => Pattern::Any,
        Wildcard::BeforeNamespace => Pattern::Suffix(wanted.namespace),
        Wildcard::Nowhere | Wildcard::AfterAccount | Wildcard::BeforeAccount => {
            Pattern::Exact(wanted.namespace)
        }
    };
    let Some(mut segments) = behind_namespace(id, namespace) else {
        return false;
    };
    while segments.any(|segment| segment == "sa") {
        let mut behind = segments.clone();
        let fits = match wanted.wildcard {
            // What `*` stands for may have slashes: the first place is as good as any.
            Wildcard::BeforeAccount => return behind.any(|s| s.ends_with(wanted.account)),
            Wildcard::Alone => behind.next().is_some(),
            Wildcard::AfterAccount => behind.next().is_some_and(|s| s.starts_with(wanted.account)),
            Wildcard::Nowhere | Wildcard::BeforeNamespace => behind.next() == Some(wanted.account),
        };
        if fits {
            return true;
        }
    }
    false
}

/// The segments that follow the first `/ns/N`.
fn behind_namespace<'a>(id: &'a str, namespace: Pattern<&str>) -> Option<Split<'a, char>> {
    let mut segments = id.split('/');
    while segments.any(is_ns) {
        let mut behind = segments.clone();
        let fits = match namespace {
            Pattern::Suffix(suffix) => behind.any(|segment| segment.ends_with(suffix)),
            _ => behind
                .next()
                .is_some_and(|segment| namespace.matches(segment.as_bytes())),
        };
        if fits {
            return Some(behind);
        }
        if matches!(namespace, Pattern::Suffix(_)) {
            return None;
        }
    }
    None
}

fn is_ns(segment: &str) -> bool {
    segment == "ns"
}
