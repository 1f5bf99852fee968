//! The client's end of an HTTP/2 connection: a task per request, refusals, draining.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use kith_policy::Reason;

use crate::connections::{DRAINED, IDLE, Live};
use crate::error::{challenge_of, grpc_status_of, status_of};
use crate::record::{ClosedBy, Record};
use crate::signal::{Ask, Closing, still_fine};
use crate::stream::Prefixed;

/// How long the last frames of a connection that is being closed may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// How long the socket is kept after that. What the client may still say, unread, would be answered with a reset, which a
/// client that is writing notices before it has read our last words.
const UNREAD: Duration = Duration::from_millis(200);

/// Turns that the tasks of streams get to reset them before their connection is closed.
const RESETS: usize = 2;

/// How long a client may take to say that it speaks HTTP/2 (RFC 9113 section 3.4).
const PREFACE: Duration = Duration::from_secs(15);

/// Accepts requests until the connection ends, handing each to `serve`. Tells why, when the registry ended it.
pub(crate) async fn requests(
    stream: Prefixed,
    live: &Rc<Live>,
    mut serve: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
) -> Result<Option<Closing>, h2::Error> {
    live.wait_for(PREFACE, Reason::Timeout);
    let accepted = live
        .signal
        .unless_closed(&still_fine, super::http2::accept(stream))
        .await;
    let mut connection = match accepted {
        Ok(accepted) => accepted?,
        Err(closing) => return Ok(Some(closing)),
    };
    live.wait_for(IDLE, Reason::Timeout);
    // The first GOAWAY lets requests come that are on their way (RFC 9113 section 6.8), and only a client that answers
    // is sent the last: no client is waited for.
    let let_go = |connection: &mut h2::server::Connection<_, _>| {
        connection.graceful_shutdown();
        if !live.is_busy() {
            live.wait_for(DRAINED, Reason::Draining);
        }
    };
    if live.signal.is_draining() {
        let_go(&mut connection);
    }
    let mut closing: Option<Closing> = None;
    loop {
        let next = std::future::poll_fn(|context| {
            loop {
                match live.signal.poll(context) {
                    Poll::Ready(Ask::Close(cause)) => {
                        closing = Some(cause);
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Ask::Drain) => let_go(&mut connection),
                    Poll::Ready(Ask::Recheck(_)) => {}
                    Poll::Pending => break,
                }
            }
            connection.poll_accept(context)
        })
        .await;
        match next {
            Some(Ok((request, respond))) => serve(request, respond),
            Some(Err(error)) => return Err(error),
            None => break,
        }
    }
    if let Some(closing) = &closing {
        // Each stream is reset by its own task, and that goes out first: GOAWAY drops what is still queued.
        live.close_streams(closing);
        for _ in 0..RESETS {
            tokio::task::yield_now().await;
            std::future::poll_fn(|context| {
                let _ = connection.poll_closed(context);
                Poll::Ready(())
            })
            .await;
        }
        connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        let closed = std::future::poll_fn(|context| connection.poll_closed(context));
        if tokio::time::timeout(GOODBYE, closed).await.is_err() {
            return Ok(Some(closing.clone()));
        }
    }
    if !live.is_busy() {
        tokio::task::spawn_local(async move {
            tokio::time::sleep(UNREAD).await;
            drop(connection);
        });
    }
    Ok(closing)
}

/// Answers in the proxy's own name: a problem document, or trailers-only for gRPC.
pub(crate) fn refuse(
    respond: &mut SendResponse<Bytes>,
    record: &mut Record,
    grpc: bool,
    head_only: bool,
    reason: Reason,
    request_id: &str,
) {
    refuse_with(
        respond,
        record,
        grpc,
        head_only,
        reason,
        request_id,
        HeaderMap::with_capacity(6),
    );
}

/// As [`refuse`], with further header fields.
pub(crate) fn refuse_with(
    respond: &mut SendResponse<Bytes>,
    record: &mut Record,
    grpc: bool,
    head_only: bool,
    reason: Reason,
    request_id: &str,
    mut headers: HeaderMap,
) {
    headers.insert(header::SERVER, HeaderValue::from_static("kith"));
    headers.insert("x-kith-reason", HeaderValue::from_static(reason.as_str()));
    if grpc {
        let status = grpc_status_of(record.direction(), reason);
        record.status = Some(200);
        record.grpc_status = Some(status);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert("grpc-status", HeaderValue::from(status));
        let message = format!("{} requestId={request_id}", reason.as_str());
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert("grpc-message", message);
        }
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let _ = respond.send_response(response, true);
        return;
    }
    let status = status_of(record.direction(), reason);
    record.status = Some(status);
    let body =
        serde_json::json!({ "reason": reason.as_str(), "requestId": request_id }).to_string();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Some(challenge) = challenge_of(reason) {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        );
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    *response.headers_mut() = headers;
    if let Ok(mut body_stream) = respond.send_response(response, head_only)
        && !head_only
    {
        record.bytes_out = body.len() as u64;
        let _ = body_stream.send_data(body.into(), true);
    }
    // The rest of the request is not wanted: dropping the stream resets it with NO_ERROR once the answer is out
    // (RFC 9113 section 8.1). Asking for a reset here would throw away what is still queued.
}

/// Completes the record of a request that did not end well, and gives what the caller is told, if it can be.
pub(crate) fn failed(record: &mut Record, outcome: &super::http2::Outcome) -> Option<Reason> {
    use super::http2::Outcome;
    match outcome {
        Outcome::Answered => None,
        Outcome::Unsent(_) | Outcome::NoAnswer(_) => {
            if let Outcome::NoAnswer(error) = outcome {
                tracing::debug!(%error, "the server gave no answer");
            }
            record.fail(Reason::ServerClosed);
            record.closed_by = Some(ClosedBy::Server);
            Some(Reason::ServerClosed)
        }
        Outcome::Cut(error) => {
            tracing::debug!(%error, "the server cut its answer short");
            record.fail(Reason::ServerClosed);
            record.closed_by = Some(ClosedBy::Server);
            None
        }
        Outcome::ClientGone(reason) => {
            tracing::debug!(?reason, "the client left before its answer was over");
            record.fail(Reason::ClientClosed);
            record.closed_by = Some(ClosedBy::Client);
            None
        }
        Outcome::BadRequest { answered } => {
            tracing::debug!("the client's trailers have fields that are none of its business");
            // Its head was allowed and is with the server by now: the record must not look as if nothing had happened.
            record.fail(Reason::RequestMalformed);
            (!answered).then_some(Reason::RequestMalformed)
        }
        Outcome::Asked(closing) => {
            closing.record(record);
            None
        }
    }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
