//! What stands behind every address and host that an application may dial.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;

use super::select::{Index, Scope};
use super::workload::{self, Resolved};
use crate::catalog::Encoded;
use crate::problem::Problem;
use crate::yaml::schema::{Service, Workload};
use crate::yaml::{Document, Loaded, Place};

/// By address or host, as resources are named.
pub(super) fn resolve(
    loaded: &Loaded,
    index: &Index<'_>,
    workloads: &[Resolved],
    problems: &mut Vec<Problem>,
) -> HashMap<String, Arc<Encoded>> {
    let mut claims = Claims {
        by_name: HashMap::new(),
        problems,
    };
    for (document, resolved) in index.workloads.iter().zip(workloads) {
        for (i, address) in document.spec.addresses.iter().enumerate() {
            let endpoint = endpoint(document, resolved, address.0);
            let kind = api::address::Kind::Workload(endpoint);
            claims.claim(
                address.0.to_string(),
                kind,
                &document.place,
                &format!("spec.addresses[{i}]"),
            );
        }
    }
    for document in loaded.files().flat_map(|file| &file.services) {
        let scope = Scope::Namespace(&document.metadata.namespace);
        let selected = index.select(scope, &document.spec.selector.0);
        let selected: Vec<_> = selected
            .into_iter()
            .map(|at| (index.workloads[at], &workloads[at]))
            .collect();
        for (i, address) in document.spec.addresses.iter().enumerate() {
            let kind = api::address::Kind::Service(service(document, &selected, Some(address.0)));
            claims.claim(
                address.0.to_string(),
                kind,
                &document.place,
                &format!("spec.addresses[{i}]"),
            );
        }
        for (i, host) in document.spec.hosts.iter().enumerate() {
            let kind = api::address::Kind::Service(service(document, &selected, None));
            claims.claim(
                host.0.clone(),
                kind,
                &document.place,
                &format!("spec.hosts[{i}]"),
            );
        }
    }
    claims
        .by_name
        .into_iter()
        .map(|(name, (encoded, _))| (name, encoded))
        .collect()
}

/// An address with two owners would send traffic, and with it trust, to whichever was read last.
struct Claims<'a, 'p> {
    by_name: HashMap<String, (Arc<Encoded>, &'a Place)>,
    problems: &'p mut Vec<Problem>,
}

impl<'a> Claims<'a, '_> {
    fn claim(&mut self, name: String, kind: api::address::Kind, place: &'a Place, field: &str) {
        if let Some((_, first)) = self.by_name.get(&name) {
            let message = format!(
                "`{name}` belongs already to the document at {}",
                first.describe()
            );
            self.problems.push(place.problem(field, message));
            return;
        }
        let encoded = Encoded::new(
            Kind::Address,
            name.clone(),
            &api::Address { kind: Some(kind) },
        );
        self.by_name.insert(name, (encoded, place));
    }
}

fn service(
    document: &Document<Service>,
    selected: &[(&Document<Workload>, &Resolved)],
    dialled: Option<IpAddr>,
) -> api::Service {
    let ports = document.spec.ports.iter().map(|port| api::ServicePort {
        number: u32::from(port.port.get()),
        protocol: workload::protocol(port.protocol).into(),
        target_port: u32::from(port.target_port.unwrap_or(port.port).get()),
    });
    let endpoints = selected.iter().filter_map(|(document, resolved)| {
        // One endpoint a workload, else a dual-stack one would get twice its share. Of the family that
        // was dialled, if it has one.
        let addresses = &document.spec.addresses;
        let same_family =
            |address: IpAddr| dialled.is_some_and(|dialled| dialled.is_ipv4() == address.is_ipv4());
        let address = addresses
            .iter()
            .find(|a| same_family(a.0))
            .or(addresses.first())?;
        Some(endpoint(document, resolved, address.0))
    });
    api::Service {
        namespace: document.metadata.namespace.clone(),
        name: document.metadata.name.clone(),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    }
}

fn endpoint(document: &Document<Workload>, resolved: &Resolved, address: IpAddr) -> api::Endpoint {
    api::Endpoint {
        workload: document.id(),
        address: address.to_string(),
        spiffe_ids: resolved.principal.iter().map(ToString::to_string).collect(),
        ports: resolved.ports.clone(),
        target_ports: Default::default(),
    }
}
