//! The keys of those who issue tokens, fetched here so that no sidecar ever has to.
//!
//! ```text
//! RequestAuthentication ─► want ─► fetch: http, public_keys ─► KeySets ─► resolve ─► pushed
//! ```
//!
//! **What this trusts.** Whoever may write policies chooses URLs that this process then asks: with GET, without
//! credentials, over http and https only. What comes back goes nowhere but into a key set, and only if it is one.
//! Addresses where clouds hand out their machines' credentials (169.254.0.0/16, fe80::/10 and some more, in whatever
//! way they are written) are never asked.

mod fetch;
mod http;
mod keys;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::watch;

pub(crate) use self::fetch::Fetcher;
pub use self::http::{RootsError, Web};
pub use self::keys::{PublicKeys, public_keys};
pub use self::source::Source;
use crate::yaml::Loaded;

/// The key sets that are known now: JWK Sets as JSON, by where they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySets(BTreeMap<Source, Arc<str>>);

impl KeySets {
    /// None: not fetched yet.
    pub fn get(&self, source: &Source) -> Option<&str> {
        self.0.get(source).map(AsRef::as_ref)
    }
}

impl FromIterator<(Source, Arc<str>)> for KeySets {
    fn from_iter<I: IntoIterator<Item = (Source, Arc<str>)>>(sets: I) -> Self {
        Self(sets.into_iter().collect())
    }
}

/// Shared by the folder, which says what is wanted, the fetcher, which gets it, and `/status`.
#[derive(Debug, Default)]
pub(crate) struct Store {
    wanted: watch::Sender<Wanted>,
    sets: watch::Sender<Arc<KeySets>>,
    /// Grows with every attempt, and with every change of what is wanted.
    attempts: watch::Sender<u64>,
    // Held for moments, never across an await.
    reports: Mutex<BTreeMap<Source, Report>>,
}

type Wanted = BTreeMap<Source, WantedBy>;

/// Why a key set is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct WantedBy {
    issuers: BTreeSet<String>,
    /// Of the rules that want it, the most patient one's.
    timeout: Duration,
}

/// How it stands with one key set.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Where it is fetched.
    source: String,
    /// The issuers whose tokens it verifies.
    issuers: BTreeSet<String>,
    /// 0: no token of these issuers is trusted.
    keys: usize,
    /// Keys that cannot be used, and why.
    skipped: Vec<String>,
    /// When it was last fetched with success.
    #[serde(serialize_with = "crate::status::rfc3339")]
    fetched: Option<SystemTime>,
    /// Why the last attempt failed. The keys of the last success stay in force.
    error: Option<String>,
    /// Attempts since the last success.
    failures: u32,
}

impl Report {
    fn new(source: &Source) -> Self {
        Self {
            source: source.to_string(),
            issuers: BTreeSet::new(),
            keys: 0,
            skipped: Vec::new(),
            fetched: None,
            error: None,
            failures: 0,
        }
    }

    fn was_tried(&self) -> bool {
        self.fetched.is_some() || self.failures > 0
    }
}

impl Store {
    /// What the documents want from now on.
    pub(crate) fn want(&self, loaded: &Loaded) {
        let mut wanted = Wanted::new();
        let documents = loaded
            .files()
            .flat_map(|file| &file.request_authentications);
        for rule in documents.flat_map(|document| document.spec.rules()) {
            let Some(fetch) = rule.fetch() else { continue };
            let by = wanted.entry(fetch.source.clone()).or_default();
            by.issuers.insert(rule.issuer());
            by.timeout = by.timeout.max(fetch.timeout);
        }
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    /// What is known now.
    pub(crate) fn key_sets(&self) -> Arc<KeySets> {
        Arc::clone(&self.sets.borrow())
    }

    /// Waits until every wanted set was tried once, so that what is served first is not without keys only
    /// because nobody looked yet.
    pub(crate) async fn tried(&self) {
        let mut attempts = self.attempts.subscribe();
        let tried = |_: &u64| {
            let wanted = self.wanted.borrow().clone();
            let reports = self.lock();
            let tried = |source| reports.get(source).is_some_and(Report::was_tried);
            wanted.keys().all(tried)
        };
        // The sender is `self`: it cannot be gone.
        _ = attempts.wait_for(tried).await;
    }

    /// Says when that changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<KeySets>> {
        self.sets.subscribe()
    }

    /// By source.
    pub(crate) fn reports(&self) -> Vec<Report> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Source, Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
