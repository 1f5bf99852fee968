//! The values of policies, parsed into types that compare.
//!
//! **Architecture invariant:** no regular expression is built from policy text (security.md row 10);
//! a pattern is a literal, a prefix, a suffix or `*`, and every kind of value has its own type.

mod account;
mod address;
mod host;
mod path;
mod principal;
mod text;
mod token;

pub(crate) use account::{Account, Wildcard};
pub(crate) use address::{blocks, in_blocks};
pub(crate) use host::{HostMatch, HostPattern, Port};
pub(crate) use path::{never_matches, parse_path};
pub(crate) use principal::{Domain, PrincipalPattern};
pub(crate) use text::Pattern;
pub(crate) use token::{TokenMatch, TokenPrincipal, claim, claim_path, is_split_on_spaces};
