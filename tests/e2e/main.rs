//! Real sidecars, real TLS, real sockets: every behaviour from the outside, records asserted on both ends.

#![allow(clippy::unwrap_used)]

// What traffic sees.
mod egress;
mod http1;
mod http2;
mod modes;
mod security;
mod shadow;
mod smuggling;
mod tcp;
mod tokens;

// What happens to it while the world changes.
mod capture;
mod configuration;
mod drain;
mod leases;
mod limits;
mod live;
mod outage;
mod probes;
mod revocation;
mod revoke_command;
mod rollout;
mod roots;
mod rotation;

mod documents;
mod readme;
