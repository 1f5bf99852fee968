//! `/status` and `/ready` over HTTP/1.1 on the loopback. Nothing here changes anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::debug;

use super::State;

/// Reports are asked for by people and tests, a few at a time.
const MAX_CONNECTIONS: usize = 64;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);

/// Serves until dropped. `identity` says why there is no identity to serve with, if so.
pub(crate) async fn serve<I>(listener: TcpListener, state: Arc<State>, identity: I)
where
    I: Fn() -> Option<String> + Clone + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "status connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (state, identity) = (Arc::clone(&state), identity.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&state, &identity, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        connections.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "status connection ended");
            }
        });
    }
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    not_ready: Vec<String>,
}

fn answer(
    state: &State,
    identity: &impl Fn() -> Option<String>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return json(StatusCode::METHOD_NOT_ALLOWED, &"only GET");
    }
    let mut not_ready = state.not_ready();
    not_ready.extend(identity());
    match request.uri().path() {
        "/status" => json(StatusCode::OK, &state.report(not_ready)),
        "/ready" => {
            let status = if not_ready.is_empty() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            json(
                status,
                &Readiness {
                    ready: not_ready.is_empty(),
                    not_ready,
                },
            )
        }
        _ => json(StatusCode::NOT_FOUND, &"there are /status and /ready"),
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let mut text = serde_json::to_vec_pretty(body).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    response
}
