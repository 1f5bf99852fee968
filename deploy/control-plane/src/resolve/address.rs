//! What stands behind an address or host that an application may dial, from plain facts: whoever reads the facts, from
//! documents or from a cluster, says the same of the same.

use std::net::IpAddr;
use std::sync::Arc;

use kith_certs::SpiffeId;
use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;

use super::workload;
use crate::catalog::Encoded;
use crate::yaml::schema::Protocol;

/// One address of a workload, for clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backend<'a> {
    /// `namespace/name` of the workload.
    pub(crate) workload: &'a str,
    pub(crate) address: IpAddr,
    /// Whom clients may meet there; empty: not in the mesh, plaintext.
    pub(crate) principals: &'a [SpiffeId],
    /// As the workload was placed.
    pub(crate) ports: &'a [api::Port],
    /// Service port and this endpoint's port, where it is another than [`ServicePort::target`]. 0: it has none there.
    pub(crate) target_ports: &'a [(u16, u16)],
}

/// One port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// What clients dial.
    pub(crate) number: u16,
    pub(crate) protocol: Option<Protocol>,
    /// What endpoints listen on, unless they say otherwise.
    pub(crate) target: u16,
}

/// The `Address` of a workload's own address.
pub(crate) fn of_workload(backend: &Backend<'_>) -> Arc<Encoded> {
    let kind = api::address::Kind::Workload(endpoint(backend));
    let name = backend.address.to_string();
    Encoded::new(Kind::Address, name, &api::Address { kind: Some(kind) })
}

/// The `Address` of a service, under the address or host by which clients dial it.
pub(crate) fn of_service<'b>(
    dialled: impl Into<Arc<str>>,
    namespace: &str,
    name: &str,
    ports: &[ServicePort],
    backends: impl IntoIterator<Item = Backend<'b>>,
) -> Arc<Encoded> {
    let ports = ports.iter().map(|port| api::ServicePort {
        number: u32::from(port.number),
        protocol: workload::protocol(port.protocol).into(),
        target_port: u32::from(port.target),
    });
    let service = api::Service {
        namespace: namespace.into(),
        name: name.into(),
        ports: ports.collect(),
        endpoints: backends.into_iter().map(|it| endpoint(&it)).collect(),
    };
    let kind = api::address::Kind::Service(service);
    Encoded::new(Kind::Address, dialled, &api::Address { kind: Some(kind) })
}

/// Of a workload's addresses the one of the family that was dialled, if it has one: one endpoint a workload, else a
/// dual-stack one would get twice its share. None was dialled: a host.
pub(crate) fn of_family(addresses: &[IpAddr], dialled: Option<IpAddr>) -> Option<IpAddr> {
    let same_family =
        |address: &&IpAddr| dialled.is_some_and(|dialled| dialled.is_ipv4() == address.is_ipv4());
    let found = addresses.iter().find(same_family).or(addresses.first());
    found.copied()
}

fn endpoint(backend: &Backend<'_>) -> api::Endpoint {
    let target_ports = backend.target_ports.iter();
    api::Endpoint {
        workload: backend.workload.to_owned(),
        address: backend.address.to_string(),
        spiffe_ids: backend.principals.iter().map(ToString::to_string).collect(),
        ports: backend.ports.to_vec(),
        target_ports: target_ports
            .map(|(port, target)| (u32::from(*port), u32::from(*target)))
            .collect(),
    }
}
