//! The HTTP server. It says who it is and what it saw, so that a test sees what arrived behind a sidecar.
//!
//! | path | answer |
//! |---|---|
//! | `/slow?ms=500` | after that time |
//! | `/stream?ticks=10&ms=100` | a line every `ms`, then the trailer `x-ticks`; `ticks=0` never ends |
//! | `/bytes?n=1000` | that many bytes |
//! | `/echo` | the request's body, piece by piece, and its trailers |
//! | `/status/503` | that status |
//! | `/abort` | the head and some bytes, then the connection is cut |
//! | `/upgrade` | 101, then every byte sent back |
//! | `/call?url=http://…` | asks that server, with this request's id and trace, and shows its answer |
//! | anything else | JSON: who, method, path, headers, body |
//!
//! Requests with `content-type: application/grpc` are answered as [`super::grpc`] says.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::body::{AnyBody, channel, full};
use super::client::{Call, headers_json};
use super::grpc;

/// Listens, says so on stdout, serves until killed.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(listen: SocketAddr, name: String) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let name: Rc<str> = name.into();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            loop {
                let (stream, peer) = listener.accept().await?;
                let name = name.clone();
                tokio::task::spawn_local(async move {
                    let _ = connection(stream, peer, name).await;
                });
            }
        })
        .await
}

async fn connection(stream: TcpStream, peer: SocketAddr, name: Rc<str>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // RFC 9113 section 3.4: no HTTP/1.1 request starts like the preface of HTTP/2.
    let mut first = [0; 3];
    while stream.peek(&mut first).await? < first.len() {
        if stream.peek(&mut first).await? == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let service = service_fn(move |request| {
        let name = name.clone();
        async move { Ok::<_, io::Error>(answer(request, peer, &name).await) }
    });
    let io = TokioIo::new(stream);
    if &first == b"PRI" {
        http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await
            .map_err(io::Error::other)
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .serve_connection(io, service);
        connection.with_upgrades().await.map_err(io::Error::other)
    }
}

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn answer(request: Request<Incoming>, peer: SocketAddr, name: &str) -> Response<AnyBody> {
    if request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    {
        return grpc::server::answer(request, name);
    }
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(number(&request, "ms", 1000))).await;
            describe(request, peer, name).await
        }
        "/stream" => stream(number(&request, "ticks", 10), number(&request, "ms", 100)),
        "/bytes" => Response::new(full(vec![
            b'k';
            usize::try_from(number(&request, "n", 1024))
                .unwrap_or(0)
        ])),
        "/echo" => Response::new(request.into_body().map_err(io::Error::other).boxed_unsync()),
        "/abort" => abort(),
        "/upgrade" => upgrade(request),
        "/call" => call(&request).await,
        _ => match path
            .strip_prefix("/status/")
            .and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok())
        {
            Some(status) => with_status(status, full(format!("{status}\n"))),
            None => describe(request, peer, name).await,
        },
    }
}

fn with_status(status: StatusCode, body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn json_response(value: &serde_json::Value) -> Response<AnyBody> {
    let mut response = Response::new(full(format!("{value}\n")));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

async fn describe(request: Request<Incoming>, peer: SocketAddr, name: &str) -> Response<AnyBody> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return with_status(StatusCode::BAD_REQUEST, full("the body was cut off\n"));
    };
    let trailers = body.trailers().map(headers_json);
    let body = body.to_bytes();
    json_response(&json!({
        "app": name,
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "authority": head.uri.authority().map(http::uri::Authority::as_str),
        "version": format!("{:?}", head.version),
        "peer": peer.to_string(),
        "headers": headers_json(&head.headers),
        "body": String::from_utf8_lossy(&body),
        "bytes": body.len(),
        "trailers": trailers,
    }))
}

fn stream(ticks: u64, milliseconds: u64) -> Response<AnyBody> {
    let (frames, body) = channel();
    tokio::task::spawn_local(async move {
        let mut sent = 0;
        while ticks == 0 || sent < ticks {
            if !frames.data(format!("tick {sent}\n")).await {
                return;
            }
            sent += 1;
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        frames
            .trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("x-ticks"),
                sent.into(),
            )]))
            .await;
    });
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::TRAILER, HeaderValue::from_static("x-ticks"));
    response
}

fn abort() -> Response<AnyBody> {
    let (frames, body) = channel();
    tokio::task::spawn_local(async move {
        frames
            .data(Bytes::from_static(b"the rest of this will never come"))
            .await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        frames.abort().await;
    });
    Response::new(body)
}

fn upgrade(mut request: Request<Incoming>) -> Response<AnyBody> {
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
        return with_status(
            StatusCode::UPGRADE_REQUIRED,
            full("say which protocol in `upgrade`\n"),
        );
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        let stream = upgraded.await.map_err(io::Error::other)?;
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(stream));
        tokio::io::copy(&mut reader, &mut writer).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut writer).await
    });
    let mut response = with_status(StatusCode::SWITCHING_PROTOCOLS, full(""));
    response.headers_mut().insert(header::UPGRADE, protocol);
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

async fn call(request: &Request<Incoming>) -> Response<AnyBody> {
    let Some(Ok(url)) = query(request, "url").map(str::parse) else {
        return with_status(
            StatusCode::BAD_REQUEST,
            full("expected /call?url=http://host:port/path\n"),
        );
    };
    let mut call = Call::get(url);
    // What an application does for its traces to hold together.
    for name in ["x-request-id", "traceparent", "tracestate"] {
        let value = request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok());
        call.headers
            .extend(value.map(|value| format!("{name}: {value}")));
    }
    match call.run().await {
        Ok(reply) => json_response(&reply.to_json()),
        Err(error) => with_status(StatusCode::BAD_GATEWAY, full(format!("{error}\n"))),
    }
}

fn query<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn number(request: &Request<Incoming>, name: &str, default: u64) -> u64 {
    query(request, name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
