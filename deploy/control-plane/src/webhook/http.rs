//! HTTPS for the API server: few connections, bounded in bytes and time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::review::{Asked, Reviewer};
use crate::http::{Answer, json as answer};

/// An API server has few; nobody else has a reason to have any.
const MAX_CONNECTIONS: usize = 256;
const MAX_STREAMS: u32 = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADERS: Duration = Duration::from_secs(5);
/// A little less than what the API server waits.
const DEADLINE: Duration = Duration::from_secs(9);
/// The API server takes objects of 3 MiB, and a review of a change holds two.
const MAX_BODY: usize = 8 << 20;

/// Serves until dropped, each connection with the certificate of its time.
pub(super) async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    reviewer: Arc<Reviewer>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "connection not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let tls = Arc::clone(&tls.borrow());
        connections.spawn(connection(stream, tls, Arc::clone(&reviewer)));
    }
}

async fn connection(stream: TcpStream, tls: Arc<ServerConfig>, reviewer: Arc<Reviewer>) {
    let stream = match timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "handshake failed"),
        Err(_) => return debug!("handshake took too long"),
    };
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let reviewer = Arc::clone(&reviewer);
        async move {
            let respond = respond(request, &reviewer);
            let late = || refuse(StatusCode::SERVICE_UNAVAILABLE, "took too long; try again");
            let answer = timeout(DEADLINE, respond).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|_| late()))
        }
    });
    let stream = TokioIo::new(stream);
    let served = if speaks_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Duration::from_secs(30))
            .serve_connection(stream, service);
        connection.await
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .serve_connection(stream, service);
        connection.await
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

async fn respond(request: Request<Incoming>, reviewer: &Reviewer) -> Answer {
    let asked = match request.uri().path() {
        "/inject" => Asked::Inject,
        "/validate" => Asked::Validate,
        _ => return refuse(StatusCode::NOT_FOUND, "there are /inject and /validate"),
    };
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview");
    }
    let content_type = request.headers().get(CONTENT_TYPE);
    let is_json = content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .split(';')
                .next()
                .is_some_and(|it| it.trim() == "application/json")
        });
    if !is_json {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "expected application/json",
        );
    }
    let body: Bytes = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "an AdmissionReview of at most 8 MiB is read",
            );
        }
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                &format!("the body ended early: {error}"),
            );
        }
    };
    match reviewer.review(asked, &body).await {
        Ok(review) => answer(StatusCode::OK, &review),
        Err(message) => refuse(StatusCode::BAD_REQUEST, &message),
    }
}

fn refuse(status: StatusCode, message: &str) -> hyper::Response<Full<Bytes>> {
    answer(status, &json!({ "error": message }))
}
