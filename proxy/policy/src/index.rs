//! Finds the rules worth asking, so that policies which cannot match cost nothing.
//!
//! Every rule is filed under what it surely needs: the identity in the finest form it names, and the
//! port. What is found is a superset of what holds; evaluation has the last word, so that a collision
//! of hashes costs time and never correctness.

mod keys;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::Principal;
use crate::constraint::Rule;
use crate::model::Action;
use crate::ports::PortSet;
use crate::principal::namespace_and_account;
use crate::store::offset;

/// A rule that names more ports than this is filed under none of them.
const MAX_PORTS: usize = 16;

/// Where to look for whoever may be of one namespace or of another.
const SEVERAL: u64 = 0;

/// A policy's index in the set, a rule's index in the policy: what they are ordered by.
pub(crate) type Place = (u32, u32);

/// The rules of one action.
#[derive(Debug, Default)]
pub(crate) struct Index {
    buckets: HashMap<u64, Bucket, BuildHasherDefault<Keyed>>,
    /// The rules of the buckets that have several, ascending within each.
    entries: Box<[Place]>,
    /// Which kinds of bucket there are, by [`Ports::bit`].
    used: u32,
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
    /// The namespace that an [`odd`] ID may name, or [`SEVERAL`].
    Odd,
    TrustDomain,
    /// Every peer, without identity too.
    Any,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Id,
        Self::Path,
        Self::Lead,
        Self::Odd,
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
    fn bit(self, kind: Kind) -> u32 {
        1 << (3 * kind as u32 + self.number().min(2))
    }
}

/// The hashes of a principal that buckets are found by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint {
    trust_domain: u64,
    path: u64,
    lead: u64,
    odd: Option<u64>,
}

impl Fingerprint {
    pub(crate) fn of(trust_domain: &str, path: &str) -> Self {
        Self {
            trust_domain: hash(trust_domain),
            path: hash(path),
            lead: hash(lead(path)),
            odd: odd(trust_domain, path),
        }
    }

    fn get(&self, kind: Kind) -> Option<u64> {
        Some(match kind {
            Kind::Id => id(self.trust_domain, self.path),
            Kind::Path => self.path,
            Kind::Lead => self.lead,
            Kind::Odd => self.odd?,
            Kind::TrustDomain => self.trust_domain,
            Kind::Any => 0,
        })
    }
}

impl Index {
    /// `local` is the local trust domain and its aliases. In a DENY or AUDIT a rule may hold by the wide reading of
    /// who it names, see [`evaluate`](crate::evaluate).
    pub(crate) fn build<'a>(
        action: Action,
        rules: impl Iterator<Item = (Place, Rule<'a>)>,
        local: &[Arc<str>],
    ) -> Self {
        let mut filed: Vec<(u64, Place)> = Vec::new();
        let mut used = 0;
        for (place, rule) in rules {
            let keys = keys::of_rule(rule, local, action);
            let keys = keys
                .as_ref()
                .map_or(&[(Kind::Any, 0)][..], keys::Keys::list);
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
                (Kind::Any, _) => Some(0),
                (_, peer) => peer.and_then(|peer| peer.fingerprint().get(kind)),
            };
            let Some(value) = value else { continue };
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

/// An ID is odd when a namespace can be read from it by the wide reading, and the path is not exactly
/// `/ns/<namespace>/sa/<account>` or that is not the only place where one can. All that is asked of the namespace and
/// account of any other ID has one reading. `None` is an ID that is not odd.
fn odd(trust_domain: &str, path: &str) -> Option<u64> {
    let plain = namespace_and_account(path)
        .is_some_and(|(namespace, _)| namespace != "ns" && trust_domain != "ns");
    if plain {
        return None;
    }
    let segments = || std::iter::once(trust_domain).chain(path.split('/').skip(1));
    let mut namespaces = segments()
        .zip(segments().skip(1))
        .filter(|(before, _)| *before == "ns")
        .map(|(_, namespace)| namespace);
    let namespace = hash(namespaces.next()?);
    Some(match namespaces.next() {
        None => namespace,
        Some(_) => SEVERAL,
    })
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
    use crate::{Operation, Policy, Source, ValidPolicy, model};

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

    fn namespaces(names: &[&str]) -> Source {
        Source {
            namespaces: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn check(action: Action, rules: Vec<model::Rule>, asked: &[(Option<&str>, u16, &[u32])]) {
        let policy = Policy {
            namespace: "n".into(),
            name: "p".into(),
            action,
            rules,
            dry_run: false,
        };
        let valid = ValidPolicy::new(policy).unwrap();
        let index = Index::build(
            action,
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
        let trust_domains = |names: &[&str]| Source {
            trust_domains: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let x = "spiffe://td/ns/a/sa/x";
        check(
            Action::Allow,
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
    fn in_a_deny_rules_are_found_for_all_whom_the_wide_reading_means() {
        let accounts = |names: &[&str]| Source {
            service_accounts: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let rules = vec![
            rule(namespaces(&["a"]), &[]),
            rule(accounts(&["a/x"]), &[]),
            rule(accounts(&["a/*"]), &[]),
            rule(principals(&["*/ns/a/sa/x"]), &[]),
            rule(principals(&["*/sa/x"]), &[]),
            rule(namespaces(&["a*"]), &[]),
            rule(accounts(&["*/x"]), &[]),
            rule(principals(&["td/ns/a/sa/x"]), &[]),
        ];
        let asked: [(Option<&str>, u16, &[u32]); 8] = [
            (Some("spiffe://td/ns/a/sa/x"), 80, &[0, 1, 2, 3, 4, 5, 6, 7]),
            (Some("spiffe://other/ns/a/sa/x"), 80, &[0, 1, 2, 3, 4, 5, 6]),
            (
                Some("spiffe://other/more/ns/a/sa/x"),
                80,
                &[0, 1, 2, 3, 4, 5, 6],
            ),
            (
                Some("spiffe://other/ns/b/ns/a/sa/x"),
                80,
                &[0, 1, 2, 3, 4, 5, 6],
            ),
            (Some("spiffe://td/more/ns/b/sa/x"), 80, &[4, 5, 6]),
            (Some("spiffe://td/ns/b/sa/x"), 80, &[4, 5, 6]),
            (Some("spiffe://td/gateway/sa/x"), 80, &[4, 5, 6]),
            (None, 80, &[4, 5, 6]),
        ];
        check(Action::Deny, rules.clone(), &asked);
        check(Action::Audit, rules, &asked);
    }

    #[test]
    fn a_rule_with_several_fitting_keys_is_found_once() {
        let twice = || principals(&["td/ns/a/sa/x", "*/ns/a/sa/x", "td/ns/a/*", "td/*"]);
        let x = Some("spiffe://td/ns/a/sa/x");
        check(
            Action::Allow,
            vec![
                rule(twice(), &[]),
                rule(twice(), &["80"]),
                rule(twice(), &[]),
            ],
            &[(x, 80, &[0, 1, 2])],
        );
    }
}
