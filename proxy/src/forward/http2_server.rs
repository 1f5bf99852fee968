//! The client's end of an HTTP/2 connection: a task per request, refusals, draining.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use kith_policy::Reason;

use crate::connections::{IDLE, Live};
use crate::error::{challenge_of, grpc_status_of, status_of};
use crate::record::{ClosedBy, Record};
use crate::signal::{Ask, Closing, still_fine};
use crate::stream::Prefixed;

/// How long the last frames of a connection that is being closed may take.
const GOODBYE: Duration = Duration::from_millis(200);

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
    if live.signal.is_draining() {
        connection.graceful_shutdown();
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
                    Poll::Ready(Ask::Drain) => connection.graceful_shutdown(),
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
        let _ = tokio::time::timeout(
            GOODBYE,
            std::future::poll_fn(|context| connection.poll_closed(context)),
        )
        .await;
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
    let mut headers = HeaderMap::with_capacity(6);
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
        Outcome::Unsent(error) | Outcome::NoAnswer(error) => {
            tracing::debug!(%error, "the server gave no answer");
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
