//! The values of policies, parsed into types that compare, and sets of them that match any of.
//!
//! **Architecture invariant:** no regular expression is built from policy text (security.md row 10);
//! a pattern is a literal, a prefix, a suffix or `*`, and every kind of value has its own type.

mod address;
mod host;
mod path;
mod principal;
mod text;

pub(crate) use address::AddressSet;
pub(crate) use host::{HostMatch, HostSet};
pub(crate) use path::{PathSet, never_matches};
pub(crate) use principal::{Domain, PrincipalSet, ServiceAccountSet, Wildcard};
pub(crate) use text::{Interner, Pattern, TextSet};
