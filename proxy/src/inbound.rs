//! Connections to the application, stage by stage.
//!
//! accept ─► detect ─► authenticate ─► authorize ─► forward ─► record

mod decide;
mod http1;
pub(crate) mod http2;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use kith_policy::Reason;

use crate::accept::Accepted;
use crate::authenticate::{Alpn, Authenticated, Carries, Peer, Unauthenticated};
use crate::authorize::{self, Denial};
use crate::connections::{Live, Mesh, Registered};
use crate::detect::{self, How, Opening};
use crate::forward::connect::connect;
use crate::forward::tcp;
use crate::lease::Lease;
use crate::record::{ClosedBy, ConnectionFacts, Direction, Hop, HopFacts, Kind, Record};
use crate::renew;
use crate::signal::still_fine;
use crate::snapshot::{MtlsMode, Port, Protocol, Snapshot};
use crate::stream::{Socket, Stream};
use crate::telemetry::metrics::{self, Side};
use crate::worker::Worker;

/// How long a connection that comes before the first configuration is held.
const HELD: Duration = Duration::from_secs(3);

/// How long a client may take to open a handshake where nothing else is accepted.
const OPENING: Duration = Duration::from_secs(10);

/// How long an undeclared protocol that policy allows only as HTTP may stay silent.
const SILENT: Duration = Duration::from_secs(60);

/// A connection that got as far as being decided about.
struct Inbound {
    worker: Rc<Worker>,
    stream: Stream,
    live: Registered,
    facts: Rc<ConnectionFacts>,
    peer: Option<Rc<Peer>>,
    hop: Option<Rc<Hop>>,
    /// Bytes that detection read.
    first: BytesMut,
    /// When the SVID ends that we proved ourselves with.
    own_expiry: Option<SystemTime>,
    /// Only mTLS is accepted here.
    strict: bool,
}

/// What only some connections go through is boxed, so that an idle one holds no room for it.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        tcp,
        source,
        destination,
    } = accepted;
    let facts = ConnectionFacts::new(&worker.sink, Direction::Inbound, source, destination);
    let mut record = Record::open(Kind::Connection, &facts);
    let live = worker
        .registry
        .open(Direction::Inbound, source, destination);
    let _open = metrics::OpenConnection::new(Direction::Inbound);
    let socket = Socket::new(tcp);

    let port = match admit(&worker, &live, &mut record).await {
        Ok(port) => port,
        Err(reason) => {
            record.refuse(reason);
            return socket.reset_on_close();
        }
    };
    let (stream, authenticated) = match Box::pin(secure(&worker, &live, socket, port)).await {
        Ok(secured) => secured,
        Err(problem) => {
            metrics::handshake_failed(Side::Server, problem.reason.as_str());
            record.refuse(problem.reason);
            record.tls_error(&problem.message);
            return;
        }
    };
    let mut connection = Inbound {
        worker,
        stream,
        live,
        facts,
        peer: None,
        hop: None,
        first: BytesMut::new(),
        own_expiry: None,
        strict: port.mtls == MtlsMode::Strict,
    };
    let alpn = authenticated.map(|authenticated| connection.identify(authenticated, &mut record));

    if let Some(Alpn {
        carries: Carries::Renewal,
        ..
    }) = alpn
    {
        return Box::pin(connection.renew(record)).await;
    }
    match connection.protocol(alpn, port).await {
        Ok(Protocol::Http1) => {
            record.carries_requests();
            Box::pin(http1::serve(connection)).await;
        }
        Ok(Protocol::Http2) => {
            record.carries_requests();
            Box::pin(http2::serve(connection)).await;
        }
        Ok(Protocol::Tcp | Protocol::Tls) => Box::pin(connection.opaque(record)).await,
        Err(error) => {
            tracing::debug!(%source, %error, "a client left before it said anything");
            record.closed_by = Some(ClosedBy::Client);
        }
    }
}

/// Only what capture sent here, for this workload, under a complete configuration.
async fn admit(worker: &Worker, live: &Live, record: &mut Record) -> Result<Port, Reason> {
    let Some(snapshot) = configuration(worker).await else {
        return Err(Reason::NoConfiguration);
    };
    record.revision = Some(snapshot.revision_shared());
    let destination = live.destination;
    let own_port = worker
        .shared
        .config
        .own_ports()
        .contains(&destination.port());
    if own_port || !snapshot.is_own_address(destination.ip()) {
        return Err(Reason::NoRoute);
    }
    Ok(snapshot.port(destination.port()))
}

/// The snapshot in force; at the start of the process, waits a little for the first.
pub(crate) async fn configuration(worker: &Worker) -> Option<Arc<Snapshot>> {
    let until = Instant::now() + HELD;
    loop {
        if let (Some(snapshot), Some(_)) =
            (&*worker.shared.snapshot(), worker.shared.identity.current())
        {
            return Some(Arc::clone(snapshot));
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The mesh's TLS is terminated here, with a proof of who the client is. Anything else stays as it came:
/// without identity, to be decided as such.
async fn secure(
    worker: &Worker,
    live: &Live,
    mut socket: Socket,
    port: Port,
) -> Result<(Stream, Option<Authenticated>), Unauthenticated> {
    let gone = |error: io::Error| Unauthenticated {
        reason: Reason::ClientClosed,
        message: error.to_string(),
    };
    let mesh = match (port.mtls, port.protocol) {
        (MtlsMode::Disable, _) => false,
        (_, Some(Protocol::Tls)) => match detect::client_hello(&mut socket, OPENING)
            .await
            .map_err(gone)?
        {
            Some(hello) => {
                if let (false, Some(name)) = (hello.mesh, hello.server_name) {
                    let _ = live.sni.set(name);
                }
                hello.mesh
            }
            None => false,
        },
        (mode, _) => {
            // Where plaintext may be meant, a silent client may be one whose server speaks first.
            let client_first = matches!(port.protocol, Some(Protocol::Http1 | Protocol::Http2));
            let patience = if mode == MtlsMode::Strict || client_first {
                OPENING
            } else {
                detect::PATIENCE
            };
            match detect::opening(&socket, patience).await.map_err(gone)? {
                Opening::Tls => true,
                Opening::Plain => false,
                Opening::Silent if mode == MtlsMode::Permissive => false,
                // Whatever it may still say, it has no identity, and silence must not hold a connection.
                Opening::Silent => {
                    let message = format!("no handshake within {} s", OPENING.as_secs());
                    return Err(Unauthenticated {
                        reason: Reason::PeerUnauthenticated,
                        message,
                    });
                }
            }
        }
    };
    if !mesh {
        // The application's own TLS is not for us to see into, but it is none of the mesh's, and not in the clear.
        if port.protocol != Some(Protocol::Tls) && port.mtls != MtlsMode::Strict {
            worker.shared.count_plaintext();
        }
        return Ok((Stream::Plain(socket), None));
    }
    let (stream, authenticated) = worker.tls.accept(socket, port.protocol).await?;
    Ok((stream, Some(authenticated)))
}

impl Inbound {
    /// From here on the connection has a name.
    fn identify(&mut self, authenticated: Authenticated, record: &mut Record) -> Alpn {
        let Authenticated {
            own,
            peer,
            alpn,
            hop,
            facts,
            took,
        } = authenticated;
        metrics::handshake(Side::Server, took);
        let rendered = Hop::new(&HopFacts {
            id: &hop,
            source_principal: peer.principal().as_str(),
            source_serial: peer.svid().serial(),
            source_expires: Some(peer.svid().not_after()),
            destination_principal: own.principal().as_str(),
            destination_address: None,
            tls: facts,
        });
        let now = SystemTime::now();
        *self.live.mesh.borrow_mut() = Some(Mesh {
            peer: Rc::clone(&peer),
            hop,
            kith: alpn.kith,
            lease: Lease::new(now, own.not_after(), peer.svid().not_after()),
            renewed: 0,
            server: self.live.destination,
        });
        record.travels(&rendered, 0);
        self.own_expiry = Some(own.not_after());
        self.peer = Some(peer);
        self.hop = Some(rendered);
        alpn
    }

    /// Declared protocols win, then what the client's ALPN says; only then a look.
    async fn protocol(&mut self, alpn: Option<Alpn>, port: Port) -> io::Result<Protocol> {
        let protocol = match (port.protocol, alpn.map(|alpn| alpn.carries)) {
            (Some(Protocol::Tls), Some(_)) => {
                // The name that the client asks for is inside, and policies may be about it.
                let (hello, first) = detect::inner_hello(&mut self.stream, OPENING).await?;
                if let Some(name) = hello.and_then(|hello| hello.server_name) {
                    let _ = self.live.sni.set(name);
                }
                self.first = first;
                Protocol::Tcp
            }
            (Some(Protocol::Tcp | Protocol::Tls), _) => Protocol::Tcp,
            (_, Some(Carries::Bytes(protocol))) => protocol,
            (declared, _) => {
                let number = self.live.destination.port();
                let mut detected = detect::detect(&mut self.stream, number, declared).await?;
                if detected.how == How::TimedOut && self.only_as_http() {
                    let looked = detect::look_on(&mut self.stream, SILENT, detected.first);
                    detected = match self.live.signal.unless_closed(&still_fine, looked).await {
                        Ok(looked) => looked?,
                        Err(closing) => return Err(io::Error::other(closing.reason.as_str())),
                    };
                }
                metrics::detected(detected.protocol.as_str(), detected.how.as_str());
                self.first = detected.first;
                detected.protocol
            }
        };
        self.live.protocol.set(Some(protocol));
        Ok(protocol)
    }

    /// Policy denies this connection as opaque bytes but might allow requests on it: worth waiting for them.
    fn only_as_http(&self) -> bool {
        let snapshot = self.worker.shared.snapshot();
        let Some(snapshot) = &*snapshot else {
            return false;
        };
        let attributes = self.live.attributes(self.peer.as_ref());
        !snapshot.policies().decide(&attributes, None).allow
            && snapshot.policies().could_allow(&attributes).is_ok()
    }

    async fn opaque(mut self, mut record: Record) {
        let snapshot = self.worker.shared.snapshot.load_full();
        let decided = match &snapshot {
            Some(snapshot) => {
                record.revision = Some(snapshot.revision_shared());
                authorize::inbound(snapshot, &self.live, self.peer.as_ref(), None)
            }
            None => Err(Denial::Refused(Reason::NoConfiguration)),
        };
        let permit = match decided {
            Ok(permit) => permit,
            Err(denial) => {
                denial.record(&mut record);
                return self.stream.reset_on_close();
            }
        };
        record.decide(permit.decision());
        let started = Instant::now();
        // The registry decides about opaque connections as a whole, and closes those that lose.
        let connecting = connect(self.live.destination, self.worker.mark());
        let mut server = match self
            .live
            .signal
            .unless_closed(&still_fine, connecting)
            .await
        {
            Ok(Ok(tcp)) => Stream::Plain(Socket::new(tcp)),
            Ok(Err(error)) => {
                tracing::debug!(%error, destination = %self.live.destination, "the application does not accept");
                record.fail(Reason::ServerUnreachable);
                record.closed_by = Some(ClosedBy::Server);
                return self.stream.reset_on_close();
            }
            Err(closing) => {
                closing.record(&mut record);
                return self.stream.reset_on_close();
            }
        };
        record.upstream = Some(started.elapsed());
        let (client, application) = (
            (&mut self.stream, self.first),
            (&mut server, BytesMut::new()),
        );
        let relayed = tcp::relay(&permit, &self.live, client, application, &still_fine).await;
        record.renewed = self.live.renewed();
        relayed.record(&mut record);
    }

    /// No connection of the application: it proves the client anew, for others that are open.
    async fn renew(mut self, mut record: Record) {
        let Some(peer) = self.peer.clone() else {
            return;
        };
        let refused = match &*self.worker.shared.snapshot() {
            Some(snapshot) => match authorize::revoked(snapshot, &peer) {
                Some(reason) => Some(Denial::Refused(reason)),
                None => (snapshot.policies())
                    .could_allow(&self.live.attributes(Some(&peer)))
                    .map_err(Denial::Decided)
                    .err(),
            },
            None => None,
        };
        if let Some(denial) = refused {
            denial.record(&mut record);
            return self.stream.reset_on_close();
        }
        let own_expiry = self.own_expiry.unwrap_or(SystemTime::UNIX_EPOCH);
        let exchange = renew::serve(&self.worker, &mut self.stream, &peer, own_expiry);
        match self.live.signal.unless_closed(&still_fine, exchange).await {
            Ok(Ok(renewed)) => {
                tracing::debug!(peer = peer.principal().as_str(), renewed, "renewed leases");
                record.carries_requests();
            }
            Ok(Err(error)) => {
                record.refuse(Reason::RequestMalformed);
                record.tls_error(&error.to_string());
            }
            Err(closing) => closing.record(&mut record),
        }
    }
}
