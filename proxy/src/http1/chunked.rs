//! The chunked coding, one byte after another (RFC 9112 section 7.1).

use std::sync::Arc;

use super::ParseError;
use super::grammar::{find_control, is_control, is_forbidden_in_trailers, is_token_byte};

/// Extensions of all chunks of one message. They mean nothing here, but are passed on where they
/// are well-formed: RFC 9112 section 7.1.1 has recipients ignore what they don't know, and bound it.
const EXTENSION_BYTES: u16 = 4096;
const TRAILER_BYTES: u16 = 8192;
const TRAILERS: u8 = 100;

#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    extension_bytes: u16,
    trailer_bytes: u16,
    trailers: u8,
    /// Of the trailer that is being read; at most [`TRAILER_BYTES`].
    name: Vec<u8>,
    /// Names that no trailer may have besides those that none ever may.
    guarded: Option<Arc<[String]>>,
}

/// Named for what is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { digits: u8, size: u64 },
    Extension { size: u64, part: Part },
    SizeLf { size: u64 },
    Data { remaining: u64 },
    DataCr,
    DataLf,
    TrailerOrEnd,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Where in `;name=value` or `;name="value"`. White space around the signs, which RFC 9112 calls
/// bad and only wants tolerated, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    NameStart,
    Name,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    AfterQuoted,
}

impl Default for State {
    fn default() -> Self {
        State::Size { digits: 0, size: 0 }
    }
}

impl Chunked {
    pub(super) fn guard(&mut self, names: Option<Arc<[String]>>) {
        self.guarded = names;
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Consumes up to the end of the body and says how much; adds content bytes to `payload`.
    pub(super) fn advance(&mut self, data: &[u8], payload: &mut u64) -> Result<usize, ParseError> {
        let mut at = 0;
        while at < data.len() && self.state != State::Done {
            match self.state {
                State::Data { remaining } => {
                    let rest = data.len() - at;
                    let take = rest.min(usize::try_from(remaining).unwrap_or(usize::MAX));
                    at += take;
                    *payload += take as u64;
                    let remaining = remaining - take as u64;
                    if remaining == 0 {
                        self.state = State::DataCr;
                    } else {
                        self.state = State::Data { remaining };
                    }
                }
                State::TrailerValue => {
                    let plain = find_control(&data[at..]).unwrap_or(data.len() - at);
                    self.count_trailer_bytes(plain)?;
                    at += plain;
                    if at < data.len() {
                        self.state = self.step(data[at])?;
                        at += 1;
                    }
                }
                _ => {
                    self.state = self.step(data[at])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, ParseError> {
        match (self.state, byte) {
            (State::Size { digits, size }, byte) => read_size(digits, size, byte),
            (State::Extension { size, part }, byte) => {
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES {
                    return Err(ParseError::ExtensionsTooLarge);
                }
                read_extension(size, part, byte)
            }
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::TrailerOrEnd),
            (State::SizeLf { size }, b'\n') => Ok(State::Data { remaining: size }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0, size: 0 }),
            (State::DataCr | State::DataLf, _) => Err(ParseError::ChunkEnd),
            (State::TrailerOrEnd, b'\r') => Ok(State::EndLf),
            (State::TrailerOrEnd, b'\n') => Err(ParseError::LineBreak),
            (State::TrailerOrEnd, b' ' | b'\t') => Err(ParseError::Folded),
            (State::TrailerOrEnd, byte) => {
                self.trailers += 1;
                self.name.clear();
                if self.trailers > TRAILERS {
                    return Err(ParseError::TrailersTooLarge);
                }
                self.read_name(byte)
            }
            (State::TrailerName, byte) => self.read_name(byte),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, b'\n') => Err(ParseError::LineBreak),
            (State::TrailerValue, _) => Err(ParseError::ControlByte),
            (State::TrailerLf, b'\n') => Ok(State::TrailerOrEnd),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::SizeLf { .. } | State::TrailerLf | State::EndLf, _) => {
                Err(ParseError::LineBreak)
            }
            // Handled in bulk, or never asked.
            (state @ (State::Data { .. } | State::Done), _) => Ok(state),
        }
    }

    fn read_name(&mut self, byte: u8) -> Result<State, ParseError> {
        self.count_trailer_bytes(1)?;
        if is_token_byte(byte) {
            self.name.push(byte);
            return Ok(State::TrailerName);
        }
        if byte != b':' || self.name.is_empty() {
            Err(ParseError::FieldName)
        } else if is_forbidden_in_trailers(&self.name, self.guarded.as_deref().unwrap_or_default())
        {
            Err(ParseError::TrailerForbidden)
        } else {
            Ok(State::TrailerValue)
        }
    }

    fn count_trailer_bytes(&mut self, count: usize) -> Result<(), ParseError> {
        self.trailer_bytes = u16::try_from(count)
            .ok()
            .and_then(|count| self.trailer_bytes.checked_add(count))
            .filter(|&total| total <= TRAILER_BYTES)
            .ok_or(ParseError::TrailersTooLarge)?;
        Ok(())
    }
}

/// 1 to 16 hexadecimal digits, below 2^63 for servers that count in signed numbers.
fn read_size(digits: u8, size: u64, byte: u8) -> Result<State, ParseError> {
    let value = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(State::SizeLf { size }),
        b';' if digits > 0 => {
            return Ok(State::Extension {
                size,
                part: Part::NameStart,
            });
        }
        b'\n' if digits > 0 => return Err(ParseError::LineBreak),
        _ => return Err(ParseError::ChunkSize),
    };
    if digits == 16 || size >> 59 != 0 {
        return Err(ParseError::ChunkSize);
    }
    Ok(State::Size {
        digits: digits + 1,
        size: size << 4 | u64::from(value),
    })
}

fn read_extension(size: u64, part: Part, byte: u8) -> Result<State, ParseError> {
    let next = match (part, byte) {
        (_, b'\n') => return Err(ParseError::LineBreak),
        (Part::Name | Part::Value | Part::AfterQuoted, b'\r') => return Ok(State::SizeLf { size }),
        (Part::Name | Part::Value | Part::AfterQuoted, b';') => Part::NameStart,
        (Part::Name, b'=') => Part::ValueStart,
        (Part::ValueStart, b'"') => Part::Quoted,
        (Part::NameStart | Part::Name, byte) if is_token_byte(byte) => Part::Name,
        (Part::ValueStart | Part::Value, byte) if is_token_byte(byte) => Part::Value,
        (Part::Quoted, b'"') => Part::AfterQuoted,
        (Part::Quoted, b'\\') => Part::Escaped,
        (Part::Quoted | Part::Escaped, byte) if !is_control(byte) => Part::Quoted,
        _ => return Err(ParseError::ChunkExtension),
    };
    Ok(State::Extension { size, part: next })
}
