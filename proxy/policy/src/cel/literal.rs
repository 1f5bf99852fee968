//! Numbers, strings and bytes as they are written: cel-spec langdef, "Numeric Values" and "String and
//! Bytes Values".

use super::error::Fault;
use super::lex::Token;

/// `rest` starts with a digit, or with a dot and a digit.
pub(super) fn number(rest: &str, at: usize) -> Result<(Token, usize), Fault> {
    let hexadecimal = rest
        .strip_prefix("0x")
        .filter(|digits| digits.starts_with(|c: char| c.is_ascii_hexdigit()));
    let (number, length) = match hexadecimal {
        Some(digits) => {
            let length = span(digits, u8::is_ascii_hexdigit);
            (integer(&digits[..length], 16, at)?, length + 2)
        }
        None => {
            let length = decimal_length(rest);
            let text = &rest[..length];
            if text.bytes().all(|byte| byte.is_ascii_digit()) {
                (integer(text, 10, at)?, length)
            } else {
                (double(text, at)?, length)
            }
        }
    };
    let (number, length) = match (number, rest.as_bytes().get(length)) {
        (Token::Int(value), Some(b'u' | b'U')) => (Token::Uint(value), length + 1),
        (number, _) => (number, length),
    };
    match rest.as_bytes().get(length) {
        Some(byte) if byte.is_ascii_alphanumeric() || *byte == b'_' => Err(Fault::new(
            at + length,
            "this follows a number without a space: numbers are `1`, `0x1f`, `1u`, `1.5`, `1e3`",
        )),
        _ => Ok((number, length)),
    }
}

fn span(text: &str, belongs: impl Fn(&u8) -> bool) -> usize {
    text.bytes()
        .position(|byte| !belongs(&byte))
        .unwrap_or(text.len())
}

/// Digits, then a fraction and an exponent where they have digits.
fn decimal_length(rest: &str) -> usize {
    let mut length = span(rest, u8::is_ascii_digit);
    if let Some(fraction) = rest[length..].strip_prefix('.') {
        match span(fraction, u8::is_ascii_digit) {
            0 => return length,
            digits => length += 1 + digits,
        }
    }
    if let Some(exponent) = rest[length..].strip_prefix(['e', 'E']) {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let sign = exponent.len() - digits.len();
        match span(digits, u8::is_ascii_digit) {
            0 => {}
            digits => length += 1 + sign + digits,
        }
    }
    length
}

fn integer(digits: &str, radix: u32, at: usize) -> Result<Token, Fault> {
    u64::from_str_radix(digits, radix)
        .map(Token::Int)
        .map_err(|_| Fault::new(at, "the number does not fit in 64 bits"))
}

fn double(text: &str, at: usize) -> Result<Token, Fault> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Token::Double(value)),
        _ => Err(Fault::new(at, "the number does not fit in a double")),
    }
}

/// A string or bytes literal, if `rest` starts with one: `"…"`, `'…'`, either three times, raw with
/// `r` in front, bytes with `b` in front of that.
pub(super) fn quoted(rest: &str, at: usize) -> Result<Option<(Token, usize)>, Fault> {
    let text = rest.strip_prefix(['b', 'B']).unwrap_or(rest);
    let is_bytes = text.len() < rest.len();
    let body = text.strip_prefix(['r', 'R']).unwrap_or(text);
    let is_raw = body.len() < text.len();
    let Some(quote) = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quote| body.starts_with(quote))
    else {
        return Ok(None);
    };
    let start = rest.len() - body.len() + quote.len();
    let mut content = Content {
        is_bytes,
        text: Vec::new(),
    };
    let mut position = start;
    loop {
        let here = &rest[position..];
        if here.starts_with(quote) {
            let token = content.finish(at)?;
            return Ok(Some((token, position + quote.len())));
        }
        let Some(character) = here.chars().next() else {
            return Err(Fault::new(at, format!("the closing {quote} is missing")));
        };
        if quote.len() == 1 && matches!(character, '\n' | '\r') {
            return Err(Fault::new(
                at,
                format!("the closing {quote} is missing on this line"),
            ));
        }
        if character == '\\' && !is_raw {
            position += 1 + content.escape(&here[1..], at + position)?;
        } else {
            content.push(character);
            position += character.len_utf8();
        }
    }
}

struct Content {
    is_bytes: bool,
    text: Vec<u8>,
}

impl Content {
    fn push(&mut self, character: char) {
        let mut buffer = [0; 4];
        self.text
            .extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
    }

    /// `text` follows the backslash at `at`. Returns how long the escape is.
    fn escape(&mut self, text: &str, at: usize) -> Result<usize, Fault> {
        let kind = text.bytes().next().unwrap_or(0);
        let simple = match kind {
            b'a' => Some('\x07'),
            b'b' => Some('\x08'),
            b'f' => Some('\x0c'),
            b'n' => Some('\n'),
            b'r' => Some('\r'),
            b't' => Some('\t'),
            b'v' => Some('\x0b'),
            b'\\' | b'?' | b'"' | b'\'' | b'`' => Some(char::from(kind)),
            _ => None,
        };
        if let Some(character) = simple {
            self.push(character);
            return Ok(1);
        }
        let (start, digits, radix) = match kind {
            b'x' | b'X' => (1, 2, 16),
            b'u' if !self.is_bytes => (1, 4, 16),
            b'U' if !self.is_bytes => (1, 8, 16),
            b'0'..=b'3' => (0, 3, 8),
            b'u' | b'U' => {
                return Err(Fault::new(
                    at,
                    "bytes have no `\\u`: write the bytes, as `\\x..`",
                ));
            }
            _ => {
                return Err(Fault::new(
                    at,
                    "no such escape: write `\\\\` for a backslash, or put `r` in front of the text",
                ));
            }
        };
        let value = text
            .get(start..start + digits)
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u32::from_str_radix(digits, radix).ok())
            .ok_or_else(|| Fault::new(at, format!("this escape has {digits} digits")))?;
        match u8::try_from(value) {
            Ok(byte) if self.is_bytes => self.text.push(byte),
            _ => self.push(
                char::from_u32(value)
                    .ok_or_else(|| Fault::new(at, "this escape is not a Unicode character"))?,
            ),
        }
        Ok(start + digits)
    }

    fn finish(self, at: usize) -> Result<Token, Fault> {
        if self.is_bytes {
            return Ok(Token::Bytes(self.text.into()));
        }
        String::from_utf8(self.text)
            .map(|text| Token::String(text.into()))
            .map_err(|_| Fault::new(at, "the text is not UTF-8"))
    }
}
