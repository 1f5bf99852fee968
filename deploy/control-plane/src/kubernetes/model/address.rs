//! What stands behind a name that clients dial, in the cluster or outside.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::Placement;
use super::outside::Outside;
use crate::catalog::Encoded;
use crate::kubernetes::object::{Endpoint, Id, Service, Slice, in_use, namespace_and_name};
use crate::kubernetes::store::{Name, Store};
use crate::resolve::address::{Backend, ServicePort, of_service, of_workload};
use crate::resolve::rules::Rules;

/// What there is to look at.
pub(super) struct View<'a> {
    pub(super) store: &'a Store,
    pub(super) placements: &'a HashMap<Id, Placement>,
    pub(super) outside: &'a Outside,
    pub(super) rules: &'a Rules,
}

impl<'a> View<'a> {
    /// What is in the cluster goes before what documents say. None: nothing is known by this name.
    pub(super) fn make(&self, name: &Name) -> Option<Arc<Encoded>> {
        if let Name::Address(address) = name
            && let Some((id, _)) = self.store.pod_at(*address)
        {
            // A pod that cannot be placed is nobody: to take it for one outside the mesh would be a guess.
            return Some(of_workload(&self.pod(id, *address)?));
        }
        if let Some(id) = self.store.service_of(name) {
            return self.service(id, name);
        }
        self.outside.make(self.rules, name)
    }

    fn service(&self, id: &Id, name: &Name) -> Option<Arc<Encoded>> {
        let service = self.store.service(id)?;
        let ports = service.ports.iter().map(|port| ServicePort {
            number: port.number,
            protocol: port.protocol,
            target: port.target,
        });
        let ports: Vec<_> = ports.collect();
        let all: Vec<(&Endpoint, &Slice)> = (self.store.slices_of(id))
            .flat_map(|slice| slice.endpoints.iter().map(move |it| (it, slice)))
            .collect();
        // As packets would go: what is dialled in one family ends in the same.
        let ipv4 = match name {
            Name::Address(address) => address.is_ipv4(),
            Name::Host(_) => all.iter().any(|(endpoint, _)| endpoint.address.is_ipv4()),
        };
        let of_family = all
            .into_iter()
            .filter(|(it, _)| it.address.is_ipv4() == ipv4);
        let used = in_use(of_family.collect(), service.publish_not_ready);
        // An endpoint that is moved from one slice to another is in both for a moment. In the order of addresses, so that
        // the order of slices is no content.
        let mut targets: BTreeMap<IpAddr, (&Endpoint, Vec<&Slice>)> = BTreeMap::new();
        for (endpoint, slice) in used {
            let known = targets.entry(endpoint.address);
            let (_, slices) = known.or_insert((endpoint, Vec::new()));
            slices.push(slice);
        }
        let targets: Vec<(&Endpoint, TargetPorts)> = (targets.into_values())
            .map(|(endpoint, slices)| (endpoint, target_ports(service, &slices)))
            .collect();
        let backends = targets.iter().filter_map(|(endpoint, target_ports)| {
            let backend = self.backend(endpoint)?;
            Some(Backend {
                target_ports,
                ..backend
            })
        });
        let (namespace, own_name) = namespace_and_name(id);
        Some(of_service(
            name.to_key(),
            namespace,
            own_name,
            &ports,
            backends,
        ))
    }

    /// None: nobody knows yet who it is, e.g. because the slice came before the pod.
    fn backend(&self, endpoint: &'a Endpoint) -> Option<Backend<'a>> {
        let address = endpoint.address;
        let at = self.store.pod_at(address);
        let Some(claimed) = &endpoint.pod else {
            return Some(match at {
                Some((id, _)) => self.pod(id, address)?,
                None => (self.outside.backend(address)).unwrap_or_else(|| nobody(address)),
            });
        };
        let pod = self.store.pod(claimed)?;
        if pod.host_network {
            // At its node, and nowhere else: a slice that names another address means whoever has that by now.
            return pod.addresses.contains(&address).then(|| nobody(address));
        }
        // The address may be another pod's by now: then this is not whom the slice means.
        let (id, _) = at.filter(|(id, _)| *id == claimed)?;
        self.pod(id, address)
    }

    fn pod(&self, id: &'a Id, address: IpAddr) -> Option<Backend<'a>> {
        let placement = self.placements.get(id)?;
        Some(Backend {
            workload: id,
            address,
            principals: placement.principal.as_slice(),
            ports: &placement.ports,
            target_ports: &[],
        })
    }
}

/// Service port and the endpoint's own, where they differ; 0 where it has none.
type TargetPorts = Vec<(u16, u16)>;

/// Outside the mesh, known by its address alone.
fn nobody(address: IpAddr) -> Backend<'static> {
    Backend {
        workload: "",
        address,
        principals: &[],
        ports: &[],
        target_ports: &[],
    }
}

/// Where the ports of an endpoint in these slices are others than the Service says: named ports are, pod by pod. A port
/// that no slice names is none of the endpoint's, and what is sent there anyway would reach somebody else.
fn target_ports(service: &Service, slices: &[&Slice]) -> TargetPorts {
    let ports = service.ports.iter();
    let differing = ports.filter_map(|port| {
        let mut own = slices.iter().flat_map(|slice| &slice.ports);
        let own = own.find(|own| own.name == port.name);
        let own = own.map_or(0, |own| own.number);
        (own != port.target).then_some((port.number, own))
    });
    differing.collect()
}
