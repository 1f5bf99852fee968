//! Connections from the application, stage by stage.
//!
//! accept ─► resolve ─► detect ─► route ─► forward (authenticates the server) ─► record

mod http1;
mod http2;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use kith_policy::Reason;

use crate::accept::Accepted;
use crate::authenticate::Carries;
use crate::authorize::{self, Permit};
use crate::connections::{Mesh, Registered};
use crate::detect;
use crate::forward::balance::Load;
use crate::forward::connect::{CONNECT, CONNECT_ONE_OF_MANY, connect_within};
use crate::forward::pool::UpstreamMesh;
use crate::forward::tcp;
use crate::forward::unreachable::Unreachable;
use crate::inbound::configuration;
use crate::lease::Lease;
use crate::record::{ClosedBy, ConnectionFacts, Direction, Hop, HopFacts, Kind, Record};
use crate::resolve::{Dialled, Resolved, Target, Unresolved, resolve};
use crate::signal::still_fine;
use crate::snapshot::Protocol;
use crate::stream::{Socket, Stream};
use crate::telemetry::metrics::{self, Side};
use crate::worker::Worker;

/// Endpoints tried for one request or connection. One that can't be connected to is given up for another, and one that
/// surely did nothing with a request ([`Again`](crate::forward::again::Again)).
const ATTEMPTS: u32 = 3;

const NO_ENDPOINT: &str = "the service has no endpoint";

struct Outbound {
    worker: Rc<Worker>,
    stream: Stream,
    live: Registered,
    facts: Rc<ConnectionFacts>,
    dialled: Dialled,
    first: BytesMut,
}

/// What holds at this moment: looked up for each request, because a connection of the application may outlive any
/// endpoint, and because whether a destination is in the mesh must never be remembered.
struct Route {
    resolved: Result<Resolved, Nowhere>,
    revision: Arc<str>,
}

/// Why there is no route, and the service that was meant as far as it is known.
struct Nowhere {
    reason: Reason,
    service: Option<Arc<str>>,
}

impl Nowhere {
    fn record(&self, record: &mut Record) {
        record.service = self.service.clone();
        record.refuse(self.reason);
    }
}

impl From<Reason> for Nowhere {
    fn from(reason: Reason) -> Self {
        Nowhere {
            reason,
            service: None,
        }
    }
}

async fn route(worker: &Worker, dialled: &Dialled) -> Route {
    let Some(snapshot) = configuration(worker).await else {
        return Route {
            resolved: Err(Reason::NoConfiguration.into()),
            revision: Arc::from(""),
        };
    };
    let resolved = resolve(
        &worker.shared.destinations,
        dialled,
        snapshot.workload().egress,
    )
    .await;
    let resolved = resolved.map_err(|problem| {
        tracing::debug!(destination = %dialled.address, %problem, "there is no route for an outbound connection");
        problem.nowhere()
    });
    Route {
        resolved,
        revision: snapshot.revision_shared(),
    }
}

pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        tcp,
        source,
        destination,
    } = accepted;
    let facts = ConnectionFacts::new(&worker.sink, Direction::Outbound, source, destination);
    let mut record = Record::open(Kind::Connection, &facts);
    let live = worker
        .registry
        .open(Direction::Outbound, source, destination);
    let _open = metrics::OpenConnection::new(Direction::Outbound);
    let socket = Socket::new(tcp);

    let dialled = Dialled::new(destination);
    let Route { resolved, revision } = route(&worker, &dialled).await;
    record.revision = Some(revision).filter(|revision| !revision.is_empty());
    let mut stream = Stream::Plain(socket);
    let declared = resolved
        .as_ref()
        .ok()
        .and_then(|resolved| resolved.protocol);
    let detected = match detect::detect(&mut stream, destination.port(), declared).await {
        Ok(detected) => detected,
        Err(error) => {
            tracing::debug!(%source, %error, "the application left before it said anything");
            record.closed_by = Some(ClosedBy::Client);
            return;
        }
    };
    metrics::detected(detected.protocol.as_str(), detected.how.as_str());
    live.protocol.set(Some(detected.protocol));
    let connection = Outbound {
        worker,
        stream,
        live,
        facts,
        dialled,
        first: detected.first,
    };
    match detected.protocol {
        Protocol::Http1 => {
            record.carries_requests();
            Box::pin(http1::serve(connection)).await;
        }
        Protocol::Http2 => {
            record.carries_requests();
            Box::pin(http2::serve(connection)).await;
        }
        Protocol::Tcp | Protocol::Tls => Box::pin(connection.opaque(record)).await,
    }
}

impl Unresolved {
    fn nowhere(self) -> Nowhere {
        let (reason, service) = match self {
            Unresolved::EgressRefused => (Reason::NoRoute, None),
            Unresolved::NoSuchPort(service) => (Reason::NoRoute, Some(service)),
            Unresolved::NoEndpoint(service) => (Reason::ServerUnreachable, Some(service)),
            Unresolved::Unknown => (Reason::NoConfiguration, None),
        };
        Nowhere { reason, service }
    }
}

/// A connection to a server, authenticated when the server is in the mesh.
struct Established {
    stream: Stream,
    target: Arc<Target>,
    mesh: Option<(Mesh, UpstreamMesh)>,
    /// The server is this very pod.
    itself: bool,
    load: Load,
}

impl Outbound {
    async fn opaque(mut self, mut record: Record) {
        let Route { resolved, revision } = route(&self.worker, &self.dialled).await;
        record.revision = Some(Arc::clone(&revision)).filter(|revision| !revision.is_empty());
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(nowhere) => {
                nowhere.record(&mut record);
                return self.stream.reset_on_close();
            }
        };
        record.service = resolved.service.clone();
        let started = Instant::now();
        let mut failed = Vec::new();
        let connecting = Box::pin(establish(
            &self.worker,
            &resolved,
            Protocol::Tcp,
            &mut failed,
            &mut record,
        ));
        let mut server = match self
            .live
            .signal
            .unless_closed(&still_fine, connecting)
            .await
        {
            Ok(Ok(server)) => server,
            Ok(Err(problem)) => {
                tracing::debug!(destination = %self.live.destination, message = problem.message, "no server could be reached");
                problem.record(&mut record);
                return self.stream.reset_on_close();
            }
            Err(closing) => {
                closing.record(&mut record);
                return self.stream.reset_on_close();
            }
        };
        record.upstream = Some(started.elapsed());
        let permit = Permit::outbound(&revision);
        record.decide(permit.decision());
        match server.mesh.take() {
            Some((mesh, upstream)) => {
                record.travels(&upstream.rendered, 0);
                *self.live.mesh.borrow_mut() = Some(mesh);
            }
            None => record.destination = Some(server.target.address),
        }
        let (client, server_end) = (
            (&mut self.stream, self.first),
            (&mut server.stream, BytesMut::new()),
        );
        let relayed = tcp::relay(&permit, &self.live, client, server_end, &still_fine).await;
        record.renewed = self.live.renewed();
        relayed.record(&mut record);
        drop(server.load);
    }
}

impl Resolved {
    /// There is an endpoint that has not failed yet.
    fn has_other_than(&self, failed: &[SocketAddr]) -> bool {
        (self.targets.iter()).any(|target| !failed.contains(&target.address))
    }

    /// How long a connection to one may take that is not to be the last.
    fn patience(&self, attempts: u32) -> Duration {
        if self.targets.len() > 1 && attempts < ATTEMPTS {
            CONNECT_ONE_OF_MANY
        } else {
            CONNECT
        }
    }
}

/// Connects to one of the targets, trying others when one can't be reached. Never plaintext to the mesh.
async fn establish(
    worker: &Worker,
    resolved: &Resolved,
    protocol: Protocol,
    failed: &mut Vec<SocketAddr>,
    record: &mut Record,
) -> Result<Established, Unreachable> {
    let mut earlier = None;
    loop {
        record.attempts += 1;
        let Some(target) = worker.loads.pick(&resolved.targets, failed) else {
            return Err(Unreachable::new(Reason::ServerUnreachable, NO_ENDPOINT));
        };
        let patience = resolved.patience(record.attempts);
        match establish_one(worker, target, protocol, patience).await {
            Ok(established) => return Ok(established),
            Err(problem) => {
                tracing::debug!(endpoint = %target.address, message = problem.message, "an endpoint was given up");
                failed.push(target.address);
                worker.loads.failed(target.address, Instant::now());
                let problem = problem.or_graver(earlier.take());
                if record.attempts >= ATTEMPTS || !resolved.has_other_than(failed) {
                    return Err(problem);
                }
                earlier = Some(problem);
            }
        }
    }
}

async fn establish_one(
    worker: &Worker,
    target: &Arc<Target>,
    protocol: Protocol,
    patience: Duration,
) -> Result<Established, Unreachable> {
    let load = worker.loads.begin(target.address);
    let tcp = connect_within(patience, target.address, worker.mark())
        .await
        .map_err(|error| Unreachable::new(Reason::ServerUnreachable, error.to_string()))?;
    let socket = Socket::new(tcp);
    // The pod calling itself: capture leaves traffic inside the pod alone, so that no sidecar would answer, and
    // nothing leaves the pod.
    let itself = worker
        .shared
        .snapshot()
        .as_ref()
        .is_some_and(|snapshot| snapshot.is_own_address(target.address.ip()));
    if itself || !target.in_mesh() {
        return Ok(Established {
            stream: Stream::Plain(socket),
            target: Arc::clone(target),
            mesh: None,
            itself,
            load,
        });
    }
    let connected = worker
        .tls
        .connect(socket, Carries::Bytes(protocol), &target.principals)
        .await;
    let (stream, authenticated) = connected.map_err(|problem| {
        let reason = match problem.reason {
            Reason::PeerUnauthenticated => Reason::ServerUnauthenticated,
            other => other,
        };
        metrics::handshake_failed(Side::Client, reason.as_str());
        Unreachable::new(reason, problem.message)
    })?;
    metrics::handshake(Side::Client, authenticated.took);
    let (own, peer) = (authenticated.own, authenticated.peer);
    let rendered = Hop::new(&HopFacts {
        id: &authenticated.hop,
        source_principal: own.principal().as_str(),
        source_serial: own.serial(),
        source_expires: Some(own.not_after()),
        destination_principal: peer.principal().as_str(),
        destination_address: Some(target.address),
        tls: authenticated.facts,
    });
    let snapshot = worker.shared.snapshot();
    let revoked = snapshot
        .as_ref()
        .and_then(|snapshot| authorize::revoked(snapshot, &peer));
    drop(snapshot);
    if let Some(reason) = revoked {
        let serial = peer.svid().serial();
        let message = format!(
            "the server is {}, serial {serial}: {reason}",
            peer.principal()
        );
        return Err(Unreachable {
            hop: Some(rendered),
            ..Unreachable::new(reason, message)
        });
    }
    let mesh = Mesh {
        peer: Rc::clone(&peer),
        hop: authenticated.hop,
        kith: authenticated.alpn.kith,
        lease: Lease::new(SystemTime::now(), own.not_after(), peer.svid().not_after()),
        renewed: 0,
        server: target.address,
    };
    let upstream = UpstreamMesh {
        peer,
        kith: mesh.kith,
        rendered,
    };
    Ok(Established {
        stream,
        target: Arc::clone(target),
        mesh: Some((mesh, upstream)),
        itself: false,
        load,
    })
}
