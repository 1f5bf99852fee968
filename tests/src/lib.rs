//! What end-to-end tests share: a small shop to send traffic through, clients and applications that say
//! exactly the bytes a test wants, and records as text that can be compared whole.

#![allow(clippy::unwrap_used, reason = "tests")]

pub mod app;
pub mod caller;
pub mod expect;
pub mod firewall;
pub mod foreign;
pub mod kube;
pub mod lasting;
pub mod metrics;
pub mod shop;
pub mod time;
pub mod wait;
pub mod wire;
pub mod xds;
