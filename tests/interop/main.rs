//! Other people's programs against Kith, each a real process in a workload's namespace. `make interop` installs them
//! first ([`programs`]); what is missing fails the test that needs it and is never skipped.
//!
//! | file | who | as |
//! |---|---|---|
//! | [`envoy_client`] | Envoy with an SVID | mTLS client of a Kith inbound |
//! | [`envoy_server`] | Envoy with an SVID | mTLS server of a Kith outbound |
//! | [`curl`], [`openssl`] | curl, `openssl s_client` | mTLS clients of a Kith inbound |
//! | [`nginx`] | nginx; h2load, wrk, curl | application and its clients, behind sidecars |
//! | [`grpcio`] | Python's grpcio | gRPC client and server, behind sidecars |
//! | [`iperf`] | iperf3 | opaque TCP through sidecars |
//! | [`smtp`] | aiosmtpd, smtplib | a server that speaks first, through sidecars |
//! | [`spiffe`] | py-spiffe | client of the dev authority's Workload API |

#![allow(clippy::unwrap_used)]

mod curl;
mod envoy;
mod envoy_client;
mod envoy_server;
mod expect;
mod grpcio;
mod iperf;
mod nginx;
mod openssl;
mod partner;
mod programs;
mod smtp;
mod spiffe;
