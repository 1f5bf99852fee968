//! Connections to servers that are kept for the next request: idle HTTP/1.1 ones, and shared HTTP/2 ones.
//!
//! A pool belongs to one data worker. What it hands out was alive a moment ago and is still backed by a
//! valid lease; anything else is closed, not handed out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kith_policy::{Principal, Reason};
use tokio::io::AsyncWrite;
use tokio::sync::OnceCell;

use crate::authenticate::Peer;
use crate::connections::Registered;
use crate::forward::http2::Http2Upstream;
use crate::forward::unreachable::Unreachable;
use crate::record::Hop;
use crate::stream::Stream;

/// Below the idle time of common servers (nginx 75 s), so that it is Kith that ends an idle connection.
const IDLE: Duration = Duration::from_secs(55);

/// Idle connections kept for one address.
const MOST_IDLE: usize = 256;

/// A connection to a server, for one request at a time.
pub(crate) struct Upstream {
    pub(crate) stream: Stream,
    /// The address of the server, when the connection may be kept for others.
    pub(crate) address: Option<SocketAddr>,
    /// Its own place in the registry; absent on the connection to the application, which lives and dies with the client's.
    pub(crate) live: Option<Registered>,
    pub(crate) mesh: Option<UpstreamMesh>,
    /// The server is this very pod: nothing leaves it, and nobody is there to authenticate.
    pub(crate) itself: bool,
    /// Requests sent on it so far; the ordinal is part of the hop id.
    pub(crate) requests: u64,
    /// Bytes read beyond the last answer; must be empty for reuse.
    pub(crate) buffer: BytesMut,
}

/// What the handshake with the server proved.
#[derive(Clone)]
pub(crate) struct UpstreamMesh {
    pub(crate) peer: Rc<Peer>,
    pub(crate) kith: bool,
    /// The hop id and the facts of the handshake as records write them.
    pub(crate) rendered: Rc<Hop>,
}

struct Idle {
    upstream: Upstream,
    since: Instant,
}

/// A connection that is there, or being made, or could not be made. Whoever asks meanwhile gets the same outcome.
pub(crate) type SharedHttp2 = Rc<Place>;

#[derive(Default)]
pub(crate) struct Place {
    made: OnceCell<Option<Rc<Http2Upstream>>>,
    /// Why none could be made.
    problem: RefCell<Option<Unreachable>>,
}

impl Place {
    /// The connection, made if nobody has made it or is about to.
    pub(crate) async fn get_or_init<F>(
        &self,
        make: impl FnOnce() -> F,
    ) -> &Option<Rc<Http2Upstream>>
    where
        F: Future<Output = Option<Rc<Http2Upstream>>>,
    {
        self.made.get_or_init(make).await
    }

    /// As [`get_or_init`](Self::get_or_init); all who waited for it hear why there is none.
    pub(crate) async fn get_or_try_init<F>(
        &self,
        make: impl FnOnce() -> F,
    ) -> Result<&Rc<Http2Upstream>, Unreachable>
    where
        F: Future<Output = Result<Rc<Http2Upstream>, Unreachable>>,
    {
        let made = self.get_or_init(|| async {
            make()
                .await
                .map_err(|problem| *self.problem.borrow_mut() = Some(problem))
                .ok()
        });
        made.await.as_ref().ok_or_else(|| {
            let message = "no connection could be made";
            let unknown = || Unreachable::new(Reason::ServerUnreachable, message);
            self.problem.borrow().clone().unwrap_or_else(unknown)
        })
    }
}

#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    http2: RefCell<HashMap<SocketAddr, SharedConnections>>,
}

impl Pool {
    /// The most recently used connection to `address` that proves one of `expected` (none: plaintext).
    pub(crate) fn take(&self, address: SocketAddr, expected: &[Principal]) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let at_address = idle.get_mut(&address)?;
        while let Some(Idle { mut upstream, .. }) = at_address.pop() {
            if upstream.is_reusable()
                && (upstream.itself || proves(upstream.mesh.as_ref(), expected))
            {
                return Some(upstream);
            }
        }
        None
    }

    pub(crate) fn put(&self, address: SocketAddr, mut upstream: Upstream) {
        if !upstream.is_reusable() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let at_address = idle.entry(address).or_default();
        if at_address.len() < MOST_IDLE {
            at_address.push(Idle {
                upstream,
                since: Instant::now(),
            });
        }
    }

    /// A shared connection to `address`, as [`SharedConnections::one`] finds it.
    pub(crate) fn http2(&self, address: SocketAddr, expected: &[Principal]) -> SharedHttp2 {
        self.http2
            .borrow_mut()
            .entry(address)
            .or_default()
            .one(expected)
    }

    /// Ends what has been idle for long, was ended by its server, or must not be used again.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut ended = Vec::new();
        self.idle.borrow_mut().retain(|_, at_address| {
            let mut kept = Vec::with_capacity(at_address.len());
            for mut idle in at_address.drain(..) {
                if now.duration_since(idle.since) < IDLE && idle.upstream.is_reusable() {
                    kept.push(idle);
                } else {
                    ended.push(idle);
                }
            }
            *at_address = kept;
            !at_address.is_empty()
        });
        ended.into_iter().for_each(|idle: Idle| idle.upstream.end());
        self.http2.borrow_mut().retain(|_, shared| {
            shared.keep(|upstream| !upstream.idle_for(now, IDLE));
            !shared.0.is_empty()
        });
    }

    /// Ends every idle connection, so that the next request makes one with the SVID of today.
    pub(crate) fn retire(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.into_values()
            .flatten()
            .for_each(|idle| idle.upstream.end());
        self.http2.borrow_mut().retain(|_, shared| {
            shared.keep(|_| false);
            !shared.0.is_empty()
        });
    }
}

/// HTTP/2 connections to one address; more than one only when the server limits how many requests each takes.
#[derive(Default)]
pub(crate) struct SharedConnections(Vec<SharedHttp2>);

impl SharedConnections {
    /// One with room for a request, or the place where one is being made. What comes out of a place that was being
    /// filled is to be checked with [`Http2Upstream::serves`].
    pub(crate) fn one(&mut self, expected: &[Principal]) -> SharedHttp2 {
        self.keep(|_| true);
        let usable = |place: &&SharedHttp2| {
            place
                .made
                .get()
                .is_none_or(|made| made.as_ref().is_some_and(|it| it.serves(expected)))
        };
        if let Some(place) = self.0.iter().find(usable) {
            return Rc::clone(place);
        }
        let place = SharedHttp2::default();
        self.0.push(Rc::clone(&place));
        place
    }

    fn keep(&mut self, wanted: impl Fn(&Http2Upstream) -> bool) {
        self.0.retain(|place| match place.made.get() {
            Some(Some(upstream)) => upstream.stands() && wanted(upstream),
            Some(None) => false,
            // Somebody is making it, as long as anybody else holds it.
            None => Rc::strong_count(place) > 1,
        });
    }
}

/// Is this server one of those that may answer? Nobody may only where the destination is not in the mesh.
pub(crate) fn proves(mesh: Option<&UpstreamMesh>, expected: &[Principal]) -> bool {
    match mesh {
        Some(mesh) => expected.contains(mesh.peer.principal()),
        None => expected.is_empty(),
    }
}

impl Upstream {
    /// Says goodbye as far as the socket takes it without waiting: nothing else is on its way.
    fn end(mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut context);
    }

    /// Still open, nothing unasked for received, nothing asked of it by the registry.
    pub(crate) fn is_reusable(&mut self) -> bool {
        let asked = self
            .live
            .as_ref()
            .is_some_and(|live| live.signal.is_closing() || live.signal.is_draining());
        if asked || !self.buffer.is_empty() {
            return false;
        }
        let mut context = Context::from_waker(Waker::noop());
        matches!(
            self.stream.poll_read_onto(&mut context, &mut self.buffer),
            Poll::Pending
        )
    }
}
