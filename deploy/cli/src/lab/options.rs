//! What a lab is to be.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// What a lab is to be.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// How long an SVID is valid; it is renewed after half of that.
    pub svid_ttl: Duration,
    /// Fields of the `MeshConfig`'s spec, beside the trust domain.
    pub mesh: Value,
    /// Fields of the authority's configuration, beside the above (`kith_certs::authority::AuthorityConfig`).
    pub authority: Value,
    /// Variables of every sidecar.
    pub environment: Vec<(String, String)>,
    /// The `kith` binary, where it isn't to be found by itself.
    pub kith: Option<PathBuf>,
    /// A `kith-proxy` binary to use instead of the one inside `kith`.
    pub proxy: Option<PathBuf>,
    /// A `kith-control` binary to use instead of the one inside `kith`.
    pub control: Option<PathBuf>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            trust_domain: "example.org".to_owned(),
            svid_ttl: Duration::from_secs(3600),
            mesh: json!({}),
            authority: json!({}),
            environment: Vec::new(),
            kith: None,
            proxy: None,
            control: None,
        }
    }
}
