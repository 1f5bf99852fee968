//! What a decision is about: one connection and, for HTTP, one request on it.

use std::net::{IpAddr, SocketAddr};

use crate::Principal;

/// Facts of a connection. Addresses may be IPv4-mapped IPv6: they are made canonical here.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// Who the TLS handshake proved the peer to be; `None` is a peer without identity.
    pub peer: Option<&'a Principal>,
    /// The TCP peer.
    pub source: IpAddr,
    /// Where the request came from, after trusted hops of x-forwarded-for; `source` when none are
    /// trusted. May differ from request to request on one connection. `None`: a trusted hop did not say so that it can
    /// be understood, which is decided against the caller.
    pub remote: Option<IpAddr>,
    /// The address and port of this workload that the client dialled.
    pub destination: SocketAddr,
    /// The server name of the TLS handshake.
    pub sni: Option<&'a str>,
}

/// Facts of one HTTP request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Host or `:authority`, as received.
    pub host: &'a str,
    /// As [`normalise_target`](crate::normalise_target) returned it: no query, no fragment.
    pub path: &'a str,
    pub headers: &'a dyn Headers,
    /// The request's token, verified; `None` is a request without one.
    pub token: Option<Token<'a>>,
}

/// A token that was verified before: signature, issuer, audience, times, binding.
#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    /// `iss`; for a JWT-SVID `spiffe://<trust domain>`.
    pub issuer: &'a str,
    /// `sub`; empty when the token has none.
    pub subject: &'a str,
    /// All claims, registered ones too (RFC 7519 section 4).
    pub claims: &'a serde_json::Map<String, serde_json::Value>,
}

/// The headers of a request, wherever they are kept.
pub trait Headers {
    /// Calls `visit` with every value of the header, in the order received. `lower_case_name` is
    /// never a pseudo-header and never `host`.
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8]));
}

/// A request without headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn for_each(&self, _lower_case_name: &str, _visit: &mut dyn FnMut(&[u8])) {}
}
