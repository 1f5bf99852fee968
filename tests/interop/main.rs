//! Other people's programs against Kith, each a real process in a workload's namespace. `make interop` installs them
//! first ([`programs`]); what is missing fails the test that needs it and is never skipped.
//!
//! | file | who | as |
//! |---|---|---|
//! | [`envoy_client`] | Envoy with an SVID | mTLS client of a Kith inbound |
//! | [`envoy_server`] | Envoy with an SVID | mTLS server of a Kith outbound |
//! | [`differential`] | Envoy's RBAC filters | the other judge of the same policies |
//! | [`curl`], [`openssl`] | curl, `openssl s_client` | mTLS clients of a Kith inbound |
//! | [`nginx`] | nginx; h2load, wrk, curl | application and its clients, behind sidecars |
//! | [`grpcio`] | Python's grpcio | gRPC client and server, behind sidecars |
//! | [`iperf`] | iperf3 | opaque TCP through sidecars |
//! | [`smuggling`] | nginx, http.server, gunicorn | applications behind a sidecar that is attacked |
//! | [`smtp`] | aiosmtpd, smtplib | a server that speaks first, through sidecars |
//! | [`spiffe`] | py-spiffe | client of the dev authority's Workload API |
//! | [`spire`] | SPIRE server and agent | issuer of every SVID |
//! | [`spire`] | go-spiffe | mTLS client of a Kith inbound, mTLS server of a Kith outbound |

#![allow(clippy::unwrap_used)]

mod curl;
mod differential;
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
mod smuggling;
mod spiffe;
mod spire;
