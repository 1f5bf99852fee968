//! Heads for the next hop: what the peer sent, less what ends here, plus what the proxy says.
//!
//! Fields that are passed on keep their order and every byte of their line; runs of them are
//! copied at once. What the proxy sets comes last and is the only field of its name (security.md,
//! row 7).

use std::ops::Range;

use bytes::BufMut;

use super::fields::{Fate, Field, Fields};
use super::grammar::{find_control, is_control, name_matches};
use super::{Framing, RequestHead, ResponseHead, Version};

/// The request target to send, in origin-form: the very bytes that were decided upon.
#[derive(Debug, Clone, Copy)]
pub struct ForwardTarget<'a> {
    /// With its leading `/`, or `*`. Not used for CONNECT, which keeps its authority.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
}

#[derive(Debug, Clone, Copy)]
pub struct Rewrite<'a> {
    /// Names to leave out, all their repetitions, in any case and with `_` for `-`: written in
    /// lower case with `-`; a `*` at the end stands for any rest.
    pub remove: &'a [&'a str],
    /// Fields to append. Received fields of the same names are left out, as by `remove`.
    pub set: &'a [(&'a str, &'a [u8])],
    pub connection: ConnectionHeader,
}

/// What the next hop is told of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConnectionHeader {
    /// Nothing: HTTP/1.1 connections persist by default.
    #[default]
    Persist,
    Close,
    /// Passes on the upgrade of the head, if it has one; else like `Persist`.
    Upgrade,
}

/// Appends the head of a request to `out`.
///
/// An HTTP/1.0 request stays one, and so ends its connection: RFC 9112 section 2.3 would have the
/// proxy name its own version, but only the client's keeps the server from answering in chunks,
/// which the client couldn't read.
pub fn write_request_head(
    out: &mut impl BufMut,
    head: &RequestHead,
    buffer: &[u8],
    target: ForwardTarget<'_>,
    rewrite: &Rewrite<'_>,
) {
    out.put_slice(head.method(buffer).as_bytes());
    out.put_u8(b' ');
    match head.target_authority(buffer) {
        Some(authority) if head.is_connect() => out.put_slice(authority.as_bytes()),
        _ => {
            extend_target(out, target.path);
            if let Some(query) = target.query {
                out.put_u8(b'?');
                extend_target(out, query);
            }
        }
    }
    out.put_slice(match head.version() {
        Version::Http11 => b" HTTP/1.1\r\n",
        Version::Http10 => b" HTTP/1.0\r\n",
    });
    // RFC 9112 section 3.2.2: Host is the authority of an absolute-form target. Where both were
    // sent they agree, so that only a missing Host has to be made.
    if let Some(authority) = head.target_authority(buffer)
        && head.lacks_host()
    {
        extend_field(out, "host", authority.as_bytes());
    }
    extend_fields(out, &head.fields, buffer, rewrite);
    if head.framing() == Framing::Chunked {
        extend_field(out, "transfer-encoding", b"chunked");
    }
    if head.has_te_trailers() {
        extend_field(out, "te", b"trailers");
    }
    let upgrade = head.upgrade(buffer);
    extend_connection(out, rewrite.connection, upgrade, head.has_te_trailers());
    finish(out, rewrite.set);
}

/// Appends the head of a response to `out`, always as HTTP/1.1. One whose body ends with the
/// connection says so, whatever `rewrite` asks for.
pub fn write_response_head(
    out: &mut impl BufMut,
    head: &ResponseHead,
    buffer: &[u8],
    rewrite: &Rewrite<'_>,
) {
    out.put_slice(b"HTTP/1.1 ");
    let mut digits = itoa::Buffer::new();
    out.put_slice(digits.format(head.status()).as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.reason(buffer));
    out.put_slice(b"\r\n");
    extend_fields(out, &head.fields, buffer, rewrite);
    if head.says_chunked {
        extend_field(out, "transfer-encoding", b"chunked");
    }
    let connection = match head.framing() {
        Framing::UntilClose => ConnectionHeader::Close,
        _ => rewrite.connection,
    };
    extend_connection(out, connection, head.upgrade(buffer), false);
    finish(out, rewrite.set);
}

fn extend_fields(out: &mut impl BufMut, fields: &Fields, buffer: &[u8], rewrite: &Rewrite<'_>) {
    let left_out = |field: &Field| {
        let name = field.name(buffer);
        field.fate != Fate::Forwarded
            || rewrite
                .remove
                .iter()
                .any(|remove| name_matches(remove, name))
            || rewrite.set.iter().any(|(set, _)| name_matches(set, name))
    };
    let mut run: Option<Range<usize>> = None;
    for field in fields.all() {
        let line = field.line();
        if left_out(field) {
            if let Some(run) = run.take() {
                out.put_slice(&buffer[run]);
            }
        } else {
            run = Some(run.map_or(line.start, |run| run.start)..line.end);
        }
    }
    if let Some(run) = run {
        out.put_slice(&buffer[run]);
    }
}

fn extend_connection(
    out: &mut impl BufMut,
    connection: ConnectionHeader,
    upgrade: Option<&str>,
    te: bool,
) {
    let option: Option<&[u8]> = match (connection, upgrade) {
        (ConnectionHeader::Close, _) => Some(b"close"),
        (ConnectionHeader::Upgrade, Some(protocol)) => {
            extend_field(out, "upgrade", protocol.as_bytes());
            Some(b"Upgrade")
        }
        _ => None,
    };
    match (option, te) {
        (Some(option), false) => extend_field(out, "connection", option),
        (None, true) => extend_field(out, "connection", b"te"),
        (Some(option), true) => {
            extend_field(out, "connection", option);
            extend_field(out, "connection", b"te");
        }
        (None, false) => {}
    }
}

fn finish(out: &mut impl BufMut, set: &[(&str, &[u8])]) {
    for (name, value) in set {
        extend_field(out, name, value);
    }
    out.put_slice(b"\r\n");
}

/// A value that would break the line is defused as RFC 9110 section 5.5 has it, whoever made it.
pub(super) fn extend_field(out: &mut impl BufMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    if find_control(value).is_none() {
        out.put_slice(value);
    } else {
        for &byte in value {
            out.put_u8(if is_control(byte) { b' ' } else { byte });
        }
    }
    out.put_slice(b"\r\n");
}

/// A byte that would end the target is encoded, whoever made it. Normalised paths have none.
fn extend_target(out: &mut impl BufMut, part: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let visible = |byte: u8| (0x21..=0x7e).contains(&byte);
    if part.bytes().fold(true, |all, byte| all & visible(byte)) {
        out.put_slice(part.as_bytes());
        return;
    }
    for byte in part.bytes() {
        if visible(byte) {
            out.put_u8(byte);
        } else {
            let (high, low) = (byte >> 4, byte & 0xf);
            out.put_slice(&[b'%', HEX[usize::from(high)], HEX[usize::from(low)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{Asked, Limits, Parse};

    const AS_IS: Rewrite<'static> = Rewrite {
        remove: &[],
        set: &[],
        connection: ConnectionHeader::Persist,
    };

    fn request(text: &str, rewrite: &Rewrite<'_>) -> String {
        let mut head = RequestHead::default();
        let parsed = head.parse(text.as_bytes(), &Limits::default());
        assert_eq!(parsed, Ok(Parse::Complete(text.len())), "{text:?}");
        let buffer = text.as_bytes();
        let target = ForwardTarget {
            path: head.path(buffer),
            query: head.query(buffer),
        };
        let mut out = Vec::new();
        write_request_head(&mut out, &head, buffer, target, rewrite);
        String::from_utf8(out).unwrap()
    }

    fn response(text: &str, asked: Asked, rewrite: &Rewrite<'_>) -> String {
        let mut head = ResponseHead::default();
        let parsed = head.parse(text.as_bytes(), &Limits::default(), asked);
        assert_eq!(parsed, Ok(Parse::Complete(text.len())), "{text:?}");
        let mut out = Vec::new();
        write_response_head(&mut out, &head, text.as_bytes(), rewrite);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn passes_end_to_end_fields_on_byte_for_byte() {
        let text = "GET /a?b=c HTTP/1.1\r\nHOST:  a.example\t\r\nx-b:1\r\nX-a: 2 \r\nx-b: 3\r\n\
                    trailer: x\r\nProxy-Authorization: y\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(request(text, &AS_IS), text);
    }

    #[test]
    fn row_07_ends_hop_by_hop_fields_here() {
        let text = "GET / HTTP/1.1\r\nhost: a\r\nConnection: x-one, keep-alive,,X-Two\r\nx-one: 1\r\n\
                    kept: 1\r\nX-ONE: 2\r\nx-two: 3\r\nKeep-Alive: timeout=5\r\nconnection: x-three\r\n\
                    x-three: 3\r\nProxy-Connection: close\r\nTE: gzip\r\nUpgrade: websocket\r\nlast: 1\r\n\r\n";
        assert_eq!(
            request(text, &AS_IS),
            "GET / HTTP/1.1\r\nhost: a\r\nkept: 1\r\nlast: 1\r\n\r\n"
        );
    }

    #[test]
    fn row_07_sets_identity_headers_last_and_alone() {
        let text = "GET / HTTP/1.1\r\nX-Forwarded-Client-Cert: evil\r\nhost: a\r\nx_forwarded_client_cert: evil\r\n\
                    x-forwarded_Client-cert: evil\r\nx-kith-anything: evil\r\nX_Kith_: evil\r\nx-request-id: old\r\n\
                    X-Request-Id: older\r\nx-kept: 1\r\n\r\n";
        let rewrite = Rewrite {
            remove: &["x-kith-*"],
            set: &[
                ("x-forwarded-client-cert", b"By=a;URI=b"),
                ("x-request-id", b"new"),
            ],
            connection: ConnectionHeader::Close,
        };
        assert_eq!(
            request(text, &rewrite),
            "GET / HTTP/1.1\r\nhost: a\r\nx-kept: 1\r\nconnection: close\r\n\
             x-forwarded-client-cert: By=a;URI=b\r\nx-request-id: new\r\n\r\n"
        );
    }

    #[test]
    fn row_03_writes_absolute_form_as_origin_form() {
        for (text, expected) in [
            (
                "GET http://a.example:80/x?y HTTP/1.1\r\nhost: A.example:80\r\n\r\n",
                "GET /x?y HTTP/1.1\r\nhost: A.example:80\r\n\r\n",
            ),
            (
                "GET HTTP://a HTTP/1.0\r\n\r\n",
                "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
            ),
            (
                "GET http://a?y HTTP/1.1\r\nhost: a\r\n\r\n",
                "GET /?y HTTP/1.1\r\nhost: a\r\n\r\n",
            ),
            (
                "OPTIONS http://a HTTP/1.1\r\nhost: a\r\n\r\n",
                "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
            ),
            (
                "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n",
                "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n",
            ),
        ] {
            assert_eq!(request(text, &AS_IS), expected);
        }
    }

    #[test]
    fn row_08_states_the_framing_of_a_request_anew() {
        assert_eq!(
            request(
                "POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked \r\nhost: a\r\nte: trailers, gzip\r\n\
                 connection: TE\r\n\r\n",
                &AS_IS
            ),
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nte: trailers\r\nconnection: te\r\n\r\n"
        );
    }

    #[test]
    fn row_09_passes_an_upgrade_on_only_when_told_to() {
        let text = "GET / HTTP/1.1\r\nhost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                    Sec-WebSocket-Key: k\r\n\r\n";
        let upgrade = Rewrite {
            connection: ConnectionHeader::Upgrade,
            ..AS_IS
        };
        assert_eq!(
            request(text, &upgrade),
            "GET / HTTP/1.1\r\nhost: a\r\nSec-WebSocket-Key: k\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n"
        );
        assert_eq!(
            request(text, &AS_IS),
            "GET / HTTP/1.1\r\nhost: a\r\nSec-WebSocket-Key: k\r\n\r\n"
        );
        let h2c = "GET / HTTP/1.1\r\nhost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\
                   Connection: Upgrade, HTTP2-Settings\r\n\r\n";
        assert_eq!(request(h2c, &upgrade), "GET / HTTP/1.1\r\nhost: a\r\n\r\n");

        let asked = Asked {
            upgrade: true,
            ..Asked::default()
        };
        assert_eq!(
            response(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUPGRADE: websocket\r\na: b\r\n\r\n",
                asked,
                &upgrade
            ),
            "HTTP/1.1 101 Switching Protocols\r\na: b\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n"
        );
    }

    #[test]
    fn writes_response_heads() {
        let close = Rewrite {
            remove: &["x-internal-*"],
            set: &[("server", b"kith")],
            connection: ConnectionHeader::Close,
        };
        for (text, rewrite, expected) in [
            (
                "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
                &AS_IS,
                "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\n",
            ),
            (
                "HTTP/1.1 404 \r\nServer: a\r\nX-Internal-A: b\r\nTransfer-Encoding: chunked\r\n\r\n",
                &close,
                "HTTP/1.1 404 \r\ntransfer-encoding: chunked\r\nconnection: close\r\nserver: kith\r\n\r\n",
            ),
            (
                "HTTP/1.0 200 Fine\u{e9}\r\na: b\r\n\r\n",
                &AS_IS,
                "HTTP/1.1 200 Fine\u{e9}\r\na: b\r\nconnection: close\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 No Content\r\na: b\r\ncontent-length: 0\r\n\r\n",
                &AS_IS,
                "HTTP/1.1 204 No Content\r\na: b\r\n\r\n",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\n",
                &AS_IS,
                "HTTP/1.1 100 Continue\r\n\r\n",
            ),
        ] {
            assert_eq!(response(text, Asked::default(), rewrite), expected);
        }
        let head = Asked {
            head: true,
            ..Asked::default()
        };
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(response(text, head, &AS_IS), text);
    }

    #[test]
    fn row_27_never_writes_a_line_break_that_a_caller_slipped_in() {
        let text = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut head = RequestHead::default();
        head.parse(text.as_bytes(), &Limits::default()).unwrap();
        let rewrite = Rewrite {
            set: &[("x-a", b"1\r\nx-b: 2\0")],
            ..AS_IS
        };
        let target = ForwardTarget {
            path: "/ HTTP/1.1\r\nx: y",
            query: Some("\u{e9}"),
        };
        let mut out = Vec::new();
        write_request_head(&mut out, &head, text.as_bytes(), target, &rewrite);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "GET /%20HTTP/1.1%0D%0Ax:%20y?%C3%A9 HTTP/1.1\r\nhost: a\r\nx-a: 1  x-b: 2 \r\n\r\n"
        );
    }
}
