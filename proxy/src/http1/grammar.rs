//! Byte classes and small grammars of RFC 9110 that every part of a message shares.

/// `tchar` of RFC 9110 section 5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
        byte += 1;
    }
    table
};

pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// Fields that a `Connection` header can't take away and trailers can't bring: framing, routing,
/// credentials and what tells identity or origin (security.md, row 7; CVE-2024-45410).
const PROTECTED: &[&str] = &[
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "grpc-*",
    "host",
    "location",
    "origin",
    "proxy-authorization",
    "sec-*",
    "server",
    "set-cookie",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "www-authenticate",
    "x-forwarded-*",
    "x-kith-*",
    "x-real-ip",
    "x-request-id",
];

/// Fields that RFC 9110 section 6.5.1 keeps out of trailers besides [`PROTECTED`]: a recipient
/// that merges trailers into headers would act on them too late, or twice.
const HEAD_ONLY: &[&str] = &[
    "age",
    "connection",
    "expires",
    "if-*",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-connection",
    "range",
    "retry-after",
    "te",
    "trailer",
    "upgrade",
    "vary",
];

pub(super) fn is_protected(name: &[u8]) -> bool {
    PROTECTED.iter().any(|pattern| name_matches(pattern, name))
}

/// Fields that trailers can't bring, and those of `guarded`, which are names in lower case with `-`. gRPC ends its calls
/// with `grpc-status` and `grpc-message` in the trailers, and nowhere else.
pub(crate) fn is_forbidden_in_trailers(name: &[u8], guarded: &[String]) -> bool {
    let forbidden =
        is_protected(name) || HEAD_ONLY.iter().any(|pattern| name_matches(pattern, name));
    forbidden && !name_matches("grpc-*", name)
        || guarded.iter().any(|guarded| name_matches(guarded, name))
}

/// Whether a field name is the one meant by `pattern`: lower case, with `-`, and `*` at the end for
/// any rest. `_` counts as `-`, because CGI-like servers (WSGI, Rack, PHP) fold the two, and would
/// take `x_forwarded_client_cert` for the header that is guarded.
pub(super) fn name_matches(pattern: &str, name: &[u8]) -> bool {
    let folded_eq = |pattern: &[u8], name: &[u8]| {
        pattern.iter().zip(name).all(|(&want, &byte)| {
            want == byte.to_ascii_lowercase() || (want == b'-' && byte == b'_')
        })
    };
    match pattern.as_bytes() {
        [prefix @ .., b'*'] => name.len() >= prefix.len() && folded_eq(prefix, name),
        exact => name.len() == exact.len() && folded_eq(exact, name),
    }
}

/// Position of the first byte that a field value can't hold: a control character but HTAB
/// (RFC 9110 section 5.5), hence also the CR that ends the line. Looks at eight bytes at a time,
/// since every byte of every head passes here.
#[inline]
pub(super) fn find_control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let mut at = 0;
    while let Some(Ok(word)) = bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let word = u64::from_le_bytes(word);
        // "Has a byte less than n" and "has a zero byte" of the usual bit tricks. A borrow can
        // mark bytes after a true one, never before it, so that the lowest mark is exact.
        let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let delete = word ^ (ONES * 0x7f);
        let delete = delete.wrapping_sub(ONES) & !delete & HIGH;
        let marks = below_space | delete;
        if marks == 0 {
            at += 8;
            continue;
        }
        let found = at + (marks.trailing_zeros() / 8) as usize;
        if bytes[found] != b'\t' {
            return Some(found);
        }
        at = found + 1;
    }
    bytes[at..]
        .iter()
        .position(|&byte| is_control(byte))
        .map(|found| at + found)
}

pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// Without the optional white space around it: SP and HTAB, nothing else.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Elements of a comma-separated list, the empty ones left out (RFC 9110 section 5.6.1.2).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// How many protocols `Upgrade` lists, each a token with, where given, `/` and a version that is one
/// too (RFC 9110 section 7.8).
pub(super) fn count_protocols(value: &[u8]) -> Option<usize> {
    list(value).try_fold(0, |count, protocol| {
        let well_formed = protocol.splitn(2, |&byte| byte == b'/').all(is_token);
        well_formed.then_some(count + 1)
    })
}

/// A `Content-Length` value. Digits only, so no list, sign or space; below 2^63, so that servers
/// that count in signed numbers read the same.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // At most 19 digits: below 10^19, which fits in 64 bits.
    let number = value
        .iter()
        .fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    i64::try_from(number).ok().map(|_| number)
}

/// Text that the parser has already proved to be ASCII.
pub(super) fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_the_same_control_bytes_as_a_plain_loop(bytes in proptest::collection::vec(
            prop_oneof![8 => 0x20_u8..=0xff, 1 => 0_u8..=0x20, 1 => Just(b'\t'), 1 => Just(0x7f)], 0..80)
        ) {
            prop_assert_eq!(find_control(&bytes), bytes.iter().position(|&byte| is_control(byte)));
        }
    }

    #[test]
    fn reads_content_lengths_as_plain_digits() {
        for (value, expected) in [
            ("0", Some(0)),
            ("0042", Some(42)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            ("9223372036854775808", None),
            ("9999999999999999999", None),
            ("18446744073709551616", None),
            ("00000000000000000001", None),
            ("", None),
            ("+5", None),
            ("-5", None),
            ("5,5", None),
            ("5 5", None),
            ("0x5", None),
            ("5.0", None),
            ("1e3", None),
            ("\u{0665}", None),
        ] {
            assert_eq!(content_length(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn row_07_matches_guarded_names_in_any_case_and_with_underscores() {
        for name in [
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "X-Forwarded_For",
            "X-KITH-REASON",
            "Authorization",
        ] {
            assert!(is_protected(name.as_bytes()), "{name}");
        }
        for name in ["x-forward", "authorizations", "hos", "keep-alive", "x-kit"] {
            assert!(!is_protected(name.as_bytes()), "{name}");
        }
        assert!(!is_forbidden_in_trailers(b"grpc-status", &[]));
        assert!(!is_forbidden_in_trailers(b"x-checksum", &[]));
        assert!(is_forbidden_in_trailers(b"X_Forwarded_Client_Cert", &[]));
        assert!(is_forbidden_in_trailers(b"If-Match", &[]));
    }
}
