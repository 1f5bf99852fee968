//! Where the body of a message ends, as far as its head says (RFC 9112 section 6).

use super::fields::{Fields, Known};
use super::grammar::content_length;
use super::{ParseError, Version};

/// How the end of a message body is found (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// No body: the message ends with its head.
    #[default]
    None,
    /// This many bytes; zero is possible.
    Length(u64),
    Chunked,
    /// Responses only: the body ends with the connection.
    UntilClose,
}

/// What Content-Length and Transfer-Encoding say in either kind of message: at most one of them,
/// once, and in the only way that nobody reads differently.
pub(super) fn declared(
    fields: &Fields,
    version: Version,
    buffer: &[u8],
) -> Result<Framing, ParseError> {
    let lengths = fields.count(Known::ContentLength);
    let codings = fields.count(Known::TransferEncoding);
    match (lengths, codings) {
        (0, 0) => Ok(Framing::None),
        (1.., 1..) => Err(ParseError::CodingWithLength),
        (2.., _) => Err(ParseError::LengthRepeated),
        (_, 2..) => Err(ParseError::CodingRepeated),
        (1, _) => fields
            .single(Known::ContentLength, buffer)
            .and_then(content_length)
            .map(Framing::Length)
            .ok_or(ParseError::LengthInvalid),
        _ if version == Version::Http10 => Err(ParseError::CodingInOldVersion),
        _ => match fields.single(Known::TransferEncoding, buffer) {
            Some(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            _ => Err(ParseError::CodingUnknown),
        },
    }
}
