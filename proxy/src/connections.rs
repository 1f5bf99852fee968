//! The registry of live connections of one data worker: every connection is in it before its first check,
//! and is checked again when the policy, the trust or its own lease changes. Only losers are touched.

mod recheck;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant, SystemTime};

use kith_policy::{Connection, Reason};
use slab::Slab;

use crate::authenticate::Peer;
use crate::lease::{Grace, Lease, Stage};
use crate::record::{ClosedBy, Direction};
use crate::signal::{Closing, Signal};
use crate::snapshot::Protocol;

/// How much earlier than the server a client stops using a connection whose lease runs out.
const AHEAD: Duration = Duration::from_secs(1);

/// When one end lets go this close to the end of the grace, the other end knows why: clocks and ticks differ a little.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// How long a peer may take to prove itself anew, when the authority of its SVID has left the bundle.
const DOUBT: Duration = Duration::from_secs(2);

/// How long a client may keep a connection without a request.
pub(crate) const IDLE: Duration = Duration::from_secs(600);

/// How long it stays open for a request that is already on its way, when no other will be served on it.
pub(crate) const DRAINED: Duration = Duration::from_secs(1);

/// 16 bytes of exporter output (RFC 8446 section 7.5): both ends of a TLS connection know it, nobody else does.
pub(crate) type HopId = [u8; 16];

const EXPIRED: Closing = Closing {
    by: Some(ClosedBy::Expiry),
    reason: Reason::SvidExpired,
    decision: None,
};

/// One live connection. Its owner holds it; when the owner lets go, it leaves the registry.
pub(crate) struct Live {
    pub(crate) direction: Direction,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) opened: Instant,
    pub(crate) signal: Signal,
    /// What it carries, once that is known.
    pub(crate) protocol: Cell<Option<Protocol>>,
    /// The application's own server name, on TLS that is passed through.
    pub(crate) sni: OnceCell<String>,
    pub(crate) mesh: RefCell<Option<Mesh>>,
    /// Requests in flight, one signal each when they run in tasks of their own (HTTP/2).
    streams: RefCell<Slab<Weak<Signal>>>,
    in_flight: Cell<u32>,
    /// When it may be closed for doing nothing; set by its owner to the deadline of what it is waiting for.
    deadline: Cell<Option<(Instant, Reason)>>,
    /// Its lease ran out, and the grace ends in a moment.
    last_moments: Cell<bool>,
    /// Nobody vouches for its peer's SVID any more: it ends then, unless the peer shows another.
    doubted_until: Cell<Option<Instant>>,
    /// Our own SVID was rotated, and the server has not heard of it yet.
    outdated: Cell<bool>,
    key: Cell<usize>,
    registry: Weak<Registry>,
}

/// What an mTLS connection is backed by.
#[derive(Clone)]
pub(crate) struct Mesh {
    pub(crate) peer: Rc<Peer>,
    pub(crate) hop: HopId,
    /// The peer speaks Kith's own ALPN names, so that it can renew.
    pub(crate) kith: bool,
    pub(crate) lease: Lease,
    pub(crate) renewed: u32,
    /// The server's address, where it can be asked to renew.
    pub(crate) server: SocketAddr,
}

#[derive(Default)]
pub(crate) struct Registry {
    live: RefCell<Slab<Rc<Live>>>,
    /// Inbound connections that come all the same are told at once.
    draining: Cell<bool>,
}

/// The owner's hold on a registered connection.
pub(crate) struct Registered(Rc<Live>);

impl std::ops::Deref for Registered {
    type Target = Rc<Live>;
    fn deref(&self) -> &Rc<Live> {
        &self.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(registry) = self.0.registry.upgrade() {
            registry.live.borrow_mut().try_remove(self.0.key.get());
        }
    }
}

impl Registry {
    pub(crate) fn open(
        self: &Rc<Self>,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Registered {
        let live = Rc::new(Live {
            direction,
            source,
            destination,
            opened: Instant::now(),
            signal: Signal::default(),
            protocol: Cell::new(None),
            sni: OnceCell::new(),
            mesh: RefCell::new(None),
            streams: RefCell::new(Slab::new()),
            in_flight: Cell::new(0),
            deadline: Cell::new(None),
            last_moments: Cell::new(false),
            doubted_until: Cell::new(None),
            outdated: Cell::new(false),
            key: Cell::new(0),
            registry: Rc::downgrade(self),
        });
        live.key
            .set(self.live.borrow_mut().insert(Rc::clone(&live)));
        if direction == Direction::Inbound && self.draining.get() {
            live.signal.drain();
        }
        Registered(live)
    }

    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }

    pub(crate) fn count(&self, direction: Direction, counts: impl Fn(&Live) -> bool) -> usize {
        self.live
            .borrow()
            .iter()
            .filter(|(_, live)| live.direction == direction && counts(live))
            .count()
    }

    /// A copy, so that asking never holds the registry while somebody leaves it.
    pub(crate) fn all(&self) -> Vec<Rc<Live>> {
        self.live
            .borrow()
            .iter()
            .map(|(_, live)| Rc::clone(live))
            .collect()
    }

    /// Our SVID may be used no longer: what it backed ends as when it had expired.
    pub(crate) fn withdraw(&self, now: SystemTime) {
        for live in self.all() {
            if let Some(mesh) = &mut *live.mesh.borrow_mut() {
                mesh.lease.end(now);
            }
        }
    }

    /// What time alone brings about: leases that run out, deadlines that pass.
    pub(crate) fn sweep(&self, now: SystemTime, clock: Instant, grace: &Grace) {
        for live in self.all() {
            if let Some((deadline, reason)) = live.deadline.get()
                && clock >= deadline
            {
                live.signal.close(Closing::new(None, reason));
            }
            if live.doubted_until.get().is_some_and(|until| clock >= until) {
                live.lose_trust(Reason::SvidUntrusted);
            }
            // The client lets go first, so that no request is on its way when the server does.
            let now = if live.direction == Direction::Outbound {
                now + AHEAD
            } else {
                now
            };
            let stage = match &*live.mesh.borrow() {
                Some(mesh) => {
                    live.last_moments
                        .set(mesh.lease.stage(now + LAST_MOMENTS, grace, mesh.kith) == Stage::Over);
                    mesh.lease.stage(now, grace, mesh.kith)
                }
                None => continue,
            };
            match stage {
                Stage::Valid => {}
                Stage::RanOut => live.signal.drain(),
                Stage::Over => live.signal.close(EXPIRED),
            }
        }
    }

    /// Inbound connections take no new request from now on.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for live in self.all() {
            if live.direction == Direction::Inbound {
                live.signal.drain();
            }
        }
    }

    pub(crate) fn close(&self, closing: &Closing) {
        for live in self.all() {
            live.signal.close(closing.clone());
        }
    }
}

impl Live {
    /// As the policy engine sees this connection.
    pub(crate) fn attributes<'a>(&'a self, peer: Option<&'a Rc<Peer>>) -> Connection<'a> {
        Connection {
            peer: peer.map(|peer| peer.principal()),
            source: self.source.ip(),
            remote: Some(self.source.ip()),
            destination: self.destination,
            sni: self.sni.get().map(String::as_str),
        }
    }

    pub(crate) fn peer(&self) -> Option<Rc<Peer>> {
        self.mesh
            .borrow()
            .as_ref()
            .map(|mesh| Rc::clone(&mesh.peer))
    }

    pub(crate) fn renewed(&self) -> u32 {
        self.mesh.borrow().as_ref().map_or(0, |mesh| mesh.renewed)
    }

    /// Its peer, the same principal, proved anew who it is, by the trust of today.
    pub(crate) fn renew(&self, peer: &Rc<Peer>, lease: Lease) {
        if let Some(mesh) = &mut *self.mesh.borrow_mut() {
            mesh.peer = Rc::clone(peer);
            mesh.lease.extend(lease);
            mesh.renewed += 1;
        }
        self.doubted_until.set(None);
    }

    /// Its peer is a Kith, authenticated.
    pub(crate) fn is_kith(&self) -> bool {
        self.mesh.borrow().as_ref().is_some_and(|mesh| mesh.kith)
    }

    /// A request that the connection's own task carries.
    pub(crate) fn set_in_flight(&self, requests: u32) {
        self.in_flight.set(requests);
    }

    /// The other end cut the connection off: why, when it is to be blamed on the lease that both ends hold.
    pub(crate) fn cut_off(&self) -> Option<Closing> {
        self.signal
            .closing()
            .or_else(|| self.last_moments.get().then_some(EXPIRED))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.get() > 0 || !self.streams.borrow().is_empty()
    }

    /// Opaque bytes always are; HTTP while a request is in flight.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self.protocol.get(), Some(Protocol::Tcp | Protocol::Tls)) || self.is_busy()
    }

    /// For the admin listener.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let mesh = self.mesh.borrow();
        let mesh = mesh.as_ref();
        serde_json::json!({
            "direction": self.direction.as_str(),
            "source": self.source.to_string(),
            "destination": self.destination.to_string(),
            "protocol": self.protocol.get().map(Protocol::as_str),
            "peer": mesh.map(|mesh| mesh.peer.principal().as_str().to_owned()),
            "hop": mesh.map(|mesh| hop_text(&mesh.hop)),
            "lease_until": mesh.map(|mesh| crate::record::rfc3339(mesh.lease.until())),
            "lease_renewed": mesh.map(|mesh| mesh.renewed),
            "in_use": self.is_in_use(),
            "age_seconds": self.opened.elapsed().as_secs(),
        })
    }

    /// A request that has a task of its own.
    pub(crate) fn open_stream(self: &Rc<Self>) -> StreamHold {
        let signal = Rc::new(Signal::default());
        let key = self.streams.borrow_mut().insert(Rc::downgrade(&signal));
        self.wait_forever();
        StreamHold {
            signal,
            live: Rc::clone(self),
            key,
        }
    }

    /// Ends what is in flight, for requests that have tasks of their own.
    pub(crate) fn close_streams(&self, closing: &Closing) {
        for (_, stream) in &*self.streams.borrow() {
            if let Some(stream) = stream.upgrade() {
                stream.close(closing.clone());
            }
        }
    }

    pub(crate) fn wait_until(&self, deadline: Instant, reason: Reason) {
        self.deadline.set(Some((deadline, reason)));
    }

    pub(crate) fn wait_for(&self, time: Duration, reason: Reason) {
        self.wait_until(Instant::now() + time, reason);
    }

    pub(crate) fn wait_forever(&self) {
        self.deadline.set(None);
    }
}

/// A request in flight on a connection that carries several.
pub(crate) struct StreamHold {
    pub(crate) signal: Rc<Signal>,
    live: Rc<Live>,
    key: usize,
}

impl Drop for StreamHold {
    fn drop(&mut self) {
        let mut streams = self.live.streams.borrow_mut();
        streams.try_remove(self.key);
        if !streams.is_empty() {
            return;
        }
        if self.live.signal.is_draining() {
            self.live.wait_for(DRAINED, Reason::Draining);
        } else {
            self.live.wait_for(IDLE, Reason::Timeout);
        }
    }
}

/// As records and people write it: lower-case hex.
pub(crate) fn hop_text(hop: &HopId) -> String {
    hop.iter().map(|byte| format!("{byte:02x}")).collect()
}
