//! The request target, normalised once: the decided bytes are the forwarded bytes.
//!
//! resources.md "Path normalisation"; security.md rows 1 to 3.

use std::borrow::Cow;

use thiserror::Error;

use crate::host::normalise_host;

/// What becomes of `%2F` and `%5C` in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EncodedSlash {
    /// The request is refused.
    #[default]
    Refuse,
    /// Left as it is: part of its segment.
    Keep,
    /// A separator, like a plain slash.
    Decode,
}

/// Why a request target is refused: the client is at fault, 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathRefused {
    #[error("the request target is empty")]
    Empty,
    #[error("the request target does not start with `/`")]
    NotOriginForm,
    #[error("the request target `*` is for OPTIONS only")]
    AsteriskForm,
    #[error("the request target of CONNECT is `host:port` and nothing else")]
    AuthorityForm,
    #[error("the authority in the request target is not a host with an optional port")]
    Authority,
    #[error("the request target has a fragment (`#`)")]
    Fragment,
    #[error("the request target has white space, a control character or a byte that is not ASCII")]
    Character,
    #[error("the path has a `%` that is not followed by two hexadecimal digits")]
    MalformedEncoding,
    #[error("the path has an encoded NUL (`%00`)")]
    EncodedNul,
    #[error(
        "the path has an encoded slash or backslash (`%2F`, `%5C`), which this port does not accept"
    )]
    EncodedSlash,
    #[error("the path leads above the root with `..`")]
    AboveRoot,
}

/// A request target in its normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Starts with `/`; `*` for the server as a whole (OPTIONS), empty for CONNECT.
    pub path: Cow<'a, str>,
    /// What follows the first `?`, untouched.
    pub query: Option<&'a str>,
    /// The authority of the absolute form and of CONNECT, as received.
    pub authority: Option<&'a str>,
}

/// Takes the request target as received and returns its normal form, borrowed when nothing had to change.
///
/// The four forms are those of RFC 9112 section 3.2. For extended CONNECT (RFC 8441), whose `:path`
/// is in origin form, pass the method it stands for (`GET`).
pub fn normalise_target<'a>(
    method: &str,
    target: &'a [u8],
    slash: EncodedSlash,
) -> Result<Target<'a>, PathRefused> {
    if target.is_empty() {
        return Err(PathRefused::Empty);
    }
    // Without an early exit, so that the compiler can look at many bytes at once.
    if target
        .iter()
        .fold(false, |bad, byte| bad | !matches!(byte, 0x21..=0x7e))
    {
        return Err(PathRefused::Character);
    }
    if memchr::memchr(b'#', target).is_some() {
        return Err(PathRefused::Fragment);
    }
    // Printable ASCII, just checked, is UTF-8.
    let target = std::str::from_utf8(target).map_err(|_| PathRefused::Character)?;
    if method == "CONNECT" {
        return connect(target);
    }
    if target.starts_with('/') {
        return origin_form(target, slash, None);
    }
    if target == "*" {
        return if method == "OPTIONS" {
            Ok(whole_server(None))
        } else {
            Err(PathRefused::AsteriskForm)
        };
    }
    absolute_form(method, target, slash)
}

/// RFC 9112 section 3.2.3.
fn connect(target: &str) -> Result<Target<'_>, PathRefused> {
    match normalise_host(target) {
        Ok(host) if host.port.is_some() => Ok(Target {
            path: Cow::Borrowed(""),
            query: None,
            authority: Some(target),
        }),
        _ => Err(PathRefused::AuthorityForm),
    }
}

/// RFC 9112 section 3.2.2: a server accepts the absolute form, although only proxies are sent it.
fn absolute_form<'a>(
    method: &str,
    target: &'a str,
    slash: EncodedSlash,
) -> Result<Target<'a>, PathRefused> {
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .ok_or(PathRefused::NotOriginForm)?;
    let rest = &target[scheme.len()..];
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
    if normalise_host(authority).is_err() {
        return Err(PathRefused::Authority);
    }
    match rest.as_bytes().first() {
        // RFC 9112 section 3.2.4: OPTIONS without path and query is about the server as a whole.
        None if method == "OPTIONS" => Ok(whole_server(Some(authority))),
        None => Ok(Target {
            path: Cow::Borrowed("/"),
            query: None,
            authority: Some(authority),
        }),
        // RFC 9110 section 4.2.3: an empty path is `/`.
        Some(b'?') => Ok(Target {
            path: Cow::Borrowed("/"),
            query: Some(&rest[1..]),
            authority: Some(authority),
        }),
        Some(b'/') => origin_form(rest, slash, Some(authority)),
        Some(_) => Err(PathRefused::Authority),
    }
}

fn whole_server(authority: Option<&str>) -> Target<'_> {
    Target {
        path: Cow::Borrowed("*"),
        query: None,
        authority,
    }
}

fn origin_form<'a>(
    target: &'a str,
    slash: EncodedSlash,
    authority: Option<&'a str>,
) -> Result<Target<'a>, PathRefused> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let path = if is_plain(path.as_bytes()) {
        Cow::Borrowed(path)
    } else {
        normalise_path(path, slash)?
    };
    Ok(Target {
        path,
        query,
        authority,
    })
}

/// Nothing in it that normalisation could change; may say no for a path that is normal.
fn is_plain(path: &[u8]) -> bool {
    memchr::memchr2(b'%', b'\\', path).is_none()
        && !path
            .windows(2)
            .any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'))
}

fn normalise_path(path: &str, slash: EncodedSlash) -> Result<Cow<'_, str>, PathRefused> {
    let mut normal = Normal {
        path: String::with_capacity(path.len()),
        segment: 1,
    };
    normal.path.push('/');
    // The leading slash is there already.
    let mut bytes = path.bytes().skip(1);
    while let Some(byte) = bytes.next() {
        match byte {
            b'/' | b'\\' => normal.end_segment(true)?,
            b'%' => match decode(bytes.next(), bytes.next())? {
                0 => return Err(PathRefused::EncodedNul),
                b'/' | b'\\' if slash == EncodedSlash::Refuse => {
                    return Err(PathRefused::EncodedSlash);
                }
                b'/' | b'\\' if slash == EncodedSlash::Decode => normal.end_segment(true)?,
                byte if is_unreserved(byte) => normal.path.push(char::from(byte)),
                byte => normal.push_encoded(byte),
            },
            byte => normal.path.push(char::from(byte)),
        }
    }
    normal.end_segment(false)?;
    Ok(if normal.path == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(normal.path)
    })
}

/// The normal path so far, and where its last segment begins.
struct Normal {
    path: String,
    segment: usize,
}

impl Normal {
    /// Resolves the segment just written. Empty ones vanish, so that `//` is `/` before `..` is
    /// resolved. Servers that strip parameters (`..;a=b`) must not see a `..` that we did not.
    fn end_segment(&mut self, separator: bool) -> Result<(), PathRefused> {
        let segment = &self.path[self.segment..];
        let (name, parameters) = match segment.split_once(';') {
            Some((name, parameters)) => (name, Some(parameters)),
            None => (segment, None),
        };
        match name {
            "." => self.path.truncate(self.segment),
            ".." => {
                let parent = self.path[..self.segment - 1].rfind('/');
                match (parent, parameters) {
                    (Some(slash), _) => self.path.truncate(slash + 1),
                    // `/..;/x` is `/x` (resources.md): to servers that do not strip parameters it never
                    // was a step above the root, and `/x` is what all of them are sent.
                    (None, Some(_)) => self.path.truncate(self.segment),
                    (None, None) => return Err(PathRefused::AboveRoot),
                }
            }
            _ if separator && !segment.is_empty() => self.path.push('/'),
            _ => {}
        }
        self.segment = if separator {
            self.path.len()
        } else {
            self.segment
        };
        Ok(())
    }

    fn push_encoded(&mut self, byte: u8) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        self.path.push('%');
        self.path.push(char::from(HEX[usize::from(byte >> 4)]));
        self.path.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

fn decode(high: Option<u8>, low: Option<u8>) -> Result<u8, PathRefused> {
    let digit = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => {
            u8::try_from(high * 16 + low).map_err(|_| PathRefused::MalformedEncoding)
        }
        _ => Err(PathRefused::MalformedEncoding),
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests;
