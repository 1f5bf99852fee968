//! Ids that let records of different proxies be put together: the request id and W3C Trace Context.
//! They come from callers and prove nothing; what proves is the hop id.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::record::Trace;

/// Longest request id that is taken over from a caller.
const LONGEST: usize = 128;

/// The caller's id when it is well-formed, else a new UUIDv7 (RFC 9562 section 5.7). The second value says whether it is new.
pub(crate) fn request_id(given: Option<&[u8]>) -> (RequestId<'_>, bool) {
    match given {
        Some(id) if is_well_formed(id) => match std::str::from_utf8(id) {
            Ok(id) => (RequestId::Given(id), false),
            Err(_) => (RequestId::new(), true),
        },
        _ => (RequestId::new(), true),
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestId<'a> {
    Given(&'a str),
    New([u8; 36]),
}

impl RequestId<'_> {
    fn new() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let random = fastrand::u128(..).to_le_bytes();
        let mut ten = [0; 10];
        ten.copy_from_slice(&random[..10]);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &ten).into_uuid();
        let mut text = [0; 36];
        uuid.hyphenated().encode_lower(&mut text);
        RequestId::New(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            RequestId::Given(id) => id,
            RequestId::New(text) => std::str::from_utf8(text).unwrap_or_default(),
        }
    }
}

fn is_well_formed(id: &[u8]) -> bool {
    (1..=LONGEST).contains(&id.len())
        && id.iter().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=')
        })
}

/// The header to send on.
pub(crate) type TraceParent = [u8; 55];

/// Continues the caller's trace with a span of our own, or starts one (Trace Context section 3.2).
pub(crate) fn trace(given: Option<&[u8]>) -> (Trace, TraceParent) {
    let (trace_id, parent_id, flags) = match given.and_then(parse) {
        Some((trace_id, parent_id, flags)) => (trace_id, Some(parent_id), flags),
        // Not sampled: whether to sample is not ours to start.
        None => (fastrand::u128(1..).to_be_bytes(), None, 0),
    };
    let span_id = fastrand::u64(1..).to_be_bytes();
    let mut text = [b'-'; 55];
    text[..2].copy_from_slice(b"00");
    hex(&trace_id, &mut text[3..35]);
    hex(&span_id, &mut text[36..52]);
    hex(&[flags], &mut text[53..55]);
    (
        Trace {
            trace_id,
            span_id,
            parent_id,
        },
        text,
    )
}

/// Version 00 exactly, or the same fields of a later version (section 4.3). All-zero ids are invalid.
fn parse(value: &[u8]) -> Option<([u8; 16], [u8; 8], u8)> {
    let (head, rest) = value.split_at_checked(55)?;
    if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
        return None;
    }
    let mut version = [0; 1];
    unhex(&head[..2], &mut version)?;
    match version[0] {
        0 if rest.is_empty() => {}
        0 | 0xff => return None,
        _ if rest.is_empty() || rest[0] == b'-' => {}
        _ => return None,
    }
    let (mut trace_id, mut parent_id, mut flags) = ([0; 16], [0; 8], [0; 1]);
    unhex(&head[3..35], &mut trace_id)?;
    unhex(&head[36..52], &mut parent_id)?;
    unhex(&head[53..55], &mut flags)?;
    (trace_id != [0; 16] && parent_id != [0; 8]).then_some((trace_id, parent_id, flags[0] & 1))
}

fn hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Lower case only, as the standard has it.
fn unhex(text: &[u8], out: &mut [u8]) -> Option<()> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (pair, byte) in text.chunks_exact(2).zip(out) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn continues_a_trace_with_a_new_span() {
        let (trace, header) = trace(Some(GIVEN));
        assert!(header.starts_with(b"00-0af7651916cd43dd8448eb211c80319c-"));
        assert!(header.ends_with(b"-01"));
        assert_ne!(&header[36..52], b"b7ad6b7169203331");
        assert_eq!(
            trace.parent_id,
            Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31])
        );
    }

    #[test]
    fn starts_a_trace_when_the_header_is_malformed() {
        for bad in [
            &b""[..],
            b"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(
                trace(Some(bad)).0.parent_id,
                None,
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn keeps_well_formed_request_ids_only() {
        assert_eq!(request_id(Some(b"abc-123")).0.as_str(), "abc-123");
        for bad in [&b""[..], b"a b", b"a\"b", b"a\r\nb", &[b'a'; 129], b"\xff"] {
            let (id, new) = request_id(Some(bad));
            assert!(new);
            assert_eq!(id.as_str().len(), 36);
            assert_eq!(&id.as_str()[14..15], "7");
        }
    }
}
