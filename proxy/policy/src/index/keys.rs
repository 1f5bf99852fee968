//! What a rule surely needs of whoever it is to hold for.
//!
//! A key may only be taken from a constraint that fails whenever the peer is another one: positive, and about the
//! identity that the handshake proved. In a DENY or AUDIT a constraint by namespace or account holds by the wide reading
//! too: for other trust domains, and for odd IDs. All else, tokens and expressions too, narrows nothing here: a DENY that
//! is filed under what it does not need is never asked.

use std::sync::Arc;

use super::{Kind, SEVERAL, hash, id, whole_lead};
use crate::constraint::{Attribute, Constraint, Rule, Scope};
use crate::model::Action;
use crate::pattern::{Account, Domain, Pattern, PrincipalPattern, Wildcard};
use crate::principal::namespace_and_account;
use crate::store::{Run, Store, Text};

/// What a rule or constraint surely needs: one of these.
pub(super) struct Keys {
    /// The coarsest in the list.
    kind: Kind,
    list: Vec<(Kind, u64)>,
}

impl Keys {
    fn new(list: Vec<(Kind, u64)>) -> Self {
        Self {
            kind: list.iter().map(|(kind, _)| *kind).max().unwrap_or(Kind::Id),
            list,
        }
    }

    pub(super) fn list(&self) -> &[(Kind, u64)] {
        &self.list
    }

    fn trust_domains(domains: &[Arc<str>]) -> Self {
        Self::new(
            domains
                .iter()
                .map(|domain| (Kind::TrustDomain, hash(domain)))
                .collect(),
        )
    }
}

fn finer(a: Option<Keys>, b: Option<Keys>) -> Option<Keys> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.kind < a.kind { b } else { a }),
        (a, b) => a.or(b),
    }
}

pub(super) fn of_rule(rule: Rule<'_>, local: &[Arc<str>], action: Action) -> Option<Keys> {
    let reader = Reader {
        local,
        wide: action != Action::Allow,
    };
    // One of the sources must hold, and all of the conditions.
    let from = || {
        let mut keys = Vec::new();
        for source in rule.sources() {
            keys.append(&mut reader.finest(source, rule.store)?.list);
        }
        Some(Keys::new(keys))
    };
    let from = if rule.from.is_empty() { None } else { from() };
    finer(from, reader.finest(rule.when, rule.store))
}

/// How a rule's words are read.
#[derive(Clone, Copy)]
struct Reader<'a> {
    /// The local trust domain and its aliases.
    local: &'a [Arc<str>],
    /// By the wide reading, too, see [`evaluate`](crate::evaluate).
    wide: bool,
}

impl Reader<'_> {
    fn finest(self, constraints: &[Constraint], store: &Store) -> Option<Keys> {
        constraints
            .iter()
            .filter(|constraint| !constraint.negative)
            .map(|constraint| match constraint.attribute {
                Attribute::Principal(patterns) => self.principals(patterns, store),
                Attribute::ServiceAccount(accounts, scope) => {
                    self.service_accounts(accounts, scope, store)
                }
                Attribute::Namespace(names, scope) => match store.exact_only(names) {
                    Some(names) => Some(Keys::new(
                        names
                            .flat_map(|name| self.in_namespace(namespace_key(name), name))
                            .collect(),
                    )),
                    None => self.trust_domains_of(scope),
                },
                Attribute::TrustDomain(domains) => self.domain_keys(domains, store),
                _ => None,
            })
            .fold(None, finer)
    }

    /// The key by which whoever is of this namespace is found, and those for odd IDs.
    fn in_namespace(
        self,
        plain: (Kind, u64),
        namespace: &str,
    ) -> impl Iterator<Item = (Kind, u64)> + use<> {
        let odd = [(Kind::Odd, hash(namespace)), (Kind::Odd, SEVERAL)];
        let count = if self.wide { odd.len() } else { 0 };
        std::iter::once(plain).chain(odd.into_iter().take(count))
    }

    /// A trust domain, and those that it may stand for.
    fn names_of<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n str> {
        let aliases = match self.wide && self.local.iter().any(|local| **local == *name) {
            true => self.local,
            false => &[],
        };
        let others = aliases.iter().map(|alias| &**alias);
        std::iter::once(name).chain(others.filter(move |alias| *alias != name))
    }

    fn domain_keys(self, domains: Run<Pattern<Text>>, store: &Store) -> Option<Keys> {
        let mut keys = Vec::new();
        for domain in store.exact_only(domains)? {
            keys.extend(
                self.names_of(domain)
                    .map(|name| (Kind::TrustDomain, hash(name))),
            );
        }
        Some(Keys::new(keys))
    }

    /// Whose namespaces and accounts may be meant, whatever they are.
    fn trust_domains_of(self, scope: Scope) -> Option<Keys> {
        (scope == Scope::Local && !self.wide).then(|| Keys::trust_domains(self.local))
    }

    fn principals(self, patterns: Run<PrincipalPattern<Text>>, store: &Store) -> Option<Keys> {
        let mut keys = Vec::new();
        for &pattern in patterns.of(&store.principals) {
            match store.principal(pattern) {
                PrincipalPattern::Any => return None,
                PrincipalPattern::Exact(domain, path) => match domain {
                    Domain::Named(name) => keys.extend(
                        self.names_of(name)
                            .map(|name| (Kind::Id, id(hash(name), hash(path)))),
                    ),
                    Domain::Local => keys.extend(
                        self.local
                            .iter()
                            .map(|name| (Kind::Id, id(hash(name), hash(path)))),
                    ),
                    Domain::Any => match namespace_and_account(path) {
                        // Whoever has more than this path has an odd ID.
                        Some((namespace, _)) => {
                            keys.extend(self.in_namespace((Kind::Path, hash(path)), namespace));
                        }
                        None if self.wide => return None,
                        None => keys.push((Kind::Path, hash(path))),
                    },
                },
                PrincipalPattern::Prefix(domain, prefix) => match (whole_lead(prefix), domain) {
                    (Some(lead), _) => keys.push((Kind::Lead, hash(lead))),
                    (None, Domain::Named(name)) => keys.extend(
                        self.names_of(name)
                            .map(|name| (Kind::TrustDomain, hash(name))),
                    ),
                    (None, Domain::Local) => keys.extend(
                        self.local
                            .iter()
                            .map(|name| (Kind::TrustDomain, hash(name))),
                    ),
                    (None, Domain::Any) => return None,
                },
            }
        }
        Some(Keys::new(keys))
    }

    fn service_accounts(
        self,
        accounts: Run<Account<Text>>,
        scope: Scope,
        store: &Store,
    ) -> Option<Keys> {
        let mut keys = Vec::new();
        for &account in accounts.of(&store.accounts) {
            let account = store.account(account);
            let plain = match account.wildcard {
                Wildcard::Nowhere => (
                    Kind::Path,
                    hash(&format!("/ns/{}/sa/{}", account.namespace, account.account)),
                ),
                Wildcard::AfterAccount | Wildcard::BeforeAccount => {
                    namespace_key(account.namespace)
                }
                Wildcard::Alone | Wildcard::BeforeNamespace => return self.trust_domains_of(scope),
            };
            keys.extend(self.in_namespace(plain, account.namespace));
        }
        Some(Keys::new(keys))
    }
}

fn namespace_key(namespace: &str) -> (Kind, u64) {
    (Kind::Lead, hash(&format!("/ns/{namespace}")))
}
