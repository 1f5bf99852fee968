//! What all data workers and the main thread share. Everything in it is immutable or swapped whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use kith_certs::IdentitySource;
use kith_xds_client::OnDemand;

use crate::config::Config;
use crate::lease::Grace;
use crate::record::Recorder;
use crate::resolve::Destination;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) identity: IdentitySource,
    pub(crate) destinations: OnDemand<Destination>,
    pub(crate) recorder: Recorder,
    pub(crate) grace: Grace,
    /// Written by `control` alone.
    pub(crate) snapshot: ArcSwapOption<Snapshot>,
    connections: AtomicUsize,
    plaintext: AtomicU64,
}

/// One of the connections that the process may have.
pub(crate) struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        identity: IdentitySource,
        destinations: OnDemand<Destination>,
        recorder: Recorder,
    ) -> Self {
        let grace = Grace {
            kith: config.expiry_grace,
            foreign: config.expiry_grace_foreign,
        };
        Shared {
            config,
            identity,
            destinations,
            recorder,
            grace,
            snapshot: ArcSwapOption::empty(),
            connections: AtomicUsize::new(0),
            plaintext: AtomicU64::new(0),
        }
    }

    pub(crate) fn snapshot(&self) -> Guard<Option<Arc<Snapshot>>> {
        self.snapshot.load()
    }

    /// An inbound connection came in the clear, on a port that does not insist on mTLS.
    pub(crate) fn count_plaintext(&self) {
        self.plaintext.fetch_add(1, Ordering::Relaxed);
        metrics::plaintext();
    }

    /// How many did since the start.
    pub(crate) fn plaintext(&self) -> u64 {
        self.plaintext.load(Ordering::Relaxed)
    }

    /// `None`: the process has as many connections as it may have (security.md, row 29).
    pub(crate) fn take_slot(self: &Arc<Self>) -> Option<Slot> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(Arc::clone(self));
        (before < self.config.max_connections).then_some(slot)
    }
}
