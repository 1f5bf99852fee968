//! One GET, bounded in bytes and redirects; whoever asks bounds the time.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONNECTION, HOST, HeaderMap, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::keys::MAX_BYTES;
use super::source::allowed;

const MAX_REDIRECTS: usize = 3;
/// Before the next address of the same host is tried.
const CONNECT: Duration = Duration::from_secs(2);

/// Asks over http and https. Certificates are verified against the machine's CAs, and those given.
#[derive(Debug, Clone)]
pub struct Web {
    tls: Arc<ClientConfig>,
    /// Then no https server can be verified.
    no_roots: bool,
}

/// The file of additional CAs cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", file.display())]
pub struct RootsError {
    file: PathBuf,
    why: String,
}

/// What came back, with status 200.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// How long it may be kept, as the server says (RFC 9111 section 5.2.2).
    pub(super) max_age: Option<Duration>,
}

/// Why nothing came back: the far side's fault, or that of who wrote the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed(pub(super) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn failed(what: impl fmt::Display) -> Failed {
    Failed(what.to_string())
}

impl Web {
    /// Reads the machine's CAs and, if given, more of them from a PEM file.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn new(more: Option<&Path>) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        // Some of them are always odd; what matters is whether a server can be verified, which is said then.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = more {
            let refuse = |why: String| RootsError {
                file: file.into(),
                why,
            };
            let certificates = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| refuse(error.to_string()))?;
            if certificates.is_empty() {
                return Err(refuse("holds no certificate in PEM".into()));
            }
            for certificate in certificates {
                let added = roots.add(certificate);
                added.map_err(|error| refuse(format!("a certificate in it: {error}")))?;
            }
        }
        let no_roots = roots.is_empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites and groups")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(config),
            no_roots,
        })
    }

    pub(super) async fn get(&self, url: &Url) -> Result<Answer, Failed> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(&url).await?;
            let head = response.0;
            let Some(next) = redirect(&url, &head)? else {
                return Ok(Answer {
                    max_age: max_age(head.headers()),
                    body: response.1,
                });
            };
            url = next;
        }
        Err(failed(format!(
            "more than {MAX_REDIRECTS} redirects, the last to {url}"
        )))
    }

    async fn once(&self, url: &Url) -> Result<(Response<()>, Bytes), Failed> {
        let stream = connect(url).await?;
        if url.scheme() != "https" {
            return exchange(url, stream).await;
        }
        if self.no_roots {
            return Err(failed(
                "this machine has no CA certificates to verify the server with: install them \
                 (ca-certificates) or give --jwks-ca",
            ));
        }
        let name = server_name(url).ok_or_else(|| failed(format!("{url} has no host")))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let stream = tls.connect(name, stream).await;
        let stream = stream.map_err(|error| failed(format!("TLS with {url}: {error}")))?;
        exchange(url, stream).await
    }
}

/// The next URL, or none when this is the answer.
fn redirect(url: &Url, head: &Response<()>) -> Result<Option<Url>, Failed> {
    match head.status() {
        StatusCode::OK => return Ok(None),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {}
        other => return Err(failed(format!("{url} answered {other}"))),
    }
    let location = head.headers().get(LOCATION);
    let next = location
        .and_then(|location| location.to_str().ok())
        .and_then(|location| url.join(location).ok())
        .ok_or_else(|| failed(format!("{url} redirects to nowhere")))?;
    let next = allowed(next.as_str())
        .map_err(|why| failed(format!("{url} redirects to what is not asked: {why}")))?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(failed(format!(
            "{url} redirects to {next}: from https to http, where anybody can answer"
        )));
    }
    Ok(Some(next))
}

async fn connect(url: &Url) -> Result<TcpStream, Failed> {
    let port = url.port_or_known_default().unwrap_or(443);
    let found: Vec<SocketAddr> = match url.host() {
        Some(Host::Ipv4(ip)) => vec![SocketAddr::new(ip.into(), port)],
        Some(Host::Ipv6(ip)) => vec![SocketAddr::new(ip.into(), port)],
        Some(Host::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|error| failed(format!("the name {name} is not resolved: {error}")))?
            .collect(),
        None => Vec::new(),
    };
    let mut last = failed(format!("{url} has no address"));
    for address in found {
        if hands_out_credentials(address.ip()) {
            last = failed(format!(
                "{url} is at {}, where clouds hand out a machine's own credentials: never asked",
                address.ip()
            ));
            continue;
        }
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = failed(format!("cannot connect to {address}: {error}")),
            Err(_) => last = failed(format!("cannot connect to {address}: no answer")),
        }
    }
    Err(last)
}

/// Addresses of the link (RFC 3927, RFC 4291 section 2.5.6), and the others that clouds have their machines' metadata
/// at.
fn hands_out_credentials(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || METADATA.contains(&address.octets()),
        IpAddr::V6(address) => {
            address.is_unicast_link_local()
                || METADATA_V6.contains(&address.segments())
                || embedded(address).is_some_and(|within| hands_out_credentials(within.into()))
        }
    }
}

/// Alibaba Cloud, Oracle Cloud, Azure.
const METADATA: [[u8; 4]; 3] = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]];
/// AWS, Google Cloud.
const METADATA_V6: [[u16; 8]; 2] = [
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],
];

/// The IPv4 address that packets to this one may come out at.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // Mapped and compatible (RFC 4291 section 2.5.5), NAT64 (RFC 6052 section 2.1, RFC 8215).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(of(high, low)),
        // 6to4 (RFC 3056 section 2).
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

fn server_name(url: &Url) -> Option<ServerName<'static>> {
    match url.host()? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
        Host::Ipv4(ip) => Some(ServerName::IpAddress(IpAddr::from(ip).into())),
        Host::Ipv6(ip) => Some(ServerName::IpAddress(IpAddr::from(ip).into())),
    }
}

async fn exchange<S>(url: &Url, stream: S) -> Result<(Response<()>, Bytes), Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let of = |error: &dyn fmt::Display| failed(format!("{url}: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| of(&error))?;
    // Ends with this function, whatever way it ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let authority = url.authority();
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/json, application/jwk-set+json")
        .header(
            USER_AGENT,
            concat!("kith-control/", env!("CARGO_PKG_VERSION")),
        )
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| of(&error))?;
    let response: Response<Incoming> = sender
        .send_request(request)
        .await
        .map_err(|error| of(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BYTES).collect().await;
    let body = body.map_err(|error| of(&error))?.to_bytes();
    Ok((Response::from_parts(head, ()), body))
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get(CACHE_CONTROL)?.to_str().ok()?.split(',');
    let mut found = None;
    for directive in directives.map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        {
            return Some(Duration::ZERO);
        }
        if let Some((name, value)) = directive.split_once('=')
            && name.eq_ignore_ascii_case("max-age")
        {
            found = value.trim_matches('"').parse().ok();
        }
    }
    found.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_of_caching_is_understood() {
        for (said, expected) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=\"3600\", must-revalidate", Some(3600)),
            ("max-age=60, no-store", Some(0)),
            ("no-cache", Some(0)),
            ("max-age=soon", None),
            ("private", None),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, said.parse().unwrap())]);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(max_age(&headers), expected, "{said}");
        }
    }

    #[test]
    fn where_credentials_are_handed_out_is_known_in_any_form() {
        for (address, expected) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("fe80::1", true),
            // IPv4-compatible, NAT64 and 6to4.
            ("::169.254.169.254", true),
            ("64:ff9b::169.254.169.254", true),
            ("64:ff9b:1::a9fe:a9fe", true),
            ("2002:a9fe:a9fe::1", true),
            ("64:ff9b::8.8.8.8", false),
            ("2002:808:808::1", false),
            ("2001:db8::1", false),
            // The same service where clouds have it elsewhere.
            ("fd00:ec2::254", true),
            ("fd20:ce::254", true),
            ("100.100.100.200", true),
            ("192.0.0.192", true),
            ("168.63.129.16", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(
                hands_out_credentials(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }
}
