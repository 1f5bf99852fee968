//! PeerAuthentication: workload over namespace over mesh, STRICT when nobody says otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kith_xds_client::api::mesh as api;

use super::select::{Index, Scope};
use crate::problem::Problem;
use crate::yaml::schema::{MeshConfig, Mtls, MtlsMode, PeerAuthentication};
use crate::yaml::{Document, Loaded};

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
    let mut for_mesh = Winner::default();
    let mut for_namespace: HashMap<&str, Winner<'_>> = HashMap::new();
    let mut for_workload: HashMap<usize, Winner<'_>> = HashMap::new();
    for document in loaded.files().flat_map(|file| &file.peer_authentications) {
        let namespace = document.metadata.namespace.as_str();
        let labels = &document.spec.selector.match_labels.0;
        if !labels.is_empty() {
            for position in index.select(Scope::of(namespace, &mesh.root_namespace), labels) {
                for_workload
                    .entry(position)
                    .or_default()
                    .offer(document, warnings);
            }
        } else if namespace == mesh.root_namespace {
            for_mesh.offer(document, warnings);
        } else {
            for_namespace
                .entry(namespace)
                .or_default()
                .offer(document, warnings);
        }
    }

    let mesh_mode = for_mesh.mode(api::MtlsMode::Strict);
    let modes_of = |(position, workload): (usize, &&Document<_>)| {
        let namespace = for_namespace.get(workload.metadata.namespace.as_str());
        let inherited = namespace.map_or(mesh_mode, |winner| winner.mode(mesh_mode));
        let Some(Winner(Some(own))) = for_workload.get(&position) else {
            return Modes {
                default: inherited,
                ports: BTreeMap::new(),
            };
        };
        let default = mode(own.spec.mtls, inherited);
        let ports = own.spec.port_level_mtls.iter();
        Modes {
            default,
            ports: ports
                .map(|(port, mtls)| (port.get(), mode(*mtls, default)))
                .collect(),
        }
    };
    index.workloads.iter().enumerate().map(modes_of).collect()
}

/// Files have no age: where Istio lets the oldest win, the first in the order of files does.
#[derive(Default)]
struct Winner<'a>(Option<&'a Document<PeerAuthentication>>);

impl<'a> Winner<'a> {
    fn offer(
        &mut self,
        document: &'a Document<PeerAuthentication>,
        warnings: &mut BTreeSet<Problem>,
    ) {
        let Some(first) = self.0 else {
            self.0 = Some(document);
            return;
        };
        let message = format!(
            "has no effect where `{}` ({}) speaks of the same workloads: the first one wins",
            first.id(),
            first.place.describe()
        );
        // A set: said once, however many workloads both of them select.
        warnings.insert(document.place.problem("spec", message));
    }

    fn mode(&self, inherited: api::MtlsMode) -> api::MtlsMode {
        self.0
            .map_or(inherited, |document| mode(document.spec.mtls, inherited))
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
