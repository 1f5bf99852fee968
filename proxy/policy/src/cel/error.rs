//! What can be wrong with an expression, and with one evaluation of it.

use std::fmt;

use thiserror::Error;

use super::types::Kind;

/// Why a text is not an expression that can be enforced, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {message}")]
pub struct CelError {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// What was expected, and what to write instead.
    pub message: String,
}

impl CelError {
    pub(super) fn at(source: &str, fault: Fault) -> Self {
        let mut end = fault.at.min(source.len());
        while !source.is_char_boundary(end) {
            end -= 1;
        }
        let before = &source[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        // A source has at most `MAX_SOURCE` bytes.
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            line: count(before.matches('\n').count() + 1),
            column: count(before[line_start..].chars().count() + 1),
            message: fault.message,
        }
    }
}

/// An error by its byte offset, before the position is worked out.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }
}

/// Why an expression has no value for this connection and request. Says names and types, never
/// values: they may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvalError {
    #[error("no such attribute: `{name}`: {why}")]
    NoSuchAttribute {
        name: &'static str,
        why: &'static str,
    },
    /// Unlike what is absent, `has()` doesn't deny it.
    #[error("the attribute `{name}` can't be read: {why}")]
    UnreadableAttribute {
        name: &'static str,
        why: &'static str,
    },
    #[error("`{0}` is an attribute of a request, and this is not HTTP")]
    NoRequest(&'static str),
    #[error("no such key: {0}")]
    NoSuchKey(Name),
    #[error("the header {0} is sent more than once, so it has no single value")]
    RepeatedHeader(Name),
    #[error("the header {0} is not text")]
    HeaderNotText(Name),
    #[error(
        "{0} is not the name of a header: names are lower case, and the host is `request.host`"
    )]
    HeaderName(Name),
    #[error("`{operation}` is not defined for {operands}")]
    NoSuchOverload {
        operation: &'static str,
        operands: Kinds,
    },
    #[error("a condition is a bool, this is {0}")]
    NotBool(Kind),
    #[error("the index is out of range")]
    IndexOutOfRange,
    #[error("`{0}` overflows")]
    Overflow(&'static str),
    #[error("`{0}` of a NaN: it is not a number")]
    NotANumber(&'static str),
    #[error("division by zero")]
    DivideByZero,
    #[error("{from} has no value as {to}: {why}")]
    Conversion {
        from: Kind,
        to: &'static str,
        why: &'static str,
    },
    #[error("a value is nested too deep to be compared")]
    TooDeep,
    #[error("a map has the same key twice")]
    RepeatedKey,
    #[error("more than the {0} steps that an expression may cost")]
    Cost(u64),
}

/// The types of the operands of something that is not defined for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(pub(super) Kind, pub(super) Option<Kind>);

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(second) => write!(f, "{} and {second}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A key or header name: the caller may have chosen it, so it is escaped and short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Box<str>);

const MAX_NAME: usize = 64;

impl Name {
    pub(super) fn of(name: &str) -> Self {
        Self(name.chars().take(MAX_NAME).collect::<String>().into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
