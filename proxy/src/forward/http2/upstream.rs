//! Connections to servers that any number of requests share, and the task that drives each.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use kith_policy::Principal;

use super::{CONNECTION_WINDOW, HEADER_LIST, SEND_BUFFER, STREAM_WINDOW};
use crate::connections::{Live, Registered};
use crate::forward::pool::{UpstreamMesh, proves};
use crate::signal::Ask;
use crate::stream::Stream;
use crate::worker::contain_panic;

/// Requests sent before the server has said how many it takes (RFC 9113 section 6.5.2 recommends no less than 100).
const FIRST_STREAMS: usize = 100;

/// How often a server with requests in flight is asked for a sign of life, and how long it may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// A connection to a server that any number of requests share.
pub(crate) struct Http2Upstream {
    pub(super) send: SendRequest<Bytes>,
    pub(crate) live: Rc<Live>,
    pub(crate) mesh: Option<UpstreamMesh>,
    pub(crate) address: std::net::SocketAddr,
    /// The server is this very pod.
    itself: bool,
    last_used: Cell<Instant>,
    /// Sent on it so far.
    pub(super) requests: Cell<u64>,
    state: Rc<State>,
}

/// What the task that drives the connection and the requests on it tell each other.
struct State {
    active: Cell<u32>,
    /// How many requests the server takes at a time.
    most: Cell<usize>,
    ended: Cell<bool>,
}

/// One request on it.
pub(crate) struct Borrowed(Rc<Http2Upstream>);

impl Http2Upstream {
    pub(crate) async fn start(
        stream: Stream,
        live: Registered,
        mesh: Option<UpstreamMesh>,
        address: std::net::SocketAddr,
        itself: bool,
    ) -> Result<Rc<Self>, h2::Error> {
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(FIRST_STREAMS)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await?;
        let state = Rc::new(State {
            active: Cell::new(0),
            most: Cell::new(FIRST_STREAMS),
            ended: Cell::new(false),
        });
        let upstream = Rc::new(Http2Upstream {
            send,
            live: Rc::clone(&live),
            mesh,
            address,
            itself,
            last_used: Cell::new(Instant::now()),
            requests: Cell::new(0),
            state: Rc::clone(&state),
        });
        tokio::task::spawn_local(contain_panic(drive(connection, live, state), move || {
            tracing::error!(%address, "an HTTP/2 connection was ended by a panic; please report it");
        }));
        Ok(upstream)
    }

    /// May requests for a destination that expects one of these be sent on it, and is there room?
    pub(crate) fn serves(&self, expected: &[Principal]) -> bool {
        let room = (self.state.active.get() as usize) < self.state.most.get();
        room && self.stands() && (self.itself || proves(self.mesh.as_ref(), expected))
    }

    /// It has carried others before.
    pub(crate) fn is_kept(&self) -> bool {
        self.requests.get() > 0
    }

    /// It takes requests, now or when others have ended.
    pub(crate) fn stands(&self) -> bool {
        !self.state.ended.get() && !self.live.signal.is_draining() && !self.live.signal.is_closing()
    }

    /// It turned out to take no more requests; those under way may finish.
    pub(crate) fn give_up(&self) {
        self.state.ended.set(true);
    }

    pub(crate) fn idle_for(&self, now: Instant, time: Duration) -> bool {
        self.state.active.get() == 0 && now.duration_since(self.last_used.get()) >= time
    }

    pub(crate) fn borrow(self: &Rc<Self>) -> Borrowed {
        let active = self.state.active.get() + 1;
        self.state.active.set(active);
        self.live.set_in_flight(active);
        Borrowed(Rc::clone(self))
    }
}

impl std::ops::Deref for Borrowed {
    type Target = Http2Upstream;
    fn deref(&self) -> &Http2Upstream {
        &self.0
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let active = self.0.state.active.get() - 1;
        self.0.state.active.set(active);
        self.0.live.set_in_flight(active);
        self.0.last_used.set(Instant::now());
    }
}

/// Owns the connection until it ends, dies silently, or the registry says so.
async fn drive(
    mut connection: h2::client::Connection<Stream, Bytes>,
    live: Registered,
    state: Rc<State>,
) {
    let mut ping_pong = connection.ping_pong();
    let mut heartbeat = tokio::time::interval(PING);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked: Option<Instant> = None;
    let result = std::future::poll_fn(|context| {
        while let Poll::Ready(ask) = live.signal.poll(context) {
            // Dropping it ends its streams; their tasks find the cause in the signal.
            if let Ask::Close(_) = ask {
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(ping_pong) = &mut ping_pong {
            while heartbeat.poll_tick(context).is_ready() {
                if asked.is_some_and(|asked| asked.elapsed() >= PONG) {
                    tracing::info!(destination = %live.destination, "a server with requests in flight gives no sign of life");
                    return Poll::Ready(Ok(()));
                }
                if asked.is_none() && state.active.get() > 0 && ping_pong.send_ping(h2::Ping::opaque()).is_ok() {
                    asked = Some(Instant::now());
                }
            }
            if asked.is_some() && ping_pong.poll_pong(context).is_ready() {
                asked = None;
            }
        }
        let poll = std::pin::Pin::new(&mut connection).poll(context);
        state.most.set(connection.max_concurrent_send_streams());
        poll
    })
    .await;
    state.ended.set(true);
    if let Err(error) = result {
        tracing::debug!(destination = %live.destination, %error, "an HTTP/2 connection failed");
    }
}
