//! The head of an HTTP/2 request: read once, and written for the next hop.

use std::borrow::Cow;

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use kith_policy::{Reason, normalise_host};

use crate::headers::{ReceivedMap, remove, same_name};
use crate::record::{self, Record};
use crate::token::Examined;

/// What the application learns from a token, and what it does not.
pub(super) fn tell(examined: &Examined, received: &ReceivedMap<'_>, headers: &mut HeaderMap) {
    remove(headers, |name| {
        examined.removed().any(|removed| same_name(removed, name))
    });
    if let Some(left) = examined.cookies(received) {
        headers.remove(header::COOKIE);
        if let (false, Ok(left)) = (left.is_empty(), HeaderValue::from_bytes(&left)) {
            headers.insert(header::COOKIE, left);
        }
    }
    for (name, value) in examined.set() {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.insert(name, value);
        }
    }
}

/// RFC 9113 section 8.2.1: a value neither starts nor ends with white space. One that does would be another value for a
/// policy than for an application that trims it (security.md, row 6).
pub(super) fn is_well_formed(headers: &HeaderMap) -> bool {
    let white = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers
        .values()
        .map(HeaderValue::as_bytes)
        .all(|value| !white(value.first()) && !white(value.last()))
}

/// What lets records be put together.
pub(crate) fn set_correlation(headers: &mut HeaderMap, new_id: Option<&str>, traceparent: &[u8]) {
    if let Some(Ok(id)) = new_id.map(HeaderValue::from_str) {
        headers.insert("x-request-id", id);
    }
    if let Ok(traceparent) = HeaderValue::from_bytes(traceparent) {
        headers.insert("traceparent", traceparent);
    }
}

/// `:authority`, or Host where that is absent; both must agree (RFC 9113 section 8.3.1).
pub(crate) fn host_of(parts: &http::request::Parts) -> Result<Cow<'static, str>, Reason> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts
        .next()
        .map(|host| host.to_str().map_err(|_| Reason::RequestMalformed))
        .transpose()?;
    if hosts.next().is_some() {
        return Err(Reason::RequestMalformed);
    }
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let chosen = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(Reason::RequestMalformed);
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) => return Ok(Cow::Borrowed("")),
    };
    normalise_host(chosen).map_err(|_| Reason::RequestMalformed)?;
    Ok(Cow::Owned(chosen.to_owned()))
}

pub(super) fn forwarded_uri(
    received: &Uri,
    host: &str,
    path: &str,
    query: Option<&str>,
) -> Option<Uri> {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(received.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = Some(host.parse().ok()?);
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// None when absent or repeated.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

pub(crate) fn describe(
    record: &mut Record,
    parts: &http::request::Parts,
    host: &str,
    path: &str,
    query: Option<&str>,
    secret: &dyn Fn(&str) -> bool,
) {
    record.request(&record::RequestHead {
        method: parts.method.as_str().as_bytes(),
        authority: host.as_bytes(),
        path: path.as_bytes(),
        query,
        secret,
        version: "2",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_06_a_value_has_no_white_space_around_it() {
        for (value, expected) in [
            ("", true),
            ("admin", true),
            ("a b\tc", true),
            (" admin", false),
            ("admin ", false),
            ("\tadmin", false),
            ("admin\t", false),
            (" ", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("x-role", HeaderValue::from_static("other"));
            headers.append("x-role", HeaderValue::from_static(value));
            assert_eq!(is_well_formed(&headers), expected, "{value:?}");
        }
    }
}
