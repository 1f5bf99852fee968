//! Lines and fields of a head: read once, kept as offsets.

use std::ops::Range;

use super::grammar::{
    ascii, find_control, is_protected, is_token, is_token_byte, list, name_matches, trim,
};
use super::{Limits, Parse, ParseError};

/// Options of all Connection headers of one message. Each is compared with every field.
const CONNECTION_OPTIONS: usize = 16;

/// Where reading of a head stands in the buffer, so that a head in many pieces is scanned once.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    line: usize,
    scanned: usize,
}

impl Cursor {
    pub(super) fn position(&self) -> usize {
        self.line
    }

    /// The next line without its CR LF, or none when the buffer doesn't hold it all. The outcome
    /// doesn't depend on how the bytes were cut, so a cap is reported before anything behind it.
    pub(super) fn next_line(
        &mut self,
        buffer: &[u8],
        limit: usize,
        too_large: ParseError,
    ) -> Result<Option<Range<usize>>, ParseError> {
        let need_more = || {
            if buffer.len() < limit {
                Ok(None)
            } else {
                Err(too_large)
            }
        };
        let Some(distance) = find_control(&buffer[self.scanned..]) else {
            self.scanned = buffer.len();
            return need_more();
        };
        let at = self.scanned + distance;
        self.scanned = at;
        if at >= limit {
            return Err(too_large);
        }
        match (buffer[at], buffer.get(at + 1)) {
            (b'\r', None) => need_more(),
            (b'\r', Some(_)) if at + 2 > limit => Err(too_large),
            (b'\r', Some(b'\n')) => {
                let line = self.line..at;
                self.line = at + 2;
                self.scanned = self.line;
                Ok(Some(line))
            }
            (b'\r' | b'\n', _) => Err(ParseError::LineBreak),
            _ => Err(ParseError::ControlByte),
        }
    }
}

/// Fields that the codec itself or the pipeline looks up in every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Upgrade,
    Expect,
    ContentType,
    XRequestId,
    Traceparent,
    XForwardedClientCert,
}

const KNOWN: usize = Known::XForwardedClientCert as usize + 1;

impl Known {
    fn of(name: &[u8]) -> Option<Self> {
        let (known, text) = match name.len() {
            2 => (Self::Te, "te"),
            4 => (Self::Host, "host"),
            6 => (Self::Expect, "expect"),
            7 => (Self::Upgrade, "upgrade"),
            10 if name[0] | 0x20 == b'c' => (Self::Connection, "connection"),
            10 => (Self::KeepAlive, "keep-alive"),
            11 => (Self::Traceparent, "traceparent"),
            12 if name[0] | 0x20 == b'c' => (Self::ContentType, "content-type"),
            12 => (Self::XRequestId, "x-request-id"),
            14 => (Self::ContentLength, "content-length"),
            16 => (Self::ProxyConnection, "proxy-connection"),
            17 => (Self::TransferEncoding, "transfer-encoding"),
            23 => (Self::XForwardedClientCert, "x-forwarded-client-cert"),
            _ => return None,
        };
        name.eq_ignore_ascii_case(text.as_bytes()).then_some(known)
    }

    /// RFC 9110 section 7.6.1, before Connection is read.
    fn fate(self) -> Fate {
        match self {
            Self::TransferEncoding => Fate::Restated,
            Self::Connection
            | Self::KeepAlive
            | Self::ProxyConnection
            | Self::Te
            | Self::Upgrade => Fate::EndsHere,
            _ => Fate::Forwarded,
        }
    }
}

/// What becomes of a field at this hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// As it is.
    Forwarded,
    /// Meant for this hop, and said again to the next one by the writer.
    Restated,
    EndsHere,
}

/// One field line. Offsets fit 32 bits: [`Limits::head_bytes`] is held below that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
    /// Behind the CR LF.
    end: u32,
    known: Option<Known>,
    pub(super) fate: Fate,
}

impl Field {
    pub(super) fn line(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(super) fn name<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.start as usize..self.name_end as usize]
    }

    pub(super) fn value<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.value_start as usize..self.value_end as usize]
    }
}

/// First field of a known name, and how many there are.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    first: u16,
    count: u16,
}

/// What the Connection headers say (RFC 9110 section 7.6.1).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) upgrade: bool,
    pub(super) te: bool,
}

#[derive(Debug, Default)]
pub(super) struct Fields {
    fields: Vec<Field>,
    slots: [Slot; KNOWN],
    pub(super) connection: ConnectionOptions,
}

impl Fields {
    pub(super) fn clear(&mut self) {
        self.fields.clear();
        self.slots = Default::default();
        self.connection = ConnectionOptions::default();
    }

    /// Reads field lines up to and with the empty line, then what Connection says of them.
    pub(super) fn read(
        &mut self,
        cursor: &mut Cursor,
        buffer: &[u8],
        limits: &Limits,
    ) -> Result<Parse<()>, ParseError> {
        let limit = limits.head_bytes.min(u32::MAX as usize);
        while let Some(line) = cursor.next_line(buffer, limit, ParseError::HeadTooLarge)? {
            if line.is_empty() {
                self.read_connection(buffer)?;
                return Ok(Parse::Complete(()));
            }
            if self.fields.len() >= limits.headers.min(usize::from(u16::MAX)) {
                return Err(ParseError::TooManyHeaders);
            }
            self.push(buffer, line, cursor.position())?;
        }
        Ok(Parse::Partial)
    }

    fn push(&mut self, buffer: &[u8], line: Range<usize>, end: usize) -> Result<(), ParseError> {
        let bytes = &buffer[line.clone()];
        if matches!(bytes[0], b' ' | b'\t') {
            return Err(ParseError::Folded);
        }
        let colon = match bytes.iter().position(|&byte| !is_token_byte(byte)) {
            Some(colon) if colon > 0 && bytes[colon] == b':' => colon,
            _ => return Err(ParseError::FieldName),
        };
        let (name, value) = (&bytes[..colon], &bytes[colon + 1..]);
        let leading = value
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        let value_start = line.start + colon + 1 + leading;
        let value_end = value_start + trim(&value[leading..]).len();
        let known = Known::of(name);
        match known {
            Some(known) => {
                let slot = &mut self.slots[known as usize];
                if slot.count == 0 {
                    slot.first = self.fields.len() as u16;
                }
                slot.count += 1;
            }
            None if ["content-length", "transfer-encoding"]
                .iter()
                .any(|pattern| name_matches(pattern, name)) =>
            {
                return Err(ParseError::AmbiguousName);
            }
            None => {}
        }
        self.fields.push(Field {
            start: line.start as u32,
            name_end: (line.start + colon) as u32,
            value_start: value_start as u32,
            value_end: value_end as u32,
            end: end as u32,
            known,
            fate: known.map_or(Fate::Forwarded, Known::fate),
        });
        Ok(())
    }

    fn read_connection(&mut self, buffer: &[u8]) -> Result<(), ParseError> {
        if self.count(Known::Connection) == 0 {
            return Ok(());
        }
        let mut options = 0;
        for index in 0..self.fields.len() {
            let field = self.fields[index];
            if field.known != Some(Known::Connection) {
                continue;
            }
            for option in list(field.value(buffer)) {
                options += 1;
                if options > CONNECTION_OPTIONS {
                    return Err(ParseError::TooManyConnectionOptions);
                }
                self.take_option(buffer, option)?;
            }
        }
        Ok(())
    }

    fn take_option(&mut self, buffer: &[u8], option: &[u8]) -> Result<(), ParseError> {
        if option.eq_ignore_ascii_case(b"close") {
            self.connection.close = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.connection.upgrade = true;
        } else if option.eq_ignore_ascii_case(b"te") {
            self.connection.te = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            // The default of HTTP/1.1; not honoured for HTTP/1.0 (RFC 9112 section 9.3).
        } else if !is_token(option) {
            return Err(ParseError::ConnectionOption);
        } else if is_protected(option) {
            return Err(ParseError::ConnectionProtected);
        } else {
            for field in &mut self.fields {
                if field.name(buffer).eq_ignore_ascii_case(option) {
                    field.fate = Fate::EndsHere;
                }
            }
        }
        Ok(())
    }

    pub(super) fn count(&self, known: Known) -> usize {
        usize::from(self.slots[known as usize].count)
    }

    /// The value of a field that occurs exactly once. A field that must be one and is repeated
    /// says nothing that can be relied upon.
    pub(super) fn single<'b>(&self, known: Known, buffer: &'b [u8]) -> Option<&'b [u8]> {
        let slot = self.slots[known as usize];
        let field = self.fields.get(usize::from(slot.first))?;
        (slot.count == 1).then(|| field.value(buffer))
    }

    pub(super) fn set_fate(&mut self, known: Known, fate: Fate) {
        for field in &mut self.fields {
            if field.known == Some(known) {
                field.fate = fate;
            }
        }
    }

    pub(super) fn all(&self) -> &[Field] {
        &self.fields
    }

    /// Name and value of what the other end will see.
    pub(super) fn passing<'a, 'b>(
        &'a self,
        buffer: &'b [u8],
    ) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'a, 'b> {
        self.fields
            .iter()
            .filter(|field| field.fate != Fate::EndsHere)
            .map(move |field| (ascii(field.name(buffer)), field.value(buffer)))
    }

    pub(super) fn values<'a, 'b>(
        &'a self,
        buffer: &'b [u8],
        name: &'a str,
    ) -> impl Iterator<Item = &'b [u8]> + use<'a, 'b> {
        self.fields
            .iter()
            .filter(move |field| {
                field.fate != Fate::EndsHere
                    && field.name(buffer).eq_ignore_ascii_case(name.as_bytes())
            })
            .map(move |field| field.value(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_28_scans_a_head_that_trickles_in_only_once() {
        let line = b"x-slow: 0123456789\r\n";
        let mut cursor = Cursor::default();
        for length in 1..line.len() {
            let next = cursor.next_line(&line[..length], 100, ParseError::HeadTooLarge);
            assert_eq!(next, Ok(None));
            assert_eq!(cursor.scanned, length.min(line.len() - 2));
        }
        assert_eq!(
            cursor.next_line(line, 100, ParseError::HeadTooLarge),
            Ok(Some(0..line.len() - 2))
        );
        assert_eq!(cursor.position(), line.len());
    }

    #[test]
    fn finds_every_known_name_in_any_case() {
        for (name, known) in [
            ("Host", Known::Host),
            ("CONTENT-LENGTH", Known::ContentLength),
            ("Transfer-Encoding", Known::TransferEncoding),
            ("connection", Known::Connection),
            ("Connection", Known::Connection),
            ("Keep-Alive", Known::KeepAlive),
            ("Proxy-Connection", Known::ProxyConnection),
            ("TE", Known::Te),
            ("Upgrade", Known::Upgrade),
            ("Expect", Known::Expect),
            ("Content-Type", Known::ContentType),
            ("X-Request-ID", Known::XRequestId),
            ("TraceParent", Known::Traceparent),
            ("X-Forwarded-Client-Cert", Known::XForwardedClientCert),
        ] {
            assert_eq!(Known::of(name.as_bytes()), Some(known), "{name}");
        }
        for name in [
            "x",
            "hos",
            "hosts",
            "keep_alive",
            "x-forwarded-for",
            "accept-encoding",
        ] {
            assert_eq!(Known::of(name.as_bytes()), None, "{name}");
        }
    }
}
