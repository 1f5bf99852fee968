//! What we are told: the resource API and the delta xDS stream that carries it.
//!
//! One [`Client`] keeps one incremental ADS stream to the control plane. Each response becomes one
//! [`Delivery`]; the consumer puts it in force and then calls [`Delivery::finish`], which is what sends
//! the ACK, or a NACK that names the resources that could not be honoured. Several deliveries may be
//! unanswered at once, and they may be answered in any order.
//!
//! ```text
//! control plane ── stream ──► ledger ──► Delivery ──► consumer ── finish ──► ledger ── ACK/NACK ──►
//!                                          ▲                                   │
//!                                          └──── at start ─── last_good ◄──────┘
//! ```
//!
//! In reading order: [`api`] (generated messages), `resource` (the four kinds), `schema` (nothing that
//! is not understood gets through), `ledger` (all bookkeeping, free of IO and clocks), `delivery`,
//! `facts` (what this side says of itself), `stream` (the task that owns the connection), `last_good` (the copy on disk), `on_demand` (resources
//! that are asked for when they are first needed).
//!
//! **Architecture invariant:** this crate never knows how a resource is used, and nothing of
//! certificates: the byte stream to the control plane comes from the caller, already authenticated.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;

mod backoff;
mod client;
mod delivery;
mod facts;
mod last_good;
mod ledger;
mod on_demand;
mod resource;
mod schema;
mod status;
mod stream;

pub use backoff::Backoff;
pub use client::{AsyncIo, BoxFuture, Client, Config, Connector};
pub use delivery::{Delivery, Rejection};
pub use facts::{Enforced, Facts};
pub use on_demand::{Lookup, OnDemand, OnDemandSettings};
pub use resource::{Kind, Resource, Versioned};
pub use schema::Fault;
pub use status::{Status, Updates};
