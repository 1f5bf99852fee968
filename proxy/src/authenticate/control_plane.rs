//! The stream to the control plane.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kith_certs::Usage;
use kith_policy::Principal;
use kith_xds_client::AsyncIo;
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use super::{peer_of, within_deadline};
use crate::forward::connect::connect;

/// How long one of several addresses of the control plane may take, TCP and TLS, before the next is tried.
const ONE_ADDRESS: Duration = Duration::from_secs(3);

/// How long its name may take to be looked up, which must leave time for an address.
const LOOKUP: Duration = Duration::from_secs(4);

/// A stream to the control plane: our SVID, its SVID, and the one name that may answer. Its name is looked up each time,
/// and any of its addresses will do: replicas come and go.
pub(crate) async fn control_plane(
    config: Arc<ClientConfig>,
    authority: &str,
    expected: &Principal,
    mark: Option<u32>,
) -> io::Result<Box<dyn AsyncIo>> {
    let mut addresses = look_up(authority).await.map_err(|why| {
        let advice =
            "is KITH_XDS_ADDRESS right, and does this pod's DNS (/etc/resolv.conf) answer?";
        io::Error::other(format!("{authority} has no address: {why}; {advice}"))
    })?;
    // Whoever is first must not be so always: one that is frozen would use up the time of the others.
    fastrand::shuffle(&mut addresses);
    let mut failures = Vec::new();
    for &address in &addresses {
        let attempt = control_plane_at(&config, address, authority, expected, mark);
        let attempted = if addresses.len() > 1 {
            let late = || format!("no answer within {} s", ONE_ADDRESS.as_secs());
            let limited = tokio::time::timeout(ONE_ADDRESS, attempt);
            limited.await.unwrap_or_else(|_| Err(late()))
        } else {
            attempt.await
        };
        match attempted {
            Ok(stream) => return Ok(stream),
            Err(failure) if addresses.len() == 1 => failures.push(failure),
            Err(failure) => failures.push(format!("{address}: {failure}")),
        }
    }
    Err(io::Error::other(failures.join("; ")))
}

async fn look_up(authority: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host(authority)).await;
    let found = found.map_err(|_| format!("no answer within {} s", LOOKUP.as_secs()))?;
    let addresses: Vec<_> = found.map_err(|error| error.to_string())?.collect();
    if addresses.is_empty() {
        return Err("the name has none".into());
    }
    Ok(addresses)
}

async fn control_plane_at(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    authority: &str,
    expected: &Principal,
    mark: Option<u32>,
) -> Result<Box<dyn AsyncIo>, String> {
    let tcp = connect(address, mark)
        .await
        .map_err(|error| error.to_string())?;
    let handshake =
        TlsConnector::from(Arc::clone(config)).connect(kith_certs::tls::server_name(), tcp);
    let stream = within_deadline(handshake)
        .await
        .map_err(|problem| problem.message)?;
    let peer = peer_of(stream.get_ref().1, Usage::Server).map_err(|problem| problem.message)?;
    if peer.principal() != expected {
        return Err(format!(
            "{authority} is {}, but KITH_XDS_SPIFFE_ID says {}; one of the two is wrong",
            peer.principal().as_str(),
            expected.as_str()
        ));
    }
    Ok(Box::new(stream))
}
