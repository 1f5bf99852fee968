//! The people's tool. `kith demo` shows the mesh at work; the parts it is made of are a library, because
//! end-to-end tests, interop tests and benchmarks need exactly the same ones.
//!
//! In reading order:
//! - [`lab`]: a whole mesh on one machine. Every workload has its own network namespace, every program is a real process.
//! - [`app`]: the applications that run beside the sidecars. They talk plain TCP and know nothing of the mesh.
//! - [`demo`]: the walk that `kith demo` takes through a lab.
//! - [`operate`]: what an operator asks of a running control plane.
//! - [`policy`]: policies tested, explained and checked offline.
//! - [`inject`]: sidecars for manifests.
//! - [`cli`]: arguments → one of the above → exit code.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod app;
pub mod cli;
pub mod demo;
pub mod inject;
pub mod lab;
pub mod operate;
pub mod policy;
