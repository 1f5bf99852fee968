//! What is wrong with a message, and the status that says so.

/// Why a message was refused. The connection it came on must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "the request line isn't `method target HTTP/1.x` with single spaces (RFC 9112 section 3)"
    )]
    RequestLine,
    #[error(
        "the status line isn't `HTTP/1.x status reason` with single spaces (RFC 9112 section 4)"
    )]
    StatusLine,
    #[error("the method isn't a token (RFC 9110 section 9.1)")]
    Method,
    #[error("only HTTP/1.1 and HTTP/1.0 are spoken here (RFC 9110 section 2.5)")]
    Version,
    #[error("the request target holds a byte that must be percent-encoded (RFC 9112 section 3.2)")]
    TargetByte,
    #[error("the request target holds a fragment (RFC 9112 section 3.2)")]
    TargetFragment,
    #[error("the request target has a form that its method doesn't allow (RFC 9112 section 3.2)")]
    TargetForm,
    #[error("a line isn't ended by CR LF: bare CR or bare LF (RFC 9112 section 2.2)")]
    LineBreak,
    #[error("a control character in the message head or trailers (RFC 9110 section 5.5)")]
    ControlByte,
    #[error("a field line isn't a token followed at once by a colon (RFC 9112 section 5.1)")]
    FieldName,
    #[error("a field line is folded (RFC 9112 section 5.2)")]
    Folded,
    #[error("a framing field is spelled with `_`, which some servers read as `-`")]
    AmbiguousName,
    #[error("HTTP/1.1 request without Host (RFC 9112 section 3.2)")]
    HostMissing,
    #[error("more than one Host (RFC 9112 section 3.2)")]
    HostRepeated,
    #[error("Host or the target's authority isn't `host[:port]` (RFC 9110 section 7.2)")]
    HostInvalid,
    #[error("Host differs from the authority of the request target (RFC 9112 section 3.2)")]
    HostMismatch,
    #[error("Content-Length isn't a plain decimal number below 2^63 (RFC 9110 section 8.6)")]
    LengthInvalid,
    #[error("more than one Content-Length (RFC 9112 section 6.3)")]
    LengthRepeated,
    #[error("Transfer-Encoding isn't exactly `chunked` (RFC 9112 section 6.1)")]
    CodingUnknown,
    #[error("more than one Transfer-Encoding (RFC 9112 section 6.1)")]
    CodingRepeated,
    #[error("Transfer-Encoding together with Content-Length (RFC 9112 section 6.1)")]
    CodingWithLength,
    #[error("Transfer-Encoding with an HTTP/1.0 peer (RFC 9112 section 6.1)")]
    CodingInOldVersion,
    #[error("Connection isn't a list of tokens (RFC 9110 section 7.6.1)")]
    ConnectionOption,
    #[error("Connection names a field that must reach the other end (RFC 9110 section 7.6.1)")]
    ConnectionProtected,
    #[error("an expectation other than one `100-continue` (RFC 9110 section 10.1.1)")]
    Expectation,
    #[error("Upgrade isn't a list of protocols (RFC 9110 section 7.8)")]
    Upgrade,
    #[error("content framed where none can be (RFC 9110 sections 6.4.1 and 9.3.6)")]
    ContentForbidden,
    #[error(
        "101 Switching Protocols that wasn't asked for or names no protocol (RFC 9110 section 15.2.2)"
    )]
    UnexpectedSwitch,
    #[error("the chunk size isn't 1 to 16 hexadecimal digits below 2^63 (RFC 9112 section 7.1)")]
    ChunkSize,
    #[error("chunk data isn't followed by CR LF (RFC 9112 section 7.1)")]
    ChunkEnd,
    #[error("a chunk extension isn't `;name` or `;name=value` (RFC 9112 section 7.1.1)")]
    ChunkExtension,
    #[error("the trailers hold a field that only a head may hold (RFC 9110 section 6.5.1)")]
    TrailerForbidden,
    #[error("the connection ended inside a message (RFC 9112 section 8)")]
    Truncated,
    #[error("the request line is longer than a whole head may be")]
    TargetTooLong,
    #[error("the message head is too large")]
    HeadTooLarge,
    #[error("too many field lines")]
    TooManyHeaders,
    #[error("too many connection options")]
    TooManyConnectionOptions,
    #[error("the chunk extensions of one message are too long")]
    ExtensionsTooLarge,
    #[error("the trailers are too large")]
    TrailersTooLarge,
}

impl ParseError {
    /// The status that answers a refused *request*. A refused response is the server's fault and
    /// is never answered with these.
    pub fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge
            | Self::TooManyHeaders
            | Self::TooManyConnectionOptions
            | Self::TrailersTooLarge => 431,
            Self::CodingUnknown => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// Whether a cap was hit rather than a rule broken: such requests are recorded as `overload`
    /// (security.md, row 26).
    pub fn is_cap(self) -> bool {
        matches!(
            self,
            Self::TargetTooLong
                | Self::HeadTooLarge
                | Self::TooManyHeaders
                | Self::TooManyConnectionOptions
                | Self::ExtensionsTooLarge
                | Self::TrailersTooLarge
        )
    }
}
