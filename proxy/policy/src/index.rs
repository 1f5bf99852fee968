//! Finds the rules worth asking, so that policies which cannot match cost nothing.
//!
//! Every rule is filed under what it surely needs: the identity in the finest form it names, and the
//! port. What is found is a superset of what holds; evaluation has the last word, so that a collision
//! of hashes costs time and never correctness.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::Principal;
use crate::constraint::{Attribute, Constraint, Rule, Scope};
use crate::pattern::{Account, Domain, Pattern, PrincipalPattern, Wildcard};
use crate::ports::PortSet;
use crate::store::{Run, Store, Text, offset};

/// A rule that names more ports than this is filed under none of them.
const MAX_PORTS: usize = 16;

/// A policy's index in the set, a rule's index in the policy: what they are ordered by.
pub(crate) type Place = (u32, u32);

/// The rules of one action.
#[derive(Debug, Default)]
pub(crate) struct Index {
    buckets: HashMap<u64, Bucket, BuildHasherDefault<Keyed>>,
    /// The rules of the buckets that have several, ascending within each.
    entries: Box<[Place]>,
    /// Which kinds of bucket there are, by [`Ports::bit`].
    used: u16,
}

#[derive(Debug, Clone, Copy)]
enum Bucket {
    /// Most have one, and it is found without another look into memory.
    One(Place),
    /// A range of the entries.
    Several(u32, u32),
}

/// What a rule can be filed under, the finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Id,
    Path,
    /// The first two segments of a path: `/ns/shop`.
    Lead,
    TrustDomain,
    /// Every peer, without identity too.
    Any,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Id,
        Self::Path,
        Self::Lead,
        Self::TrustDomain,
        Self::Any,
    ];
}

/// The ports for which a rule is filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// It names none, or too many.
    All,
    /// It names this one.
    One(u16),
    /// It names some: where to look for whoever doesn't care which.
    Some,
}

impl Ports {
    fn number(self) -> u32 {
        match self {
            Self::All => 0,
            Self::Some => 1,
            Self::One(port) => 2 + u32::from(port),
        }
    }

    /// Of this and a kind, for [`Index::used`].
    fn bit(self, kind: Kind) -> u16 {
        1 << (3 * kind as u32 + self.number().min(2))
    }
}

/// The hashes of a principal that buckets are found by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint {
    trust_domain: u64,
    path: u64,
    lead: u64,
}

impl Fingerprint {
    pub(crate) fn of(trust_domain: &str, path: &str) -> Self {
        Self {
            trust_domain: hash(trust_domain),
            path: hash(path),
            lead: hash(lead(path)),
        }
    }

    fn get(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Id => id(self.trust_domain, self.path),
            Kind::Path => self.path,
            Kind::Lead => self.lead,
            Kind::TrustDomain => self.trust_domain,
            Kind::Any => 0,
        }
    }
}

impl Index {
    /// `local` is the local trust domain and its aliases.
    pub(crate) fn build<'a>(
        rules: impl Iterator<Item = (Place, Rule<'a>)>,
        local: &[Arc<str>],
    ) -> Self {
        let mut filed: Vec<(u64, Place)> = Vec::new();
        let mut used = 0;
        for (place, rule) in rules {
            let keys = rule_keys(rule, local);
            let keys = keys
                .as_ref()
                .map_or(&[(Kind::Any, 0)][..], |keys| &keys.list);
            let mut file = |ports: Ports| {
                for &(kind, value) in keys {
                    used |= ports.bit(kind);
                    filed.push((bucket(kind, value, ports), place));
                }
            };
            match rule.ports() {
                PortSet::Only(named) if named.len() <= MAX_PORTS => {
                    named.iter().copied().map(Ports::One).for_each(&mut file);
                    file(Ports::Some);
                }
                PortSet::Only(_) | PortSet::AllBut(_) => file(Ports::All),
            }
        }
        filed.sort_unstable();
        filed.dedup();
        let same_bucket = |a: &(u64, Place), b: &(u64, Place)| a.0 == b.0;
        let count = filed.chunk_by(same_bucket).count();
        let mut buckets = HashMap::with_capacity_and_hasher(count, BuildHasherDefault::default());
        let mut entries = Vec::new();
        for rules in filed.chunk_by(same_bucket) {
            let bucket = match rules {
                [(_, place)] => Bucket::One(*place),
                several => {
                    let start = offset(entries.len());
                    entries.extend(several.iter().map(|(_, place)| *place));
                    Bucket::Several(start, offset(entries.len()))
                }
            };
            buckets.insert(rules[0].0, bucket);
        }
        Self {
            buckets,
            entries: entries.into(),
            used,
        }
    }

    /// The rules that may hold for this peer on this port, ascending, each once.
    pub(crate) fn candidates(&self, peer: Option<&Principal>, port: u16) -> Candidates<'_> {
        self.filed_under(peer, [Ports::All, Ports::One(port)])
    }

    /// The rules that may hold for this peer on some port, ascending, each once.
    pub(crate) fn candidates_on_any_port(&self, peer: Option<&Principal>) -> Candidates<'_> {
        self.filed_under(peer, [Ports::All, Ports::Some])
    }

    fn filed_under(&self, peer: Option<&Principal>, ports: [Ports; 2]) -> Candidates<'_> {
        let mut candidates = Candidates {
            lists: [&[]; MAX_LISTS],
            len: 0,
        };
        for kind in Kind::ALL {
            let value = match (kind, peer) {
                (Kind::Any, _) => 0,
                (_, Some(peer)) => peer.fingerprint().get(kind),
                (_, None) => continue,
            };
            for ports in ports {
                if self.used & ports.bit(kind) != 0
                    && let Some(bucket) = self.buckets.get(&bucket(kind, value, ports))
                {
                    candidates.lists[candidates.len] = match bucket {
                        Bucket::One(place) => std::slice::from_ref(place),
                        Bucket::Several(start, end) => {
                            &self.entries[*start as usize..*end as usize]
                        }
                    };
                    candidates.len += 1;
                }
            }
        }
        candidates
    }
}

const MAX_LISTS: usize = 2 * Kind::ALL.len();

/// Merges the buckets of one peer and port.
pub(crate) struct Candidates<'a> {
    /// None of the first `len` is empty.
    lists: [&'a [Place]; MAX_LISTS],
    len: usize,
}

impl Iterator for Candidates<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        let next = self.lists[..self.len].iter().map(|list| list[0]).min()?;
        let mut at = 0;
        while at < self.len {
            // A rule with several keys may be in several buckets.
            if self.lists[at][0] == next {
                self.lists[at] = &self.lists[at][1..];
                if self.lists[at].is_empty() {
                    self.len -= 1;
                    self.lists.swap(at, self.len);
                    continue;
                }
            }
            at += 1;
        }
        Some(next)
    }
}

/// What a rule or constraint surely needs: one of these.
struct Keys {
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

fn rule_keys(rule: Rule<'_>, local: &[Arc<str>]) -> Option<Keys> {
    // One of the sources must hold, and all of the conditions.
    let from = || {
        let mut keys = Vec::new();
        for source in rule.sources() {
            keys.append(&mut finest(source, rule.store, local)?.list);
        }
        Some(Keys::new(keys))
    };
    let from = if rule.from.is_empty() { None } else { from() };
    finer(from, finest(rule.when, rule.store, local))
}

fn finest(constraints: &[Constraint], store: &Store, local: &[Arc<str>]) -> Option<Keys> {
    constraints
        .iter()
        .filter(|constraint| !constraint.negative)
        .map(|constraint| match constraint.attribute {
            Attribute::Principal(patterns) => principal_keys(patterns, store, local),
            Attribute::ServiceAccount(accounts, scope) => {
                service_account_keys(accounts, scope, store, local)
            }
            Attribute::Namespace(names, scope) => match store.exact_only(names) {
                Some(names) => Some(Keys::new(names.map(namespace_key).collect())),
                None => (scope == Scope::Local).then(|| Keys::trust_domains(local)),
            },
            Attribute::TrustDomain(domains) => domain_keys(domains, store),
            _ => None,
        })
        .fold(None, finer)
}

fn domain_keys(domains: Run<Pattern<Text>>, store: &Store) -> Option<Keys> {
    let domains = store.exact_only(domains)?;
    Some(Keys::new(
        domains
            .map(|domain| (Kind::TrustDomain, hash(domain)))
            .collect(),
    ))
}

fn principal_keys(
    patterns: Run<PrincipalPattern<Text>>,
    store: &Store,
    local: &[Arc<str>],
) -> Option<Keys> {
    let mut keys = Vec::new();
    for &pattern in patterns.of(&store.principals) {
        match store.principal(pattern) {
            PrincipalPattern::Any => return None,
            PrincipalPattern::Exact(domain, path) => match domain {
                Domain::Named(name) => keys.push((Kind::Id, id(hash(name), hash(path)))),
                Domain::Local => keys.extend(
                    local
                        .iter()
                        .map(|name| (Kind::Id, id(hash(name), hash(path)))),
                ),
                Domain::Any => keys.push((Kind::Path, hash(path))),
            },
            PrincipalPattern::Prefix(domain, prefix) => match (whole_lead(prefix), domain) {
                (Some(lead), _) => keys.push((Kind::Lead, hash(lead))),
                (None, Domain::Named(name)) => keys.push((Kind::TrustDomain, hash(name))),
                (None, Domain::Local) => {
                    keys.extend(local.iter().map(|name| (Kind::TrustDomain, hash(name))));
                }
                (None, Domain::Any) => return None,
            },
        }
    }
    Some(Keys::new(keys))
}

fn service_account_keys(
    accounts: Run<Account<Text>>,
    scope: Scope,
    store: &Store,
    local: &[Arc<str>],
) -> Option<Keys> {
    let mut keys = Vec::new();
    for &account in accounts.of(&store.accounts) {
        let account = store.account(account);
        keys.push(match account.wildcard {
            Wildcard::Nowhere => (
                Kind::Path,
                hash(&format!("/ns/{}/sa/{}", account.namespace, account.account)),
            ),
            Wildcard::AfterAccount | Wildcard::BeforeAccount => namespace_key(account.namespace),
            Wildcard::Alone | Wildcard::BeforeNamespace => {
                return (scope == Scope::Local).then(|| Keys::trust_domains(local));
            }
        });
    }
    Some(Keys::new(keys))
}

fn namespace_key(namespace: &str) -> (Kind, u64) {
    (Kind::Lead, hash(&format!("/ns/{namespace}")))
}

/// The first two segments of a path, or all of it if it has fewer.
fn lead(path: &str) -> &str {
    whole_lead(path).unwrap_or(path)
}

/// The first two segments of every path with this prefix, if they are the same for all.
fn whole_lead(prefix: &str) -> Option<&str> {
    prefix
        .match_indices('/')
        .nth(2)
        .map(|(third, _)| &prefix[..third])
}

/// FNV-1a: short texts, a hash that is the same in every process, and nothing that an attacker gains by a
/// collision, see the top.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn id(trust_domain: u64, path: u64) -> u64 {
    mix(trust_domain ^ path.rotate_left(32))
}

fn bucket(kind: Kind, value: u64, ports: Ports) -> u64 {
    mix(value ^ mix((u64::from(ports.number()) << 3) | kind as u64))
}

/// The finaliser of SplitMix64: every bit depends on every other, as hash tables need.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Buckets' keys are hashes already.
#[derive(Default)]
pub(crate) struct Keyed(u64);

impl Hasher for Keyed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| mix(hash ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Operation, Policy, Source, ValidPolicy, model};

    fn rule(source: Source, ports: &[&str]) -> model::Rule {
        let ports: Vec<_> = ports.iter().map(|port| (*port).to_owned()).collect();
        let to = if ports.is_empty() {
            vec![]
        } else {
            vec![Operation {
                ports,
                ..Default::default()
            }]
        };
        model::Rule {
            from: vec![source],
            to,
            when: vec![],
        }
    }

    fn principals(values: &[&str]) -> Source {
        Source {
            principals: values.iter().map(|value| (*value).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn check(rules: Vec<model::Rule>, asked: &[(Option<&str>, u16, &[u32])]) {
        let policy = Policy {
            namespace: "n".into(),
            name: "p".into(),
            action: Action::Allow,
            rules,
            dry_run: false,
        };
        let valid = ValidPolicy::new(policy).unwrap();
        let index = Index::build(
            (0..).map(|rule| (0, rule)).zip(valid.rules()),
            &["td".into(), "alias".into()],
        );
        for &(peer, port, expected) in asked {
            let peer = peer.map(|peer| Principal::parse(peer).unwrap());
            let got: Vec<_> = index
                .candidates(peer.as_ref(), port)
                .map(|(_, rule)| rule)
                .collect();
            assert_eq!(got, expected, "{peer:?} {port}");
        }
    }

    #[test]
    fn rules_that_cannot_match_are_not_found() {
        let namespaces = |names: &[&str]| Source {
            namespaces: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let trust_domains = |names: &[&str]| Source {
            trust_domains: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let x = "spiffe://td/ns/a/sa/x";
        check(
            vec![
                rule(principals(&["td/ns/a/sa/x"]), &[]),
                rule(
                    principals(&["cluster.local/ns/a/sa/x", "td/ns/b/sa/x"]),
                    &["80"],
                ),
                rule(principals(&["*/ns/a/sa/x"]), &["81", "82"]),
                rule(principals(&["td/ns/a/*"]), &[]),
                rule(namespaces(&["a"]), &["80"]),
                rule(trust_domains(&["td", "other"]), &[]),
                rule(
                    Source {
                        not_namespaces: vec!["a".to_owned()],
                        ..Default::default()
                    },
                    &[],
                ),
                rule(namespaces(&["a*"]), &[]),
            ],
            &[
                (Some(x), 80, &[0, 1, 3, 4, 5, 6, 7]),
                (Some(x), 81, &[0, 2, 3, 5, 6, 7]),
                (Some(x), 9, &[0, 3, 5, 6, 7]),
                (Some("spiffe://alias/ns/a/sa/x"), 80, &[1, 3, 4, 6, 7]),
                (Some("spiffe://other/ns/c/sa/x"), 80, &[5, 6]),
                (None, 80, &[6]),
            ],
        );
    }

    #[test]
    fn a_rule_with_several_fitting_keys_is_found_once() {
        let twice = || principals(&["td/ns/a/sa/x", "*/ns/a/sa/x", "td/ns/a/*", "td/*"]);
        let x = Some("spiffe://td/ns/a/sa/x");
        check(
            vec![
                rule(twice(), &[]),
                rule(twice(), &["80"]),
                rule(twice(), &[]),
            ],
            &[(x, 80, &[0, 1, 2])],
        );
    }
}
