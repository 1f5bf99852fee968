//! Who we are and whom we trust.
//!
//! Modules in reading order:
//! - [`spiffe_id`]: the name of a workload, in its one canonical form
//! - [`workload_api`]: the wire: endpoint and client of the SPIFFE Workload API
//! - [`trust`]: one update of the Workload API as one immutable [`TrustSnapshot`]
//! - [`verify`]: is this certificate chain an X.509-SVID of a trust domain we trust?
//! - [`source`]: the task that keeps the current snapshot current, and its status
//! - [`tls`]: rustls configurations that read the current snapshot in every handshake
//! - [`json`]: JSON in which nothing is said twice
//! - [`jwt`]: did a key that we trust sign this token, and is it a JWT-SVID?
//! - `authority` (feature `dev-authority`): a Workload API server with its own CA
//!
//! **Architecture invariant:** this crate authenticates and never authorizes. It knows
//! nothing of policy, HTTP semantics or xDS.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "dev-authority")]
pub mod authority;
pub mod json;
pub mod jwt;
pub mod source;
pub mod spiffe_id;
pub mod tls;
pub mod trust;
pub mod verify;
pub mod workload_api;

pub use source::{IdentitySource, SourceConfig, Status};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use tls::{
    ClientAuth, client_config, peer_svid, server_config, server_name, svid_error, svid_error_of_io,
};
pub use trust::TrustSnapshot;
pub use verify::{PeerSvid, SvidError, SvidReason, Usage};
pub use workload_api::{Endpoint, EndpointError};

/// Hex as records and `/certs` show serials and thumbprints: lower case, no separators.
fn lower_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    sha256
}
