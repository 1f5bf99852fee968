//! Headers that are Kith's own to say, and the received ones as policy sees them.

use std::rc::Rc;

use http::{HeaderMap, HeaderName};
use kith_policy::Headers;

use crate::authenticate::Peer;
use crate::http1::RequestHead;
use crate::token::AllHeaders;
use crate::worker::Worker;

/// Never passed on from a request, at either edge (security.md, row 17).
pub(crate) const INTERNAL: &[&str] = &["x-forwarded-client-cert", "x-kith-*"];

/// Never passed on from the application: `x-kith-reason` is how callers tell the proxy's answer from its own.
pub(crate) const FROM_APPLICATION: &[&str] = &["x-kith-*"];

/// From one Kith to another, on an answer that stands for the application's: the request may be sent to another server,
/// since no application got it, or one that may get it twice gave no answer. Taken off before anybody else sees it.
pub(crate) const AGAIN: &str = "x-kith-again";

/// Headers of an HTTP/1.1 request.
pub(crate) struct Received<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) bytes: &'a [u8],
}

impl Headers for Received<'_> {
    fn for_each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        if !is_internal(name) {
            self.head.values(self.bytes, name).for_each(visit);
        }
    }
}

impl<'a> AllHeaders<'a> for Received<'a> {
    fn each(&self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        self.head
            .headers(self.bytes)
            .for_each(|(name, value)| visit(name, value));
    }
}

/// Headers of an HTTP/2 request.
impl Headers for ReceivedMap<'_> {
    fn for_each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        if !is_internal(name) {
            self.0
                .get_all(name)
                .iter()
                .for_each(|value| visit(value.as_bytes()));
        }
    }
}

impl<'a> AllHeaders<'a> for ReceivedMap<'a> {
    fn each(&self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        self.0
            .iter()
            .for_each(|(name, value)| visit(name.as_str(), value.as_bytes()));
    }
}

pub(crate) struct ReceivedMap<'a>(pub(crate) &'a HeaderMap);

/// What is not passed on is not decided on either: policy sees what the application will see.
fn is_internal(name: &str) -> bool {
    is_kith(name) || folded(name, |name| name == "x-forwarded-client-cert")
}

fn is_kith(name: &str) -> bool {
    folded(name, |name| name.starts_with("x-kith-"))
}

/// What tells the proxy's own answers from the application's, where an application has no business with it: in trailers.
pub(crate) fn is_proxys_own(name: &str) -> bool {
    is_kith(name) || name == "server"
}

/// Whether two header names are one to any application: in any case, and with `_` for `-`, since some fold the two.
pub(crate) fn same_name(one: &str, other: &str) -> bool {
    let folded = |byte: u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    one.len() == other.len()
        && (one == other || one.bytes().map(folded).eq(other.bytes().map(folded)))
}

/// `_` counts as `-`, since some applications fold the two. The common case compares, and copies nothing.
fn folded(name: &str, is: impl Fn(&str) -> bool) -> bool {
    is(name) || (name.contains('_') && is(&name.replace('_', "-")))
}

/// `INTERNAL`, off an HTTP/2 request.
pub(crate) fn remove_internal(headers: &mut HeaderMap) {
    remove(headers, is_internal);
}

/// `FROM_APPLICATION`, off an HTTP/2 answer.
pub(crate) fn remove_kith(headers: &mut HeaderMap) {
    remove(headers, is_kith);
}

pub(crate) fn remove(headers: &mut HeaderMap, named: impl Fn(&str) -> bool) {
    let doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| named(name.as_str()))
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// What the application is told of the verified client: `By=…;Hash=…;URI=…`.
pub(crate) fn forwarded_client_cert(worker: &Worker, peer: &Rc<Peer>) -> Vec<u8> {
    let own = worker.shared.identity.current();
    let mut value = Vec::with_capacity(256);
    if let Some(own) = own {
        value.extend_from_slice(b"By=");
        value.extend_from_slice(own.principal().as_str().as_bytes());
        value.push(b';');
    }
    value.extend_from_slice(b"Hash=");
    for byte in peer.svid().thumbprint() {
        value.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    value.extend_from_slice(b";URI=");
    value.extend_from_slice(peer.principal().as_str().as_bytes());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_17_internal_headers_are_removed_in_any_spelling() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "x-kith-reason",
            "x_kith-hop",
            "x-other",
        ] {
            headers.insert(name, http::HeaderValue::from_static("v"));
        }
        remove_internal(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-other"]
        );
    }
}
