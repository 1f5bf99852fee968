//! The proxy's own answers (resources.md, The decision).

use bytes::BufMut;

use super::rewrite::extend_field;

/// Appends a whole response that refuses a request: the reason and the request id, nothing more,
/// since the caller may be anyone. `head_only` answers HEAD. Gives back how many bytes of content that is.
///
/// `fields` are further header fields. `close` must be set after a [`ParseError`](super::ParseError), when a request body isn't going
/// to be read, and for HTTP/1.0.
pub fn write_problem(
    out: &mut impl BufMut,
    status: u16,
    reason: &str,
    request_id: &str,
    fields: &[(&str, &str)],
    close: bool,
    head_only: bool,
) -> usize {
    let length = r#"{"reason":"","requestId":""}"#.len()
        + json_text(reason).count()
        + json_text(request_id).count();
    let mut digits = itoa::Buffer::new();
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(digits.format(status).as_bytes());
    out.put_u8(b' ');
    out.put_slice(reason_phrase(status).as_bytes());
    out.put_slice(b"\r\nserver: kith\r\n");
    extend_field(out, "x-kith-reason", reason.as_bytes());
    for (name, value) in fields {
        extend_field(out, name, value.as_bytes());
    }
    extend_field(out, "content-type", b"application/problem+json");
    extend_field(out, "content-length", digits.format(length).as_bytes());
    if close {
        extend_field(out, "connection", b"close");
    }
    out.put_slice(b"\r\n");
    if head_only {
        return 0;
    }
    out.put_slice(br#"{"reason":""#);
    json_text(reason).for_each(|byte| out.put_u8(byte));
    out.put_slice(br#"","requestId":""#);
    json_text(request_id).for_each(|byte| out.put_u8(byte));
    out.put_slice(br#""}"#);
    length
}

/// The inside of a JSON string. Control characters, which neither reasons nor request ids have,
/// become spaces, as in the header.
fn json_text(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().flat_map(|byte| {
        let escape = matches!(byte, b'"' | b'\\').then_some(b'\\');
        let byte = if byte < 0x20 { b' ' } else { byte };
        escape.into_iter().chain([byte])
    })
}

/// For the statuses that the proxy answers by itself.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // RFC 9112 section 4: clients ignore the phrase, it may be empty.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: (u16, &str, &str, bool, bool), expected: &str) {
        let (status, reason, request_id, close, head_only) = arguments;
        let challenge = [("www-authenticate", "Bearer")];
        let fields = if status == 401 { &challenge[..] } else { &[] };
        let mut out = Vec::new();
        write_problem(
            &mut out, status, reason, request_id, fields, close, head_only,
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn answers_with_reason_and_request_id_only() {
        check(
            (403, "denied-by-rule", "0193-a", false, false),
            "HTTP/1.1 403 Forbidden\r\nserver: kith\r\nx-kith-reason: denied-by-rule\r\n\
             content-type: application/problem+json\r\ncontent-length: 48\r\n\r\n\
             {\"reason\":\"denied-by-rule\",\"requestId\":\"0193-a\"}",
        );
        check(
            (401, "token-missing", "", true, true),
            "HTTP/1.1 401 Unauthorized\r\nserver: kith\r\nx-kith-reason: token-missing\r\n\
             www-authenticate: Bearer\r\ncontent-type: application/problem+json\r\n\
             content-length: 41\r\nconnection: close\r\n\r\n",
        );
    }

    #[test]
    fn row_27_escapes_what_it_echoes() {
        let mut out = Vec::new();
        write_problem(
            &mut out,
            400,
            "request-malformed",
            "a\"\\\r\n\u{e9}",
            &[],
            true,
            false,
        );
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            body,
            "{\"reason\":\"request-malformed\",\"requestId\":\"a\\\"\\\\  \u{e9}\"}"
        );
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    }
}
