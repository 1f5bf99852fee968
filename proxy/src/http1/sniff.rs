//! What the first bytes of a connection are. Only what is surely HTTP or TLS is called so;
//! everything else is opaque and decided under L4 rules (security.md, row 14).

use super::grammar::is_token_byte;

/// No more than this is looked at: the length of request line that RFC 9112 section 3 asks every
/// server to take. A longer one, where no protocol was declared, is opaque.
pub const SNIFF_BYTES: usize = 8 * 1024;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longer than any method registered with IANA.
const METHOD_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// A whole HTTP/1.x request line.
    Http1,
    /// The whole HTTP/2 connection preface.
    Http2Preface,
    /// A TLS record with a ClientHello.
    Tls,
    /// Could still become any of these.
    NeedMore,
    Other,
}

/// Judges the first bytes that a client sent. More bytes never turn a verdict but `NeedMore` into
/// another.
pub fn sniff(bytes: &[u8]) -> Sniff {
    if bytes.starts_with(PREFACE) {
        return Sniff::Http2Preface;
    }
    if PREFACE.starts_with(bytes) {
        return Sniff::NeedMore;
    }
    match bytes[0] {
        0x16 => sniff_tls(bytes),
        _ => sniff_request_line(&bytes[..bytes.len().min(SNIFF_BYTES)]),
    }
}

/// RFC 8446 section 5.1: handshake record, legacy version 3.x, at most 2^14 bytes, and the first
/// handshake message in it a ClientHello.
fn sniff_tls(bytes: &[u8]) -> Sniff {
    let length = || u16::from_be_bytes([bytes[3], bytes[4]]);
    let checks: [&dyn Fn() -> bool; 6] = [
        &|| true,
        &|| bytes[1] == 3,
        &|| bytes[2] <= 4,
        &|| true,
        &|| (4..=1 << 14).contains(&length()),
        &|| bytes[5] == 1,
    ];
    if !checks.iter().take(bytes.len()).all(|check| check()) {
        Sniff::Other
    } else if bytes.len() < checks.len() {
        Sniff::NeedMore
    } else {
        Sniff::Tls
    }
}

/// `METHOD SP target SP HTTP/1.x CR LF`, where only the bytes of a target are free.
fn sniff_request_line(bytes: &[u8]) -> Sniff {
    let unfinished = if bytes.len() < SNIFF_BYTES {
        Sniff::NeedMore
    } else {
        Sniff::Other
    };
    let method = bytes
        .iter()
        .take_while(|&&byte| is_token_byte(byte))
        .take(METHOD_BYTES + 1)
        .count();
    if method > METHOD_BYTES {
        return Sniff::Other;
    }
    match bytes.get(method) {
        None => return unfinished,
        Some(b' ') if method > 0 => {}
        Some(_) => return Sniff::Other,
    }
    let rest = &bytes[method + 1..];
    let visible = |byte: &&u8| (0x21..=0x7e).contains(*byte);
    let target = rest.iter().take_while(visible).count();
    match rest.get(target) {
        None => return unfinished,
        Some(b' ') if target > 0 => {}
        Some(_) => return Sniff::Other,
    }
    let version = &rest[target + 1..];
    for whole in [b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"] {
        if version.starts_with(whole) {
            return Sniff::Http1;
        }
        if whole.starts_with(version) {
            return unfinished;
        }
    }
    Sniff::Other
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn row_14_names_only_what_is_certain() {
        for (bytes, expected) in [
            (&b""[..], Sniff::NeedMore),
            (b"G", Sniff::NeedMore),
            (b"GET / HTTP/1.1\r", Sniff::NeedMore),
            (b"GET / HTTP/1.1\r\n", Sniff::Http1),
            (b"GET / HTTP/1.0\r\nhost", Sniff::Http1),
            (b"M-SEARCH * HTTP/1.1\r\n", Sniff::Http1),
            (b"PRI", Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http2Preface),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Sniff::Other),
            (b"PRINT / HTTP/1.1\r\n", Sniff::Http1),
            (b"GET / HTTP/1.1\n", Sniff::Other),
            (b"GET / HTTP/1.2\r\n", Sniff::Other),
            (b"GET / HTTP/2.0\r\n", Sniff::Other),
            (b"GET /\r\n", Sniff::Other),
            (b"GET  / HTTP/1.1\r\n", Sniff::Other),
            (b"GET /  HTTP/1.1\r\n", Sniff::Other),
            (b" GET / HTTP/1.1\r\n", Sniff::Other),
            (b"\r\nGET / HTTP/1.1\r\n", Sniff::Other),
            (b"G\0T / HTTP/1.1\r\n", Sniff::Other),
            (b"GET /\xff HTTP/1.1\r\n", Sniff::Other),
            (b"SET key value\r\n", Sniff::Other),
            (b"EHLO mail.example\r\n", Sniff::Other),
            (b"SSH-2.0-OpenSSH_9\r\n", Sniff::Other),
            (b"*1\r\n$4\r\nPING\r\n", Sniff::Other),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", Sniff::Other),
            (b"\x16\x03\x01\x02", Sniff::NeedMore),
            (b"\x16\x03\x01\x02\x00\x01", Sniff::Tls),
            (b"\x16\x03\x01\x02\x00\x02", Sniff::Other),
            (b"\x16\x03\x01\x00\x00", Sniff::Other),
            (b"\x16\x03\x01\x40\x01", Sniff::Other),
            (b"\x16\x03\x05", Sniff::Other),
            (b"\x16\x02", Sniff::Other),
            (b"\x15\x03\x01\x00\x02\x01", Sniff::Other),
            (b"\0\0\0\x2d\0\x03\0\0", Sniff::Other),
        ] {
            assert_eq!(
                sniff(bytes),
                expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn row_14_is_bounded() {
        let long = |length: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(length)).into_bytes();
        let most = SNIFF_BYTES - b"GET / HTTP/1.1\r\n".len();
        assert_eq!(sniff(&long(most)), Sniff::Http1);
        assert_eq!(sniff(&long(most + 1)), Sniff::Other);
        assert_eq!(sniff(&long(SNIFF_BYTES * 2)), Sniff::Other);
        assert_eq!(sniff(&long(most)[..SNIFF_BYTES - 1]), Sniff::NeedMore);
    }

    proptest! {
        #[test]
        fn row_14_a_verdict_never_changes_with_more_bytes(
            bytes in prop_oneof![
                "(GET|PRI|PRI \\*|[A-Z ]{0,4}) /?[a-z*]{0,3} HTTP/[12]\\.[012](\r|\n|\r\n){0,2}.{0,3}"
                    .prop_map(String::into_bytes),
                proptest::collection::vec(prop_oneof![Just(0x16), Just(3), 0_u8..6, any::<u8>()], 0..12),
            ]
        ) {
            let mut verdict = Sniff::NeedMore;
            for length in 0..=bytes.len() {
                let next = sniff(&bytes[..length]);
                prop_assert!(verdict == Sniff::NeedMore || verdict == next);
                verdict = next;
            }
        }
    }
}
