//! `SPIFFE_ENDPOINT_SOCKET` as SPIFFE_Workload_Endpoint section 4 has it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the Workload API is served.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `unix:///absolute/path`
    Unix(PathBuf),
    /// `tcp://ip:port`
    Tcp(SocketAddr),
}

/// Everything that is wrong with an endpoint, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointError {
    pub value: String,
    pub violations: Vec<&'static str>,
}

impl Endpoint {
    pub fn unix(path: impl AsRef<Path>) -> Endpoint {
        Endpoint::Unix(path.as_ref().to_owned())
    }

    /// Parses the URI of SPIFFE_Workload_Endpoint section 4 and names every violation.
    pub fn parse(value: &str) -> Result<Endpoint, EndpointError> {
        let mut violations = Vec::new();
        let parsed = match value.split_once(':') {
            Some(("unix", rest)) => parse_unix(rest, &mut violations).map(Endpoint::Unix),
            Some(("tcp", rest)) => parse_tcp(rest, &mut violations).map(Endpoint::Tcp),
            _ => {
                violations.push("the scheme must be `unix` or `tcp`");
                None
            }
        };
        match parsed {
            Some(endpoint) if violations.is_empty() => Ok(endpoint),
            _ => Err(EndpointError {
                value: value.to_owned(),
                violations,
            }),
        }
    }
}

fn parse_unix(rest: &str, violations: &mut Vec<&'static str>) -> Option<PathBuf> {
    let rest = without_query_and_fragment(rest, violations);
    let path = match rest.strip_prefix("//") {
        Some(hierarchy) => {
            let path_at = hierarchy.find('/').unwrap_or(hierarchy.len());
            if path_at != 0 {
                violations
                    .push("a unix endpoint has no authority; write three slashes, `unix:///path`");
            }
            &hierarchy[path_at..]
        }
        None => rest,
    };
    if !path.starts_with('/') || path == "/" {
        violations.push("a unix endpoint needs the absolute path of a socket");
    }
    let decoded = percent_decoded(path);
    match &decoded {
        None => violations.push("the path has a malformed percent-encoding (RFC 3986 section 2.1)"),
        Some(path) if path.contains('\0') => violations.push("the path has a NUL byte"),
        // sockaddr_un holds 108 bytes with the closing NUL.
        Some(path) if path.len() > 107 => {
            violations.push("the path is longer than a Unix socket may have (107 bytes)")
        }
        Some(_) => {}
    }
    decoded.map(PathBuf::from)
}

fn parse_tcp(rest: &str, violations: &mut Vec<&'static str>) -> Option<SocketAddr> {
    let rest = without_query_and_fragment(rest, violations);
    let Some(hierarchy) = rest.strip_prefix("//") else {
        violations.push("a tcp endpoint is written `tcp://ip:port`");
        return None;
    };
    let path_at = hierarchy.find('/').unwrap_or(hierarchy.len());
    let (mut authority, path) = hierarchy.split_at(path_at);
    if !path.is_empty() {
        violations.push("a tcp endpoint has no path");
    }
    if let Some((_, host)) = authority.rsplit_once('@') {
        violations.push("a tcp endpoint has no user information");
        authority = host;
    }
    let (host, port) = match authority.rfind(']') {
        Some(bracket) => authority.split_at(bracket + 1),
        None => authority.split_at(authority.rfind(':').unwrap_or(authority.len())),
    };
    let ip = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    if ip.is_none() {
        violations.push(
            "the host of a tcp endpoint must be an IP address (IPv6 in brackets), not a name",
        );
    }
    let port = port
        .strip_prefix(':')
        .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|p| p.parse().ok())
        .filter(|p: &u16| *p != 0);
    if port.is_none() {
        violations.push("a tcp endpoint needs a port between 1 and 65535");
    }
    Some(SocketAddr::new(ip?, port?))
}

fn without_query_and_fragment<'a>(rest: &'a str, violations: &mut Vec<&'static str>) -> &'a str {
    let (rest, fragment) = rest
        .split_once('#')
        .map_or((rest, None), |(r, f)| (r, Some(f)));
    let (rest, query) = rest
        .split_once('?')
        .map_or((rest, None), |(r, q)| (r, Some(q)));
    if query.is_some() {
        violations.push("an endpoint has no query");
    }
    if fragment.is_some() {
        violations.push("an endpoint has no fragment");
    }
    rest
}

fn percent_decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Endpoint::parse(value)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no Workload API endpoint: {} (expected unix:///path or tcp://ip:port)",
            self.value,
            self.violations.join("; ")
        )
    }
}

impl std::error::Error for EndpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_standard_allows() {
        for (value, expected) in [
            ("unix:///run/agent.sock", Endpoint::unix("/run/agent.sock")),
            ("unix:/run/agent.sock", Endpoint::unix("/run/agent.sock")),
            ("unix:///run/a%20b.sock", Endpoint::unix("/run/a b.sock")),
            (
                "tcp://127.0.0.1:8000",
                Endpoint::Tcp("127.0.0.1:8000".parse().unwrap()),
            ),
            (
                "tcp://[::1]:8000",
                Endpoint::Tcp("[::1]:8000".parse().unwrap()),
            ),
        ] {
            assert_eq!(Endpoint::parse(value).as_ref(), Ok(&expected), "{value}");
        }
    }

    #[test]
    fn names_every_violation() {
        for (value, violations) in [
            ("", 1),
            ("/run/agent.sock", 1),
            ("http://127.0.0.1:80", 1),
            ("unix:relative", 1),
            ("unix://", 1),
            ("unix://host/run/agent.sock", 1),
            ("unix://relative.sock?x#y", 4),
            ("unix:///run/a%zz", 1),
            ("tcp:127.0.0.1:80", 1),
            ("tcp://localhost:80", 1),
            ("tcp://127.0.0.1", 1),
            ("tcp://127.0.0.1:0", 1),
            ("tcp://127.0.0.1:80/", 1),
            ("tcp://me@localhost/x?y#z", 6),
            ("tcp://::1:80", 1),
        ] {
            let error = Endpoint::parse(value).unwrap_err();
            assert_eq!(error.violations.len(), violations, "{error}");
        }
    }
}
