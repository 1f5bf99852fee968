//! The delta xDS protocol for one stream, as a state machine: requests and catalogs in, responses out.
//! Free of IO and clocks, so that every ordering can be tested as data.
//!
//! A resource is sent when its name is subscribed and again when its version changes; a name without a
//! resource is answered with a removal, so that a client can remember that there is none. A response that
//! is refused is sent once more, resource by resource: what is good in it gets acknowledged, and what is
//! bad stays known as refused until it changes.

mod answer;
mod changes;
mod refusals;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tonic::Status;

pub(super) use self::answer::{Answer, Nack};
use self::changes::{Changes, Part};
use self::refusals::Refusals;
use crate::catalog::{Catalog, Encoded, Node, Version};
use crate::interest::Pending;
use crate::status::Subscribed;

/// A sidecar asks for what its app talks to. More than this is not a sidecar's behaviour.
const MAX_NAMES: usize = 100_000;
/// Unanswered responses are remembered, and a client that answers none must not fill the memory with them.
const MAX_OUTSTANDING: usize = 20_000;
/// Longer than any address, host or `namespace/name`.
const MAX_NAME_BYTES: usize = 512;

/// On a change, policies arrive before the configuration that was built with them, removals after it.
const ORDER_OF_CHANGES: [Kind; 4] = [
    Kind::RevocationList,
    Kind::AuthorizationPolicy,
    Kind::WorkloadConfig,
    Kind::Address,
];

/// What one stream has asked for, been sent and acknowledged.
#[derive(Debug)]
pub(super) struct Subscriptions {
    node: Arc<str>,
    kinds: HashMap<Kind, HashMap<Arc<str>, Held>>,
    /// The nonce of the last response.
    nonce: u64,
    /// By nonce, and so in the order of sending.
    outstanding: BTreeMap<u64, Push>,
    /// What was refused and not made good since.
    refused: Refusals,
    /// The last configuration that was acknowledged, whether or not all of its policies were, and its nonce.
    config_acknowledged: Option<(u64, Arc<Node>)>,
}

/// What the client has under a name. None: it was told that there is nothing.
#[derive(Debug, Default)]
struct Held {
    sent: Option<Version>,
    acknowledged: Option<Version>,
    /// Of the acknowledged push: answers may come in any order, and an older one must not undo a newer.
    nonce: u64,
}

#[derive(Debug)]
struct Push {
    nonce: u64,
    kind: Kind,
    at: Instant,
    names: Vec<(Arc<str>, Option<Version>)>,
    /// Whose configuration this is, when it is one.
    node: Option<Arc<Node>>,
}

impl Subscriptions {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            kinds: HashMap::new(),
            nonce: 0,
            outstanding: BTreeMap::new(),
            refused: Refusals::default(),
            config_acknowledged: None,
        }
    }

    /// The client said something: an answer to a push, a change of subscriptions, or both.
    pub(super) fn on_request(
        &mut self,
        catalog: &Catalog,
        request: DeltaDiscoveryRequest,
        now: Instant,
    ) -> Result<Answer, Status> {
        let Some(kind) = Kind::from_type_url(&request.type_url) else {
            return Ok(self.on_unknown_kind(request));
        };
        let mut answer = self.on_answer(catalog, &request, now);
        // xDS protocol, "initial_resource_versions": meant for the first request of a kind on a stream.
        let first = !self.kinds.contains_key(&kind);
        let initial = if first {
            request.initial_resource_versions
        } else {
            BTreeMap::new()
        };
        let names = self.kinds.entry(kind).or_default();
        for name in &request.resource_names_unsubscribe {
            if let Some((name, _)) = names.remove_entry(name.as_str()) {
                self.refused.remove(kind, name);
            }
        }
        let mut changes = Changes::default();
        for name in request.resource_names_subscribe {
            if name == "*" {
                return Err(Status::invalid_argument(
                    "`*` is not served: subscribe to resources by name",
                ));
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(Status::invalid_argument(format!(
                    "a resource name has at most {MAX_NAME_BYTES} bytes"
                )));
            }
            if names.len() >= MAX_NAMES && !names.contains_key(name.as_str()) {
                let message =
                    format!("more than {MAX_NAMES} names of one kind: unsubscribe from idle ones");
                return Err(Status::resource_exhausted(message));
            }
            let found = catalog.find(&self.node, kind, &name);
            // Kept once for the resource and everybody who has it.
            let key = found.map_or_else(|| name.as_str().into(), |found| found.key());
            let held_before = initial.get(&name);
            let stamp = found.map(|found| found.stamp());
            let stamp = stamp.filter(|it| held_before.is_some_and(|held| held == it.as_str()));
            let held = names.entry(Arc::clone(&key)).or_default();
            if stamp.is_none() {
                changes.add(key, found);
                continue;
            }
            *held = Held {
                sent: stamp,
                acknowledged: stamp,
                nonce: self.nonce,
            };
            if kind == Kind::WorkloadConfig {
                self.config_acknowledged =
                    catalog.node(&name).cloned().map(|node| (self.nonce, node));
            }
        }
        answer
            .responses
            .extend(self.push(catalog, kind, changes.split(), now));
        Ok(answer)
    }

    /// The catalog is another one, and may differ from the one before in what is `pending`.
    pub(super) fn on_change_of(
        &mut self,
        catalog: &Catalog,
        pending: &Pending,
        now: Instant,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        let mut removals = Vec::new();
        for kind in ORDER_OF_CHANGES {
            let all = match kind {
                Kind::RevocationList => pending.revocations,
                Kind::AuthorizationPolicy | Kind::WorkloadConfig => pending.node,
                Kind::Address => false,
            };
            let held = self.kinds.get(&kind);
            let held_of_all = held.filter(|_| all).into_iter().flatten();
            let named: &[Arc<str>] = match kind {
                Kind::Address => &pending.addresses,
                _ => &[],
            };
            let held_of_named = named.iter().filter_map(|name| held?.get_key_value(name));
            let mut changed = Changes::default();
            let mut removed = Changes::default();
            for (name, held) in held_of_all.chain(held_of_named) {
                let found = catalog.find(&self.node, kind, name);
                match found {
                    Some(found) if held.sent == Some(found.stamp()) => {}
                    Some(_) => changed.add(Arc::clone(name), found),
                    None if held.sent.is_none() => {}
                    None => removed.add(Arc::clone(name), None),
                }
            }
            responses.extend(self.push(catalog, kind, changed.split(), now));
            removals.push((kind, removed));
        }
        for (kind, removed) in removals {
            responses.extend(self.push(catalog, kind, removed.split(), now));
        }
        responses
    }

    /// The revision that is in force: the configuration acknowledged, and every policy it names, in the
    /// version it was built with. None while only parts are.
    pub(super) fn revision_in_force(&self) -> Option<Version> {
        let (_, node) = self.config_acknowledged.as_ref()?;
        let held = self.kinds.get(&Kind::AuthorizationPolicy);
        let in_force = |policy: &Arc<Encoded>| {
            let held = held.and_then(|held| held.get(policy.name()));
            held.is_some_and(|held| held.acknowledged == Some(policy.stamp()))
        };
        let all = node.policies.iter().all(in_force);
        all.then_some(node.revision)
    }

    /// When the oldest push was sent that is not acknowledged, refused ones included.
    pub(super) fn behind_since(&self) -> Option<Instant> {
        self.outstanding
            .values()
            .next()
            .map(|push| push.at)
            .into_iter()
            .chain(self.refused.oldest())
            .min()
    }

    /// The version of a resource that the client acknowledged last.
    pub(super) fn acknowledged(&self, kind: Kind, name: &str) -> Option<Version> {
        self.kinds.get(&kind)?.get(name)?.acknowledged
    }

    /// Whether something was sent under this name that the client has not answered.
    pub(super) fn awaits_answer(&self, kind: Kind, name: &str) -> bool {
        self.outstanding
            .values()
            .any(|push| push.kind == kind && push.names.iter().any(|(pushed, _)| &**pushed == name))
    }

    /// Whether a part of the configuration was sent that the client has not answered, and may have put in force.
    pub(super) fn configuration_awaits_answer(&self) -> bool {
        let part = |kind| matches!(kind, Kind::WorkloadConfig | Kind::AuthorizationPolicy);
        self.outstanding.values().any(|push| part(push.kind))
    }

    /// How many names stand refused.
    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Why the client does not have all that it was sent of these kinds, in its words.
    pub(super) fn refusal(&self, kinds: &[Kind]) -> Option<(Kind, Arc<str>)> {
        self.refused.first(kinds)
    }

    /// Whether the client still answers.
    pub(super) fn check_answers(&self) -> Result<(), Status> {
        if self.outstanding.len() <= MAX_OUTSTANDING {
            return Ok(());
        }
        let message = format!(
            "more than {MAX_OUTSTANDING} responses are unanswered: answer each with an ACK or a NACK"
        );
        Err(Status::resource_exhausted(message))
    }

    /// Names subscribed to, by kind.
    pub(super) fn counts(&self) -> Subscribed {
        let counts = self.kinds.iter();
        counts.map(|(kind, names)| (*kind, names.len())).collect()
    }

    /// Makes a response of each part and remembers what was sent.
    fn push(
        &mut self,
        catalog: &Catalog,
        kind: Kind,
        parts: Vec<Part>,
        now: Instant,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        for part in parts {
            let nonce = self.next_nonce();
            let held = self.kinds.entry(kind).or_default();
            let mut response = DeltaDiscoveryResponse {
                type_url: kind.type_url().into(),
                nonce: nonce.to_string(),
                ..Default::default()
            };
            let mut names = Vec::with_capacity(part.len());
            for (name, found) in part {
                let version = found.as_ref().map(|found| found.stamp());
                held.entry(Arc::clone(&name)).or_default().sent = version;
                self.refused.sent_again(kind, &name);
                match found {
                    Some(found) => response.resources.push(found.to_wire()),
                    None => response.removed_resources.push(name.as_ref().to_owned()),
                }
                names.push((name, version));
            }
            let node = if kind == Kind::WorkloadConfig {
                catalog.node(&self.node).cloned()
            } else {
                None
            };
            self.outstanding.insert(
                nonce,
                Push {
                    nonce,
                    kind,
                    at: now,
                    names,
                    node,
                },
            );
            responses.push(response);
        }
        responses
    }

    fn next_nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }
}

#[cfg(test)]
mod tests;
