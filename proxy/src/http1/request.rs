//! The head of a request.

use std::ops::Range;

use super::authority::is_authority;
use super::fields::{Cursor, Fate, Fields, Known};
use super::framing::{self, Framing};
use super::grammar::{ascii, count_protocols, is_token, list};
use super::target::{Path, Target};
use super::{Asked, Limits, Parse, ParseError, Version};

/// A request head as offsets into the buffer it was parsed from.
///
/// Call [`parse`](Self::parse) until it is complete, with the same bytes at the same place and new
/// ones behind them; then ask, handing in that buffer; then [`clear`](Self::clear) for the next
/// request on the connection, which keeps the allocation. What is asked of a head that isn't
/// complete is meaningless, though safe.
#[derive(Debug, Default)]
pub struct RequestHead {
    cursor: Cursor,
    /// Behind the empty line; zero while the head is incomplete.
    length: usize,
    method: Range<usize>,
    target: Target,
    version: Version,
    pub(super) fields: Fields,
    framing: Framing,
    is_head: bool,
    upgrades: bool,
    expects_continue: bool,
    takes_trailers: bool,
}

impl RequestHead {
    /// Forgets the request, so that the next one can be parsed.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self {
            fields,
            ..Self::default()
        };
    }

    /// Reads the head at the start of `buffer`; complete, gives its length in bytes.
    ///
    /// No empty line is skipped before the request line: RFC 9112 section 2.2 would let it pass,
    /// its only senders are clients that framed their last body wrongly.
    pub fn parse(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parse<usize>, ParseError> {
        if self.length > 0 {
            return Ok(Parse::Complete(self.length));
        }
        if self.method.is_empty() {
            let line =
                self.cursor
                    .next_line(buffer, limits.head_bytes, ParseError::TargetTooLong)?;
            let Some(line) = line else {
                return Ok(Parse::Partial);
            };
            self.read_request_line(buffer, line)?;
        }
        match self.fields.read(&mut self.cursor, buffer, limits)? {
            Parse::Partial => Ok(Parse::Partial),
            Parse::Complete(()) => {
                self.check_host(buffer)?;
                self.framing = self.read_framing(buffer)?;
                self.expects_continue = self.read_expectation(buffer)?;
                self.upgrades = self.read_upgrade(buffer)?;
                if self.upgrades {
                    self.fields.set_fate(Known::Upgrade, Fate::Restated);
                }
                self.takes_trailers = self.read_te(buffer);
                self.length = self.cursor.position();
                Ok(Parse::Complete(self.length))
            }
        }
    }

    /// RFC 9112 section 3: exactly one space on either side of the target.
    fn read_request_line(&mut self, buffer: &[u8], line: Range<usize>) -> Result<(), ParseError> {
        let bytes = &buffer[line.clone()];
        let method_end = memchr::memchr(b' ', bytes).ok_or(ParseError::RequestLine)?;
        let method = &bytes[..method_end];
        if !is_token(method) {
            return Err(ParseError::Method);
        }
        let target_end = memchr::memrchr(b' ', bytes).ok_or(ParseError::RequestLine)?;
        if target_end <= method_end + 1 {
            return Err(ParseError::RequestLine);
        }
        self.version = match &bytes[target_end + 1..] {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(ParseError::Version);
            }
            _ => return Err(ParseError::RequestLine),
        };
        let target = line.start + method_end + 1..line.start + target_end;
        self.target = Target::parse(buffer, target, method)?;
        self.is_head = method == b"HEAD";
        self.method = line.start..line.start + method_end;
        Ok(())
    }

    /// RFC 9112 section 3.2: one Host, and the one that the target names if it names any.
    fn check_host(&self, buffer: &[u8]) -> Result<(), ParseError> {
        match self.fields.count(Known::Host) {
            0 if self.version == Version::Http10 => return Ok(()),
            0 => return Err(ParseError::HostMissing),
            1 => {}
            _ => return Err(ParseError::HostRepeated),
        }
        let host = self.fields.single(Known::Host, buffer).unwrap_or_default();
        if !is_authority(host) {
            return Err(ParseError::HostInvalid);
        }
        match &self.target.authority {
            Some(authority) if !buffer[authority.clone()].eq_ignore_ascii_case(host) => {
                Err(ParseError::HostMismatch)
            }
            _ => Ok(()),
        }
    }

    /// RFC 9112 section 6.3, with every case that asks for care refused.
    fn read_framing(&self, buffer: &[u8]) -> Result<Framing, ParseError> {
        let framing = framing::declared(&self.fields, self.version, buffer)?;
        match framing {
            // Content in a CONNECT request has no defined meaning (RFC 9110 section 9.3.6).
            Framing::Length(1..) | Framing::Chunked if self.is_connect() => {
                Err(ParseError::ContentForbidden)
            }
            framing => Ok(framing),
        }
    }

    fn read_expectation(&self, buffer: &[u8]) -> Result<bool, ParseError> {
        match (
            self.fields.count(Known::Expect),
            self.fields.single(Known::Expect, buffer),
        ) {
            (0, _) => Ok(false),
            (_, Some(value)) if value.eq_ignore_ascii_case(b"100-continue") => {
                // RFC 9110 section 10.1.1: in an HTTP/1.0 request it must be ignored.
                Ok(self.version == Version::Http11)
            }
            _ => Err(ParseError::Expectation),
        }
    }

    /// Whether the request asks for an upgrade that can be forwarded. A server may ignore Upgrade
    /// (RFC 9110 section 7.8), and so it is for requests with content, whose bytes would have to
    /// be told from those of the new protocol, for several protocols at once, and for `h2c`
    /// (security.md, row 9).
    fn read_upgrade(&self, buffer: &[u8]) -> Result<bool, ParseError> {
        if !self.fields.connection.upgrade || self.version == Version::Http10 {
            return Ok(false);
        }
        let Some(value) = self.fields.single(Known::Upgrade, buffer) else {
            return Ok(false);
        };
        let protocols = count_protocols(value).ok_or(ParseError::Upgrade)?;
        Ok(protocols == 1
            && !value.eq_ignore_ascii_case(b"h2c")
            && matches!(self.framing, Framing::None | Framing::Length(0)))
    }

    /// RFC 9110 section 10.1.4: `trailers` is for this hop, so Connection has to name TE.
    fn read_te(&self, buffer: &[u8]) -> bool {
        self.fields.connection.te
            && self
                .fields
                .single(Known::Te, buffer)
                .is_some_and(|value| list(value).any(|one| one.eq_ignore_ascii_case(b"trailers")))
    }

    /// Bytes of the head; the body starts there. Zero while incomplete.
    pub fn length(&self) -> usize {
        self.length
    }

    pub fn method<'b>(&self, buffer: &'b [u8]) -> &'b str {
        ascii(&buffer[self.method.clone()])
    }

    pub fn is_connect(&self) -> bool {
        self.target.path == Path::Nothing
    }

    pub fn is_head(&self) -> bool {
        self.is_head
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The request target as sent, in whichever form.
    pub fn target<'b>(&self, buffer: &'b [u8]) -> &'b str {
        ascii(&buffer[self.target.whole.clone()])
    }

    /// The path as sent, `*` for OPTIONS of the whole server, empty for CONNECT. Never holds `?`
    /// or `#`.
    pub fn path<'b>(&self, buffer: &'b [u8]) -> &'b str {
        match &self.target.path {
            Path::At(range) => ascii(&buffer[range.clone()]),
            Path::Root => "/",
            Path::Asterisk => "*",
            Path::Nothing => "",
        }
    }

    /// What follows the first `?`.
    pub fn query<'b>(&self, buffer: &'b [u8]) -> Option<&'b str> {
        self.target.query.clone().map(|range| ascii(&buffer[range]))
    }

    /// The authority of an absolute-form or CONNECT target.
    pub(super) fn target_authority<'b>(&self, buffer: &'b [u8]) -> Option<&'b str> {
        self.target
            .authority
            .clone()
            .map(|range| ascii(&buffer[range]))
    }

    /// `host[:port]` as it is forwarded: Host, else that of the target, which may differ in case only. Absent only in
    /// HTTP/1.0.
    pub fn host<'b>(&self, buffer: &'b [u8]) -> Option<&'b str> {
        let host = self.fields.single(Known::Host, buffer).map(ascii);
        host.or_else(|| self.target_authority(buffer))
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The client waits for `100 Continue` before it sends content.
    pub fn expect_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether another request may follow on this connection (RFC 9112 section 9.3). HTTP/1.0
    /// never persists through an intermediary.
    pub fn persistent(&self) -> bool {
        self.version == Version::Http11 && !self.fields.connection.close
    }

    /// The one protocol that this hop is asked to switch to; never `h2c`.
    pub fn upgrade<'b>(&self, buffer: &'b [u8]) -> Option<&'b str> {
        let value = self.fields.single(Known::Upgrade, buffer)?;
        self.upgrades.then(|| ascii(value))
    }

    /// The client takes trailers (`TE: trailers`).
    pub fn has_te_trailers(&self) -> bool {
        self.takes_trailers
    }

    /// None when absent or repeated; not validated further. So are the next two.
    pub fn x_request_id<'b>(&self, buffer: &'b [u8]) -> Option<&'b [u8]> {
        self.fields.single(Known::XRequestId, buffer)
    }

    pub fn traceparent<'b>(&self, buffer: &'b [u8]) -> Option<&'b [u8]> {
        self.fields.single(Known::Traceparent, buffer)
    }

    pub fn content_type<'b>(&self, buffer: &'b [u8]) -> Option<&'b [u8]> {
        self.fields.single(Known::ContentType, buffer)
    }

    pub fn has_forwarded_client_cert(&self) -> bool {
        self.fields.count(Known::XForwardedClientCert) > 0
    }

    /// Name and value of every field that the other end will see, in order, so that a decision is
    /// about what is forwarded. Fields that end at this hop, and those that Connection names, are
    /// left out; Transfer-Encoding, and Upgrade where there is an [`upgrade`](Self::upgrade), are not.
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

    /// What has to be kept of the request to parse its response.
    pub fn asked(&self) -> Asked {
        Asked {
            head: self.is_head,
            connect: self.is_connect(),
            upgrade: self.upgrades,
            version: self.version,
        }
    }

    pub(super) fn lacks_host(&self) -> bool {
        self.fields.count(Known::Host) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: impl AsRef<[u8]>) -> Result<RequestHead, ParseError> {
        let mut head = RequestHead::default();
        match head.parse(text.as_ref(), &Limits::default())? {
            Parse::Complete(length) => {
                assert_eq!(length, text.as_ref().len());
                Ok(head)
            }
            Parse::Partial => panic!("incomplete: {}", text.as_ref().escape_ascii()),
        }
    }

    fn refuses(text: impl AsRef<[u8]>, error: ParseError) {
        let shown = text.as_ref().escape_ascii().to_string();
        assert_eq!(parse(text).err(), Some(error), "{shown}");
    }

    /// A GET with these field lines besides Host.
    fn get(fields: &str) -> String {
        format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
    }

    fn flags(fields: &str) -> (Framing, bool, Option<String>, bool, bool) {
        let text = get(fields);
        let buffer = text.as_bytes();
        let head = parse(buffer).unwrap();
        (
            head.framing(),
            head.persistent(),
            head.upgrade(buffer).map(str::to_owned),
            head.expect_continue(),
            head.has_te_trailers(),
        )
    }

    #[test]
    fn reads_a_request_head() {
        let text = b"POST /a/b?c=d?e HTTP/1.1\r\nHost: orders.shop:8080\r\nX-A:\t1, 2 \r\nX-Empty:\r\n\
            Content-Type: application/grpc\r\nx-a: \xf6\t\"3\"\r\nContent-Length: 12\r\nX-Request-Id: r\r\n\
            traceparent: t\r\nX-Forwarded-Client-Cert: c\r\nExpect: 100-Continue\r\n\r\n";
        let mut head = RequestHead::default();
        let mut buffer = text.to_vec();
        buffer.extend(b"the body");
        let parsed = head.parse(&buffer, &Limits::default());
        assert_eq!(parsed, Ok(Parse::Complete(text.len())));
        assert_eq!(head.length(), text.len());
        assert_eq!(head.method(&buffer), "POST");
        assert_eq!(head.target(&buffer), "/a/b?c=d?e");
        assert_eq!(head.path(&buffer), "/a/b");
        assert_eq!(head.query(&buffer), Some("c=d?e"));
        assert_eq!(head.version(), Version::Http11);
        assert_eq!(head.host(&buffer), Some("orders.shop:8080"));
        assert_eq!(head.framing(), Framing::Length(12));
        assert!(head.expect_continue());
        assert!(head.persistent());
        assert_eq!(head.content_type(&buffer), Some(&b"application/grpc"[..]));
        assert_eq!(head.x_request_id(&buffer), Some(&b"r"[..]));
        assert_eq!(head.traceparent(&buffer), Some(&b"t"[..]));
        assert!(head.has_forwarded_client_cert());
        let values: Vec<_> = head.values(&buffer, "X-a").collect();
        assert_eq!(values, [&b"1, 2"[..], b"\xf6\t\"3\""]);
        assert_eq!(head.headers(&buffer).count(), 10);
        assert_eq!(head.headers(&buffer).nth(2), Some(("X-Empty", &b""[..])));

        head.clear();
        let next = b"GET / HTTP/1.1\r\nhost: b\r\n\r\n";
        assert_eq!(
            head.parse(next, &Limits::default()),
            Ok(Parse::Complete(next.len()))
        );
        assert_eq!(head.host(next), Some("b"));
        assert_eq!(head.query(next), None);
        assert_eq!(head.framing(), Framing::None);
        assert!(!head.has_forwarded_client_cert() && !head.expect_continue());
        assert_eq!(head.headers(next).count(), 1);
    }

    #[test]
    fn row_03_takes_each_target_form_only_where_it_belongs() {
        for (line, path, query, host) in [
            ("GET / HTTP/1.1\r\nhost: a", "/", None, "a"),
            (
                "GET //x/../y? HTTP/1.1\r\nhost: a",
                "//x/../y",
                Some(""),
                "a",
            ),
            (
                "GET /%00;{|}\\ HTTP/1.1\r\nhost: a",
                "/%00;{|}\\",
                None,
                "a",
            ),
            (
                "GET /http://b/ HTTP/1.1\r\nhost: a",
                "/http://b/",
                None,
                "a",
            ),
            // To the letter what the application sees.
            (
                "GET http://b:1/c?d HTTP/1.1\r\nhost: B:1",
                "/c",
                Some("d"),
                "B:1",
            ),
            ("GET https://b HTTP/1.1\r\nhost: b", "/", None, "b"),
            ("GET http://b?/c HTTP/1.1\r\nhost: b", "/", Some("/c"), "b"),
            ("OPTIONS * HTTP/1.1\r\nhost: a", "*", None, "a"),
            ("OPTIONS http://b HTTP/1.1\r\nhost: b", "*", None, "b"),
            ("OPTIONS http://b/ HTTP/1.1\r\nhost: b", "/", None, "b"),
            ("CONNECT b:443 HTTP/1.1\r\nhost: b:443", "", None, "b:443"),
            ("CONNECT [::1]:443 HTTP/1.0", "", None, "[::1]:443"),
        ] {
            let text = format!("{line}\r\n\r\n");
            let head = parse(&text).unwrap();
            let buffer = text.as_bytes();
            assert_eq!(
                (head.path(buffer), head.query(buffer), head.host(buffer)),
                (path, query, Some(host)),
                "{line}"
            );
        }
        for (line, error) in [
            ("GET * HTTP/1.1", ParseError::TargetForm),
            ("OPTIONS *x HTTP/1.1", ParseError::TargetForm),
            ("GET a HTTP/1.1", ParseError::TargetForm),
            ("GET a:80 HTTP/1.1", ParseError::TargetForm),
            ("GET ?x HTTP/1.1", ParseError::TargetForm),
            ("GET \\x HTTP/1.1", ParseError::TargetForm),
            ("GET ftp://a/ HTTP/1.1", ParseError::TargetForm),
            ("GET http:/a HTTP/1.1", ParseError::TargetForm),
            ("GET http://user@a/ HTTP/1.1", ParseError::HostInvalid),
            ("GET http:///x HTTP/1.1", ParseError::HostInvalid),
            ("GET http://a\\b/ HTTP/1.1", ParseError::HostInvalid),
            ("CONNECT a HTTP/1.1", ParseError::TargetForm),
            ("CONNECT / HTTP/1.1", ParseError::TargetForm),
            ("CONNECT http://a:1/ HTTP/1.1", ParseError::TargetForm),
            ("GET /a#b HTTP/1.1", ParseError::TargetFragment),
            ("GET http://a#@b/ HTTP/1.1", ParseError::TargetFragment),
            ("GET /\u{f6} HTTP/1.1", ParseError::TargetByte),
            ("GET /\ta HTTP/1.1", ParseError::TargetByte),
            ("GET /a b HTTP/1.1", ParseError::TargetByte),
        ] {
            refuses(format!("{line}\r\nhost: a\r\n\r\n"), error);
        }
    }

    #[test]
    fn row_04_wants_one_host_that_agrees_with_the_target() {
        for (fields, error) in [
            ("", ParseError::HostMissing),
            ("host: a\r\nhost: a\r\n", ParseError::HostRepeated),
            ("host: a\r\nHOST: b\r\n", ParseError::HostRepeated),
            ("host: a, b\r\n", ParseError::HostInvalid),
            ("host:\r\n", ParseError::HostInvalid),
            ("host: a/b\r\n", ParseError::HostInvalid),
            ("host: u@a\r\n", ParseError::HostInvalid),
        ] {
            refuses(format!("GET / HTTP/1.1\r\n{fields}\r\n"), error);
        }
        refuses(
            "GET / HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n",
            ParseError::HostRepeated,
        );
        for line in [
            "GET http://b/ HTTP/1.1",
            "GET http://a:80/ HTTP/1.1",
            "GET http://a./ HTTP/1.1",
            "CONNECT b:1 HTTP/1.1",
        ] {
            refuses(
                format!("{line}\r\nhost: a\r\n\r\n"),
                ParseError::HostMismatch,
            );
        }
        let old = parse("GET / HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(old.host(b""), None);
    }

    #[test]
    fn row_06_refuses_white_space_and_line_breaks_out_of_place() {
        use ParseError::*;
        for (text, error) in [
            ("\r\nGET / HTTP/1.1\r\n\r\n", RequestLine),
            (" GET / HTTP/1.1\r\n\r\n", Method),
            ("GET\t/ HTTP/1.1\r\n\r\n", Method),
            ("GET  / HTTP/1.1\r\n\r\n", TargetByte),
            ("GET /  HTTP/1.1\r\n\r\n", TargetByte),
            ("GET / HTTP/1.1 \r\n\r\n", RequestLine),
            ("GET /\r\n\r\n", RequestLine),
            ("GET  HTTP/1.1\r\n\r\n", RequestLine),
            ("GET\r\n\r\n", RequestLine),
            ("G(T / HTTP/1.1\r\n\r\n", Method),
            ("GET / http/1.1\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1.1\r\n\r\n", RequestLine),
            ("GET / HTTP/11\r\n\r\n", RequestLine),
            ("GET / HTTP/1.2\r\n\r\n", Version),
            ("GET / HTTP/0.9\r\n\r\n", Version),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
            ("GET / HTTP/1.1\nhost: a\n\n", LineBreak),
            ("GET / HTTP/1.1\rhost: a\r\r", LineBreak),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", LineBreak),
            ("GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", LineBreak),
            ("GET / HTTP/1.1\r\nhost: a\r\r\n\r\n", LineBreak),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", LineBreak),
            ("GET / HTTP/1.1\r\n host: a\r\n\r\n", Folded),
            ("GET / HTTP/1.1\r\nhost: a\r\n\tb: c\r\n\r\n", Folded),
            ("GET / HTTP/1.1\r\nhost: a\r\n \r\n\r\n", Folded),
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nhost\t: a\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\n: a\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nhost\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nx a: b\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nx\u{e9}: b\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\n\"x\": b\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", ControlByte),
            ("GET / HTTP/1.1\r\nx: a\u{b}b\r\n\r\n", ControlByte),
            ("GET / HTTP/1.1\r\nx: a\u{7f}b\r\n\r\n", ControlByte),
            ("GET / HTTP/1.1\r\nx\0: b\r\n\r\n", ControlByte),
            ("\u{16}\u{3}\u{1}", ControlByte),
        ] {
            refuses(text, error);
        }
    }

    #[test]
    fn row_07_connection_cannot_take_protected_headers_away() {
        for name in [
            "host",
            "Content-Length",
            "transfer-encoding",
            "Authorization",
            "cookie",
            "X-Forwarded-For",
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "X-Request-Id",
            "traceparent",
            "x-kith-anything",
            "forwarded",
            "X-Real-Ip",
        ] {
            for value in [
                name.to_owned(),
                format!("close, {name}"),
                format!("{name},"),
            ] {
                refuses(
                    get(&format!(
                        "connection: keep-alive\r\nConnection: {value}\r\n"
                    )),
                    ParseError::ConnectionProtected,
                );
            }
        }
        for value in ["a b", "a;b", "close; x", "\"close\"", "a=b"] {
            refuses(
                get(&format!("connection: {value}\r\n")),
                ParseError::ConnectionOption,
            );
        }
        // A decision sees what the other end will see.
        let text = get("x-a: 1\r\nX-B: 2\r\nconnection: x-b\r\n");
        let head = parse(&text).unwrap();
        let names: Vec<_> = head
            .headers(text.as_bytes())
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["host", "x-a"]);
        assert_eq!(head.values(text.as_bytes(), "x-b").count(), 0);
        let text = get("upgrade: websocket\r\nconnection: upgrade\r\n");
        let head = parse(&text).unwrap();
        assert_eq!(head.values(text.as_bytes(), "Upgrade").count(), 1);
    }

    #[test]
    fn row_08_refuses_what_frames_a_request_twice_or_unclearly() {
        use ParseError::*;
        for (fields, error) in [
            (
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                CodingWithLength,
            ),
            (
                "transfer-encoding: chunked\r\nContent-Length: 0\r\n",
                CodingWithLength,
            ),
            ("content-length: 5\r\ncontent-length: 5\r\n", LengthRepeated),
            ("content-length: 5, 5\r\n", LengthInvalid),
            ("content-length: +5\r\n", LengthInvalid),
            ("content-length: -5\r\n", LengthInvalid),
            ("content-length:\r\n", LengthInvalid),
            ("content-length: 9223372036854775808\r\n", LengthInvalid),
            (
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
                CodingRepeated,
            ),
            ("transfer-encoding: chunked, chunked\r\n", CodingUnknown),
            ("transfer-encoding: gzip, chunked\r\n", CodingUnknown),
            ("transfer-encoding: identity\r\n", CodingUnknown),
            ("transfer-encoding:\r\n", CodingUnknown),
            ("content_length: 5\r\n", AmbiguousName),
            ("Transfer_Encoding: chunked\r\n", AmbiguousName),
        ] {
            refuses(get(fields), error);
        }
        refuses(
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            CodingInOldVersion,
        );
        for fields in ["content-length: 1\r\n", "transfer-encoding: chunked\r\n"] {
            refuses(
                format!("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n{fields}\r\n"),
                ContentForbidden,
            );
        }
        assert_eq!(flags("Transfer-Encoding: Chunked\r\n").0, Framing::Chunked);
        assert_eq!(flags("content-length: 0\r\n").0, Framing::Length(0));
    }

    #[test]
    fn row_09_sees_an_upgrade_only_where_it_is_unmistakable() {
        let upgrade = |fields: &str| flags(fields).2;
        let websocket = Some("websocket".to_owned());
        assert_eq!(
            upgrade("connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"),
            websocket
        );
        for fields in [
            "upgrade: websocket\r\n",
            "connection: upgrade\r\n",
            "connection: upgrade\r\nupgrade: h2c\r\n",
            "connection: upgrade\r\nupgrade: H2C\r\n",
            "connection: upgrade\r\nupgrade: websocket, h2c\r\n",
            "connection: upgrade\r\nupgrade: a\r\nupgrade: b\r\n",
            "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 1\r\n",
            "connection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n",
        ] {
            assert_eq!(upgrade(fields), None, "{fields:?}");
        }
        let old = "GET / HTTP/1.0\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(parse(old).unwrap().upgrade(old.as_bytes()), None);
        refuses(
            get("connection: upgrade\r\nupgrade: web socket\r\n"),
            ParseError::Upgrade,
        );
    }

    #[test]
    fn reads_what_is_meant_for_this_hop() {
        assert!(flags("").1);
        assert!(!flags("connection: x, CLOSE\r\nconnection: keep-alive\r\n").1);
        let old = "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
        assert!(!parse(old).unwrap().persistent());

        assert!(flags("te: gzip, Trailers\r\nconnection: te\r\n").4);
        assert!(!flags("te: trailers\r\n").4);
        assert!(!flags("te: trailers;q=1\r\nconnection: te\r\n").4);

        assert!(flags("expect: 100-continue\r\n").3);
        refuses(get("expect: 200-ok\r\n"), ParseError::Expectation);
        refuses(
            get("expect: 100-continue\r\nexpect: 100-continue\r\n"),
            ParseError::Expectation,
        );
        let old = "GET / HTTP/1.0\r\nexpect: 100-continue\r\n\r\n";
        assert!(!parse(old).unwrap().expect_continue());

        let text = get("x-request-id: a\r\nx-request-id: b\r\n");
        assert_eq!(parse(&text).unwrap().x_request_id(text.as_bytes()), None);
    }

    #[test]
    fn row_26_caps_the_head() {
        let limits = Limits {
            head_bytes: 100,
            headers: 3,
        };
        let parse = |text: &str| RequestHead::default().parse(text.as_bytes(), &limits);
        let head = |target: usize, fields: &str| {
            format!(
                "GET /{} HTTP/1.1\r\nhost: a\r\n{fields}\r\n",
                "t".repeat(target)
            )
        };
        let most = 100 - head(0, "").len();
        assert_eq!(parse(&head(most, "")), Ok(Parse::Complete(100)));
        assert_eq!(parse(&head(most + 1, "")), Err(ParseError::HeadTooLarge));
        assert_eq!(parse(&head(200, "")), Err(ParseError::TargetTooLong));
        assert_eq!(parse(&"a".repeat(99)), Ok(Parse::Partial));
        assert_eq!(parse(&"a".repeat(100)), Err(ParseError::TargetTooLong));
        assert_eq!(
            parse(&head(0, "a: 1\r\nb: 2\r\n")),
            Ok(Parse::Complete(most.abs_diff(100) + 12))
        );
        assert_eq!(
            parse(&head(0, "a: 1\r\nb: 2\r\nc: 3\r\n")),
            Err(ParseError::TooManyHeaders)
        );
        let options = get(&format!("connection: {}\r\n", "a,".repeat(17)));
        refuses(options, ParseError::TooManyConnectionOptions);
        for (error, status) in [
            (ParseError::TargetTooLong, 414),
            (ParseError::HeadTooLarge, 431),
            (ParseError::TooManyHeaders, 431),
        ] {
            assert!(error.is_cap());
            assert_eq!(error.status(), status);
        }
    }
}
