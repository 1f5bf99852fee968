//! The head of a response.

use std::ops::Range;

use super::fields::{Cursor, Fate, Fields, Known};
use super::framing::{self, Framing};
use super::grammar::{ascii, count_protocols};
use super::{Asked, Limits, Parse, ParseError, Version};

/// A response head as offsets into the buffer it was parsed from; used like
/// [`RequestHead`](super::RequestHead). Interim responses (1xx) are heads of their own.
#[derive(Debug, Default)]
pub struct ResponseHead {
    cursor: Cursor,
    /// Behind the empty line; zero while the head is incomplete.
    length: usize,
    version: Version,
    /// Zero until the status line is read.
    status: u16,
    reason: Range<usize>,
    pub(super) fields: Fields,
    framing: Framing,
    /// The head says `chunked`, although there may be no body (HEAD, 304).
    pub(super) says_chunked: bool,
    is_tunnel: bool,
}

impl ResponseHead {
    /// Forgets the response, so that the next one can be parsed.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self {
            fields,
            ..Self::default()
        };
    }

    /// Reads the head at the start of `buffer`; complete, gives its length in bytes.
    pub fn parse(
        &mut self,
        buffer: &[u8],
        limits: &Limits,
        asked: Asked,
    ) -> Result<Parse<usize>, ParseError> {
        if self.length > 0 {
            return Ok(Parse::Complete(self.length));
        }
        if self.status == 0 {
            let line =
                self.cursor
                    .next_line(buffer, limits.head_bytes, ParseError::HeadTooLarge)?;
            let Some(line) = line else {
                return Ok(Parse::Partial);
            };
            self.read_status_line(buffer, line)?;
        }
        match self.fields.read(&mut self.cursor, buffer, limits)? {
            Parse::Partial => Ok(Parse::Partial),
            Parse::Complete(()) => {
                self.framing = self.read_framing(buffer, asked)?;
                self.check_switch(buffer, asked)?;
                self.length = self.cursor.position();
                Ok(Parse::Complete(self.length))
            }
        }
    }

    /// RFC 9112 section 4. The space behind the status is required, the reason may be empty.
    fn read_status_line(&mut self, buffer: &[u8], line: Range<usize>) -> Result<(), ParseError> {
        let bytes = &buffer[line.clone()];
        let [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            major,
            b'.',
            minor,
            b' ',
            hundreds @ b'1'..=b'9',
            tens @ b'0'..=b'9',
            ones @ b'0'..=b'9',
            b' ',
            ..,
        ] = bytes
        else {
            return Err(ParseError::StatusLine);
        };
        self.version = match (major, minor) {
            (b'1', b'1') => Version::Http11,
            (b'1', b'0') => Version::Http10,
            (b'0'..=b'9', b'0'..=b'9') => return Err(ParseError::Version),
            _ => return Err(ParseError::StatusLine),
        };
        let digit = |byte: &u8| u16::from(byte - b'0');
        self.status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
        self.reason = line.start + "HTTP/1.1 200 ".len()..line.end;
        Ok(())
    }

    /// RFC 9112 section 6.3, in its order.
    fn read_framing(&mut self, buffer: &[u8], asked: Asked) -> Result<Framing, ParseError> {
        // A server doesn't know that an HTTP/1.0 client can't read chunks unless it looks.
        let version = self.version.min(asked.version);
        let declared = framing::declared(&self.fields, version, buffer)?;
        self.says_chunked = declared == Framing::Chunked;
        self.is_tunnel = asked.connect && (200..300).contains(&self.status);
        if self.is_interim() || self.status == 204 || self.is_tunnel {
            return match declared {
                Framing::None => Ok(Framing::None),
                // Forbidden by RFC 9110 section 8.6, yet often sent, and harmless once removed.
                Framing::Length(0) => {
                    self.fields.set_fate(Known::ContentLength, Fate::EndsHere);
                    Ok(Framing::None)
                }
                _ => Err(ParseError::ContentForbidden),
            };
        }
        if asked.head || self.status == 304 {
            return Ok(Framing::None);
        }
        Ok(match declared {
            Framing::None => Framing::UntilClose,
            declared => declared,
        })
    }

    fn check_switch(&self, buffer: &[u8], asked: Asked) -> Result<(), ParseError> {
        if self.status != 101 {
            return Ok(());
        }
        let protocols = match self.fields.single(Known::Upgrade, buffer) {
            Some(value) => count_protocols(value).ok_or(ParseError::Upgrade)?,
            None => 0,
        };
        if asked.upgrade && self.fields.connection.upgrade && protocols == 1 {
            Ok(())
        } else {
            Err(ParseError::UnexpectedSwitch)
        }
    }

    /// Bytes of the head; the body starts there. Zero while incomplete.
    pub fn length(&self) -> usize {
        self.length
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase as sent, possibly empty.
    pub fn reason<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.reason.clone()]
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// 1xx: the final response follows. 101 counts too, but what follows is the new protocol.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// 101: both directions are opaque from here on.
    pub fn is_switch(&self) -> bool {
        self.status == 101
    }

    /// 2xx to CONNECT: both directions are opaque from here on.
    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the server's connection can take another request once this response is over.
    pub fn persistent(&self) -> bool {
        self.version == Version::Http11
            && !self.fields.connection.close
            && self.framing != Framing::UntilClose
            && !self.is_switch()
            && !self.is_tunnel
    }

    /// The protocol switched to, of a 101.
    pub fn upgrade<'b>(&self, buffer: &'b [u8]) -> Option<&'b str> {
        let value = self.fields.single(Known::Upgrade, buffer)?;
        self.is_switch().then(|| ascii(value))
    }

    /// None when absent or repeated.
    pub fn content_type<'b>(&self, buffer: &'b [u8]) -> Option<&'b [u8]> {
        self.fields.single(Known::ContentType, buffer)
    }

    /// Name and value of every field that the client will see, in order.
    pub fn headers<'a, 'b>(
        &'a self,
        buffer: &'b [u8],
    ) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'a, 'b> {
        self.fields.passing(buffer)
    }

    /// Values of the [`headers`](Self::headers) of one name, in any case.
    pub fn values<'a, 'b>(
        &'a self,
        buffer: &'b [u8],
        name: &'a str,
    ) -> impl Iterator<Item = &'b [u8]> + use<'a, 'b> {
        self.fields.values(buffer, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked {
        head: false,
        connect: false,
        upgrade: false,
        version: Version::Http11,
    };
    const HEAD: Asked = Asked { head: true, ..GET };
    const CONNECT: Asked = Asked {
        connect: true,
        ..GET
    };
    const UPGRADE: Asked = Asked {
        upgrade: true,
        ..GET
    };
    const OLD: Asked = Asked {
        version: Version::Http10,
        ..GET
    };

    fn parse(text: &str, asked: Asked) -> Result<ResponseHead, ParseError> {
        let mut head = ResponseHead::default();
        let parsed = head.parse(text.as_bytes(), &Limits::default(), asked)?;
        assert_eq!(parsed, Parse::Complete(text.len()), "{text:?}");
        Ok(head)
    }

    #[test]
    fn reads_a_response_head() {
        let text = "HTTP/1.1 404 Not  Found\r\nContent-Type: a\r\nX-A: 1\r\nx-a: 2\r\nconnection: x-b\r\n\
                    x-b: 3\r\ncontent-length: 3\r\n\r\n";
        let buffer = text.as_bytes();
        let mut head = parse(text, GET).unwrap();
        assert_eq!(
            (head.status(), head.reason(buffer)),
            (404, &b"Not  Found"[..])
        );
        assert_eq!(head.length(), text.len());
        assert_eq!(head.content_type(buffer), Some(&b"a"[..]));
        assert_eq!(head.values(buffer, "x-A").count(), 2);
        assert_eq!(head.headers(buffer).count(), 4);
        assert!(head.persistent());
        head.clear();
        let next = b"HTTP/1.0 200 \r\n\r\n";
        assert_eq!(
            head.parse(next, &Limits::default(), GET),
            Ok(Parse::Complete(next.len()))
        );
        assert_eq!((head.status(), head.reason(next)), (200, &b""[..]));
        assert!(!head.persistent());
    }

    #[test]
    fn row_08_frames_responses_by_what_was_asked() {
        for (asked, status, fields, framing) in [
            (GET, 200, "", Framing::UntilClose),
            (GET, 200, "content-length: 5\r\n", Framing::Length(5)),
            (GET, 200, "transfer-encoding: chunked\r\n", Framing::Chunked),
            (GET, 205, "content-length: 0\r\n", Framing::Length(0)),
            (GET, 999, "content-length: 1\r\n", Framing::Length(1)),
            (HEAD, 200, "", Framing::None),
            (HEAD, 200, "content-length: 5\r\n", Framing::None),
            (HEAD, 200, "transfer-encoding: chunked\r\n", Framing::None),
            (GET, 304, "content-length: 5\r\n", Framing::None),
            (GET, 204, "", Framing::None),
            (GET, 204, "content-length: 0\r\n", Framing::None),
            (GET, 100, "", Framing::None),
            (GET, 103, "link: x\r\n", Framing::None),
            (CONNECT, 200, "", Framing::None),
            (CONNECT, 407, "content-length: 5\r\n", Framing::Length(5)),
            (OLD, 200, "", Framing::UntilClose),
        ] {
            let text = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
            let head = parse(&text, asked).unwrap();
            assert_eq!(head.framing(), framing, "{asked:?} {text:?}");
        }
    }

    #[test]
    fn row_08_refuses_what_frames_a_response_twice_or_unclearly() {
        use ParseError::*;
        for (asked, status, fields, error) in [
            (
                GET,
                200,
                "content-length: 5\r\ncontent-length: 5\r\n",
                LengthRepeated,
            ),
            (GET, 200, "content-length: 5,5\r\n", LengthInvalid),
            (
                GET,
                200,
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                CodingWithLength,
            ),
            (
                HEAD,
                200,
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                CodingWithLength,
            ),
            (GET, 200, "transfer-encoding: gzip\r\n", CodingUnknown),
            (
                GET,
                200,
                "transfer-encoding: chunked\r\nTransfer-Encoding: x\r\n",
                CodingRepeated,
            ),
            (
                OLD,
                200,
                "transfer-encoding: chunked\r\n",
                CodingInOldVersion,
            ),
            (GET, 204, "content-length: 5\r\n", ContentForbidden),
            (GET, 204, "transfer-encoding: chunked\r\n", ContentForbidden),
            (GET, 100, "content-length: 5\r\n", ContentForbidden),
            (CONNECT, 200, "content-length: 5\r\n", ContentForbidden),
            (
                CONNECT,
                200,
                "transfer-encoding: chunked\r\n",
                ContentForbidden,
            ),
            (GET, 200, "connection: set-cookie\r\n", ConnectionProtected),
            (GET, 200, "a: b\nc: d\r\n", LineBreak),
            (GET, 200, "a : b\r\n", FieldName),
            (GET, 200, " a: b\r\n", Folded),
        ] {
            let text = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
            assert_eq!(parse(&text, asked).err(), Some(error), "{asked:?} {text:?}");
        }
        let text = "HTTP/1.0 200 x\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(parse(text, GET).err(), Some(CodingInOldVersion));
    }

    #[test]
    fn row_08_refuses_malformed_status_lines() {
        use ParseError::*;
        for (line, error) in [
            ("", StatusLine),
            ("HTTP/1.1 200", StatusLine),
            ("HTTP/1.1  200 OK", StatusLine),
            ("HTTP/1.1 20 OK", StatusLine),
            ("HTTP/1.1 2000 OK", StatusLine),
            ("HTTP/1.1 099 x", StatusLine),
            ("HTTP/1.1 +20 x", StatusLine),
            ("HTTP/1.1\t200 OK", StatusLine),
            ("http/1.1 200 OK", StatusLine),
            ("HTTP/1.x 200 OK", StatusLine),
            ("ICY 200 OK", StatusLine),
            ("HTTP/2.0 200 OK", Version),
            ("HTTP/1.1 200 O\0K", ControlByte),
            ("HTTP/1.1 200 O\rK", LineBreak),
        ] {
            let text = format!("{line}\r\n\r\n");
            assert_eq!(parse(&text, GET).err(), Some(error), "{line:?}");
        }
    }

    #[test]
    fn row_09_switches_protocols_only_when_asked() {
        let switch = |fields: &str| format!("HTTP/1.1 101 x\r\n{fields}\r\n");
        let good = switch("connection: Upgrade\r\nupgrade: websocket\r\n");
        let head = parse(&good, UPGRADE).unwrap();
        assert!(head.is_switch() && head.is_interim() && !head.persistent());
        assert_eq!(head.upgrade(good.as_bytes()), Some("websocket"));
        for (text, asked) in [
            (good, GET),
            (switch("upgrade: websocket\r\n"), UPGRADE),
            (switch("connection: upgrade\r\n"), UPGRADE),
            (switch("connection: upgrade\r\nupgrade: a, b\r\n"), UPGRADE),
        ] {
            assert_eq!(
                parse(&text, asked).err(),
                Some(ParseError::UnexpectedSwitch),
                "{text:?}"
            );
        }
        let tunnel = parse("HTTP/1.1 200 x\r\n\r\n", CONNECT).unwrap();
        assert!(tunnel.is_tunnel() && !tunnel.persistent());
        assert!(!parse("HTTP/1.1 200 x\r\n\r\n", GET).unwrap().is_tunnel());
    }
}
