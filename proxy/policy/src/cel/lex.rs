//! Text to tokens: cel-spec langdef, "Syntax".

use super::error::Fault;
use super::literal;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Identifier(Box<str>),
    /// `` `x-id` ``: a field name that is no identifier.
    QuotedField(Box<str>),
    /// Without its sign; `-` in front of it belongs to it.
    Int(u64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
    /// An operator or punctuation, one of `SYMBOLS`.
    Symbol(&'static str),
    End,
}

/// Longer ones first.
const SYMBOLS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}", "=",
];

/// The tokens with their byte offsets; the last is `End`.
pub(super) fn tokens(source: &str) -> Result<Vec<(usize, Token)>, Fault> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at = skip_blank(source, at);
        let rest = &source[at..];
        if rest.is_empty() {
            tokens.push((at, Token::End));
            return Ok(tokens);
        }
        let (token, length) = token(rest, at)?;
        tokens.push((at, token));
        at += length;
    }
}

/// White space and `//` comments.
fn skip_blank(source: &str, mut at: usize) -> usize {
    loop {
        let rest = &source[at..];
        let blank = rest.len()
            - rest
                .trim_start_matches([' ', '\t', '\n', '\r', '\x0c'])
                .len();
        at += blank;
        let rest = &source[at..];
        if !rest.starts_with("//") {
            return at;
        }
        at += rest.find('\n').unwrap_or(rest.len());
    }
}

fn token(rest: &str, at: usize) -> Result<(Token, usize), Fault> {
    if let Some(quoted) = literal::quoted(rest, at)? {
        return Ok(quoted);
    }
    let first = rest.as_bytes()[0];
    let second = rest.as_bytes().get(1).copied().unwrap_or(0);
    if first.is_ascii_digit() || (first == b'.' && second.is_ascii_digit()) {
        return literal::number(rest, at);
    }
    if first.is_ascii_alphabetic() || first == b'_' {
        let length = identifier_length(rest);
        return Ok((Token::Identifier(rest[..length].into()), length));
    }
    if first == b'`' {
        return quoted_field(rest, at);
    }
    if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
        return match symbol {
            "=" => Err(Fault::new(at, "`=` is not an operator: equality is `==`")),
            _ => Ok((Token::Symbol(symbol), symbol.len())),
        };
    }
    Err(match first {
        b'&' => Fault::new(at, "`&` is not an operator: and is `&&`"),
        b'|' => Fault::new(at, "`|` is not an operator: or is `||`"),
        _ => {
            let character = rest.chars().next().unwrap_or_default();
            Fault::new(
                at,
                format!("{character:?} has no meaning here: text stands in quotes"),
            )
        }
    })
}

fn identifier_length(rest: &str) -> usize {
    rest.bytes()
        .position(|byte| !(byte.is_ascii_alphanumeric() || byte == b'_'))
        .unwrap_or(rest.len())
}

fn quoted_field(rest: &str, at: usize) -> Result<(Token, usize), Fault> {
    let name = rest[1..].split_once('`').map(|(name, _)| name);
    match name {
        Some(name)
            if !name.is_empty()
                && name.bytes().all(|byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/' | b' ')
                }) =>
        {
            Ok((Token::QuotedField(name.into()), name.len() + 2))
        }
        _ => Err(Fault::new(
            at,
            "between back quotes stands the name of a field: letters, digits, `_`, `.`, `-`, `/` and spaces",
        )),
    }
}
