//! One pod as its own sidecar and as its clients see it.

use std::collections::BTreeSet;

use tracing::warn;

use crate::kubernetes::object::{Id, Pod, namespace_and_name};
use crate::kubernetes::store::Store;
use crate::problem::Problem;
use crate::resolve::rules::{Misplaced, Placed, Rules, Subject};
use crate::yaml::schema::{EncodedSlash, Protocol, WorkloadPort};
use crate::yaml::value::Port;

pub(super) struct PlacedPod {
    pub(super) placed: Placed,
    /// Ports about which services contradict each other.
    pub(super) contested: Vec<u16>,
}

/// Every pod that is a workload.
///
/// # Errors
/// Documents contradict each other at one of them.
pub(super) fn place_all(
    store: &Store,
    rules: &Rules,
) -> Result<Vec<(Id, PlacedPod)>, Vec<Problem>> {
    let mut all = Vec::new();
    // All of them first: which one is at fault must not hang on the order of pods, since every replica has its own.
    let mut met = BTreeSet::new();
    for (id, pod) in store.pods() {
        if pod.host_network {
            continue;
        }
        match place(store, rules, id, pod) {
            Ok(placed) => all.push((id.clone(), placed)),
            Err(Misplaced::Tokens(_)) => _ = met.insert(rules.tokens_of(&subject(id, pod, &[]))),
            Err(Misplaced::Principal(problem)) => warn!(pod = %id, "is not served: {problem}"),
        }
    }
    if met.is_empty() {
        Ok(all)
    } else {
        Err(rules.contradictions(met))
    }
}

/// # Errors
/// It cannot be served, and why.
pub(super) fn place(
    store: &Store,
    rules: &Rules,
    id: &Id,
    pod: &Pod,
) -> Result<PlacedPod, Misplaced> {
    let (ports, contested) = store.ports_of(id, pod);
    let ports: Vec<_> = ports.into_iter().filter_map(declared).collect();
    let placed = rules.workload(&subject(id, pod, &ports))?;
    Ok(PlacedPod { placed, contested })
}

fn subject<'a>(id: &'a str, pod: &'a Pod, ports: &'a [WorkloadPort]) -> Subject<'a> {
    let (namespace, name) = namespace_and_name(id);
    Subject {
        namespace,
        name,
        labels: &pod.labels,
        service_account: &pod.service_account,
        addresses: &pod.addresses,
        mesh: pod.mesh,
        spiffe_id: None,
        ports,
    }
}

fn declared((port, protocol): (u16, Option<Protocol>)) -> Option<WorkloadPort> {
    Some(WorkloadPort {
        port: Port::try_from(i64::from(port)).ok()?,
        protocol,
        encoded_slash: EncodedSlash::Refuse,
    })
}

pub(super) fn warn_contested(pod: &str, ports: &[u16]) {
    for port in ports {
        warn!(
            pod,
            port,
            "services disagree on what is spoken here: its protocol counts as not declared; give them one appProtocol"
        );
    }
}

/// Each document that loses against another somewhere, once.
pub(super) fn overlapping(store: &Store, rules: &Rules) -> Vec<Problem> {
    let mut found = BTreeSet::new();
    for (id, pod) in store.pods().filter(|(_, pod)| pod.mesh) {
        found.extend(rules.overlapping(&subject(id, pod, &[])));
    }
    found.into_iter().collect()
}
