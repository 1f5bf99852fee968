//! What is known of one name. Times are milliseconds since the epoch of the [`OnDemand`](super::OnDemand).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::Lookup;

pub(super) struct Entry<T> {
    pub(super) known: watch::Sender<Known<T>>,
    /// When it was last looked up.
    used: AtomicU64,
    /// When the question that lookups wait for was put.
    asked: AtomicU64,
    /// When to put it again.
    ask_again: AtomicU64,
}

pub(super) enum Known<T> {
    /// Asked for, not answered.
    Nothing,
    Found(Arc<T>),
    Absent,
    /// There is one, but it can't be honoured. Not to be mistaken for absent: the destination is known to the mesh.
    Unusable,
}

impl<T> Entry<T> {
    pub(super) fn new(now: u64, ask_again: u64) -> Entry<T> {
        Entry {
            known: watch::Sender::new(Known::Nothing),
            used: AtomicU64::new(now),
            asked: AtomicU64::new(now),
            ask_again: AtomicU64::new(ask_again),
        }
    }

    pub(super) fn set(&self, known: Known<T>, ask_again: u64) {
        self.ask_again.store(ask_again, Ordering::Relaxed);
        self.known.send_replace(known);
    }

    /// The last good resource stays, if there is one. No need to ask again: the control plane sends the name
    /// by itself when it has something better.
    pub(super) fn set_unusable(&self) {
        if !self.is_found() {
            self.set(Known::Unusable, u64::MAX);
        }
    }

    pub(super) fn is_found(&self) -> bool {
        matches!(&*self.known.borrow(), Known::Found(_))
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.known.receiver_count() > 0
    }

    pub(super) fn touch(&self, now: u64) {
        self.used.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether the question must be put again: true for one caller only, and then `asked` is now.
    pub(super) fn is_due(&self, now: u64, next: u64) -> bool {
        let due = self.ask_again.load(Ordering::Relaxed);
        if due > now
            || self
                .ask_again
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        self.asked.store(now, Ordering::Relaxed);
        true
    }
}

impl<T> Known<T> {
    pub(super) fn lookup(&self) -> Lookup<T> {
        match self {
            Known::Found(value) => Lookup::Found(value.clone()),
            Known::Absent => Lookup::Absent,
            Known::Nothing | Known::Unusable => Lookup::Unavailable,
        }
    }
}
