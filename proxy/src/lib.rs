//! The data path of Kith.
//!
//! ```text
//! inbound    accept ─► detect ─► authenticate ─► authorize ─► forward ─► record
//!            Accepted  Detected  Peer            Permit
//! outbound   accept ─► resolve ─► detect ─► forward (authenticates the server) ─► record
//! ```
//!
//! Modules in reading order: `app` binds and wires; `worker` is one data thread; `inbound` and `outbound`
//! are the two pipelines, straight down; then the stages by name. `control` alone writes what decisions
//! read (`snapshot`). `connections`, `signal` and `lease` keep live connections subject to all of it;
//! `renew` proves them anew. `record` is what is left for those who ask later.
//!
//! **Architecture invariant:** nothing here knows of Kubernetes or YAML, or where policies come from.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
pub mod config;
pub mod http1;
pub mod rehearse;
pub mod revocation;
pub mod snapshot;
pub mod token;
pub mod translate;

mod accept;
mod addr;
mod admin;
mod app;
mod authenticate;
mod authorize;
mod capture;
mod connections;
mod control;
mod correlation;
mod detect;
mod error;
mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod headers;
mod inbound;
mod lease;
mod outbound;
mod probe;
mod record;
mod renew;
pub mod resolve;
mod shared;
mod signal;
mod stream;
mod telemetry;
mod worker;
