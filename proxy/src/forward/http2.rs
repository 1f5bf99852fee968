//! HTTP/2: shared connections to servers, and one request and its answer between two streams.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use kith_policy::Principal;

use crate::authorize::Permit;
use crate::connections::{Live, Registered};
use crate::forward::pool::{UpstreamMesh, proves};
use crate::signal::{Ask, Closing, Signal};
use crate::stream::{Prefixed, Stream};
use crate::worker::contain_panic;

/// Flow-control windows (RFC 9113 section 5.2): room for one fast stream, bounded for a thousand.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Requests share a connection: a few that stall must not take the window from all others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Decoded header bytes of one message (security.md, row 26).
const HEADER_LIST: u32 = 64 * 1024;

const SEND_BUFFER: usize = 64 * 1024;

/// Streams that one client may have open on one connection.
const STREAMS: u32 = 250;

/// Requests sent before the server has said how many it takes (RFC 9113 section 6.5.2 recommends no less than 100).
const FIRST_STREAMS: usize = 100;

/// How often a server with requests in flight is asked for a sign of life, and how long it may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// A connection to a server that any number of requests share.
pub(crate) struct Http2Upstream {
    send: SendRequest<Bytes>,
    pub(crate) live: Rc<Live>,
    pub(crate) mesh: Option<UpstreamMesh>,
    pub(crate) address: std::net::SocketAddr,
    /// The server is this very pod.
    itself: bool,
    last_used: Cell<Instant>,
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

/// The server's side, with the caps of security.md, row 26.
pub(crate) async fn accept(
    stream: Prefixed,
) -> Result<h2::server::Connection<Prefixed, Bytes>, h2::Error> {
    h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(1024))
        .max_concurrent_reset_streams(50)
        .handshake(stream)
        .await
}

/// How one exchange ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered,
    /// Nothing was processed; another connection may be tried.
    Unsent(h2::Error),
    NoAnswer(h2::Error),
    Cut(h2::Error),
    ClientGone(Option<h2::Reason>),
    Asked(Closing),
}

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) reason: Option<kith_policy::Reason>,
}

/// What is fixed for one exchange.
pub(crate) struct Terms<'a> {
    /// The stream's own signal.
    pub(crate) signal: &'a Signal,
    /// The connections on both sides.
    pub(crate) lives: [&'a Live; 2],
    pub(crate) recheck: &'a dyn Fn() -> Result<(), Closing>,
    /// Fields of the answer that must not pass.
    pub(crate) edit_answer: &'a dyn Fn(&mut HeaderMap),
}

/// Sends a request. The second value is its stream, whose id is part of the hop id. Of an error the server has
/// seen nothing.
pub(crate) async fn send(
    _permit: &Permit,
    upstream: &Http2Upstream,
    request: impl FnOnce() -> Request<()>,
    end: bool,
) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
    let sent = match upstream.send.clone().ready().await {
        Ok(mut send) => send.send_request(request(), end),
        Err(error) => Err(error),
    };
    if sent.is_err() {
        upstream.give_up();
    }
    sent
}

/// Moves the bodies both ways and the answer back.
pub(crate) async fn exchange(
    request: &mut RecvStream,
    respond: &mut SendResponse<Bytes>,
    response: h2::client::ResponseFuture,
    mut to_server: SendStream<Bytes>,
    terms: &Terms<'_>,
    answer: &mut Answer,
) -> Outcome {
    let started = Instant::now();
    let mut response = response;
    let mut upload = Pump::default();
    let mut uploaded = request.is_end_stream();
    let mut download: Option<(RecvStream, SendStream<Bytes>, Pump)> = None;
    let outcome = std::future::poll_fn(|context| {
        while let Poll::Ready(ask) = terms.signal.poll(context) {
            match ask {
                Ask::Close(closing) => return Poll::Ready(Outcome::Asked(closing)),
                Ask::Drain => {}
                Ask::Recheck(barrier) => {
                    if let Err(closing) = (terms.recheck)() {
                        // Falls when this stream is gone.
                        terms.signal.hold(barrier);
                        return Poll::Ready(Outcome::Asked(closing));
                    }
                }
            }
        }
        if !uploaded {
            match upload.poll(context, request, &mut to_server) {
                Poll::Ready(Ok(())) => uploaded = true,
                Poll::Ready(Err(Broken::Source(error))) => {
                    return Poll::Ready(Outcome::ClientGone(error.reason()));
                }
                // The server wants no more of it; its answer tells why (RFC 9113 section 8.1).
                Poll::Ready(Err(Broken::Destination(_))) => uploaded = true,
                Poll::Pending => {}
            }
        }
        loop {
            if let Some((body, to_client, pump)) = &mut download {
                return match ready!(pump.poll(context, body, to_client)) {
                    Ok(()) => Poll::Ready(Outcome::Answered),
                    Err(Broken::Source(error)) => {
                        to_client.send_reset(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR));
                        Poll::Ready(Outcome::Cut(error))
                    }
                    Err(Broken::Destination(reason)) => Poll::Ready(Outcome::ClientGone(reason)),
                };
            }
            match std::pin::Pin::new(&mut response).poll(context) {
                Poll::Pending => {
                    return match respond.poll_reset(context) {
                        Poll::Ready(Ok(reason)) => Poll::Ready(Outcome::ClientGone(Some(reason))),
                        Poll::Ready(Err(error)) => Poll::Ready(Outcome::ClientGone(error.reason())),
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(Err(error)) if is_unsent(&error) && upload.is_fresh() => {
                    return Poll::Ready(Outcome::Unsent(error));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Outcome::NoAnswer(error)),
                Poll::Ready(Ok(head)) => {
                    let (mut parts, body) = head.into_parts();
                    answer.head(&parts, started);
                    (terms.edit_answer)(&mut parts.headers);
                    let end = body.is_end_stream();
                    match respond.send_response(Response::from_parts(parts, ()), end) {
                        Err(error) => return Poll::Ready(Outcome::ClientGone(error.reason())),
                        Ok(_) if end => return Poll::Ready(Outcome::Answered),
                        Ok(to_client) => download = Some((body, to_client, Pump::default())),
                    }
                }
            }
        }
    })
    .await;
    answer.bytes_in = upload.bytes;
    if let Some((_, to_client, pump)) = &mut download {
        answer.bytes_out = pump.bytes;
        answer.grpc_status = pump.grpc_status.or(answer.grpc_status);
        if matches!(outcome, Outcome::Asked(_)) {
            to_client.send_reset(h2::Reason::CANCEL);
        }
    } else if matches!(outcome, Outcome::Asked(_)) {
        respond.send_reset(h2::Reason::CANCEL);
    }
    if !uploaded || !matches!(outcome, Outcome::Answered) {
        to_server.send_reset(match &outcome {
            Outcome::Answered => h2::Reason::NO_ERROR,
            _ => h2::Reason::CANCEL,
        });
    }
    closed_from_outside(outcome, &terms.lives)
}

/// A stream that fails because its connection was closed for a reason that is known ends for that reason.
fn closed_from_outside(outcome: Outcome, lives: &[&Live; 2]) -> Outcome {
    match outcome {
        Outcome::Answered | Outcome::Asked(_) => outcome,
        failed => lives
            .iter()
            .find_map(|live| live.cut_off())
            .map_or(failed, Outcome::Asked),
    }
}

/// The server guarantees that it did nothing: it refused the stream, or its GOAWAY came with a lower last stream id,
/// which is the only way in which a stream sees a remote GOAWAY as its error (RFC 9113 section 8.7).
fn is_unsent(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote())
}

impl Answer {
    fn head(&mut self, parts: &http::response::Parts, started: Instant) {
        self.status = Some(parts.status.as_u16());
        self.first_byte = Some(started.elapsed());
        self.grpc_status = grpc_status(&parts.headers);
        self.reason = parts
            .headers
            .get("x-kith-reason")
            .and_then(|value| value.to_str().ok()?.parse().ok());
    }

    pub(crate) fn record(&self, record: &mut crate::record::Record) {
        record.status = self.status;
        record.grpc_status = self.grpc_status;
        record.upstream = self.first_byte;
        record.bytes_in = self.bytes_in;
        record.bytes_out = self.bytes_out;
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// One direction of a body, trailers included.
#[derive(Default)]
struct Pump {
    chunk: Bytes,
    bytes: u64,
    grpc_status: Option<u32>,
}

impl Pump {
    /// Nothing was taken from the source.
    fn is_fresh(&self) -> bool {
        self.bytes == 0 && self.chunk.is_empty()
    }
}

enum Broken {
    Source(h2::Error),
    Destination(Option<h2::Reason>),
}

impl Pump {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        source: &mut RecvStream,
        destination: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        let failed = |error: h2::Error| Broken::Destination(error.reason());
        loop {
            while self.chunk.has_remaining() {
                destination.reserve_capacity(self.chunk.len());
                let mut room = destination.capacity();
                if room == 0 {
                    room = match ready!(destination.poll_capacity(context)) {
                        Some(Ok(room)) => room,
                        Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                        None => return Poll::Ready(Err(Broken::Destination(None))),
                    };
                }
                let part = self.chunk.split_to(room.min(self.chunk.len()));
                let count = part.len();
                let end = self.chunk.is_empty() && source.is_end_stream();
                destination.send_data(part, end).map_err(failed)?;
                // The source may send as much again as the destination has taken: back-pressure end to end.
                let _ = source.flow_control().release_capacity(count);
                self.bytes += count as u64;
                if end {
                    return Poll::Ready(Ok(()));
                }
            }
            match source.poll_data(context) {
                Poll::Ready(Some(Ok(chunk))) => self.chunk = chunk,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Ready(None) => {
                    match ready!(source.poll_trailers(context)).map_err(Broken::Source)? {
                        Some(trailers) => {
                            self.grpc_status = grpc_status(&trailers);
                            destination.send_trailers(trailers).map_err(failed)?;
                        }
                        None => destination.send_data(Bytes::new(), true).map_err(failed)?,
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => {
                    return match destination.poll_reset(context) {
                        Poll::Ready(Ok(reason)) => {
                            Poll::Ready(Err(Broken::Destination(Some(reason))))
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}
