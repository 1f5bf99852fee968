//! Who is at the other end: TLS 1.3 handshakes with the current SVID, and what they prove.
//!
//! **Architecture invariant:** a `Peer` has private fields; only a finished handshake makes one.
//! Whether the peer may do anything is not decided here, so that a denied peer is logged by name.

mod control_plane;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith_certs::tls::{ClientAuth, svid_error};
use kith_certs::{IdentitySource, PeerSvid, SvidReason, TrustSnapshot, Usage};
use kith_policy::{Principal, Reason};
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::connections::HopId;
use crate::record::TlsFacts;
use crate::snapshot::Protocol;
use crate::stream::{Socket, Stream};
pub(crate) use control_plane::control_plane;

/// How long a handshake may take; a peer that is slower is holding a slot.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The label of hop ids (RFC 8446 section 7.5, RFC 5705).
const HOP_LABEL: &[u8] = b"EXPORTER-kith-hop";

/// A peer whose SVID was verified and who proved possession of its key.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    principal: Principal,
    svid: Arc<PeerSvid>,
}

impl Peer {
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    pub(crate) fn svid(&self) -> &PeerSvid {
        &self.svid
    }

    /// Would this SVID still be accepted by the trust of today?
    pub(crate) fn still_trusted(&self, trust: &TrustSnapshot) -> Result<(), Reason> {
        trust
            .still_trusts(&self.svid, SystemTime::now())
            .map_err(|error| reason_of(error.reason()))
    }
}

/// What the client's ALPN says the connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    Bytes(Protocol),
    /// No connection of the application: leases of others are renewed on it.
    Renewal,
    /// The client named nothing.
    Unnamed,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Alpn {
    pub(crate) carries: Carries,
    /// One of Kith's own names, so the peer is Kith.
    pub(crate) kith: bool,
}

impl Alpn {
    fn of(name: Option<&[u8]>) -> Alpn {
        let (carries, kith) = match name {
            Some(b"kith-h1") => (Carries::Bytes(Protocol::Http1), true),
            Some(b"kith-h2") => (Carries::Bytes(Protocol::Http2), true),
            Some(b"kith-tcp") => (Carries::Bytes(Protocol::Tcp), true),
            Some(b"kith-renew") => (Carries::Renewal, true),
            Some(b"http/1.1") => (Carries::Bytes(Protocol::Http1), false),
            Some(b"h2") => (Carries::Bytes(Protocol::Http2), false),
            _ => (Carries::Unnamed, false),
        };
        Alpn { carries, kith }
    }
}

pub(crate) struct Authenticated {
    /// What we proved ourselves with.
    pub(crate) own: Arc<TrustSnapshot>,
    pub(crate) peer: Rc<Peer>,
    pub(crate) alpn: Alpn,
    pub(crate) hop: HopId,
    pub(crate) facts: TlsFacts,
    pub(crate) took: Duration,
}

/// No identity, and why.
#[derive(Debug)]
pub(crate) struct Unauthenticated {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// The TLS configurations of one data worker. All read the current SVID and bundles at each handshake.
pub(crate) struct Tls {
    identity: IdentitySource,
    server_http1: TlsAcceptor,
    server_http2: TlsAcceptor,
    server_any: TlsAcceptor,
    client_http1: TlsConnector,
    client_http2: TlsConnector,
    client_tcp: TlsConnector,
    client_renewal: TlsConnector,
}

impl Tls {
    pub(crate) fn new(identity: &IdentitySource) -> Tls {
        let server = |alpn: &[&[u8]]| -> TlsAcceptor {
            let config: Arc<ServerConfig> =
                kith_certs::tls::server_config(identity, alpn, ClientAuth::Required);
            config.into()
        };
        let client = |alpn: &[&[u8]]| -> TlsConnector {
            let config: Arc<ClientConfig> = kith_certs::tls::client_config(identity, alpn);
            config.into()
        };
        Tls {
            identity: identity.clone(),
            // A server chooses by its own order, among what the client offers.
            server_http1: server(&[b"kith-h1", b"kith-tcp", b"kith-renew", b"http/1.1"]),
            server_http2: server(&[b"kith-h2", b"kith-tcp", b"kith-renew", b"h2"]),
            server_any: server(&[
                b"kith-h2",
                b"kith-h1",
                b"kith-tcp",
                b"kith-renew",
                b"http/1.1",
                b"h2",
            ]),
            client_http1: client(&[b"kith-h1", b"http/1.1"]),
            client_http2: client(&[b"kith-h2", b"h2"]),
            client_tcp: client(&[b"kith-tcp"]),
            client_renewal: client(&[b"kith-renew"]),
        }
    }

    /// The server's side. `declared` is the protocol of the port: a client that offers several gets that one.
    pub(crate) async fn accept(
        &self,
        socket: Socket,
        declared: Option<Protocol>,
    ) -> Result<(Stream, Authenticated), Unauthenticated> {
        let started = Instant::now();
        let own = self.own_svid()?;
        let acceptor = match declared {
            Some(Protocol::Http1) => &self.server_http1,
            Some(Protocol::Http2) => &self.server_http2,
            _ => &self.server_any,
        };
        let stream = within_deadline(acceptor.accept(socket)).await?;
        let (_, session) = stream.get_ref();
        let peer = peer_of(session, Usage::Client)?;
        self.check_trust_of_now(&own, &peer)?;
        let hop = hop_of(|out| {
            session
                .export_keying_material(out, HOP_LABEL, None)
                .map(drop)
        })?;
        let alpn = Alpn::of(session.alpn_protocol());
        let facts = facts_of(session);
        Ok((
            Stream::TlsServer(Box::new(stream)),
            Authenticated {
                own,
                peer,
                alpn,
                hop,
                facts,
                took: started.elapsed(),
            },
        ))
    }

    /// Without a valid SVID of our own every handshake would fail, and blame the peer.
    fn own_svid(&self) -> Result<Arc<TrustSnapshot>, Unauthenticated> {
        let Some(own) = self.identity.current() else {
            let message =
                "no SVID of our own; is the SPIFFE agent up, and is this workload registered?"
                    .into();
            return Err(Unauthenticated {
                reason: Reason::NoConfiguration,
                message,
            });
        };
        match own.check_own_validity(SystemTime::now()) {
            Ok(()) => Ok(own),
            Err(error) => Err(Unauthenticated {
                reason: reason_of(error.reason()),
                message: format!("our own SVID: {error}"),
            }),
        }
    }

    /// The trust may have changed while the handshake went on, and whoever looks at live connections again for that
    /// does not know the peer of this one yet (security.md, row 25).
    fn check_trust_of_now(
        &self,
        at_start: &TrustSnapshot,
        peer: &Peer,
    ) -> Result<(), Unauthenticated> {
        let own = self.own_svid()?;
        if own.generation() == at_start.generation() {
            return Ok(());
        }
        peer.still_trusted(&own).map_err(|reason| Unauthenticated {
            reason,
            message: format!("{} is trusted no longer", peer.principal()),
        })
    }

    /// The client's side. The server must prove one of `expected`; no byte of the application is sent before.
    pub(crate) async fn connect(
        &self,
        socket: Socket,
        carries: Carries,
        expected: &[Principal],
    ) -> Result<(Stream, Authenticated), Unauthenticated> {
        let started = Instant::now();
        let own = self.own_svid()?;
        let connector = match carries {
            Carries::Bytes(Protocol::Http1) => &self.client_http1,
            Carries::Bytes(Protocol::Http2) => &self.client_http2,
            Carries::Bytes(Protocol::Tcp | Protocol::Tls) | Carries::Unnamed => &self.client_tcp,
            Carries::Renewal => &self.client_renewal,
        };
        let stream =
            within_deadline(connector.connect(kith_certs::tls::server_name(), socket)).await?;
        let (_, session) = stream.get_ref();
        let peer = peer_of(session, Usage::Server)?;
        self.check_trust_of_now(&own, &peer)?;
        if !expected.contains(peer.principal()) {
            let wanted: Vec<&str> = expected.iter().map(Principal::as_str).collect();
            return Err(Unauthenticated {
                reason: Reason::ServerIdentityMismatch,
                message: format!(
                    "the server is {}, expected {}",
                    peer.principal().as_str(),
                    wanted.join(" or ")
                ),
            });
        }
        let hop = hop_of(|out| {
            session
                .export_keying_material(out, HOP_LABEL, None)
                .map(drop)
        })?;
        let alpn = Alpn::of(session.alpn_protocol());
        let facts = facts_of(session);
        Ok((
            Stream::TlsClient(Box::new(stream)),
            Authenticated {
                own,
                peer,
                alpn,
                hop,
                facts,
                took: started.elapsed(),
            },
        ))
    }
}

async fn within_deadline<T>(
    handshake: impl Future<Output = io::Result<T>>,
) -> Result<T, Unauthenticated> {
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err(Unauthenticated {
            reason: Reason::Timeout,
            message: format!("no handshake within {} s", HANDSHAKE.as_secs()),
        }),
    }
}

fn peer_of(session: &rustls::CommonState, usage: Usage) -> Result<Rc<Peer>, Unauthenticated> {
    let svid = kith_certs::tls::peer_svid(session, usage).map_err(|error| Unauthenticated {
        reason: reason_of(error.reason()),
        message: error.to_string(),
    })?;
    let principal = Principal::parse(svid.as_str()).map_err(|error| Unauthenticated {
        reason: Reason::SvidMalformed,
        message: error.to_string(),
    })?;
    Ok(Rc::new(Peer {
        principal,
        svid: Arc::new(svid),
    }))
}

fn hop_of(
    export: impl FnOnce(&mut HopId) -> Result<(), rustls::Error>,
) -> Result<HopId, Unauthenticated> {
    let mut hop = HopId::default();
    match export(&mut hop) {
        Ok(()) => Ok(hop),
        Err(error) => Err(Unauthenticated {
            reason: Reason::SvidMalformed,
            message: format!("no hop id: {error}"),
        }),
    }
}

fn facts_of(session: &rustls::CommonState) -> TlsFacts {
    use rustls::NamedGroup::{X25519, X25519MLKEM768, secp256r1};
    let cipher = session.negotiated_cipher_suite().map(|suite| suite.suite());
    TlsFacts {
        version: match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "unknown",
        },
        cipher: cipher.and_then(|suite| suite.as_str()).unwrap_or("unknown"),
        group: match session
            .negotiated_key_exchange_group()
            .map(rustls::crypto::SupportedKxGroup::name)
        {
            Some(X25519MLKEM768) => "X25519MLKEM768",
            Some(X25519) => "X25519",
            Some(secp256r1) => "P-256",
            _ => "unknown",
        },
    }
}

/// Maps a failed handshake to what the record says. Ours to refuse: the SVID's own reason. The peer's: an alert.
fn explain(error: &io::Error) -> Unauthenticated {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let reason = match tls {
        Some(rustls::Error::NoCertificatesPresented) => Reason::PeerUnauthenticated,
        Some(tls) => match svid_error(tls) {
            Some(svid) => reason_of(svid.reason()),
            None => Reason::PeerUnauthenticated,
        },
        None => Reason::PeerUnauthenticated,
    };
    Unauthenticated {
        reason,
        message: error.to_string(),
    }
}

fn reason_of(reason: SvidReason) -> Reason {
    match reason {
        SvidReason::Untrusted => Reason::SvidUntrusted,
        SvidReason::Expired => Reason::SvidExpired,
        SvidReason::Revoked => Reason::SvidRevoked,
        SvidReason::Malformed => Reason::SvidMalformed,
        SvidReason::TrustDomainUnknown => Reason::TrustDomainUnknown,
    }
}
