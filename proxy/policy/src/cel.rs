//! Conditions in the Common Expression Language (CEL): compiled on load, type-checked against
//! declared attributes, bounded in cost.
//!
//! ```text
//! text ── lex, parse ──► Ast ── check ──► typed tree, cost ── eval(Env) ──► Ok(bool) | Err(why)
//! ```
//!
//! In reading order: `attribute` is what an expression may read, `lex` and `parse` make a tree of the
//! text, `check` types it and bounds its cost by `bound`, `eval` computes `value`s and counts on the
//! `meter`.
//!
//! # The language
//! That of the cel-spec's `langdef`, as far as a decision needs it:
//!
//! | | |
//! |---|---|
//! | types | `bool` `int` `uint` `double` `string` `bytes` `null` `list` `map` `type`, and `dyn` for what a claim holds |
//! | literals | `1` `0x1f` `1u` `1.5e3` `"…"` `'…'` `"""…"""` raw `r"…"` bytes `b"…"`, all escapes, `[1, 2]`, `{"k": 1}`, `// comments` |
//! | operators | `? :` `\|\|` `&&` `== != < <= > >= in` `+ -` `* / %` `! -` `.field` `[index]`, loosest first |
//! | macros | `has(e.f)` `l.all(x, p)` `l.exists(x, p)` `l.exists_one(x, p)` `l.filter(x, p)` `l.map(x, e)` `l.map(x, p, e)`; over a map: its keys |
//! | functions | `size(x)` `x.size()` `s.contains(t)` `s.startsWith(t)` `s.endsWith(t)` `s.lowerAscii()` `s.upperAscii()` `type(x)` `dyn(x)` |
//! | conversions | `int(x)` `uint(x)` `double(x)` `string(x)` `bytes(x)` `bool(x)`; what has no value there is an error |
//! | Kith's own | `s.inCidr("10.0.0.0/8")`: an address in a range, which is checked on load |
//! | refused | `matches` (no regular expression is built from policy text), `timestamp` and `duration` (there is no clock), messages, packages, extensions |
//!
//! # Attributes
//!
//! | attribute | type | absent when |
//! |---|---|---|
//! | `source.principal` | string, `spiffe://…` | the peer has no identity |
//! | `source.trustDomain` | string | the peer has no identity |
//! | `source.namespace` `source.serviceAccount` | string | no identity, another trust domain, or a path that is not `/ns/…/sa/…` |
//! | `source.ip` `remote.ip` `destination.ip` | string, RFC 5952, IPv4-mapped as IPv4 | never |
//! | `destination.port` | int | never |
//! | `connection.sni` | string, lower case | there was none |
//! | `request.method` `request.path` | string; the path normalised, without query | never |
//! | `request.host` | string, lower case, no port, no trailing dot | it is not a host |
//! | `request.headers` | map(string, string), names in lower case, read one by one | |
//! | `request.auth.principal` | string, `iss/sub` | no token, no subject |
//! | `request.auth.audiences` | list(string) | no token, no `aud` |
//! | `request.auth.presenter` | string, `azp` | no token, no `azp` |
//! | `request.auth.claims` | map(string, dyn) | no token |
//!
//! - Reading what is absent, a header or claim that is not there, or a header that came more than once
//!   is an **error**. `has(a.b)` and `"b" in a` ask first; they too are errors where `a` itself is
//!   absent: `has(request.auth.claims.x)` of a request without token is an error, not `false`.
//! - What is there and can't be read is an error for `has()` too: a principal whose slashes make it ambiguous, an `azp` or
//!   `aud` that is none. Its owner must not pass for somebody without.
//! - On opaque TCP everything under `request.` is an error, `has()` included.
//! - `&&`, `||`, `all` and `exists` absorb errors: one operand that decides is enough, in any order.
//! - An error means: an ALLOW does not match, a DENY does (resources.md, stricter rule 6).
//! - A JSON number is an int if it is one, else a double (CEL itself makes every one a double); numbers
//!   compare across types and exactly, so only arithmetic can tell. `1 == 1.0` needs no `dyn()` here.
//! - Values of other types differ, and that is no error: `claims.level == "3"` of a number is false.
//!   `int` overflow, division by zero, an index out of range and the order of a NaN are errors.
//! - The claim `iss` is the issuer whose keys verified the token.
//! - The type checker refuses what can never hold: `destination.port == "80"`, an address literal in
//!   another spelling, an upper-case header name, a result that is not a `bool`.
//!
//! # Limits
//! 4 KiB of text, 32 levels of nesting, 100,000 steps by the static bound (which assumes claims of at
//! most 1,000 elements and strings of 256 bytes, headers and paths of 4 KiB) and again by count while
//! evaluating. So one macro may go through a claim, but not one claim inside another.
//!
//! # Why not a crate
//! The maintained one, `cel` 0.15, has neither type checker nor cost bound, keeps values in reference
//! counts, had panics and stack overflows in its parser, and brings ANTLR's runtime. Evaluation is on
//! the data path, and the language is small.
//!
//! **Architecture invariant:** no panic, no recursion beyond the depth of the expression, no clock.

mod ast;
mod attribute;
mod bound;
mod check;
mod constant;
mod error;
mod eval;
mod lex;
mod literal;
mod meter;
mod number;
mod parse;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;

use std::fmt;
use std::sync::Arc;

use crate::{Connection, Request};

pub use error::{CelError, EvalError, Kinds, Name};
pub use types::Kind;

use error::Fault;
use eval::Evaluator;
use meter::Meter;

/// How long an expression is at most, in bytes.
pub const MAX_SOURCE: usize = 4096;

/// A compiled expression. Cloning costs one reference count.
#[derive(Clone)]
pub struct Program(Arc<Compiled>);

struct Compiled {
    source: Box<str>,
    program: check::Program,
}

/// What an expression is evaluated against.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    pub connection: &'a Connection<'a>,
    /// `None` is opaque TCP: reading any attribute of a request, even by `has()`, is an error.
    pub request: Option<&'a Request<'a>>,
    /// The peer is of the local trust domain or an alias of it. `source.namespace` and
    /// `source.serviceAccount` of any other peer are absent (resources.md, stricter rule 1).
    pub peer_is_local: bool,
}

impl Program {
    /// Compiles an expression whose result is a bool.
    pub fn compile(source: &str) -> Result<Self, CelError> {
        let program = Self::check(source).map_err(|fault| CelError::at(source, fault))?;
        Ok(Self(Arc::new(Compiled {
            source: source.into(),
            program,
        })))
    }

    fn check(source: &str) -> Result<check::Program, Fault> {
        if source.len() > MAX_SOURCE {
            return Err(Fault::new(
                MAX_SOURCE,
                format!("longer than {MAX_SOURCE} bytes: split it into several conditions"),
            ));
        }
        if source.trim().is_empty() {
            return Err(Fault::new(0, "the expression is empty"));
        }
        check::check(&parse::parse(source)?)
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// It reads what only an HTTP request has: anything under `request.`, tokens included.
    pub fn uses_request(&self) -> bool {
        self.0.program.uses.request
    }

    /// It reads `remote.ip`, which may differ from request to request on one connection.
    pub fn uses_remote_ip(&self) -> bool {
        self.0.program.uses.remote
    }

    /// It reads the peer's identity: `source.principal`, `.namespace`, `.serviceAccount`, `.trustDomain`.
    pub fn uses_identity(&self) -> bool {
        self.0.program.uses.identity
    }

    /// It reads the request's token: anything under `request.auth.`.
    pub fn uses_token(&self) -> bool {
        self.0.program.uses.token
    }

    /// What an evaluation costs at most, in steps, for inputs of the assumed sizes.
    pub fn cost(&self) -> u64 {
        self.0.program.cost
    }

    /// The expression's value. An error means: an ALLOW does not match, a DENY does (resources.md,
    /// stricter rule 6).
    pub fn eval(&self, env: &Env<'_>) -> Result<bool, EvalError> {
        self.evaluate(&Evaluator {
            env,
            meter: Meter::new(),
        })
    }

    fn evaluate<'v>(&'v self, evaluator: &Evaluator<'v>) -> Result<bool, EvalError> {
        evaluator.test(&self.0.program.expr, None)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({:?})", self.0.source)
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

impl Eq for Program {}

/// RFC 9110 section 5.1, in the lower case that the engine keeps; the host is an attribute of its own.
fn is_header_name(name: &str) -> bool {
    let token = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
    };
    !name.is_empty() && name != "host" && name.bytes().all(token)
}
