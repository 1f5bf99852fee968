//! Cookies (RFC 6265 section 4.2), so far as tokens are in them.

use super::AllHeaders;

/// Names and values of one `cookie` header; a value in quotes comes without them.
pub(super) fn pairs(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    parts(header).map(|part| {
        let (name, value) = split(part);
        let unquoted = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        (name, unquoted.unwrap_or(value))
    })
}

/// Names that stand inside of a value, behind bytes that no value may have and that some applications take for the
/// `;` between cookies.
pub(super) fn hidden(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let between = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'"');
    parts(header)
        .map(|part| split(part).1)
        .flat_map(move |value| value.split(between).skip(1))
        .filter_map(|piece| Some(&piece[..memchr::memchr(b'=', piece)?]))
}

/// All cookies of a request less some, in one header (RFC 9113 section 8.2.3).
pub(super) fn without<'a>(headers: &dyn AllHeaders<'a>, doomed: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut left = Vec::new();
    headers.each(&mut |name, value| {
        if !name.eq_ignore_ascii_case("cookie") {
            return;
        }
        for part in parts(value).filter(|part| !doomed(split(part).0)) {
            if !left.is_empty() {
                left.extend_from_slice(b"; ");
            }
            left.extend_from_slice(part);
        }
    });
    left
}

fn parts(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
}

fn split(part: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', part) {
        Some(at) => (part[..at].trim_ascii(), part[at + 1..].trim_ascii()),
        None => (b"", part),
    }
}
