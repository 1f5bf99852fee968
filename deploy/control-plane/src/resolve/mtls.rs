//! PeerAuthentication: workload over namespace over mesh, STRICT when nobody says otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kith_xds_client::api::mesh as api;

use super::select::{Index, Scope};
use super::selectors::Selectors;
use crate::problem::Problem;
use crate::yaml::schema::{MeshConfig, Mtls, MtlsMode, PeerAuthentication};
use crate::yaml::{Document, Loaded, Place};

/// The modes of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) default: api::MtlsMode,
    pub(crate) ports: BTreeMap<u16, api::MtlsMode>,
}

impl Modes {
    pub(crate) fn disabled() -> Self {
        Self {
            default: api::MtlsMode::Disable,
            ports: BTreeMap::new(),
        }
    }
}

/// The modes of every workload, in the index's order.
pub(crate) fn resolve(
    loaded: &Loaded,
    mesh: &MeshConfig,
    index: &Index<'_>,
    warnings: &mut BTreeSet<Problem>,
) -> Vec<Modes> {
    let peers = Peers::new(loaded, &mesh.root_namespace, warnings);
    let workloads = index.workloads.iter();
    workloads
        .map(|workload| {
            let found = peers.of(&workload.metadata.namespace, &workload.metadata.labels);
            warnings.extend(found.without_effect());
            found.modes()
        })
        .collect()
}

/// All of them. Files have no age: where Istio lets the oldest win, the first in the order of files does.
#[derive(Debug)]
pub(super) struct Peers {
    for_mesh: Option<Peer>,
    for_namespace: HashMap<Box<str>, Peer>,
    for_workloads: Selectors<Peer>,
}

/// One document.
#[derive(Debug)]
struct Peer {
    id: Arc<str>,
    place: Place,
    mtls: Mtls,
    ports: BTreeMap<u16, Mtls>,
}

/// Those that hold for one workload.
pub(super) struct Found<'p> {
    for_mesh: Option<&'p Peer>,
    for_namespace: Option<&'p Peer>,
    /// The first one wins.
    for_workload: Vec<&'p Peer>,
}

impl Peers {
    pub(super) fn new(
        loaded: &Loaded,
        root_namespace: &str,
        warnings: &mut BTreeSet<Problem>,
    ) -> Self {
        let mut for_mesh = None;
        let mut for_namespace: HashMap<Box<str>, Peer> = HashMap::new();
        let mut for_workloads = Vec::new();
        for document in loaded.files().flat_map(|file| &file.peer_authentications) {
            let namespace = document.metadata.namespace.as_str();
            let labels = &document.spec.selector.match_labels.0;
            let peer = Peer::new(document);
            if !labels.is_empty() {
                for_workloads.push((Scope::of(namespace, root_namespace), labels, peer));
                continue;
            }
            let first = if namespace == root_namespace {
                for_mesh.as_ref()
            } else {
                for_namespace.get(namespace)
            };
            if let Some(first) = first {
                warnings.insert(peer.without_effect(first));
            } else if namespace == root_namespace {
                for_mesh = Some(peer);
            } else {
                for_namespace.insert(namespace.into(), peer);
            }
        }
        Self {
            for_mesh,
            for_namespace,
            for_workloads: Selectors::new(for_workloads),
        }
    }

    /// What holds for a workload with these labels.
    pub(super) fn of(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Found<'_> {
        Found {
            for_mesh: self.for_mesh.as_ref(),
            for_namespace: self.for_namespace.get(namespace),
            for_workload: self.for_workloads.of(namespace, labels),
        }
    }
}

impl Found<'_> {
    pub(super) fn modes(&self) -> Modes {
        let mut inherited = api::MtlsMode::Strict;
        for wider in self.for_mesh.into_iter().chain(self.for_namespace) {
            inherited = mode(wider.mtls, inherited);
        }
        let Some(own) = self.for_workload.first() else {
            return Modes {
                default: inherited,
                ports: BTreeMap::new(),
            };
        };
        let default = mode(own.mtls, inherited);
        let ports = own.ports.iter();
        Modes {
            default,
            ports: ports
                .map(|(port, mtls)| (*port, mode(*mtls, default)))
                .collect(),
        }
    }

    /// Names of those that have a say, the widest first.
    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        let wider = self.for_mesh.into_iter().chain(self.for_namespace);
        let all = wider.chain(self.for_workload.first().copied());
        all.map(|peer| Arc::clone(&peer.id))
    }

    /// What its author should know: a set of these says it once, however many workloads both of them select.
    pub(super) fn without_effect(&self) -> impl Iterator<Item = Problem> {
        let first = self.for_workload.first();
        let others = self.for_workload.iter().skip(1);
        others
            .zip(first.into_iter().cycle())
            .map(|(other, first)| other.without_effect(first))
    }
}

impl Peer {
    fn new(document: &Document<PeerAuthentication>) -> Self {
        let ports = document.spec.port_level_mtls.iter();
        Self {
            id: document.id().into(),
            place: document.place.clone(),
            mtls: document.spec.mtls,
            ports: ports.map(|(port, mtls)| (port.get(), *mtls)).collect(),
        }
    }

    fn without_effect(&self, first: &Self) -> Problem {
        let message = format!(
            "has no effect where `{}` ({}) speaks of the same workloads: the first one wins",
            first.id,
            first.place.describe()
        );
        self.place.problem("spec", message)
    }
}

fn mode(mtls: Mtls, inherited: api::MtlsMode) -> api::MtlsMode {
    match mtls.mode {
        MtlsMode::Unset => inherited,
        MtlsMode::Strict => api::MtlsMode::Strict,
        MtlsMode::Permissive => api::MtlsMode::Permissive,
        MtlsMode::Disable => api::MtlsMode::Disable,
    }
}
