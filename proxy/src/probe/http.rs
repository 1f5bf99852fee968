//! An HTTP probe, as the kubelet makes it (Kubernetes, `pkg/probe/http`): HTTP/1.1 on a connection of its own, any
//! status from 200 to 399 is good, redirects that stay on the host are followed.

use std::net::{IpAddr, SocketAddr};

use ::http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT,
};
use ::http::uri::{PathAndQuery, Scheme};
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Place, Verdict, no_connection};
use crate::config::HttpCheck;

/// Applications know the kubelet's probes by this beginning, and leave them out of their logs.
pub(super) const AGENT: &str = concat!("kube-probe/kith-", env!("CARGO_PKG_VERSION"));

/// As the kubelet has it.
const MOST_REDIRECTS: usize = 10;

/// What is read of an answer; the rest is not waited for.
const MOST_BODY: usize = 10 * 1024;

const LARGEST_HEAD: usize = 64 * 1024;

/// Where one request goes.
struct Leg {
    port: u16,
    tls: bool,
    path: PathAndQuery,
    /// None: the address.
    host: Option<HeaderValue>,
}

pub(super) async fn check(check: &HttpCheck, place: &Place) -> Result<Verdict, String> {
    let headers = headers(check);
    let mut leg = Leg {
        port: check.port,
        tls: check.tls,
        path: check.path.clone(),
        host: headers.get(HOST).cloned(),
    };
    for _ in 0..=MOST_REDIRECTS {
        let response = leg.ask(&headers, place).await?;
        let status = response.status();
        let next = location(&response)
            .map(|location| leg.follow(&location, place.ip))
            .filter(|_| is_redirect(status));
        match next {
            Some(Redirect::To(next)) => {
                if place.own_ports.contains(&next.port) {
                    let port = next.port;
                    return Err(format!(
                        "the application redirects to port {port}, which is the sidecar's own"
                    ));
                }
                leg = next;
            }
            Some(Redirect::Elsewhere) => {
                let why = format!(
                    "the application answered {status}, a redirect to another host that is not followed"
                );
                return Ok(Verdict::good(why));
            }
            None => {
                read(response).await?;
                return Ok(judge(status));
            }
        }
    }
    Err(format!(
        "the application redirected more than {MOST_REDIRECTS} times"
    ))
}

fn judge(status: StatusCode) -> Verdict {
    let why = format!("the application answered {status}");
    match status.as_u16() {
        200..=399 => Verdict::good(why),
        // An interim status can't be passed on as a final one.
        ..200 => Verdict::bad(why),
        _ => Verdict { status, why },
    }
}

/// Those the probe has, and the kubelet's own where it has none; one that is given as empty is left out.
fn headers(check: &HttpCheck) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &check.headers {
        // The connection's own business, which the kubelet does not send either.
        let framing = [
            CONNECTION,
            CONTENT_LENGTH,
            TE,
            TRAILER,
            TRANSFER_ENCODING,
            UPGRADE,
        ];
        if !framing.contains(name) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in [(USER_AGENT, AGENT), (ACCEPT, "*/*")] {
        let given = headers.get(&name).map(|given| given.is_empty());
        match given {
            None => {
                headers.insert(name, HeaderValue::from_static(value));
            }
            Some(true) => {
                headers.remove(name);
            }
            Some(false) => {}
        }
    }
    if headers.get(HOST).is_some_and(HeaderValue::is_empty) {
        headers.remove(HOST);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn location(response: &Response<Incoming>) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    (!location.is_empty()).then(|| location.to_owned())
}

enum Redirect {
    To(Leg),
    Elsewhere,
}

impl Leg {
    async fn ask(&self, headers: &HeaderMap, place: &Place) -> Result<Response<Incoming>, String> {
        let tcp = place
            .connect(self.port)
            .await
            .map_err(|error| no_connection(self.port, &error))?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.path.clone().into();
        *request.headers_mut() = headers.clone();
        let host = match &self.host {
            Some(host) => host.clone(),
            None => address(place.ip, self.port, self.tls)?,
        };
        request.headers_mut().insert(HOST, host);
        if self.tls {
            send(super::tls::handshake(tcp, place.ip).await?, request).await
        } else {
            send(tcp, request).await
        }
    }

    /// Where a redirect leads, if that is this pod.
    fn follow(&self, location: &str, ip: IpAddr) -> Redirect {
        let location = location.split_once('#').map_or(location, |(it, _)| it);
        let Some((scheme, rest)) = split_scheme(location) else {
            let path = match location.strip_prefix("//") {
                // Another host, or this one in a spelling that nobody uses.
                Some(_) => return Redirect::Elsewhere,
                None => resolve(self.path.path(), location).parse().ok(),
            };
            return match path {
                Some(path) => Redirect::To(Leg {
                    path,
                    host: self.host.clone(),
                    ..*self
                }),
                None => Redirect::Elsewhere,
            };
        };
        let uri: Option<Uri> = format!("{scheme}:{rest}").parse().ok();
        let target = uri.as_ref().and_then(|uri| {
            let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
            let tls = *uri.scheme()? == Scheme::HTTPS;
            let same = host
                .parse::<IpAddr>()
                .is_ok_and(|host| host.to_canonical() == ip);
            (same && (tls || *uri.scheme()? == Scheme::HTTP)).then(|| Leg {
                port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
                tls,
                path: uri
                    .path_and_query()
                    .cloned()
                    .unwrap_or(PathAndQuery::from_static("/")),
                host: None,
            })
        });
        target.map_or(Redirect::Elsewhere, Redirect::To)
    }
}

/// Of an absolute location.
fn split_scheme(location: &str) -> Option<(String, &str)> {
    let (scheme, rest) = location.split_once(':')?;
    let plain = scheme
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    (plain && scheme.starts_with(|first: char| first.is_ascii_alphabetic()))
        .then(|| (scheme.to_ascii_lowercase(), rest))
}

/// A relative reference (RFC 3986 section 5.2.2); dot segments are left to the application.
fn resolve(base: &str, location: &str) -> String {
    match location.as_bytes().first() {
        Some(b'/') => location.to_owned(),
        Some(b'?') => format!("{base}{location}"),
        _ => {
            let folder = base.rfind('/').map_or("/", |slash| &base[..=slash]);
            format!("{folder}{location}")
        }
    }
}

/// RFC 9110 section 7.2; the scheme's own port is left out, as by Go's client.
fn address(ip: IpAddr, port: u16, tls: bool) -> Result<HeaderValue, String> {
    let text = match (ip, port, tls) {
        (IpAddr::V4(ip), 80, false) | (IpAddr::V4(ip), 443, true) => ip.to_string(),
        (IpAddr::V6(ip), 80, false) | (IpAddr::V6(ip), 443, true) => format!("[{ip}]"),
        _ => SocketAddr::new(ip, port).to_string(),
    };
    HeaderValue::try_from(text).map_err(|error| error.to_string())
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("the application gave no HTTP/1.1 answer: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Ends with the answer, or when the answer is dropped, by the probe's deadline at the latest.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.send_request(request).await.map_err(broken)
}

/// An answer that breaks off is none; a long one need not come to its end.
async fn read(response: Response<Incoming>) -> Result<(), String> {
    let mut body = response.into_body();
    let mut length = 0;
    while length < MOST_BODY
        && let Some(frame) = body.frame().await
    {
        let frame =
            frame.map_err(|error| format!("the application's answer broke off: {error}"))?;
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    Ok(())
}
