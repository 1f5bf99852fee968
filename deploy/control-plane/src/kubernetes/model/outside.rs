//! Workloads and services that are no pods and no Services of the cluster, as kith.dev documents describe them. What is in
//! the cluster goes before: a document must not take a pod's address, and with it its traffic.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::catalog::{Encoded, Node};
use crate::kubernetes::object::Id;
use crate::kubernetes::store::{Name, Store};
use crate::problem::Problem;
use crate::resolve::address::{Backend, of_family, of_workload};
use crate::resolve::rules::{Misplaced, Placed, Rules, addresses_of, subject};
use crate::yaml::{Loaded, Place};

#[derive(Debug, Default)]
pub(super) struct Outside {
    workloads: Vec<Workload>,
    /// By id, and by address: the first that claims one has it.
    by_id: HashMap<Id, usize>,
    workloads_at: HashMap<IpAddr, usize>,
    /// The numbers of `Service` documents, and of the workloads behind each.
    services_at: HashMap<Name, usize>,
    behind: Vec<Vec<usize>>,
    /// Where they stand, with the names that they claim by field.
    service_claims: Vec<(Place, Vec<(String, Name)>)>,
}

#[derive(Debug)]
struct Workload {
    id: Id,
    addresses: Box<[IpAddr]>,
    placed: Placed,
    place: Place,
}

impl Outside {
    /// # Errors
    /// Documents contradict each other where they select one of these workloads.
    pub(super) fn new(loaded: &Loaded, rules: &Rules) -> Result<Self, Vec<Problem>> {
        let mut outside = Self::default();
        for (number, service) in rules.services().enumerate() {
            let addresses = service.addresses.iter().enumerate();
            let addresses = addresses
                .map(|(i, address)| (format!("spec.addresses[{i}]"), Name::Address(*address)));
            let hosts = service.hosts.iter().enumerate();
            let hosts =
                hosts.map(|(i, host)| (format!("spec.hosts[{i}]"), Name::Host(Arc::clone(host))));
            let claims: Vec<_> = addresses.chain(hosts).collect();
            for (_, name) in &claims {
                outside.services_at.entry(name.clone()).or_insert(number);
            }
            outside.service_claims.push((service.place.clone(), claims));
            outside.behind.push(Vec::new());
        }
        for document in loaded.files().flat_map(|file| &file.workloads) {
            let addresses = addresses_of(document);
            let subject = subject(document, &addresses);
            let placed = match rules.workload(&subject) {
                Ok(placed) => placed,
                Err(Misplaced::Tokens(problems)) => return Err(problems.to_vec()),
                Err(Misplaced::Principal(problem)) => {
                    let problem = document.place.problem("spec.serviceAccount", problem);
                    return Err(vec![problem]);
                }
            };
            let number = outside.workloads.len();
            let id: Id = document.id().into();
            outside.by_id.insert(id.clone(), number);
            for service in rules.services_of(&subject) {
                outside.behind[service].push(number);
            }
            for address in &addresses {
                outside.workloads_at.entry(*address).or_insert(number);
            }
            outside.workloads.push(Workload {
                id,
                addresses: addresses.into(),
                placed,
                place: document.place.clone(),
            });
        }
        Ok(outside)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (Id, Arc<Node>)> {
        let workloads = self.workloads.iter();
        workloads.filter_map(|it| Some((it.id.clone(), it.placed.node.clone()?)))
    }

    pub(super) fn node(&self, id: &str) -> Option<&Arc<Node>> {
        let workload = self.by_id.get(id)?;
        self.workloads[*workload].placed.node.as_ref()
    }

    pub(super) fn has_workload(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Every name that is claimed.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        let workloads = self.workloads_at.keys().copied().map(Name::Address);
        workloads.chain(self.services_at.keys().cloned())
    }

    pub(super) fn has(&self, name: &Name) -> bool {
        let workload = match name {
            Name::Address(address) => self.workloads_at.contains_key(address),
            Name::Host(_) => false,
        };
        workload || self.services_at.contains_key(name)
    }

    /// The workload at an address, for an endpoint that is nothing else.
    pub(super) fn backend(&self, address: IpAddr) -> Option<Backend<'_>> {
        let workload = self.workloads_at.get(&address)?;
        Some(self.workloads[*workload].backend(address))
    }

    /// What is behind a name that nothing in the cluster has.
    pub(super) fn make(&self, rules: &Rules, name: &Name) -> Option<Arc<Encoded>> {
        if let Name::Address(address) = name
            && let Some(backend) = self.backend(*address)
        {
            return Some(of_workload(&backend));
        }
        let number = *self.services_at.get(name)?;
        let service = rules.services().nth(number)?;
        let dialled = match name {
            Name::Address(address) => Some(*address),
            Name::Host(_) => None,
        };
        let backends = self.behind[number].iter().filter_map(|workload| {
            let workload = &self.workloads[*workload];
            Some(workload.backend(of_family(&workload.addresses, dialled)?))
        });
        Some(service.to_address(name.to_key(), backends))
    }

    /// Claims that are in vain, by the file of the document.
    pub(super) fn conflicts(&self, store: &Store) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (number, workload) in self.workloads.iter().enumerate() {
            let mut tell = |problem| found.push((workload.place.describe(), problem));
            if store.pod(&workload.id).is_some_and(|pod| !pod.host_network) {
                tell(format!(
                    "metadata.name: there is a pod `{}`, which is the workload of this name",
                    workload.id
                ));
            }
            for (i, address) in workload.addresses.iter().enumerate() {
                let name = Name::Address(*address);
                let owner = in_the_cluster(store, &name).or_else(|| {
                    let first = self.workloads_at.get(address).copied()?;
                    (first != number).then(|| self.workloads[first].place.describe())
                });
                if let Some(owner) = owner {
                    tell(taken(&format!("spec.addresses[{i}]"), &name, &owner));
                }
            }
        }
        for (number, (place, claims)) in self.service_claims.iter().enumerate() {
            for (field, name) in claims {
                let owner = in_the_cluster(store, name).or_else(|| {
                    if let Name::Address(address) = name
                        && let Some(workload) = self.workloads_at.get(address)
                    {
                        return Some(self.workloads[*workload].place.describe());
                    }
                    let first = self.services_at.get(name).copied()?;
                    (first != number).then(|| self.service_claims[first].0.describe())
                });
                if let Some(owner) = owner {
                    found.push((place.describe(), taken(field, name, &owner)));
                }
            }
        }
        found
    }
}

impl Workload {
    fn backend(&self, address: IpAddr) -> Backend<'_> {
        Backend {
            workload: &self.id,
            address,
            principals: self.placed.principal.as_slice(),
            ports: &self.placed.ports,
            target_ports: &[],
        }
    }
}

fn in_the_cluster(store: &Store, name: &Name) -> Option<String> {
    if let Name::Address(address) = name
        && let Some((pod, _)) = store.pod_at(*address)
    {
        return Some(format!("pod `{pod}`"));
    }
    let service = store.service_of(name)?;
    Some(format!("Service `{service}` of the cluster"))
}

fn taken(field: &str, name: &Name, owner: &str) -> String {
    let name = name.to_key();
    format!("{field}: `{name}` belongs to {owner}, and stays with it")
}
