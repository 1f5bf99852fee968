//! One HTTP request over the control plane's Unix socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// A status of 10,000 sidecars is a few MiB.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// What the control plane itself may take, beside what it was asked to wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer, in words for the operator.
#[derive(Debug)]
pub(super) enum Failure {
    /// The control plane cannot be asked.
    Unreachable(String),
    /// It says no, and why.
    Refused(String),
}

/// Asks, blocking; `wait` is how long the answer itself may be told to wait.
pub(super) fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
    wait: Duration,
) -> Result<Value, Failure> {
    let unreachable = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "run this as the control plane's own user",
            _ => {
                "is the control plane running, with --admin-socket, on this machine? (One that serves a Kubernetes \
                 cluster has no socket: without --socket this command says what to do there.)"
            }
        };
        Failure::Unreachable(format!("cannot ask {}: {error}; {hint}", socket.display()))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(unreachable)?;
    let asking = async {
        tokio::time::timeout(PATIENCE + wait, exchange(socket, method, path, body))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
    };
    let (status, answer) = runtime.block_on(asking).map_err(unreachable)?;
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| unreachable(io::Error::other(format!("not Kith's answer: {error}"))))?;
    if status.is_success() || status == http::StatusCode::SERVICE_UNAVAILABLE && method_is_get(body)
    {
        return Ok(answer);
    }
    let error = answer["error"]
        .as_str()
        .map_or_else(|| answer.to_string(), str::to_owned);
    Err(Failure::Refused(error))
}

/// `/ready` answers 503 with what is wrong.
fn method_is_get(body: Option<&Value>) -> bool {
    body.is_none()
}

pub(super) async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> io::Result<(http::StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "kith-control")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let answering = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    };
    tokio::pin!(answering);
    tokio::select! {
        answer = &mut answering => answer,
        // The connection may be done a moment before its answer is taken.
        _ = connection => answering.await,
    }
}
