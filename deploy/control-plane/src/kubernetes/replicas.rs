//! What the sidecars of the other replicas enforce, asked by the replica that writes status.
//!
//! One stream to each replica, kept: everything at first, then what changes. A replica whose stream is not up has said
//! nothing, whatever it said before.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kith_certs::tls::{client_config, peer_svid, server_name};
use kith_certs::{IdentitySource, PeerSvid, Usage};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tracing::{info, warn};

use super::Settings;
use super::object::Slice;
use crate::problem::printable;
use crate::serve::identity_lost;
use crate::serve::replica::api::replica_client::ReplicaClient;
use crate::serve::replica::api::{AcknowledgementsRequest, AcknowledgementsResponse};
use crate::serve::replica::{ByNode, Said};

/// From dialling to the first complete answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// A replica that vanished without a word is noticed after twice this.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Between attempts: doubling from the one to the other.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// More nodes than any mesh has: a replica that says more is broken, and must not fill this one's memory.
const MOST_NODES: usize = 1_000_000;
/// Of what another replica says went wrong, in bytes.
const MOST_WORDS: usize = 300;

/// The Service of this control plane in its namespace, and its port for sidecars.
const SERVICE: &str = "kith-control";
const PORT: &str = "grpc-xds";

/// Which of the replicas this one is.
#[derive(Debug)]
pub(super) struct Own {
    /// `namespace/name`, as everywhere.
    service: String,
    pod: Option<String>,
    address: Option<IpAddr>,
}

impl Own {
    pub(super) fn new(settings: &Settings) -> Self {
        let named = |name: &str| format!("{}/{name}", settings.namespace);
        Self {
            service: named(SERVICE),
            pod: settings.pod_name.as_deref().map(named),
            address: settings.pod_ip.map(|address| address.to_canonical()),
        }
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// Where the other replicas listen, one address each, ready or not: sidecars stay connected to one that is not.
    pub(super) fn others<'a>(
        &self,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> BTreeSet<SocketAddr> {
        // With two families of addresses a pod is in two slices.
        let mut pods: BTreeMap<&str, SocketAddr> = BTreeMap::new();
        let mut others = BTreeSet::new();
        for slice in slices {
            let port = slice.ports.iter().find(|port| &*port.name == PORT);
            let Some(port) = port else { continue };
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, port.number);
                let pod = endpoint.pod.as_deref();
                if pod.is_some() && pod == self.pod.as_deref()
                    || Some(endpoint.address) == self.address
                {
                    continue;
                }
                match pod {
                    Some(pod) => {
                        let known = pods.entry(pod).or_insert(address);
                        *known = address.min(*known);
                    }
                    None => _ = others.insert(address),
                }
            }
        }
        others.extend(pods.into_values());
        others
    }
}

/// What one replica last said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// No answer (yet, or any more), and why.
    Silent(String),
    Says(Arc<ByNode>),
}

/// By the address that was asked.
pub(crate) type Replies = BTreeMap<SocketAddr, Reply>;

/// Asks every address of `addresses`, and keeps what they say in `replies`, until dropped.
pub(crate) async fn follow(
    identity: IdentitySource,
    mut addresses: watch::Receiver<BTreeSet<SocketAddr>>,
    replies: watch::Sender<Replies>,
) {
    let mut asking: HashMap<SocketAddr, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = addresses.borrow_and_update().clone();
        asking.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                task.abort();
            }
            keep
        });
        replies.send_modify(|replies| {
            replies.retain(|address, _| wanted.contains(address));
            for address in &wanted {
                let unknown = || Reply::Silent("not asked yet".into());
                replies.entry(*address).or_insert_with(unknown);
            }
        });
        for address in wanted {
            asking
                .entry(address)
                .or_insert_with(|| tasks.spawn(ask(address, identity.clone(), replies.clone())));
        }
        while tasks.try_join_next().is_some() {}
        if addresses.changed().await.is_err() {
            // Nobody says any more who there is: those who are known go on being asked.
            std::future::pending::<()>().await;
        }
    }
}

/// Never ends by itself.
async fn ask(address: SocketAddr, identity: IdentitySource, replies: watch::Sender<Replies>) {
    let mut failures = 0;
    loop {
        let mut answered = false;
        let end = listen(address, &identity, |nodes| {
            if !answered {
                info!(%address, sidecars = nodes.len(), "another replica answers");
            }
            answered = true;
            set(&replies, address, Reply::Says(Arc::new(nodes.clone())));
        });
        let reason = printable(&end.await, MOST_WORDS);
        failures = if answered { 0 } else { failures + 1 };
        let silent = Reply::Silent(reason);
        if replies.borrow().get(&address) != Some(&silent) {
            if let Reply::Silent(reason) = &silent {
                warn!(%address, reason, "another replica does not say what its sidecars enforce");
            }
            set(&replies, address, silent);
        }
        let (first, most) = RETRY;
        let wait = first.saturating_mul(1 << failures.min(10)).min(most);
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// Only of addresses that are still wanted: a task that is being ended must not bring its own back.
fn set(replies: &watch::Sender<Replies>, address: SocketAddr, reply: Reply) {
    replies.send_if_modified(|replies| match replies.get_mut(&address) {
        Some(known) => {
            *known = reply;
            true
        }
        None => false,
    });
}

/// One stream, to its end; why it ended.
async fn listen(
    address: SocketAddr,
    identity: &IdentitySource,
    mut said: impl FnMut(&ByNode),
) -> String {
    let mut nodes = ByNode::new();
    let opened = tokio::time::timeout(DEADLINE, async {
        let (stream, svid) = connect(address, identity)
            .await
            .map_err(|error| error.to_string())?;
        let mut responses = open(stream).await?;
        while !take(&mut nodes, next(&mut responses).await?)? {}
        Ok::<_, String>((responses, svid))
    });
    let (mut responses, svid) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return error,
        Err(_) => return format!("no answer in {} s", DEADLINE.as_secs()),
    };
    said(&nodes);
    let followed = async {
        loop {
            if take(&mut nodes, next(&mut responses).await?)? {
                said(&nodes);
            }
        }
    };
    let followed: Result<std::convert::Infallible, String> = tokio::select! {
        followed = followed => followed,
        lost = identity_lost(&svid, identity) => Err(lost),
    };
    match followed {
        Err(reason) => reason,
        Ok(never) => match never {},
    }
}

/// mTLS to a replica, which is one because it has the very identity that this one has.
async fn connect(
    address: SocketAddr,
    identity: &IdentitySource,
) -> io::Result<(TlsStream<TcpStream>, PeerSvid)> {
    let own = identity.current();
    let own = own.ok_or_else(|| io::Error::other("this replica has no SVID"))?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let tls = TlsConnector::from(client_config(identity, &[b"h2"]));
    let stream = tls.connect(server_name(), stream).await?;
    let svid = peer_svid(stream.get_ref().1, Usage::Server).map_err(io::Error::other)?;
    if svid.id() != own.principal() {
        let other = format!(
            "{} answers there, which is not this control plane",
            svid.id()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, other));
    }
    Ok((stream, svid))
}

async fn open(stream: TlsStream<TcpStream>) -> Result<Streaming<AcknowledgementsResponse>, String> {
    let mut stream = Some(TokioIo::new(stream));
    // Once: a connection that is over is not made again behind our back, without the check above.
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_static("http://kith-control")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| {
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            // Writing to a String cannot fail.
            let _ = write!(words, ": {error}");
            source = error.source();
        }
        words
    })?;
    let answer = ReplicaClient::new(channel)
        .acknowledgements(AcknowledgementsRequest {})
        .await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| words(&status))
}

async fn next(
    responses: &mut Streaming<AcknowledgementsResponse>,
) -> Result<AcknowledgementsResponse, String> {
    match responses.message().await {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err("it ended the stream".into()),
        Err(status) => Err(words(&status)),
    }
}

fn words(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Adds a message to what is known; whether that is a consistent state now.
fn take(nodes: &mut ByNode, message: AcknowledgementsResponse) -> Result<bool, String> {
    for node in &message.gone {
        nodes.remove(node.as_str());
    }
    for one in message.changed {
        let said = Said {
            revision: one.revision,
            revocations: one.revocations,
            refused_configuration: one.refused_configuration,
            refused_revocations: one.refused_revocations,
        };
        nodes.insert(one.node.into(), said);
    }
    if nodes.len() > MOST_NODES {
        return Err(format!("it speaks of more than {MOST_NODES} sidecars"));
    }
    Ok(message.complete)
}
