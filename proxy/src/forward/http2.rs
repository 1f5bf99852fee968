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

use crate::connections::{Live, Registered};
use crate::forward::pool::UpstreamMesh;
use crate::signal::{Ask, Closing, Signal};
use crate::stream::{Prefixed, Stream};
use crate::worker::contain_panic;

/// Flow-control windows (RFC 9113 section 5.2): room for one fast stream, bounded for a thousand.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Decoded header bytes of one message (security.md, row 26).
const HEADER_LIST: u32 = 64 * 1024;

const SEND_BUFFER: usize = 256 * 1024;

/// Streams that one client may have open on one connection.
const STREAMS: u32 = 1000;

/// A connection to a server that any number of requests share.
pub(crate) struct Http2Upstream {
    send: SendRequest<Bytes>,
    pub(crate) live: Rc<Live>,
    pub(crate) mesh: Option<UpstreamMesh>,
    pub(crate) address: std::net::SocketAddr,
    active: Cell<u32>,
    last_used: Cell<Instant>,
    ended: Rc<Cell<bool>>,
}

/// One request on it.
pub(crate) struct Borrowed(Rc<Http2Upstream>);

impl Http2Upstream {
    pub(crate) async fn start(
        stream: Stream,
        live: Registered,
        mesh: Option<UpstreamMesh>,
        address: std::net::SocketAddr,
    ) -> Result<Rc<Self>, h2::Error> {
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await?;
        let ended = Rc::new(Cell::new(false));
        let upstream = Rc::new(Http2Upstream {
            send,
            live: Rc::clone(&live),
            mesh,
            address,
            active: Cell::new(0),
            last_used: Cell::new(Instant::now()),
            ended: Rc::clone(&ended),
        });
        tokio::task::spawn_local(contain_panic(drive(connection, live, ended), move || {
            tracing::error!(%address, "an HTTP/2 connection was ended by a panic; please report it");
        }));
        Ok(upstream)
    }

    pub(crate) fn takes_requests(&self) -> bool {
        !self.ended.get() && !self.live.signal.is_draining() && !self.live.signal.is_closing()
    }

    pub(crate) fn idle_for(&self, now: Instant, time: Duration) -> bool {
        self.active.get() == 0 && now.duration_since(self.last_used.get()) >= time
    }

    pub(crate) fn borrow(self: &Rc<Self>) -> Borrowed {
        self.active.set(self.active.get() + 1);
        self.live.set_in_flight(self.active.get());
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
        self.0.active.set(self.0.active.get() - 1);
        self.0.live.set_in_flight(self.0.active.get());
        self.0.last_used.set(Instant::now());
    }
}

/// Owns the connection until it ends or the registry says so.
async fn drive(mut connection: h2::client::Connection<Stream, Bytes>, live: Registered, ended: Rc<Cell<bool>>) {
    let result = std::future::poll_fn(|context| {
        loop {
            match live.signal.poll(context) {
                // Dropping it ends its streams; their tasks find the cause in the signal.
                Poll::Ready(Ask::Close(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ask::Drain | Ask::Recheck(_)) => {}
                Poll::Pending => break,
            }
        }
        std::pin::Pin::new(&mut connection).poll(context)
    })
    .await;
    ended.set(true);
    if let Err(error) = result {
        tracing::debug!(destination = %live.destination, %error, "an HTTP/2 connection failed");
    }
}

/// The server's side, with the caps of security.md, row 26.
pub(crate) async fn accept(stream: Prefixed) -> Result<h2::server::Connection<Prefixed, Bytes>, h2::Error> {
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

/// Sends a request. The second value is its stream, whose id is part of the hop id.
pub(crate) async fn send(
    upstream: &Http2Upstream,
    request: Request<()>,
    end: bool,
) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
    let mut send = upstream.send.clone().ready().await?;
    send.send_request(request, end)
}

/// Moves the bodies both ways and the answer back.
pub(crate) async fn exchange(
    mut request: RecvStream,
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
            match upload.poll(context, &mut request, &mut to_server) {
                Poll::Ready(Ok(())) => uploaded = true,
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Outcome::ClientGone(error.reason())),
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
                Poll::Ready(Err(error)) if is_unsent(&error) => return Poll::Ready(Outcome::Unsent(error)),
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
        failed => lives.iter().find_map(|live| live.cut_off()).map_or(failed, Outcome::Asked),
    }
}

/// The server guarantees that it did nothing (RFC 9113 section 8.7).
fn is_unsent(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

impl Answer {
    fn head(&mut self, parts: &http::response::Parts, started: Instant) {
        self.status = Some(parts.status.as_u16());
        self.first_byte = Some(started.elapsed());
        self.grpc_status = grpc_status(&parts.headers);
        self.reason = parts.headers.get("x-kith-reason").and_then(|value| value.to_str().ok()?.parse().ok());
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
                        Poll::Ready(Ok(reason)) => Poll::Ready(Err(Broken::Destination(Some(reason)))),
                        Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}
