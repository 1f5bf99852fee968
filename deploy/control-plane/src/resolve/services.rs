//! The kith.dev `Service` documents: whom they select, and who owns which address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::address::{Backend, ServicePort, of_family, of_service, of_workload};
use super::rules::{Placed, addresses_of};
use super::select::{Index, Scope};
use super::selectors::Selectors;
use crate::catalog::{Encoded, Shards};
use crate::problem::Problem;
use crate::yaml::schema::Service;
use crate::yaml::{Document, Loaded, Place};

/// A `Service` document, as plain facts.
#[derive(Debug)]
pub(crate) struct DeclaredService {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) hosts: Vec<Arc<str>>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) place: Place,
}

impl DeclaredService {
    fn new(document: &Document<Service>) -> Self {
        let ports = document.spec.ports.iter().map(|port| ServicePort {
            number: port.port.get(),
            protocol: port.protocol,
            target: port.target_port.unwrap_or(port.port).get(),
        });
        Self {
            namespace: document.metadata.namespace.as_str().into(),
            name: document.metadata.name.as_str().into(),
            addresses: document.spec.addresses.iter().map(|it| it.0).collect(),
            hosts: (document.spec.hosts.iter())
                .map(|host| host.0.as_str().into())
                .collect(),
            ports: ports.collect(),
            place: document.place.clone(),
        }
    }

    /// The `Address` under which clients dial it: one of its addresses, or a host.
    pub(crate) fn to_address<'b>(
        &self,
        dialled: Arc<str>,
        backends: impl IntoIterator<Item = Backend<'b>>,
    ) -> Arc<Encoded> {
        of_service(dialled, &self.namespace, &self.name, &self.ports, backends)
    }
}

/// All of them, for whoever has the workloads one by one.
pub(super) fn declared(loaded: &Loaded) -> Selectors<DeclaredService> {
    let documents = loaded.files().flat_map(|file| &file.services);
    Selectors::new(documents.map(|document| {
        // Also in the root namespace: a Service speaks for its own.
        let scope = Scope::Namespace(&document.metadata.namespace);
        let labels: &BTreeMap<String, String> = &document.spec.selector.0;
        (scope, labels, DeclaredService::new(document))
    }))
}

/// Everything that can be dialled in a folder, by address or host.
pub(super) fn resolve(
    loaded: &Loaded,
    services: &Selectors<DeclaredService>,
    index: &Index<'_>,
    placed: &[Placed],
    problems: &mut Vec<Problem>,
) -> Shards<Arc<Encoded>> {
    let mut claims = Claims {
        by_name: HashMap::new(),
        problems,
    };
    let ids: Vec<String> = index.workloads.iter().map(|it| it.id()).collect();
    let backend = |position: usize, address: IpAddr| Backend {
        workload: &ids[position],
        address,
        principals: placed[position].principal.as_slice(),
        ports: &placed[position].ports,
        target_ports: &[],
    };
    for (position, document) in index.workloads.iter().enumerate() {
        for (i, address) in document.spec.addresses.iter().enumerate() {
            let field = format!("spec.addresses[{i}]");
            let made = of_workload(&backend(position, address.0));
            claims.claim(made, &document.place, &field);
        }
    }
    let addresses: Vec<Vec<IpAddr>> = (index.workloads.iter())
        .map(|document| addresses_of(document))
        .collect();
    let documents = loaded.files().flat_map(|file| &file.services);
    for (document, service) in documents.zip(services.all()) {
        let scope = Scope::Namespace(&document.metadata.namespace);
        let selected = index.select(scope, &document.spec.selector.0);
        let behind = |dialled: Option<IpAddr>| {
            let addresses = &addresses;
            selected.iter().filter_map(move |position| {
                let address = of_family(&addresses[*position], dialled)?;
                Some(backend(*position, address))
            })
        };
        for (i, address) in service.addresses.iter().enumerate() {
            let made = service.to_address(address.to_string().into(), behind(Some(*address)));
            claims.claim(made, &service.place, &format!("spec.addresses[{i}]"));
        }
        for (i, host) in service.hosts.iter().enumerate() {
            let made = service.to_address(Arc::clone(host), behind(None));
            claims.claim(made, &service.place, &format!("spec.hosts[{i}]"));
        }
    }
    let claimed = claims.by_name.into_iter();
    claimed
        .map(|(name, (encoded, _))| (name, encoded))
        .collect()
}

/// An address with two owners would send traffic, and with it trust, to whichever was read last.
struct Claims<'a, 'p> {
    by_name: HashMap<Arc<str>, (Arc<Encoded>, &'a Place)>,
    problems: &'p mut Vec<Problem>,
}

impl<'a> Claims<'a, '_> {
    fn claim(&mut self, made: Arc<Encoded>, place: &'a Place, field: &str) {
        if let Some((_, first)) = self.by_name.get(made.name()) {
            let message = format!(
                "`{}` belongs already to the document at {}",
                made.name(),
                first.describe()
            );
            self.problems.push(place.problem(field, message));
            return;
        }
        self.by_name.insert(made.key(), (made, place));
    }
}
