//! The reference control plane: policies and services from a folder of YAML, served over delta xDS.
//!
//! ```text
//! folder ─► watch ─► yaml ─► resolve ─► Catalog ─► serve: one stream a sidecar ─► ACK, NACK ─► status
//! ```
//!
//! In reading order: [`yaml`] (documents and where they stand), [`resolve`] (what they mean for each
//! workload, pure), [`catalog`] (what is served, immutable), `watch` (the folder, live), [`serve`] (the
//! streams), `status` (what an operator asks), [`cli`].
//!
//! **Architecture invariant:** never knows how the proxy works inside; the resources' messages are the contract.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalog;
pub mod cli;
pub mod problem;
pub mod resolve;
pub mod serve;
mod status;
mod watch;
pub mod yaml;

pub use problem::Problem;
