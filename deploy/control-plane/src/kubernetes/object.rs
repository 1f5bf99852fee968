//! What is kept of the cluster's own objects: as little as decides what a sidecar gets. A pod as the API server sends it
//! is some ten kilobytes, and of ten thousand of them nothing but this may stay.

mod pod;
mod protocol;
mod service;
mod slice;

use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use self::pod::Pod;
pub(crate) use self::service::Service;
pub(crate) use self::slice::{Endpoint, Slice, in_use};

/// `namespace/name`; of an object of cluster scope, its name.
pub(crate) type Id = Arc<str>;

/// The id of the object with this metadata.
pub(crate) fn id(namespace: Option<&str>, name: &str) -> Id {
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}").into(),
        _ => name.into(),
    }
}

/// The two halves of an id; the namespace is empty for an object of cluster scope.
pub(crate) fn namespace_and_name(id: &str) -> (&str, &str) {
    id.split_once('/').unwrap_or(("", id))
}

/// Canonical: IPv4-mapped IPv6 is IPv4 (security.md, row 18). None: not the address of one machine.
fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    (!address.is_unspecified() && !address.is_multicast()).then_some(address)
}

/// A port as the API has it. None: 0, or not a port at all.
fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// UDP and SCTP pass a sidecar by.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}
