//! Entries, switches and issued SVIDs: what the Workload API says to whom at this moment.
//! Every change wakes every stream.

mod issue;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use super::ca::{Ca, IssuedSvid};
use super::revocation::Revocations;
use super::{AuthorityConfig, AuthorityError, Entry, Malformed};
use crate::trust::Bundle;
use crate::{SpiffeId, TrustDomain};

/// A TTL below this couldn't be renewed in time: certificates count whole seconds.
const SHORTEST_TTL: Duration = Duration::from_secs(2);
/// Ten years; times that are further away can't be written everywhere.
const LONGEST_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(super) struct State {
    trust_domain: TrustDomain,
    overlap: Duration,
    state_dir: Option<PathBuf>,
    inner: Mutex<Inner>,
    /// Counts changes.
    changes: watch::Sender<u64>,
    closed: watch::Sender<bool>,
}

pub(super) struct Inner {
    pub(super) ca: Ca,
    pub(super) revocations: Revocations,
    pub(super) entries: Vec<Entry>,
    pub(super) switches: Switches,
    pub(super) ttl: Duration,
    pub(super) federated: BTreeMap<TrustDomain, Federated>,
    pub(super) sockets: BTreeSet<PathBuf>,
    svids: HashMap<SpiffeId, Arc<Current>>,
    issued: u64,
}

#[derive(Default)]
pub(super) struct Switches {
    pub(super) deny: bool,
    pub(super) freeze: bool,
    pub(super) malformed: Option<Malformed>,
}

pub(super) struct Federated {
    pub(super) bundle: Vec<u8>,
    pub(super) jwks: Option<Vec<u8>>,
}

/// The SVID that all callers of an identity share until it is renewed.
pub(super) struct Current {
    pub(super) svid: IssuedSvid,
    pub(super) renew_at: SystemTime,
}

impl State {
    pub(super) fn new(config: AuthorityConfig) -> Result<State, AuthorityError> {
        let now = SystemTime::now();
        let overlap = config.overlap();
        let root_ttl = Duration::from_secs(config.root_ttl_seconds);
        let ca = Ca::open(
            config.trust_domain.clone(),
            root_ttl,
            config.state_dir.as_deref(),
            now,
        )?;
        let revocations = Revocations::open(&ca, config.state_dir.as_deref(), now)?;
        let mut sockets: BTreeSet<PathBuf> = config.sockets.into_iter().collect();
        sockets.extend(
            config
                .entries
                .iter()
                .filter_map(|entry| entry.socket.clone()),
        );
        let state = State {
            trust_domain: config.trust_domain,
            overlap,
            state_dir: config.state_dir,
            inner: Mutex::new(Inner {
                ca,
                revocations,
                entries: Vec::new(),
                switches: Switches::default(),
                ttl: Duration::from_secs(config.ttl_seconds).max(SHORTEST_TTL),
                federated: BTreeMap::new(),
                sockets,
                svids: HashMap::new(),
                issued: 0,
            }),
            changes: watch::Sender::new(0),
            closed: watch::Sender::new(false),
        };
        for entry in config.entries {
            state.add_entry(entry)?;
        }
        for federated in config.federated {
            let read = |path: &PathBuf| {
                fs::read(path).map_err(|error| AuthorityError::Io {
                    what: "cannot read the federated bundle",
                    path: path.display().to_string(),
                    error,
                })
            };
            let jwks = federated.jwks.as_ref().map(read).transpose()?;
            state.federate(
                &federated.trust_domain,
                &read(&federated.bundle)?,
                jwks.as_deref(),
            )?;
        }
        Ok(state)
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Never held across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Ends all streams and takes the sockets away.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
        self.changed();
        for socket in std::mem::take(&mut self.lock().sockets) {
            // It may be gone already, which is what we want.
            let _ = fs::remove_file(socket);
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn switch(&self, set: impl FnOnce(&mut Switches)) {
        set(&mut self.lock().switches);
        self.changed();
    }

    pub(super) fn set_ttl(&self, ttl: Duration) {
        {
            let mut inner = self.lock();
            inner.ttl = ttl.clamp(SHORTEST_TTL, LONGEST_TTL);
            inner.svids.clear();
        }
        self.changed();
    }

    pub(super) fn rotate_leaf(&self) {
        self.lock().svids.clear();
        self.changed();
    }

    pub(super) fn rotate_root(&self) -> Result<(), AuthorityError> {
        {
            let mut inner = self.lock();
            let (now, ttl) = (SystemTime::now(), inner.ttl);
            inner.ca.rotate(now, self.overlap, ttl)?;
            inner.ca.save(self.state_dir.as_deref())?;
            inner.reissue_lists(now)?;
        }
        self.changed();
        Ok(())
    }

    /// Those that sign no more, at once.
    pub(super) fn revoke_old_roots(&self) -> Result<(), AuthorityError> {
        {
            let mut inner = self.lock();
            let now = SystemTime::now();
            inner.ca.revoke_old_roots(now);
            inner.ca.save(self.state_dir.as_deref())?;
            inner.reissue_lists(now)?;
        }
        self.changed();
        Ok(())
    }

    /// An identity given again is replaced.
    pub(super) fn add_entry(&self, entry: Entry) -> Result<(), AuthorityError> {
        if entry.id.trust_domain() != self.trust_domain.as_str() {
            return Err(AuthorityError::Config(format!(
                "{} is not of our trust domain, {}",
                entry.id, self.trust_domain
            )));
        }
        if entry.id.path().is_empty() {
            return Err(AuthorityError::Config(format!(
                "{} has no path, so no workload can have it",
                entry.id
            )));
        }
        {
            let mut inner = self.lock();
            inner.entries.retain(|known| *known != entry);
            inner.entries.push(entry);
        }
        self.changed();
        Ok(())
    }

    pub(super) fn remove_entry(&self, id: &SpiffeId) -> bool {
        let removed = {
            let mut inner = self.lock();
            let before = inner.entries.len();
            inner.entries.retain(|entry| entry.id != *id);
            inner.svids.remove(id);
            inner.entries.len() != before
        };
        self.changed();
        removed
    }

    pub(super) fn federate(
        &self,
        domain: &TrustDomain,
        bundle: &[u8],
        jwks: Option<&[u8]>,
    ) -> Result<(), AuthorityError> {
        let bundle = to_der(bundle)?;
        Bundle::from_der(&bundle).map_err(|why| {
            AuthorityError::Config(format!("the bundle of {domain} is unusable: {why}"))
        })?;
        self.lock().federated.insert(
            domain.clone(),
            Federated {
                bundle,
                jwks: jwks.map(<[u8]>::to_vec),
            },
        );
        self.changed();
        Ok(())
    }

    pub(super) fn unfederate(&self, domain: &TrustDomain) -> bool {
        let removed = self.lock().federated.remove(domain).is_some();
        self.changed();
        removed
    }

    pub(super) fn status(&self) -> Value {
        let now = SystemTime::now();
        let inner = self.lock();
        let signer = inner.ca.signer(now);
        let roots: Vec<Value> = inner
            .ca
            .roots()
            .iter()
            .map(|root| json!({"name": root.common_name(), "signs": root.certificate() == signer}))
            .collect();
        json!({
            "trust_domain": self.trust_domain.as_str(),
            "roots": roots,
            "ttl_seconds": inner.ttl.as_secs(),
            "entries": inner.entries,
            "sockets": inner.sockets,
            "federated": inner.federated.keys().map(TrustDomain::as_str).collect::<Vec<_>>(),
            "deny": inner.switches.deny,
            "freeze": inner.switches.freeze,
            "malformed": inner.switches.malformed,
            "issued": inner.issued,
            "revoked": inner.revocations.serials().collect::<Vec<_>>(),
        })
    }

    /// Follows the clock: a new root's time to sign, an old one's time to go.
    fn tick(&self, signer: &mut Vec<u8>) -> Result<(), AuthorityError> {
        let now = SystemTime::now();
        let mut inner = self.lock();
        let mut changed = false;
        if inner.ca.needs_successor(now) {
            let ttl = inner.ttl;
            inner.ca.rotate(now, self.overlap, ttl)?;
            inner.ca.save(self.state_dir.as_deref())?;
            inner.reissue_lists(now)?;
            changed = true;
            info!(trust_domain = %self.trust_domain, "the root is past half of its life; the next one follows");
        }
        if inner.ca.signer(now) != signer.as_slice() {
            *signer = inner.ca.signer(now).to_vec();
            inner.svids.clear();
            changed = true;
            info!(trust_domain = %self.trust_domain, "a new root signs");
        }
        if inner.ca.prune(now) {
            inner.ca.save(self.state_dir.as_deref())?;
            inner.reissue_lists(now)?;
            changed = true;
            info!(trust_domain = %self.trust_domain, "an old root left the bundle");
        }
        drop(inner);
        if changed {
            self.changed();
        }
        Ok(())
    }
}

impl Inner {
    /// The keys of all roots in force: who verifies a token must find the key that signed it.
    pub(super) fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.ca.roots().iter().map(|root| root.jwt.jwk()).collect();
        json!({"keys": keys})
    }

    fn reissue_lists(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        self.revocations.reissue(&self.ca, now)
    }

    /// The SVID of an identity, renewed at half of its life.
    pub(super) fn current(
        &mut self,
        id: &SpiffeId,
        now: SystemTime,
    ) -> Result<Arc<Current>, AuthorityError> {
        if let Some(current) = self.svids.get(id).filter(|current| now < current.renew_at) {
            return Ok(current.clone());
        }
        let svid = self.ca.issue(id, self.ttl, now)?;
        self.issued += 1;
        let current = Arc::new(Current {
            svid,
            renew_at: now + self.ttl / 2,
        });
        self.svids.insert(id.clone(), current.clone());
        Ok(current)
    }
}

pub(super) async fn keep_time(state: Arc<State>) {
    let mut signer = state.lock().ca.signer(SystemTime::now()).to_vec();
    loop {
        sleep(Duration::from_millis(100)).await;
        if let Err(problem) = state.tick(&mut signer) {
            error!(error = %problem, "the authority cannot keep its roots");
        }
    }
}

/// PEM or concatenated DER in, concatenated DER out.
fn to_der(bundle: &[u8]) -> Result<Vec<u8>, AuthorityError> {
    if !bundle.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Ok(bundle.to_vec());
    }
    let mut der = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate
            .map_err(|e| AuthorityError::Config(format!("the bundle is no PEM: {e}")))?;
        der.extend_from_slice(&certificate);
    }
    Ok(der)
}
