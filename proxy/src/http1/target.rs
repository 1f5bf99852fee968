//! The request target: which of its four forms it has, and where its parts lie (RFC 9112 section 3.2).

use std::ops::Range;

use super::ParseError;
use super::authority::{is_authority, is_authority_with_port};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Target {
    /// All of it, as sent.
    pub(super) whole: Range<usize>,
    /// Absolute-form and authority-form only.
    pub(super) authority: Option<Range<usize>>,
    pub(super) path: Path,
    /// After the first `?`, which is left out.
    pub(super) query: Option<Range<usize>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Path {
    At(Range<usize>),
    /// `http://host` and `http://host?query` mean the path `/`.
    #[default]
    Root,
    /// `*`, also written as `OPTIONS http://host` (RFC 9112 section 3.2.4).
    Asterisk,
    /// CONNECT has an authority and no path.
    Nothing,
}

impl Target {
    /// `whole` is not empty.
    pub(super) fn parse(
        buffer: &[u8],
        whole: Range<usize>,
        method: &[u8],
    ) -> Result<Self, ParseError> {
        let bytes = &buffer[whole.clone()];
        check_bytes(bytes)?;
        let target = Self {
            whole: whole.clone(),
            ..Self::default()
        };
        if method == b"CONNECT" {
            return if is_authority_with_port(bytes) {
                Ok(Self {
                    authority: Some(whole),
                    path: Path::Nothing,
                    ..target
                })
            } else {
                Err(ParseError::TargetForm)
            };
        }
        match bytes {
            [b'/', ..] => Ok(target.with_path_and_query(buffer, whole)),
            b"*" if method == b"OPTIONS" => Ok(Self {
                path: Path::Asterisk,
                ..target
            }),
            _ => target.absolute(buffer, whole, method),
        }
    }

    fn absolute(
        self,
        buffer: &[u8],
        whole: Range<usize>,
        method: &[u8],
    ) -> Result<Self, ParseError> {
        let bytes = &buffer[whole.clone()];
        let scheme = [&b"http://"[..], b"https://"]
            .into_iter()
            .find(|scheme| {
                bytes
                    .get(..scheme.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            })
            .ok_or(ParseError::TargetForm)?;
        let start = whole.start + scheme.len();
        let end = memchr::memchr2(b'/', b'?', &buffer[start..whole.end])
            .map_or(whole.end, |length| start + length);
        if !is_authority(&buffer[start..end]) {
            return Err(ParseError::HostInvalid);
        }
        let target = Self {
            authority: Some(start..end),
            ..self
        };
        if end == whole.end && method == b"OPTIONS" {
            return Ok(Self {
                path: Path::Asterisk,
                ..target
            });
        }
        Ok(target.with_path_and_query(buffer, end..whole.end))
    }

    fn with_path_and_query(mut self, buffer: &[u8], rest: Range<usize>) -> Self {
        let question =
            memchr::memchr(b'?', &buffer[rest.clone()]).map(|length| rest.start + length);
        let path = rest.start..question.unwrap_or(rest.end);
        self.path = if path.is_empty() {
            Path::Root
        } else {
            Path::At(path)
        };
        self.query = question.map(|question| question + 1..rest.end);
        self
    }
}

/// Visible ASCII, no fragment. Bytes that RFC 3986 wants encoded but clients send as they are
/// (`|`, `{`, `\`, …) pass: they can't break the framing, and the path is normalised later on.
fn check_bytes(target: &[u8]) -> Result<(), ParseError> {
    // Without an early exit, so that the compiler can look at many bytes at once.
    let (invalid, fragment) = target
        .iter()
        .fold((false, false), |(invalid, fragment), &byte| {
            (
                invalid | !(0x21..=0x7e).contains(&byte),
                fragment | (byte == b'#'),
            )
        });
    match (invalid, fragment) {
        (true, _) => Err(ParseError::TargetByte),
        (_, true) => Err(ParseError::TargetFragment),
        _ => Ok(()),
    }
}
