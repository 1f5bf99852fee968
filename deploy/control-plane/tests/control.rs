//! The control plane as its clients and operators meet it: real folder, real Workload API, real mTLS.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

#[path = "control/harness.rs"]
mod harness;

#[path = "control/admin.rs"]
mod admin;
#[path = "control/client.rs"]
mod client;
#[path = "control/commands.rs"]
mod commands;
#[path = "control/folder.rs"]
mod folder;
#[path = "control/injected.rs"]
mod injected;
#[path = "control/istio.rs"]
mod istio;
#[path = "control/jwks.rs"]
mod jwks;
#[path = "control/streams.rs"]
mod streams;
