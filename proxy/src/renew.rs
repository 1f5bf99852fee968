//! Renewal of leases: one more handshake between two proxies, with fresh SVIDs, for all connections between
//! them. Not a byte of the connections themselves is touched.
//!
//! On a connection whose ALPN is `kith-renew` the client sends one request and the server one answer:
//!
//! ```text
//! request:  version (1 byte, 1)  count (2 bytes, big-endian)  count × hop id (16 bytes)
//! answer:   count (2 bytes, big-endian)  count × hop id: those whose lease was extended
//! ```
//!
//! A hop id is exporter output of the connection in question: only its two ends know it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith_certs::TrustSnapshot;
use kith_policy::{Principal, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authenticate::{Carries, Peer};
use crate::authorize::revoked;
use crate::connections::{HopId, Live};
use crate::forward::connect::connect;
use crate::lease::Lease;
use crate::record::Direction;
use crate::stream::{Socket, Stream};
use crate::worker::{Command, Worker};

const VERSION: u8 = 1;

/// Connections renewed by one exchange; the rest wait for the next.
const MOST: usize = 4096;

const EXCHANGE: Duration = Duration::from_secs(10);

/// The rest between two attempts at the same server.
const AGAIN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);

/// The same when a server could not be told of our new SVID, and when its own is in doubt.
const SOON: Duration = Duration::from_secs(5);
const HURRY: Duration = Duration::from_millis(200);

/// A client proved anew who it is.
#[derive(Clone)]
pub(crate) struct Renewal {
    peer: Peer,
    lease: Lease,
    hops: Arc<HashSet<HopId>>,
}

/// A connection whose lease was extended.
pub(crate) type Renewed = HopId;

/// The servers that a renewal is under way with, or was a moment ago.
#[derive(Default)]
pub(crate) struct Pending(RefCell<HashMap<SocketAddr, Instant>>);

/// The server's side of the exchange. Errors are the client's.
pub(crate) async fn serve(
    worker: &Worker,
    stream: &mut Stream,
    peer: &Rc<Peer>,
    own_expiry: SystemTime,
) -> io::Result<usize> {
    let exchange = async {
        let hops = read_request(stream).await?;
        let renewal = Renewal {
            peer: Peer::clone(peer),
            lease: Lease::new(SystemTime::now(), own_expiry, peer.svid().not_after()),
            hops: Arc::new(hops),
        };
        // The connections may live on any worker.
        let renewed: Vec<Renewed> = worker
            .workers
            .ask(|answer| Command::Renew(renewal.clone(), answer))
            .await
            .into_iter()
            .flatten()
            .collect();
        write_hops(stream, &[], &renewed).await?;
        stream.shutdown().await?;
        Ok(renewed.len())
    };
    tokio::time::timeout(EXCHANGE, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Extends what this worker has of the named connections: the same principal, still allowed.
pub(crate) fn extend(worker: &Worker, renewal: &Renewal) -> Vec<Renewed> {
    let mut renewed = Vec::new();
    let snapshot = worker.shared.snapshot();
    let (Some(snapshot), Ok(())) = (&*snapshot, vouch(worker, &renewal.peer)) else {
        return renewed;
    };
    let peer = Rc::new(renewal.peer.clone());
    for live in worker.registry.all() {
        if live.direction != Direction::Inbound || live.signal.is_closing() {
            continue;
        }
        let named = live.mesh.borrow().as_ref().and_then(|mesh| {
            let same = mesh.peer.principal() == peer.principal();
            (same && renewal.hops.contains(&mesh.hop)).then_some(mesh.hop)
        });
        if let Some(hop) = named
            && live.still_allowed(snapshot).is_ok()
        {
            live.renew(&peer, renewal.lease);
            renewed.push(hop);
        }
    }
    renewed
}

/// May this SVID back anything from now on? The handshake that showed it was a moment ago, and what is revoked by policy
/// no handshake looks at.
fn vouch(worker: &Worker, peer: &Peer) -> Result<(), Reason> {
    let Some(trust) = worker.shared.identity.current() else {
        return Err(Reason::NoConfiguration);
    };
    peer.still_trusted(&trust)?;
    let snapshot = worker.shared.snapshot();
    match snapshot
        .as_ref()
        .and_then(|snapshot| revoked(snapshot, peer))
    {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}

/// After a rotation: everything that is in use, until the servers have heard of it.
pub(crate) fn start_all(worker: &Rc<Worker>) {
    for live in worker.registry.all() {
        if live.direction == Direction::Outbound {
            live.outdate();
        }
    }
    start_doubted(worker);
}

/// At once, and not when it would be time for the next attempt: servers have a moment to show another SVID.
pub(crate) fn start_doubted(worker: &Rc<Worker>) {
    worker.renewals.0.borrow_mut().clear();
    start_due(worker, SystemTime::now());
}

/// What a server has to be told or asked. By the clock: what has used up half of its lease, because the server's SVID
/// ends before our own rotates.
pub(crate) fn start_due(worker: &Rc<Worker>, now: SystemTime) {
    let mut by_server: HashMap<SocketAddr, Batch> = HashMap::new();
    for live in worker.registry.all() {
        if live.direction != Direction::Outbound || live.signal.is_closing() || !live.is_in_use() {
            continue;
        }
        if let Some(mesh) = &*live.mesh.borrow()
            && mesh.kith
            && (mesh.lease.wants_renewal(now) || live.is_outdated() || live.is_doubted())
        {
            let batch = by_server.entry(mesh.server).or_insert_with(|| Batch {
                principal: mesh.peer.principal().clone(),
                connections: Vec::new(),
            });
            if batch.connections.len() < MOST && batch.principal == *mesh.peer.principal() {
                batch.connections.push((mesh.hop, Rc::clone(&live)));
            }
        }
    }
    let now = Instant::now();
    let mut pending = worker.renewals.0.borrow_mut();
    pending.retain(|_, until| *until > now);
    for (server, batch) in by_server {
        if pending.contains_key(&server) {
            continue;
        }
        pending.insert(server, now + EXCHANGE);
        tokio::task::spawn_local(attempt(Rc::clone(worker), server, batch));
    }
}

async fn attempt(worker: Rc<Worker>, server: SocketAddr, batch: Batch) {
    let count = batch.connections.len();
    let shortest = batch.shortest();
    let outcome = renew(&worker, server, &batch).await;
    let any = |is: fn(&Live) -> bool| batch.connections.iter().any(|(_, live)| is(live));
    match &outcome {
        Ok(renewed) => tracing::debug!(%server, renewed, of = count, "leases renewed"),
        Err(error) if any(Live::is_doubted) => tracing::info!(
            %server, connections = count, %error,
            "nobody vouches for a server's SVID any more, and it did not show another yet"
        ),
        Err(error) => tracing::warn!(
            %server, connections = count, %error,
            "leases could not be renewed; the connections end when they run out, unless a later attempt succeeds"
        ),
    }
    let mut rest = rest(shortest, SystemTime::now());
    if any(Live::is_doubted) {
        rest = HURRY;
    } else if outcome.is_err() && any(Live::is_outdated) {
        rest = rest.min(SOON);
    }
    let again = Instant::now() + rest;
    worker.renewals.0.borrow_mut().insert(server, again);
}

/// Connections to one server.
struct Batch {
    principal: Principal,
    connections: Vec<(HopId, Rc<Live>)>,
}

impl Batch {
    fn shortest(&self) -> Option<SystemTime> {
        let until = |live: &Rc<Live>| live.mesh.borrow().as_ref().map(|mesh| mesh.lease.until());
        self.connections
            .iter()
            .filter_map(|(_, live)| until(live))
            .min()
    }
}

/// An attempt that gained nothing, because neither SVID has rotated yet, is not worth one a second; but the nearer
/// the end, the more often.
fn rest(until: Option<SystemTime>, now: SystemTime) -> Duration {
    let left = until
        .and_then(|until| until.duration_since(now).ok())
        .unwrap_or_default();
    (left / 16).clamp(AGAIN, SELDOM)
}

async fn renew(worker: &Worker, server: SocketAddr, batch: &Batch) -> io::Result<usize> {
    let exchange = async {
        let tcp = connect(server, worker.mark()).await?;
        let expected = std::slice::from_ref(&batch.principal);
        let (mut stream, authenticated) = worker
            .tls
            .connect(Socket::new(tcp), Carries::Renewal, expected)
            .await
            .map_err(|problem| io::Error::other(problem.message))?;
        // What is revoked by now must not back anything; what it backed so far is closed by the registry.
        let vouched = || {
            let peer = &authenticated.peer;
            vouch(worker, peer).map_err(|reason| {
                let serial = peer.svid().serial();
                io::Error::other(format!("the server's SVID, serial {serial}: {reason}"))
            })
        };
        vouched()?;
        let hops: Vec<HopId> = batch.connections.iter().map(|(hop, _)| *hop).collect();
        write_hops(&mut stream, &[VERSION], &hops).await?;
        let renewed: HashSet<HopId> = read_hops(&mut stream).await?;
        vouched()?;
        let own_expiry = authenticated.own.not_after();
        let lease = Lease::new(
            SystemTime::now(),
            own_expiry,
            authenticated.peer.svid().not_after(),
        );
        let is_ours = |trust: Arc<TrustSnapshot>| trust.serial() == authenticated.own.serial();
        let current = worker.shared.identity.current().is_some_and(is_ours);
        let mut count = 0;
        for (hop, live) in &batch.connections {
            if current {
                live.told();
            }
            if renewed.contains(hop) {
                live.renew(&authenticated.peer, lease);
                count += 1;
            }
        }
        Ok(count)
    };
    tokio::time::timeout(EXCHANGE, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn read_request(stream: &mut Stream) -> io::Result<HashSet<HopId>> {
    let version = stream.read_u8().await?;
    if version != VERSION {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("renewal version {version} is unknown"),
        ));
    }
    read_hops(stream).await
}

async fn read_hops(stream: &mut Stream) -> io::Result<HashSet<HopId>> {
    let count = usize::from(stream.read_u16().await?);
    if count > MOST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{count} hop ids; the most is {MOST}"),
        ));
    }
    let mut hops = HashSet::with_capacity(count);
    for _ in 0..count {
        let mut hop = HopId::default();
        stream.read_exact(&mut hop).await?;
        hops.insert(hop);
    }
    Ok(hops)
}

async fn write_hops(stream: &mut Stream, before: &[u8], hops: &[HopId]) -> io::Result<()> {
    let count = u16::try_from(hops.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(before.len() + 2 + hops.len() * 16);
    frame.extend_from_slice(before);
    frame.extend_from_slice(&count.to_be_bytes());
    for hop in hops {
        frame.extend_from_slice(hop);
    }
    stream.write_all_bytes(&frame).await
}
