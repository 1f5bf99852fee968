//! What an operator asks: is the folder good, who is connected, who is behind? Written by the loader and
//! the streams, read by `/status` and `/ready`.

mod history;
mod http;
mod listed;
mod report;

use std::collections::{BTreeMap, HashMap, btree_map};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use kith_xds_client::Kind;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use self::history::History;
pub(crate) use self::http::answer;
pub(crate) use self::listed::Listed;
use crate::catalog::{Catalog, Changed, Version};
use crate::interest::Interest;
use crate::jwks;
use crate::problem::Problem;

/// Where what is served comes from; decides what is said to those who are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Source {
    /// A folder of YAML.
    #[default]
    Files,
    /// The Kubernetes API.
    Cluster,
}

impl Source {
    /// A sidecar starts before its pod's address is in the API.
    fn patience(self) -> Duration {
        match self {
            Self::Files => Duration::ZERO,
            Self::Cluster => Duration::from_secs(10),
        }
    }
}

/// Shared by everything that runs.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) source: Source,
    /// How long a stream may wait for its node to be known before it is refused.
    pub(crate) patience: Duration,
    /// None until there was something good to serve for the first time: then nothing is answered, so that sidecars keep
    /// what they have.
    served: watch::Sender<Option<Served>>,
    pub(crate) interest: Arc<Interest>,
    /// Grows whenever a sidecar connects, leaves, is sent something new or says what it enforces, and whenever the
    /// folder was loaded.
    pub(crate) moves: watch::Sender<u64>,
    /// The keys of issuers that are fetched from elsewhere.
    pub(crate) keys: jwks::Store,
    // Held for moments, never across an await.
    inner: Mutex<Inner>,
}

/// What is served from some moment on.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) catalog: Arc<Catalog>,
    /// Grows with every other revocation list: what was revoked, lifted and revoked again is an equal list, and not the
    /// same one.
    pub(crate) lists: u64,
}

#[derive(Debug, Default)]
struct Inner {
    load: Load,
    next_stream: u64,
    sidecars: BTreeMap<u64, Sidecar>,
    /// By node; outlives its streams.
    acknowledged: HashMap<Arc<str>, History>,
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

/// One stream, as the stream itself last described it. There may be many thousands: no more than is needed.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    pub(crate) node: Arc<str>,
    pub(crate) principal: Box<str>,
    pub(crate) address: SocketAddr,
    pub(crate) connected_since: SystemTime,
    pub(crate) revision_wanted: Option<Version>,
    /// The last revision that it said is in force.
    pub(crate) revision_enforced: Option<Version>,
    /// The revision that is in force now: none while any part of another may be.
    pub(crate) in_force: Option<Version>,
    pub(crate) behind_since: Option<Instant>,
    pub(crate) last_nack: Option<Box<LastNack>>,
    pub(crate) subscriptions: Subscribed,
    /// Names that it refused and that were not made good since.
    pub(crate) refused: usize,
    /// Why it does not have the configuration that it was sent, in its words.
    pub(crate) refused_configuration: Option<(Kind, Arc<str>)>,
    /// Why it does not have the revocation list that it was sent.
    pub(crate) refused_list: Option<Arc<str>>,
    pub(crate) svid: Svid,
    /// Plaintext connections that it accepted since it started, as it says.
    pub(crate) plaintext: u64,
    /// The last revocation list that it enforces.
    pub(crate) revocations: Option<Enforced>,
    /// Another list was sent that it has not answered: that one may be in force by now.
    pub(crate) unanswered_list: bool,
    /// Which list ([`Served::lists`]) it was last brought up to.
    pub(crate) list_seen: Option<u64>,
}

/// How many names are subscribed to, by kind; nothing is said of a kind that was never asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Subscribed([Option<u32>; Kind::ALL.len()]);

impl Subscribed {
    pub(crate) fn of(&self, kind: Kind) -> Option<u32> {
        self.0[kind as usize]
    }
}

impl FromIterator<(Kind, usize)> for Subscribed {
    fn from_iter<I: IntoIterator<Item = (Kind, usize)>>(counts: I) -> Self {
        let mut all = Self::default();
        for (kind, count) in counts {
            all.0[kind as usize] = Some(u32::try_from(count).unwrap_or(u32::MAX));
        }
        all
    }
}

impl Serialize for Subscribed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = Kind::ALL.into_iter();
        let counts = counts.filter_map(|kind| Some((kind.name(), self.of(kind)?)));
        counts.collect::<BTreeMap<_, _>>().serialize(serializer)
    }
}

#[allow(
    dead_code,
    reason = "a folder has no conditions to write; a cluster does"
)]
/// What one connected sidecar enforces now, as it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) node: Arc<str>,
    /// Of its configuration, all policies included.
    pub(crate) revision: Option<String>,
    /// The version of the revocation list.
    pub(crate) revocations: Option<String>,
    /// What it refused of its configuration, and why.
    pub(crate) refused_configuration: Option<String>,
    pub(crate) refused_revocations: Option<String>,
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
    pub(crate) version: Version,
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

impl Default for State {
    fn default() -> Self {
        Self::new(Source::Files)
    }
}

impl State {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            patience: source.patience(),
            served: watch::Sender::default(),
            interest: Arc::default(),
            moves: watch::Sender::default(),
            keys: jwks::Store::default(),
            inner: Mutex::default(),
        }
    }

    /// What is served now, if anything.
    pub(crate) fn served(&self) -> Option<Served> {
        self.served.borrow().clone()
    }

    /// For whoever has to know of every change of what is served, and needs all of it. Streams do not: they would wake
    /// each time.
    pub(crate) fn follow_served(&self) -> watch::Receiver<Option<Served>> {
        self.served.subscribe()
    }

    /// The catalog that is served now, if any. Not to be kept for long: it keeps everything in it.
    pub(crate) fn catalog(&self) -> Option<Arc<Catalog>> {
        Some(self.served()?.catalog)
    }

    /// Returns once something is served.
    pub(crate) async fn something_served(&self) {
        // The sender is `self`: it cannot be gone.
        _ = self.served.subscribe().wait_for(Option::is_some).await;
    }

    /// Serves `catalog` from now on, and wakes the streams that have one of the `changed` names, and no other. One
    /// caller at a time.
    pub(crate) fn publish(&self, catalog: Arc<Catalog>, changed: &Changed) {
        let mut other_list = false;
        let mut before = None;
        self.served.send_modify(|served| {
            other_list = served
                .as_ref()
                .is_none_or(|it| it.catalog.revocations != catalog.revocations);
            let lists = served.as_ref().map_or(0, |it| it.lists) + u64::from(other_list);
            before = served.replace(Served { catalog, lists });
        });
        // Not under the lock: the last one to let go of a catalog takes it apart.
        drop(before);
        self.forget_gone(changed);
        self.interest.publish(changed, other_list);
    }

    #[allow(
        dead_code,
        reason = "a folder has no conditions to write; a cluster does"
    )]
    /// What each connected sidecar enforces now. Whoever waits for it to change looks again when `moves` grew.
    pub(crate) fn acknowledgements(&self) -> Vec<Acknowledgement> {
        let acknowledgement = |sidecar: &Sidecar| Acknowledgement {
            node: Arc::clone(&sidecar.node),
            revision: sidecar.in_force.map(|it| it.to_string()),
            // While a list is unanswered that one may be in force.
            revocations: (sidecar.revocations.as_ref())
                .filter(|_| !sidecar.unanswered_list)
                .map(|it| it.version.to_string()),
            refused_configuration: (sidecar.refused_configuration.as_ref())
                .map(|(kind, why)| format!("{kind}: {why}")),
            refused_revocations: sidecar.refused_list.as_ref().map(ToString::to_string),
        };
        self.look_at_sidecars(|sidecars| sidecars.map(acknowledgement).collect())
    }

    pub(crate) fn loaded(&self, load: Load) {
        self.inner().load = load;
        self.moved();
    }

    /// Wakes whoever waits for sidecars or the folder.
    pub(crate) fn moved(&self) {
        self.moves.send_modify(|moves| *moves += 1);
    }

    /// Every stream there is now; they wait meanwhile.
    pub(crate) fn look_at_sidecars<T>(
        &self,
        look: impl FnOnce(btree_map::Values<'_, u64, Sidecar>) -> T,
    ) -> T {
        look(self.inner().sidecars.values())
    }

    pub(crate) fn last_load(&self) -> Load {
        self.inner().load.clone()
    }

    /// Why no sidecar could be served now. Empty: ready.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        if self.served.borrow().is_some() {
            return Vec::new();
        }
        if self.source == Source::Cluster {
            return vec!["the cluster was not read in full yet".to_owned()];
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

#[cfg(test)]
pub(crate) mod tests;
