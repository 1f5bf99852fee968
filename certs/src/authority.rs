//! The dev authority: a real SPIFFE Workload API server with its own CA, for the demo, tests
//! and laptops. Any SPIFFE client can use it. Never part of the sidecar.
//!
//! - `config`: what it is told, as JSON
//! - `ca`: roots, their overlap, issuing; kept on disk when told where
//! - [`jwt`]: issuers of tokens, for JWT-SVIDs and for tests
//! - `revocation`: CRLs
//! - `state`: entries and switches, and the SVIDs issued for them
//! - `server`: the Workload API itself, one listener per socket
//! - `control`: one JSON command per line on a Unix socket
//!
//! It decides by what the kernel says of the caller (SO_PEERCRED), by the caller's executable,
//! and by the socket it came through. Switches make it deny, freeze or send malformed answers.

mod ca;
mod caller;
mod config;
mod control;
pub mod jwt;
mod revocation;
mod server;
mod state;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use tokio::task::JoinSet;
use tracing::info;

pub use ca::IssuedSvid;
pub use config::{AuthorityConfig, Command, Entry, FederatedBundle, Malformed};
pub use control::command;

use crate::{SpiffeId, TrustDomain};
use state::State;

/// What keeps the authority from starting or from doing what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    #[error("{what} {path}: {error}")]
    Io {
        what: &'static str,
        path: String,
        error: io::Error,
    },
    #[error("{0}")]
    Config(String),
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot make or read a key: {0}")]
    Key(String),
}

/// A running authority. It stops, and its sockets vanish, when the handle is dropped.
pub struct Authority {
    state: Arc<State>,
    /// The clock and the control socket; dropping the set ends them.
    tasks: JoinSet<()>,
}

impl Authority {
    /// Opens the sockets and serves, on the current tokio runtime.
    pub fn start(config: AuthorityConfig) -> Result<Authority, AuthorityError> {
        let state = Arc::new(State::new(config)?);
        server::open_sockets(&state)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(state::keep_time(state.clone()));
        info!(trust_domain = %state.trust_domain(), "dev authority serves the Workload API");
        Ok(Authority { state, tasks })
    }

    /// Serves commands on a control socket too.
    pub fn serve_control(&mut self, socket: &Path) -> Result<(), AuthorityError> {
        self.tasks
            .spawn(control::listen(self.state.clone(), socket)?);
        Ok(())
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        self.state.trust_domain()
    }

    /// All roots in force, concatenated DER.
    pub fn bundle_der(&self) -> Vec<u8> {
        self.state.bundle_der()
    }

    /// All roots in force, PEM.
    pub fn bundle_pem(&self) -> String {
        self.state.bundle_pem()
    }

    /// An SVID outside of the Workload API, e.g. for curl and Envoy. Any ID, also of a
    /// trust domain that isn't ours: whether others fall for that is worth a test.
    pub fn issue(&self, id: &SpiffeId, ttl: Duration) -> Result<IssuedSvid, AuthorityError> {
        self.state.issue(id, ttl, SystemTime::now())
    }

    /// A JWT-SVID outside of the Workload API. `claims` are added, and replace those of the same name, so that
    /// a test can have a token that breaks the standard. Without a `ttl` it lives as long as an SVID.
    pub fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Option<Duration>,
        claims: Map<String, Value>,
    ) -> Result<String, AuthorityError> {
        self.state.issue_jwt(id, audience, ttl, claims)
    }

    /// Our JWKS document: the keys of all roots in force.
    pub fn jwks(&self) -> String {
        self.state.jwks().to_string()
    }

    /// Revokes a certificate by CRL, its serial number in hex. Says whether it wasn't revoked before.
    pub fn revoke(&self, serial: &str) -> Result<bool, AuthorityError> {
        self.state.revoke(serial, true)
    }

    /// Takes a revocation back. Says whether there was one.
    pub fn unrevoke(&self, serial: &str) -> Result<bool, AuthorityError> {
        self.state.revoke(serial, false)
    }

    /// CRLs that are handed over beside our own, e.g. of a federated trust domain: DER, whatever it is.
    pub fn hand_over_crls(&self, lists: Vec<Vec<u8>>) {
        self.state.set_foreign_crls(lists);
    }

    /// Our own CRLs in force, for others to hand over.
    pub fn crls(&self) -> Vec<Vec<u8>> {
        self.state.own_crls()
    }

    /// Publishes a new root at once; it signs after `overlap`, and the old one leaves the
    /// bundle when the last SVID it signed has expired.
    pub fn rotate_root(&self) -> Result<(), AuthorityError> {
        self.state.rotate_root()
    }

    /// Renews every SVID now.
    pub fn rotate_leaf(&self) {
        self.state.rotate_leaf();
    }

    /// Answers PermissionDenied, ending open streams with it.
    pub fn deny(&self, on: bool) {
        self.state.switch(|switches| switches.deny = on);
    }

    /// Takes calls and says nothing, on open streams too.
    pub fn freeze(&self, on: bool) {
        self.state.switch(|switches| switches.freeze = on);
    }

    /// Sends X.509 answers that are wrong in one way.
    pub fn malformed(&self, kind: Option<Malformed>) {
        self.state.switch(|switches| switches.malformed = kind);
    }

    /// The life of SVIDs from now on, at least 2 s.
    pub fn set_ttl(&self, ttl: Duration) {
        self.state.set_ttl(ttl);
    }

    /// Gives callers an identity, now. A socket that isn't served yet is opened.
    pub fn add_entry(&self, entry: Entry) -> Result<(), AuthorityError> {
        server::add_entry(&self.state, entry)
    }

    /// Takes an identity from its callers, now. Says whether there was one.
    pub fn remove_entry(&self, id: &SpiffeId) -> bool {
        self.state.remove_entry(id)
    }

    /// Hands a foreign trust domain's roots (PEM or concatenated DER) and JWKS to everyone.
    pub fn federate(
        &self,
        trust_domain: &TrustDomain,
        bundle: &[u8],
        jwks: Option<&[u8]>,
    ) -> Result<(), AuthorityError> {
        self.state.federate(trust_domain, bundle, jwks)
    }

    /// Ends a federation. Says whether there was one.
    pub fn unfederate(&self, trust_domain: &TrustDomain) -> bool {
        self.state.unfederate(trust_domain)
    }

    /// Roots, entries, switches, counts.
    pub fn status(&self) -> Value {
        self.state.status()
    }

    /// Carries out a command as the control socket would.
    pub fn execute(&self, command: Command) -> Value {
        control::execute(&self.state, command)
    }

    /// Waits for as long as it serves: forever, unless a task of it panics.
    pub async fn wait(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Authority {
    // Before anything else may bind the same paths: at once, not when some task gets to it.
    fn drop(&mut self) {
        self.state.close();
    }
}

/// Runs an authority until it is cancelled: the whole of an authority process.
pub async fn run(
    config: AuthorityConfig,
    control_socket: Option<&Path>,
) -> Result<(), AuthorityError> {
    let mut authority = Authority::start(config)?;
    if let Some(socket) = control_socket {
        authority.serve_control(socket)?;
    }
    authority.wait().await;
    Ok(())
}
