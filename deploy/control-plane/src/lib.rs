//! The reference control plane: policies and services from a folder of YAML, served over delta xDS.
//!
//! ```text
//! folder ─► watch ─► yaml ─► resolve ─► Catalog ─► serve: one stream a sidecar ─► ACK, NACK ─► status
//! ```
//!
//! In reading order: [`yaml`] (documents and where they stand), [`jwks`] (the keys of issuers), [`resolve`] (what they mean for each
//! workload, pure), [`catalog`] (what is served, immutable), `watch` (the folder, live), [`serve`] (the
//! streams), `status` (what an operator asks), `admin` (what one orders), [`crd`] (the kinds,
//! as a cluster knows them), [`cli`].
//!
//! **Architecture invariant:** never knows how the proxy works inside; the resources' messages are the contract, and
//! the proxy's own `translate` says whether one is acceptable.

// `Expect` is passed by value, as its crate's own examples do.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::needless_pass_by_value))]

mod admin;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod crd;
mod http;
pub mod inject;
mod interest;
pub mod jwks;
mod kubernetes;
pub mod problem;
pub mod resolve;
pub mod serve;
mod status;
mod watch;
mod webhook;
pub mod yaml;

pub use problem::Problem;
