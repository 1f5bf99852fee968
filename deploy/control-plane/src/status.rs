//! What an operator asks: is the folder good, who is connected, who is behind? Written by the loader and
//! the streams, read by `/status` and `/ready`.

mod http;
mod report;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};
use tokio::sync::watch;

pub(crate) use self::http::answer;
use crate::catalog::Catalog;
use crate::jwks;
use crate::problem::Problem;

/// How many acknowledgements are remembered for each node.
const REMEMBERED: usize = 64;

/// Shared by everything that runs. The catalog is an immutable snapshot, swapped whole.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// None until a folder was good for the first time: then nothing is answered, so that sidecars keep
    /// what they have.
    pub(crate) catalog: watch::Sender<Option<Arc<Catalog>>>,
    /// Grows whenever a sidecar connects, leaves, is sent something new or says what it enforces, and whenever the
    /// folder was loaded.
    pub(crate) moves: watch::Sender<u64>,
    /// The keys of issuers that are fetched from elsewhere.
    pub(crate) keys: jwks::Store,
    // Held for moments, never across an await.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    load: Load,
    next_stream: u64,
    sidecars: BTreeMap<u64, Sidecar>,
    /// By node; outlives its streams.
    acknowledged: HashMap<String, VecDeque<Acknowledged>>,
}

/// The last attempt to load the folder.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Load {
    #[serde(serialize_with = "rfc3339")]
    pub(crate) attempted: Option<SystemTime>,
    #[serde(serialize_with = "rfc3339")]
    pub(crate) succeeded: Option<SystemTime>,
    pub(crate) took_ms: f64,
    /// Not empty: what is served is older than what is in the folder.
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// One stream, as the stream itself last described it.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    pub(crate) node: String,
    pub(crate) principal: String,
    pub(crate) address: SocketAddr,
    pub(crate) connected_since: SystemTime,
    pub(crate) revision_wanted: Option<String>,
    pub(crate) behind_since: Option<Instant>,
    pub(crate) last_nack: Option<LastNack>,
    pub(crate) subscriptions: BTreeMap<&'static str, usize>,
    /// Names that it refused and that were not made good since.
    pub(crate) refused: usize,
    pub(crate) svid: Svid,
    /// Plaintext connections that it accepted since it started, as it says.
    pub(crate) plaintext: u64,
    /// The last revocation list that it enforces.
    pub(crate) revocations: Option<Enforced>,
    /// Another list was sent that it has not answered: that one may be in force by now.
    pub(crate) unanswered_list: bool,
    /// What it was last brought up to.
    pub(crate) catalog: Option<Arc<Catalog>>,
}

/// The SVID that a sidecar uses, as it says; until it says so, the one that opened the stream.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Svid {
    pub(crate) serial: String,
    #[serde(serialize_with = "rfc3339")]
    pub(crate) expires: Option<SystemTime>,
    /// How long one is good for, by the certificate that opened the stream.
    #[serde(skip)]
    pub(crate) lifetime: Duration,
}

/// A revocation list that a sidecar says is in force, live connections included.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Enforced {
    pub(crate) version: String,
    /// Live connections that it closed for it; unknown when the sidecar does not say.
    pub(crate) closed: Option<u64>,
    /// How long enforcing took the sidecar.
    pub(crate) enforced_ms: Option<f64>,
    /// When this control plane heard of it.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) time: Option<SystemTime>,
    #[serde(skip)]
    pub(crate) heard: Instant,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct LastNack {
    #[serde(serialize_with = "rfc3339")]
    pub(crate) time: Option<SystemTime>,
    pub(crate) r#type: &'static str,
    pub(crate) message: String,
}

/// A revision that a sidecar said is in force.
#[derive(Debug, Clone, Serialize)]
struct Acknowledged {
    revision: String,
    /// When this control plane heard of it.
    #[serde(serialize_with = "rfc3339")]
    time: Option<SystemTime>,
    /// The same, to the microsecond, for machines.
    unix_us: u128,
}

/// Lists a stream while it lives.
pub(crate) struct Listed {
    state: Arc<State>,
    id: u64,
}

impl State {
    pub(crate) fn loaded(&self, load: Load) {
        self.inner().load = load;
        self.moved();
    }

    /// Wakes whoever waits for sidecars or the folder.
    pub(crate) fn moved(&self) {
        self.moves.send_modify(|moves| *moves += 1);
    }

    /// Every stream there is now.
    pub(crate) fn sidecars(&self) -> Vec<Sidecar> {
        self.inner().sidecars.values().cloned().collect()
    }

    pub(crate) fn last_load(&self) -> Load {
        self.inner().load.clone()
    }

    pub(crate) fn list(self: &Arc<Self>, sidecar: Sidecar) -> Listed {
        let mut inner = self.inner();
        let id = inner.next_stream;
        inner.next_stream += 1;
        inner.sidecars.insert(id, sidecar);
        drop(inner);
        self.moved();
        Listed {
            state: Arc::clone(self),
            id,
        }
    }

    /// Why no sidecar could be served now. Empty: ready.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        if self.catalog.borrow().is_some() {
            return Vec::new();
        }
        let problems = self.inner().load.problems.clone();
        let first = problems
            .first()
            .map_or_else(String::new, |problem| format!("; first: {problem}"));
        vec![format!(
            "the folder was never loaded without problems ({} now{first})",
            problems.len()
        )]
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    pub(crate) fn update(&self, update: impl FnOnce(&mut Sidecar)) {
        if let Some(sidecar) = self.state.inner().sidecars.get_mut(&self.id) {
            update(sidecar);
        }
    }

    /// A revision is in force; said again, it stays the one that was heard first.
    pub(crate) fn acknowledged(&self, revision: &str) {
        let mut inner = self.state.inner();
        let Some(node) = inner
            .sidecars
            .get(&self.id)
            .map(|sidecar| sidecar.node.clone())
        else {
            return;
        };
        let known = inner.acknowledged.entry(node).or_default();
        if known.back().is_some_and(|last| last.revision == revision) {
            return;
        }
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        let now = SystemTime::now();
        let unix_us = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_micros();
        known.push_back(Acknowledged {
            revision: revision.into(),
            time: Some(now),
            unix_us,
        });
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut inner = self.state.inner();
        let Some(sidecar) = inner.sidecars.remove(&self.id) else {
            return;
        };
        self.state.moved();
        // What is neither declared nor connected any more is forgotten.
        let declared = self
            .state
            .catalog
            .borrow()
            .as_ref()
            .is_some_and(|c| c.node(&sidecar.node).is_some());
        if !declared
            && !inner
                .sidecars
                .values()
                .any(|other| other.node == sidecar.node)
        {
            inner.acknowledged.remove(&sidecar.node);
        }
    }
}

pub(crate) fn rfc3339<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = time.and_then(|time| {
        // `From<SystemTime>` panics beyond the year 9999, and some times here are what others say.
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let since_1970 = i128::try_from(since_1970.as_nanos()).ok()?;
        let time = time::OffsetDateTime::from_unix_timestamp_nanos(since_1970).ok()?;
        time.format(&time::format_description::well_known::Rfc3339)
            .ok()
    });
    text.serialize(serializer)
}
