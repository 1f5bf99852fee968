//! How the values of two constraints on one attribute relate, as sets of what they match.

use std::sync::Arc;

use ipnet::IpNet;

use crate::constraint::Attribute;
use crate::pattern::{
    Account, Domain, HostPattern, Pattern, Port, PrincipalPattern, TokenPrincipal, Wildcard,
};
use crate::store::Store;

/// Of the values `a` and `b`; both `false` says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relation {
    /// What matches `a` matches `b`.
    pub(super) covered: bool,
    /// Nothing matches both.
    pub(super) disjoint: bool,
}

/// One value of a policy, as the set of what it matches.
trait Values {
    fn covers(&self, other: &Self) -> bool;
    fn disjoint(&self, other: &Self) -> bool;
}

/// `None` when they are about different attributes. Scopes are not looked at.
pub(super) fn relation(
    (a_store, a): (&Store, &Attribute),
    (b_store, b): (&Store, &Attribute),
    local: &[Arc<str>],
) -> Option<Relation> {
    use Attribute as A;
    Some(match (*a, *b) {
        (A::Namespace(a, _), A::Namespace(b, _))
        | (A::TrustDomain(a), A::TrustDomain(b))
        | (A::Audiences(a), A::Audiences(b))
        | (A::Presenter(a), A::Presenter(b))
        | (A::Method(a), A::Method(b))
        | (A::Path(a), A::Path(b))
        | (A::Sni(a), A::Sni(b)) => sets(
            a.of(&a_store.patterns).iter().map(|p| a_store.pattern(*p)),
            b.of(&b_store.patterns).iter().map(|p| b_store.pattern(*p)),
        ),
        (A::Header(a_name, a), A::Header(b_name, b))
        | (A::Claim(a_name, a), A::Claim(b_name, b))
            if a_store.text(a_name) == b_store.text(b_name) =>
        {
            sets(
                a.of(&a_store.patterns).iter().map(|p| a_store.pattern(*p)),
                b.of(&b_store.patterns).iter().map(|p| b_store.pattern(*p)),
            )
        }
        (A::Principal(a), A::Principal(b)) => sets(
            a.of(&a_store.principals)
                .iter()
                .map(|p| (a_store.principal(*p), local)),
            b.of(&b_store.principals)
                .iter()
                .map(|p| (b_store.principal(*p), local)),
        ),
        (A::ServiceAccount(a, _), A::ServiceAccount(b, _)) => sets(
            a.of(&a_store.accounts).iter().map(|p| a_store.account(*p)),
            b.of(&b_store.accounts).iter().map(|p| b_store.account(*p)),
        ),
        (A::RequestPrincipal(a), A::RequestPrincipal(b)) => sets(
            a.of(&a_store.token_principals)
                .iter()
                .map(|p| a_store.token_principal(*p)),
            b.of(&b_store.token_principals)
                .iter()
                .map(|p| b_store.token_principal(*p)),
        ),
        (A::Host(a), A::Host(b)) => sets(
            a.of(&a_store.hosts).iter().map(|p| a_store.host(*p)),
            b.of(&b_store.hosts).iter().map(|p| b_store.host(*p)),
        ),
        (A::SourceIp(a), A::SourceIp(b))
        | (A::RemoteIp(a), A::RemoteIp(b))
        | (A::DestinationIp(a), A::DestinationIp(b)) => sets(
            a.of(&a_store.blocks).iter().copied(),
            b.of(&b_store.blocks).iter().copied(),
        ),
        (A::Cel(a), A::Cel(b)) => Relation {
            covered: a_store.programs[a as usize].source() == b_store.programs[b as usize].source(),
            disjoint: false,
        },
        _ => return None,
    })
}

fn sets<T: Values>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> Relation {
    let (a, b): (Vec<_>, Vec<_>) = (a.collect(), b.collect());
    Relation {
        covered: a.iter().all(|a| b.iter().any(|b| b.covers(a))),
        disjoint: a.iter().all(|a| b.iter().all(|b| b.disjoint(a))),
    }
}

impl Values for Pattern<&str> {
    fn covers(&self, other: &Self) -> bool {
        match (*self, *other) {
            // Whatever a pattern other than `*` matches is not empty.
            (Self::Any, _) => true,
            (Self::Template(a), Self::Template(b)) => a == b,
            (_, Self::Exact(text)) => self.matches(text.as_bytes()),
            (Self::Prefix(a), Self::Prefix(b)) => b.starts_with(a),
            (Self::Suffix(a), Self::Suffix(b)) => b.ends_with(a),
            (Self::Prefix(prefix), Self::Template(template)) => {
                literal_start(template).starts_with(prefix)
            }
            _ => false,
        }
    }

    fn disjoint(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Exact(text), pattern) | (pattern, Self::Exact(text)) => {
                !pattern.matches(text.as_bytes())
            }
            (Self::Prefix(a), Self::Prefix(b)) => !a.starts_with(b) && !b.starts_with(a),
            (Self::Suffix(a), Self::Suffix(b)) => !a.ends_with(b) && !b.ends_with(a),
            (Self::Prefix(prefix), Self::Template(template))
            | (Self::Template(template), Self::Prefix(prefix)) => {
                let start = literal_start(template);
                !start.starts_with(prefix) && !prefix.starts_with(start)
            }
            _ => false,
        }
    }
}

fn literal_start(template: &str) -> &str {
    template.split('{').next().unwrap_or_default()
}

impl Values for (PrincipalPattern<&str>, &[Arc<str>]) {
    fn covers(&self, other: &Self) -> bool {
        use PrincipalPattern as P;
        let local = self.1;
        match (self.0, other.0) {
            (P::Any, _) => true,
            (P::Exact(a_domain, a), P::Exact(b_domain, b)) => {
                a == b && domain_covers(a_domain, b_domain, local)
            }
            (P::Prefix(a_domain, a), P::Exact(b_domain, b) | P::Prefix(b_domain, b)) => {
                b.starts_with(a) && domain_covers(a_domain, b_domain, local)
            }
            _ => false,
        }
    }

    fn disjoint(&self, other: &Self) -> bool {
        use PrincipalPattern as P;
        let local = self.1;
        match (self.0, other.0) {
            (P::Any, _) | (_, P::Any) => false,
            (P::Exact(a_domain, a), P::Exact(b_domain, b)) => {
                a != b || domains_disjoint(a_domain, b_domain, local)
            }
            (P::Prefix(a_domain, a), P::Exact(b_domain, b))
            | (P::Exact(b_domain, b), P::Prefix(a_domain, a)) => {
                !b.starts_with(a) || domains_disjoint(a_domain, b_domain, local)
            }
            (P::Prefix(a_domain, a), P::Prefix(b_domain, b)) => {
                (!a.starts_with(b) && !b.starts_with(a))
                    || domains_disjoint(a_domain, b_domain, local)
            }
        }
    }
}

fn domain_covers(a: Domain<&str>, b: Domain<&str>, local: &[Arc<str>]) -> bool {
    match (a, b) {
        (Domain::Any, _) | (Domain::Local, Domain::Local) => true,
        (Domain::Local, Domain::Named(name)) => local.iter().any(|domain| **domain == *name),
        (Domain::Named(name), Domain::Local) => local.iter().all(|domain| **domain == *name),
        (Domain::Named(a), Domain::Named(b)) => a == b,
        (Domain::Local | Domain::Named(_), Domain::Any) => false,
    }
}

fn domains_disjoint(a: Domain<&str>, b: Domain<&str>, local: &[Arc<str>]) -> bool {
    match (a, b) {
        (Domain::Named(a), Domain::Named(b)) => a != b,
        (Domain::Named(name), Domain::Local) | (Domain::Local, Domain::Named(name)) => {
            local.iter().all(|domain| **domain != *name)
        }
        _ => false,
    }
}

impl Values for Account<&str> {
    fn covers(&self, other: &Self) -> bool {
        match (self.wildcard, other.wildcard) {
            (Wildcard::Alone, _) => true,
            (_, Wildcard::Nowhere) => self.matches(other.namespace, other.account),
            _ => self == other,
        }
    }

    fn disjoint(&self, other: &Self) -> bool {
        match (self.wildcard, other.wildcard) {
            (_, Wildcard::Nowhere) => !self.matches(other.namespace, other.account),
            (Wildcard::Nowhere, _) => !other.matches(self.namespace, self.account),
            _ => false,
        }
    }
}

impl Values for TokenPrincipal<&str> {
    fn covers(&self, other: &Self) -> bool {
        self.issuer.covers(&other.issuer) && self.subject.covers(&other.subject)
    }

    fn disjoint(&self, other: &Self) -> bool {
        self.issuer.disjoint(&other.issuer) || self.subject.disjoint(&other.subject)
    }
}

impl Values for HostPattern<&str> {
    fn covers(&self, other: &Self) -> bool {
        self.name.covers(&other.name)
            && match (self.port, other.port) {
                (Port::Unsaid, _) | (Port::Any, Port::Any | Port::Number(_)) => true,
                (Port::Number(a), Port::Number(b)) => a == b,
                (Port::Any | Port::Number(_), _) => false,
            }
    }

    fn disjoint(&self, other: &Self) -> bool {
        let ports = match (self.port, other.port) {
            (Port::Number(a), Port::Number(b)) => a != b,
            _ => false,
        };
        ports || self.name.disjoint(&other.name)
    }
}

impl Values for IpNet {
    fn covers(&self, other: &Self) -> bool {
        self.contains(other)
    }

    fn disjoint(&self, other: &Self) -> bool {
        !self.contains(other) && !other.contains(self)
    }
}
