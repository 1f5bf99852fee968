//! HTTP/1.1 on the wire: what a message is, byte for byte, and nothing else.
//!
//! Heads are parsed once into offsets into the caller's buffer, bodies are validated in place so
//! that their bytes can be forwarded as they came, and heads are written for the next hop. What
//! isn't certainly well-formed by RFC 9110 and RFC 9112 is refused rather than repaired: two
//! parsers that repair differently are how requests are smuggled (security.md, row 8). After any
//! [`ParseError`] the connection must be closed, because where the next message starts is unknown.
//!
//! **Architecture invariant:** no IO, no clock, no policy. A function of bytes.

mod authority;
mod body;
mod chunked;
mod error;
mod fields;
mod framing;
mod grammar;
mod problem;
mod request;
mod response;
mod rewrite;
#[cfg(test)]
mod smuggling;
mod sniff;
mod target;

pub use body::{Body, Progress};
pub use error::ParseError;
pub use framing::Framing;
pub(crate) use grammar::is_forbidden_in_trailers;
pub use problem::write_problem;
pub use request::RequestHead;
pub use response::ResponseHead;
pub use rewrite::{
    ConnectionHeader, ForwardTarget, Rewrite, write_request_head, write_response_head,
};
pub use sniff::{SNIFF_BYTES, Sniff, sniff};

/// Caps on one message head (security.md, row 26).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head, start line and final empty line included.
    pub head_bytes: usize,
    /// Field lines of one head.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Room for the largest cookies and tokens seen in practice; small enough that a thousand
        // clients that never finish a head cost 64 MiB.
        Self {
            head_bytes: 64 * 1024,
            headers: 100,
        }
    }
}

/// Whether the buffer held the whole of what was to be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parse<T> {
    Complete(T),
    /// Read more behind the same bytes and call again; nothing is scanned twice.
    Partial,
}

/// The protocol version of a message. Any other is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// What a response answers: without it, the framing of a response is unknown (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// The method was HEAD.
    pub head: bool,
    /// The method was CONNECT.
    pub connect: bool,
    /// The request was forwarded with its upgrade, so that 101 is an answer. To be cleared where it
    /// was not.
    pub upgrade: bool,
    pub version: Version,
}
