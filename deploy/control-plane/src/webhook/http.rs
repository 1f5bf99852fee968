//! HTTPS for the API server: few connections, bounded in bytes and time. Whoever reaches the port may connect, since an API
//! server has no identity to show: so nobody keeps a place by doing nothing, and all bodies together have a bound.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
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
/// Of all that are being read and reviewed at once. As JSON that is taken apart they need some times as much.
const MAX_BODIES: usize = 24 << 20;

/// A connection, and how many requests on it are being answered.
struct Live {
    task: AbortHandle,
    busy: Arc<AtomicUsize>,
}

/// Serves until dropped, each connection with the certificate of its time.
pub(super) async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    reviewer: Arc<Reviewer>,
) {
    let bodies = Arc::new(Semaphore::new(MAX_BODIES));
    let mut connections = JoinSet::new();
    // Oldest first.
    let mut live: VecDeque<Live> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "connection not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        live.retain(|it| !it.task.is_finished());
        while live.len() >= MAX_CONNECTIONS {
            let idle = |it: &Live| it.busy.load(Ordering::Relaxed) == 0;
            if let Some(oldest) = live.iter().position(idle) {
                if let Some(it) = live.remove(oldest) {
                    debug!("connection closed to make room: it asks nothing");
                    it.task.abort();
                }
            } else {
                connections.join_next().await;
                live.retain(|it| !it.task.is_finished());
            }
        }
        let tls = Arc::clone(&tls.borrow());
        let service = Service {
            reviewer: Arc::clone(&reviewer),
            bodies: Arc::clone(&bodies),
            busy: Arc::default(),
        };
        let busy = Arc::clone(&service.busy);
        let task = connections.spawn(connection(stream, tls, service));
        live.push_back(Live { task, busy });
    }
}

/// What the requests of one connection need.
#[derive(Clone)]
struct Service {
    reviewer: Arc<Reviewer>,
    bodies: Arc<Semaphore>,
    busy: Arc<AtomicUsize>,
}

/// A request that is being answered.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(stream: TcpStream, tls: Arc<ServerConfig>, service: Service) {
    let stream = match timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "handshake failed"),
        Err(_) => return debug!("handshake took too long"),
    };
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let service = service.clone();
        async move {
            let _busy = Busy::new(&service.busy);
            let respond = respond(request, &service);
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

async fn respond(request: Request<Incoming>, service: &Service) -> Answer {
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
    let Body { bytes, _room } = match read(request.into_body(), &service.bodies).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    match service.reviewer.review(asked, &bytes).await {
        Ok(review) => answer(StatusCode::OK, &review),
        Err(message) => refuse(StatusCode::BAD_REQUEST, &message),
    }
}

/// A body that is here in full, and its part of [`MAX_BODIES`].
struct Body {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

async fn read(mut body: Incoming, room: &Arc<Semaphore>) -> Result<Body, Answer> {
    let mut bytes = Vec::new();
    let mut taken: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let message = format!("the body ended early: {error}");
            refuse(StatusCode::BAD_REQUEST, &message)
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_BODY {
            let message = "an AdmissionReview of at most 8 MiB is read";
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        let more =
            u32::try_from(data.len()).map(|more| Arc::clone(room).try_acquire_many_owned(more));
        let Ok(Ok(more)) = more else {
            let message = "too much is asked at once; try again";
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, message));
        };
        match &mut taken {
            Some(taken) => taken.merge(more),
            None => taken = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Body {
        bytes,
        _room: taken,
    })
}

fn refuse(status: StatusCode, message: &str) -> hyper::Response<Full<Bytes>> {
    answer(status, &json!({ "error": message }))
}
