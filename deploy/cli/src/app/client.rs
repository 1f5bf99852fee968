//! The HTTP client of the lab's applications and tests: one connection, no pool, nothing retried, nothing hidden.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::{AnyBody, full};

/// `http://host:port/path?query`.
#[derive(Clone, Debug)]
pub struct Url {
    /// `host:port` as written.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("http://")
            .ok_or("expected http://host:port/path")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let uri: Uri = format!("http://{authority}/")
            .parse()
            .map_err(|e| format!("{authority}: {e}"))?;
        let port = if uri.port().is_none() { ":80" } else { "" };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            authority: format!("{authority}{port}"),
            path: path.to_owned(),
        })
    }
}

impl Url {
    /// The address behind the name.
    ///
    /// # Errors
    /// When the name is unknown.
    pub async fn address(&self) -> io::Result<SocketAddr> {
        let mut found = tokio::net::lookup_host(&self.authority).await?;
        found
            .next()
            .ok_or_else(|| io::Error::other(format!("{} has no address", self.authority)))
    }
}

/// A connection that requests go over, one after the other (HTTP/1.1) or side by side (HTTP/2).
#[derive(Debug)]
pub enum Connection {
    /// HTTP/1.1
    Http1(http1::SendRequest<AnyBody>),
    /// HTTP/2 with prior knowledge
    Http2(http2::SendRequest<AnyBody>),
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When the connection is refused, or the HTTP/2 preface is not answered as it must be.
    pub async fn open(address: SocketAddr, http2: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, http2).await
    }

    /// Uses a connected socket.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn over(stream: TcpStream, http2: bool) -> io::Result<Self> {
        let io = TokioIo::new(stream);
        if http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .handshake(io)
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok(Self::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            tokio::spawn(connection.with_upgrades());
            Ok(Self::Http1(sender))
        }
    }

    /// Whether another request may be sent.
    pub async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request, gives back the head of the response; the body is still to be read.
    ///
    /// # Errors
    /// When the connection ends before the response's head. `is_canceled` of the inner error: it was never sent.
    pub async fn send(
        &mut self,
        request: Request<AnyBody>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// When the connection ends before the response does.
    pub async fn call(&mut self, request: Request<AnyBody>) -> io::Result<Reply> {
        let response = self.send(request).await.map_err(io::Error::other)?;
        Reply::read(response).await
    }

    /// A request as this connection's version writes it: origin form with `Host`, or `:authority`.
    ///
    /// # Errors
    /// When the path is none that the `http` crate can hold.
    pub fn request(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: AnyBody,
    ) -> io::Result<Request<AnyBody>> {
        let mut request = Request::builder().method(method);
        request = match self {
            Self::Http1(_) => request.uri(&url.path).header(header::HOST, &url.authority),
            Self::Http2(_) => request.uri(format!("http://{}{}", url.authority, url.path)),
        };
        let mut request = request.body(body).map_err(io::Error::other)?;
        for (name, value) in headers {
            if name == header::HOST {
                request.headers_mut().insert(name, value.clone());
            } else {
                request.headers_mut().append(name, value.clone());
            }
        }
        Ok(request)
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers, empty when there were none.
    pub trailers: HeaderMap,
}

impl Reply {
    /// Reads a response to its end.
    ///
    /// # Errors
    /// When it is cut off.
    pub async fn read(response: Response<Incoming>) -> io::Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    /// A header as text; the first when repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Status, headers and body as one object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let body =
            serde_json::from_slice(&self.body).unwrap_or_else(|_| Value::String(self.text()));
        json!({"status": self.status, "headers": headers_json(&self.headers), "body": body})
    }
}

/// Headers as an object; values of a repeated one are joined by `, `.
#[must_use]
pub fn headers_json(headers: &HeaderMap) -> Value {
    let joined = |name: &HeaderName| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        values.join(", ")
    };
    headers
        .keys()
        .map(|name| (name.as_str().to_owned(), Value::String(joined(name))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// One request on a connection of its own.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where to.
    pub url: Url,
    /// HTTP/2 with prior knowledge instead of HTTP/1.1.
    pub http2: bool,
    /// `name: value`
    pub headers: Vec<String>,
    /// GET, or POST with a body, when absent.
    pub method: Option<String>,
    /// Body.
    pub data: Option<String>,
    /// For everything together.
    pub limit: Duration,
}

impl Call {
    /// A GET over HTTP/1.1 that may take 10 seconds.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self {
            url,
            http2: false,
            headers: Vec::new(),
            method: None,
            data: None,
            limit: Duration::from_secs(10),
        }
    }

    /// Connects, sends, reads the whole reply.
    ///
    /// # Errors
    /// On a malformed header or method, and on anything that the network does.
    pub async fn run(&self) -> io::Result<Reply> {
        let address = self.url.address().await?;
        self.run_at(address).await
    }

    /// As [`Call::run`], to an address that need not be the name's.
    ///
    /// # Errors
    /// As [`Call::run`].
    pub async fn run_at(&self, address: SocketAddr) -> io::Result<Reply> {
        let mut headers = HeaderMap::new();
        for line in &self.headers {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| io::Error::other(format!("header {line:?} has no colon")))?;
            let name = HeaderName::from_str(name.trim()).map_err(io::Error::other)?;
            headers.append(
                name,
                HeaderValue::from_str(value.trim()).map_err(io::Error::other)?,
            );
        }
        let method = match (&self.method, &self.data) {
            (Some(name), _) => Method::from_str(name).map_err(io::Error::other)?,
            (None, Some(_)) => Method::POST,
            (None, None) => Method::GET,
        };
        let exchange = async {
            let mut connection = Connection::open(address, self.http2).await?;
            let body = full(self.data.clone().unwrap_or_default());
            let request = connection.request(method, &self.url, &headers, body)?;
            connection.call(request).await
        };
        timeout(self.limit, exchange).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no whole reply within {} s", self.limit.as_secs_f32()),
            )
        })?
    }
}

/// The innermost cause, which for hyper's errors is where the reason is.
#[must_use]
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
