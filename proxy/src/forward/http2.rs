//! HTTP/2: one request and its answer between two streams.

mod pump;
mod source;
mod upstream;

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use crate::authorize::Permit;
use crate::connections::Live;
use crate::forward::again::Again;
use crate::headers::AGAIN;
use crate::signal::{Ask, Closing, Signal};
use crate::stream::Prefixed;
use pump::{Broken, Pump, grpc_status};
pub(crate) use source::RequestBody;
pub(crate) use upstream::{Borrowed, Http2Upstream};

/// Flow-control windows (RFC 9113 section 5.2): room for one fast stream, bounded for a thousand.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Requests share a connection: a few that stall must not take the window from all others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Decoded header bytes of one message (security.md, row 26).
const HEADER_LIST: u32 = 64 * 1024;

const SEND_BUFFER: usize = 64 * 1024;

/// Streams that one client may have open on one connection.
const STREAMS: u32 = 250;

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

/// Why a request may be sent once more.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The server's proxy has no application for it.
    Refused,
    Failed(h2::Error),
}

impl std::fmt::Display for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unsent::Refused => f.write_str("its application is gone"),
            Unsent::Failed(error) => error.fmt(f),
        }
    }
}

/// How one exchange ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered,
    /// The request may be sent once more, as the terms have it or because nothing was processed.
    Unsent(Unsent),
    NoAnswer(h2::Error),
    Cut(h2::Error),
    ClientGone(Option<h2::Reason>),
    /// The client broke its own request: its trailers are none that may pass. An answer is due when none has begun.
    BadRequest {
        answered: bool,
    },
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
    pub(crate) again: Again,
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
    upstream.requests.set(upstream.requests.get() + 1);
    if sent.is_err() {
        upstream.give_up();
    }
    sent
}

/// Moves the bodies both ways and the answer back.
pub(crate) fn exchange(
    request: &mut RequestBody,
    respond: &mut SendResponse<Bytes>,
    response: h2::client::ResponseFuture,
    to_server: SendStream<Bytes>,
    terms: &Terms<'_>,
    answer: &mut Answer,
) -> impl Future<Output = Outcome> {
    exchange_guarding(request, respond, response, to_server, terms, answer, None)
}

/// The same, and the request's trailers can't bring these fields either: names in lower case, with `-` for `_`.
pub(crate) async fn exchange_guarding(
    request: &mut RequestBody,
    respond: &mut SendResponse<Bytes>,
    response: h2::client::ResponseFuture,
    mut to_server: SendStream<Bytes>,
    terms: &Terms<'_>,
    answer: &mut Answer,
    guarded: Option<Arc<[String]>>,
) -> Outcome {
    let started = Instant::now();
    let mut response = response;
    let mut upload = Pump::of_request(guarded);
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
                Poll::Ready(Err(Broken::Trailers)) => {
                    let answered = download.is_some();
                    return Poll::Ready(Outcome::BadRequest { answered });
                }
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
                    // Of an answer they are edited, and always pass.
                    Err(Broken::Trailers) => Poll::Ready(Outcome::ClientGone(None)),
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
                Poll::Ready(Err(error))
                    if request.is_whole()
                        && (is_unsent(&error) || terms.again.lost && error.is_io()) =>
                {
                    return Poll::Ready(Outcome::Unsent(Unsent::Failed(error)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Outcome::NoAnswer(error)),
                Poll::Ready(Ok(head)) => {
                    let (mut parts, body) = head.into_parts();
                    let refused = terms.again.refused && parts.headers.contains_key(AGAIN);
                    if refused && request.is_whole() {
                        return Poll::Ready(Outcome::Unsent(Unsent::Refused));
                    }
                    request.forget();
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
    request.rewind();
    answer.bytes_in = upload.bytes;
    if let Some((_, to_client, pump)) = &mut download {
        answer.bytes_out = pump.bytes;
        answer.grpc_status = pump.grpc_status.or(answer.grpc_status);
        if let Some(reason) = reset_of(&outcome) {
            to_client.send_reset(reason);
        }
    } else if let Some(reason) = reset_of(&outcome) {
        respond.send_reset(reason);
    }
    if !uploaded || !matches!(outcome, Outcome::Answered) {
        to_server.send_reset(match &outcome {
            Outcome::Answered => h2::Reason::NO_ERROR,
            _ => h2::Reason::CANCEL,
        });
    }
    closed_from_outside(outcome, &terms.lives)
}

/// What the client's stream is reset with.
fn reset_of(outcome: &Outcome) -> Option<h2::Reason> {
    match outcome {
        Outcome::Asked(_) => Some(h2::Reason::CANCEL),
        // RFC 9113 section 8.1.1.
        Outcome::BadRequest { answered: true } => Some(h2::Reason::PROTOCOL_ERROR),
        _ => None,
    }
}

/// A stream that fails because its connection was closed for a reason that is known ends for that reason.
fn closed_from_outside(outcome: Outcome, lives: &[&Live; 2]) -> Outcome {
    match outcome {
        Outcome::Answered | Outcome::Asked(_) | Outcome::BadRequest { .. } => outcome,
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
