//! What an operator asks: is the folder good, who is connected, who is behind? Written by the loader and
//! the streams, read by `/status` and `/ready`.

mod http;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};
use tokio::sync::watch;

pub(crate) use self::http::serve;
use crate::catalog::{Catalog, Counts};
use crate::problem::Problem;

/// How many acknowledgements are remembered for each node.
const REMEMBERED: usize = 64;

/// Shared by everything that runs. The catalog is an immutable snapshot, swapped whole.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// None until a folder was good for the first time: then nothing is answered, so that sidecars keep
    /// what they have.
    pub(crate) catalog: watch::Sender<Option<Arc<Catalog>>>,
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
    }

    pub(crate) fn last_load(&self) -> Load {
        self.inner().load.clone()
    }

    pub(crate) fn list(self: &Arc<Self>, sidecar: Sidecar) -> Listed {
        let mut inner = self.inner();
        let id = inner.next_stream;
        inner.next_stream += 1;
        inner.sidecars.insert(id, sidecar);
        Listed {
            state: Arc::clone(self),
            id,
        }
    }

    /// Why no sidecar could be served now. Empty: ready.
    fn not_ready(&self) -> Vec<String> {
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

    fn report(&self, not_ready: Vec<String>) -> Report {
        let catalog = self.catalog.borrow().clone();
        let inner = self.inner();
        let connected: std::collections::HashSet<&str> = inner
            .sidecars
            .values()
            .map(|sidecar| sidecar.node.as_str())
            .collect();
        let nodes = catalog.iter().flat_map(|catalog| catalog.nodes.keys());
        let mut not_connected: Vec<String> = nodes
            .filter(|id| !connected.contains(id.as_str()))
            .cloned()
            .collect();
        not_connected.sort();
        Report {
            ready: not_ready.is_empty(),
            not_ready,
            load: inner.load.clone(),
            serving: catalog.map(|catalog| catalog.counts),
            sidecars: inner
                .sidecars
                .values()
                .map(|sidecar| inner.describe(sidecar))
                .collect(),
            not_connected,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn describe(&self, sidecar: &Sidecar) -> SidecarReport {
        let acknowledgements: Vec<_> = self
            .acknowledged
            .get(&sidecar.node)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let last = acknowledgements.last();
        SidecarReport {
            node: sidecar.node.clone(),
            principal: sidecar.principal.clone(),
            address: sidecar.address,
            connected_since: Some(sidecar.connected_since),
            revision_wanted: sidecar.revision_wanted.clone(),
            revision_acknowledged: last.map(|last| last.revision.clone()),
            acknowledged_at: last.and_then(|last| last.time),
            behind_ms: sidecar
                .behind_since
                .map_or(0, |since| since.elapsed().as_millis()),
            last_nack: sidecar.last_nack.clone(),
            subscriptions: sidecar.subscriptions.clone(),
            acknowledgements,
        }
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

/// `/status`.
#[derive(Serialize)]
struct Report {
    ready: bool,
    not_ready: Vec<String>,
    load: Load,
    serving: Option<Counts>,
    sidecars: Vec<SidecarReport>,
    /// Declared, in the mesh, and not here.
    not_connected: Vec<String>,
}

#[derive(Serialize)]
struct SidecarReport {
    node: String,
    principal: String,
    address: SocketAddr,
    #[serde(serialize_with = "rfc3339")]
    connected_since: Option<SystemTime>,
    revision_wanted: Option<String>,
    revision_acknowledged: Option<String>,
    #[serde(serialize_with = "rfc3339")]
    acknowledged_at: Option<SystemTime>,
    /// How long ago the oldest push was sent that is not acknowledged.
    behind_ms: u128,
    last_nack: Option<LastNack>,
    subscriptions: BTreeMap<&'static str, usize>,
    /// Oldest first.
    acknowledgements: Vec<Acknowledged>,
}

fn rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = time.and_then(|time| {
        let time = time::OffsetDateTime::from(time);
        time.format(&time::format_description::well_known::Rfc3339)
            .ok()
    });
    text.serialize(serializer)
}
