//! What stands behind an address that the application dialled, and where a connection to it may go.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kith_policy::Principal;
use kith_xds_client::{Lookup, OnDemand};

use crate::snapshot::{Egress, Port, Protocol};

/// A Service or a Workload, as an `Address` resource describes it.
#[derive(Debug)]
pub enum Destination {
    Service {
        name: Arc<str>,
        ports: HashMap<u16, DestinationPort>,
    },
    /// A workload dialled by its own address.
    Workload(Endpoint),
}

#[derive(Debug)]
pub struct DestinationPort {
    pub protocol: Option<Protocol>,
    pub targets: Arc<[Arc<Target>]>,
}

#[derive(Debug)]
pub struct Endpoint {
    pub workload: Arc<str>,
    pub ip: IpAddr,
    /// Principals that this endpoint may prove; empty: it is not in the mesh.
    pub principals: Arc<[Principal]>,
    pub ports: HashMap<u16, Port>,
}

/// One address to connect to.
#[derive(Debug)]
pub struct Target {
    pub workload: Arc<str>,
    pub address: SocketAddr,
    /// Principals that the server may prove. Empty: not in the mesh, plaintext.
    pub principals: Arc<[Principal]>,
}

impl Target {
    pub fn in_mesh(&self) -> bool {
        !self.principals.is_empty()
    }
}

/// An address that the application dialled, and the name of the resource that describes it.
#[derive(Clone, Debug)]
pub(crate) struct Dialled {
    pub(crate) address: SocketAddr,
    name: String,
}

impl Dialled {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Dialled {
            address,
            name: address.ip().to_string(),
        }
    }
}

/// Where the bytes of one outbound connection may go.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// `None`: not declared.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) service: Option<Arc<str>>,
    pub(crate) targets: Arc<[Arc<Target>]>,
}

/// Why there is nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// The control plane knows no such address and egress is refused.
    EgressRefused,
    /// The service, by name, does not offer this port.
    NoSuchPort(Arc<str>),
    /// The service, by name, has no endpoint at the moment.
    NoEndpoint(Arc<str>),
    /// The control plane did not answer, so that nobody can say whether this destination is in the mesh.
    Unknown,
}

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unresolved::EgressRefused => "the mesh does not know this address and MeshConfig refuses egress; add a Service or Workload, or set egress: ALLOW",
            Unresolved::NoSuchPort(_) => "the service does not offer this port; add it to its ports",
            Unresolved::NoEndpoint(_) => "the service has no endpoint; does its selector match a workload?",
            Unresolved::Unknown => "the control plane did not say what this address is, and the mesh is never left on a guess; is it reachable?",
        })
    }
}

pub(crate) async fn resolve(
    destinations: &OnDemand<Destination>,
    dialled: &Dialled,
    egress: Egress,
) -> Result<Resolved, Unresolved> {
    let lookup = match destinations.peek(&dialled.name) {
        Some(known) => known,
        None => destinations.get(&dialled.name).await,
    };
    let dialled = dialled.address;
    match lookup {
        Lookup::Found(destination) => destination.at(dialled.port()),
        Lookup::Absent if egress == Egress::Allow => Ok(Resolved {
            protocol: None,
            service: None,
            targets: Arc::new([Arc::new(Target {
                workload: Arc::from(""),
                address: dialled,
                principals: Arc::from([]),
            })]),
        }),
        Lookup::Absent => Err(Unresolved::EgressRefused),
        Lookup::Unavailable => Err(Unresolved::Unknown),
    }
}

impl Destination {
    fn at(&self, port: u16) -> Result<Resolved, Unresolved> {
        match self {
            Destination::Service { name, ports } => {
                let at = ports
                    .get(&port)
                    .ok_or_else(|| Unresolved::NoSuchPort(Arc::clone(name)))?;
                if at.targets.is_empty() {
                    return Err(Unresolved::NoEndpoint(Arc::clone(name)));
                }
                Ok(Resolved {
                    protocol: at.protocol,
                    service: Some(Arc::clone(name)),
                    targets: Arc::clone(&at.targets),
                })
            }
            Destination::Workload(endpoint) => Ok(Resolved {
                protocol: endpoint.ports.get(&port).and_then(|port| port.protocol),
                service: None,
                targets: Arc::new([Arc::new(Target {
                    workload: Arc::clone(&endpoint.workload),
                    address: SocketAddr::new(endpoint.ip, port),
                    principals: Arc::clone(&endpoint.principals),
                })]),
            }),
        }
    }
}
