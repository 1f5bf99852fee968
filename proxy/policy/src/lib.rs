//! How we decide: a pure function from (policies, peer, request) to a decision with its reason.
//!
//! ```text
//! Policy ── ValidPolicy::new ──► ValidPolicy ── PolicySet::compile ──► PolicySet
//!  plain input      every field can be honoured exactly      indexed, immutable
//!
//! target ── normalise_target ──► path, query       PolicySet::decide(Connection, Request) ──► Decision
//! ```
//!
//! In reading order: [`model`] is what policies look like, `valid` turns them into typed constraints
//! (`pattern`, `constraint`, [`cel`]) whose values are in a `store`, `evaluate` says whether a rule holds, `index`
//! finds the rules worth asking, `rules` asks them, and `set` puts them together in the order DENY, ALLOW,
//! default. `shadow` tells beside the decision what AUDIT and dry-run policies say.
//!
//! For people, not for requests: `explain` shows how a decision comes about, `analysis` what can be said of a
//! policy before anything is asked of it.
//!
//! **Architecture invariant:** no IO, no clock, no async, no protobuf, no regular expression. What is
//! uncertain is decided against the caller: it never satisfies an ALLOW and never escapes a DENY.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod analysis;
pub mod cel;
mod constraint;
mod decision;
mod evaluate;
mod explain;
mod host;
mod index;
mod input;
pub mod model;
mod path;
mod pattern;
mod ports;
mod principal;
mod reason;
mod rules;
mod set;
mod shadow;
mod store;
mod valid;
pub mod words;

pub use analysis::NamedTrustDomain;
pub use decision::{Clause, Decision, Nearest, Shadow, Verdict};
pub use explain::{ExplainedClause, ExplainedPolicy, ExplainedRule, Explanation, Why};
pub use host::{Host, HostRefused, normalise_host};
pub use input::{Connection, Headers, NoHeaders, Request, Token};
pub use model::{Action, Condition, DefaultAction, Mesh, Operation, Policy, Rule, Source};
pub use path::{EncodedSlash, PathRefused, Target, normalise_target};
pub use principal::{Principal, PrincipalError};
pub use reason::{Reason, UnknownReason};
pub use set::PolicySet;
pub use valid::{FieldError, ValidPolicy, Warning};
