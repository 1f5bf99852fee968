//! Resources that are asked for when they are first needed, and given up when nobody needs them any more,
//! so that memory grows with what the application talks to and never with the cluster.
//!
//! Names that are known stay subscribed to, so the control plane says by itself when one changes,
//! vanishes or appears. While it is away the last known is served.

// Names come and go with what the application talks to, a few a minute; everybody else only reads.
#![expect(clippy::disallowed_types)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;
use tracing::warn;

use crate::client::Client;
use crate::delivery::{Delivery, Rejection};
use crate::resource::{Kind, Resource};
use crate::status::Status;

mod entry;

use entry::{Entry, Known};

#[derive(Clone, Copy, Debug)]
pub struct OnDemandSettings {
    /// How long a lookup waits for the control plane's first answer about a name.
    pub wait: Duration,
    /// An absence, or a question that was not answered, is put to the control plane again when the name is
    /// looked up after this time (half to once of it, at random). Meanwhile an absence is served as such.
    pub negative_ttl: Duration,
    /// Names not looked up for this long are given up.
    pub idle: Duration,
    /// The most names known at a time. When full, the names that were not looked up for longest make room,
    /// those without a resource first.
    pub capacity: usize,
}

impl Default for OnDemandSettings {
    fn default() -> Self {
        OnDemandSettings {
            wait: Duration::from_secs(2),
            negative_ttl: Duration::from_secs(5),
            idle: Duration::from_secs(600),
            capacity: 4096,
        }
    }
}

/// What is known of a name.
#[derive(Debug)]
pub enum Lookup<T> {
    Found(Arc<T>),
    /// The control plane says that there is no such resource.
    Absent,
    /// Nothing is known: no answer in time, no control plane, or an answer that can't be honoured.
    Unavailable,
}

/// The resources of one kind, each parsed to a `T`. Cheap to clone, and usable from any thread that runs a
/// tokio runtime with time.
pub struct OnDemand<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    client: Client,
    status: watch::Receiver<Status>,
    kind: Kind,
    settings: OnDemandSettings,
    /// Times in entries are milliseconds since then.
    epoch: Instant,
    /// Written only when a name comes or goes. Subscriptions change under this lock, too, so that an entry
    /// exists exactly while its name is subscribed to.
    entries: RwLock<HashMap<String, Arc<Entry<T>>>>,
    evicted: AtomicU64,
}

impl<T: Send + Sync + 'static> OnDemand<T> {
    /// `kind` must not be subscribed to by other means.
    pub fn new(client: Client, kind: Kind, settings: OnDemandSettings) -> OnDemand<T> {
        let status = client.status();
        let inner = Inner {
            client,
            status,
            kind,
            settings,
            epoch: Instant::now(),
            entries: RwLock::default(),
            evicted: AtomicU64::new(0),
        };
        OnDemand {
            inner: Arc::new(inner),
        }
    }

    /// Takes in a delivery of this kind. What `parse` refuses is returned, for [`Delivery::finish`]; of such
    /// a name the last good resource, if any, stays.
    pub fn apply(
        &self,
        delivery: &Delivery,
        parse: impl Fn(&str, &Resource) -> Result<T, Rejection>,
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        if delivery.kind != self.inner.kind {
            return rejections;
        }
        if delivery.from_disk {
            self.adopt(delivery);
        }
        let ask_again = self.inner.ask_again_at(Instant::now());
        let entries = self.inner.read();
        for versioned in &delivery.changed {
            let parsed = parse(&versioned.name, &versioned.resource);
            // Without an entry it was given up while its delivery was under way.
            let entry = entries.get(&versioned.name);
            match parsed {
                Ok(value) => {
                    if let Some(entry) = entry {
                        entry.set(Known::Found(Arc::new(value)), u64::MAX);
                    }
                }
                Err(rejection) => {
                    if let Some(entry) = entry {
                        entry.set_unusable();
                    }
                    rejections.push(rejection);
                }
            }
        }
        for name in &delivery.removed {
            if let Some(entry) = entries.get(name) {
                entry.set(Known::Absent, ask_again);
            }
        }
        for refused in &delivery.refused {
            if let Some(entry) = entries.get(&refused.name) {
                entry.set_unusable();
            }
        }
        rejections
    }

    /// Looks a name up. The first lookup subscribes to it and waits for the answer, bounded by
    /// [`OnDemandSettings::wait`]; all lookups of that name share the one question and its deadline.
    ///
    /// Must not be awaited by the task that applies deliveries.
    pub async fn get(&self, name: &str) -> Lookup<T> {
        let inner = &*self.inner;
        let now = Instant::now();
        let Some(entry) = inner
            .existing(name, now)
            .or_else(|| inner.create(name, now))
        else {
            return Lookup::Unavailable;
        };
        // Before looking: an entry that is watched is not given up.
        let mut known = entry.known.subscribe();
        if let Some(lookup) = inner.answer(name, &entry, now) {
            return lookup;
        }
        let deadline = inner.deadline(&entry);
        let answered = known.wait_for(|known| !matches!(known, Known::Nothing));
        match timeout_at(deadline.into(), answered).await {
            Ok(Ok(known)) => known.lookup(),
            _ => Lookup::Unavailable,
        }
    }

    /// What is already known of a name; none if it would have to be asked for. A name peeked at counts as used.
    pub fn peek(&self, name: &str) -> Option<Lookup<T>> {
        let now = Instant::now();
        let entry = self.inner.existing(name, now)?;
        match &*entry.known.borrow() {
            Known::Nothing => return None,
            Known::Found(value) => return Some(Lookup::Found(value.clone())),
            Known::Absent | Known::Unusable => {}
        }
        self.inner.answer(name, &entry, now)
    }

    /// Gives up names that have not been looked up for [`OnDemandSettings::idle`]. To be called every now and
    /// then. While the control plane is away nothing is given up: it could not be had back.
    pub fn sweep(&self, now: Instant) {
        let inner = &*self.inner;
        if !inner.status.borrow().connected {
            return;
        }
        let idle = millis(inner.settings.idle);
        let now = inner.since_epoch(now);
        let is_idle =
            |entry: &Entry<T>| now.saturating_sub(entry.used()) >= idle && !entry.is_awaited();
        // Mostly there is nothing to do, which takes no more than a shared lock to find out.
        if inner.read().values().any(|entry| is_idle(entry)) {
            let mut entries = inner.write();
            let gone: Vec<String> = entries
                .extract_if(|_, entry| is_idle(entry))
                .map(|(name, _)| name)
                .collect();
            inner
                .client
                .unsubscribe(inner.kind, gone.iter().map(String::as_str));
        }
    }

    /// How many names are known, or asked for.
    pub fn len(&self) -> usize {
        self.inner.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names that are known or asked for, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.inner.read().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// How many names had to make room because [`OnDemandSettings::capacity`] was reached.
    pub fn evicted(&self) -> u64 {
        self.inner.evicted.load(Ordering::Relaxed)
    }

    /// Makes entries for what came from disk: the client has subscribed to it already.
    fn adopt(&self, delivery: &Delivery) {
        let now = self.inner.since_epoch(Instant::now());
        let mut entries = self.inner.write();
        let changed = delivery.changed.iter().map(|versioned| &versioned.name);
        let refused = delivery.refused.iter().map(|rejection| &rejection.name);
        let mut too_many = Vec::new();
        for name in changed.chain(refused) {
            if entries.len() < self.inner.settings.capacity || entries.contains_key(name) {
                entries
                    .entry(name.clone())
                    .or_insert_with(|| Arc::new(Entry::new(now, u64::MAX)));
            } else {
                too_many.push(name.as_str());
            }
        }
        self.inner.client.unsubscribe(self.inner.kind, too_many);
    }
}

impl<T> Inner<T> {
    /// Marks the entry as used while the lock keeps it from being given up.
    fn existing(&self, name: &str, now: Instant) -> Option<Arc<Entry<T>>> {
        let entries = self.read();
        let entry = entries.get(name)?;
        entry.touch(self.since_epoch(now));
        Some(entry.clone())
    }

    /// None if there is no room, because every name is being waited for.
    fn create(&self, name: &str, now: Instant) -> Option<Arc<Entry<T>>> {
        let mut entries = self.write();
        if let Some(entry) = entries.get(name) {
            return Some(entry.clone());
        }
        if entries.len() >= self.settings.capacity {
            self.make_room(&mut entries);
        }
        if entries.len() >= self.settings.capacity {
            return None;
        }
        let ask_again = self.ask_again_at(now + self.settings.wait);
        let entry = Arc::new(Entry::new(self.since_epoch(now), ask_again));
        entries.insert(name.to_owned(), entry.clone());
        self.client.subscribe(self.kind, [name.to_owned()]);
        Some(entry)
    }

    /// Gives up a sixteenth at once, so that a client that dials at random doesn't cost a search each time.
    fn make_room(&self, entries: &mut HashMap<String, Arc<Entry<T>>>) {
        let mut candidates: Vec<(bool, u64, String)> = entries
            .iter()
            .filter(|(_, entry)| !entry.is_awaited())
            .map(|(name, entry)| (entry.is_found(), entry.used(), name.clone()))
            .collect();
        candidates.sort_unstable();
        candidates.truncate(self.settings.capacity / 16 + 1);
        for (_, _, name) in &candidates {
            entries.remove(name);
        }
        self.client.unsubscribe(
            self.kind,
            candidates.iter().map(|(_, _, name)| name.as_str()),
        );
        self.evicted
            .fetch_add(candidates.len() as u64, Ordering::Relaxed);
        warn!(
            kind = %self.kind,
            capacity = self.settings.capacity,
            evicted = candidates.len(),
            "more names in use than there is room for; those unused for longest were given up"
        );
    }

    /// What an entry says right now, or none if waiting for the control plane may help. Asks it again when
    /// the time has come.
    fn answer(&self, name: &str, entry: &Entry<T>, now: Instant) -> Option<Lookup<T>> {
        let next = self.ask_again_at(now + self.settings.wait);
        if entry.is_due(self.since_epoch(now), next) {
            self.client.ask_again(self.kind, [name.to_owned()]);
        }
        let waiting_is_over = self.deadline(entry) <= now;
        match &*entry.known.borrow() {
            Known::Nothing if waiting_is_over || self.is_cut_off(now) => Some(Lookup::Unavailable),
            Known::Nothing => None,
            known => Some(known.lookup()),
        }
    }

    /// Until when lookups wait for the question that was put last.
    fn deadline(&self, entry: &Entry<T>) -> Instant {
        self.epoch + Duration::from_millis(entry.asked()) + self.settings.wait
    }

    /// Whether the control plane has been away for so long that waiting for it is pointless.
    fn is_cut_off(&self, now: Instant) -> bool {
        let status = self.status.borrow();
        !status.connected && now.saturating_duration_since(status.since) > self.settings.wait
    }

    /// At random, so that names asked for together are not asked for again together.
    fn ask_again_at(&self, from: Instant) -> u64 {
        let ttl = self
            .settings
            .negative_ttl
            .mul_f64(0.5 + fastrand::f64() / 2.0);
        self.since_epoch(from + ttl)
    }

    fn since_epoch(&self, time: Instant) -> u64 {
        millis(time.saturating_duration_since(self.epoch))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<Entry<T>>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Arc<Entry<T>>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for OnDemand<T> {
    fn clone(&self) -> Self {
        OnDemand {
            inner: self.inner.clone(),
        }
    }
}

impl<T> Clone for Lookup<T> {
    fn clone(&self) -> Self {
        match self {
            Lookup::Found(value) => Lookup::Found(value.clone()),
            Lookup::Absent => Lookup::Absent,
            Lookup::Unavailable => Lookup::Unavailable,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
