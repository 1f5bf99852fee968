//! The current identity: a task that follows the Workload API and publishes each update as
//! one [`TrustSnapshot`], and the handle that everybody else reads it through.

mod keeper;
mod status;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch as channel;

pub use status::{BundleStatus, CrlStatus, Status, SvidStatus};

use crate::TrustSnapshot;
use crate::workload_api::Endpoint;
use keeper::Keeper;

/// How long a frozen Workload API goes unnoticed, twice over: ping interval and ping timeout.
pub const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(10);
/// How long an SVID stays in use after the Workload API denied us one.
pub const DEFAULT_DENIED_GRACE: Duration = Duration::from_secs(30);

/// Where the identity comes from.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    pub endpoint: Endpoint,
    /// Which SVID to use when the Workload API offers several; the first without it.
    pub hint: Option<String>,
    /// How long after PermissionDenied the last SVID stays in use.
    pub denied_grace: Duration,
}

impl SourceConfig {
    pub fn new(endpoint: Endpoint) -> SourceConfig {
        SourceConfig {
            endpoint,
            hint: None,
            denied_grace: DEFAULT_DENIED_GRACE,
        }
    }
}

/// A handle to the current identity. Cheap to clone. The task behind it ends when all
/// handles (TLS configurations hold one) and all subscriptions are gone.
#[derive(Clone)]
pub struct IdentitySource {
    shared: Arc<Shared>,
    lifetime: Arc<channel::Sender<bool>>,
}

impl IdentitySource {
    /// Starts following the Workload API, on the current tokio runtime.
    pub fn start(config: SourceConfig) -> IdentitySource {
        IdentitySource::start_with_keepalive(config, DEFAULT_KEEPALIVE)
    }

    /// [`start`](Self::start) with another keepalive than the default of 10 s.
    pub fn start_with_keepalive(config: SourceConfig, keepalive: Duration) -> IdentitySource {
        let shared = Arc::new(Shared::new(Status::starting(config.endpoint.to_string())));
        let (lifetime, ended) = channel::channel(false);
        tokio::spawn(Keeper::new(config, keepalive, shared.clone()).run(ended));
        IdentitySource {
            shared,
            lifetime: Arc::new(lifetime),
        }
    }

    /// A source that never changes.
    pub fn fixed(snapshot: impl Into<Arc<TrustSnapshot>>) -> IdentitySource {
        let snapshot = snapshot.into();
        let shared = Arc::new(Shared::new(Status::fixed(&snapshot)));
        shared.publish(Some(snapshot));
        IdentitySource {
            shared,
            lifetime: Arc::new(channel::channel(false).0),
        }
    }

    /// The snapshot of now, without waiting or locking. None before the first SVID, and once
    /// the grace after PermissionDenied is over.
    ///
    /// An expired one is still given, for those who report on it; the TLS configurations
    /// refuse to use it.
    pub fn current(&self) -> Option<Arc<TrustSnapshot>> {
        self.shared.current.load_full()
    }

    /// Wakes with every new snapshot. A slow subscriber sees the newest, not each one.
    pub fn subscribe(&self) -> channel::Receiver<Option<Arc<TrustSnapshot>>> {
        self.shared.updates.subscribe()
    }

    /// How things stand, for readiness text, `/certs` and metrics.
    pub fn status(&self) -> Status {
        self.shared.status().clone()
    }

    /// Stops following the Workload API. What is current stays readable.
    pub fn shutdown(&self) {
        self.lifetime.send_replace(true);
    }
}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySource")
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

/// What the task writes and the handles read.
struct Shared {
    current: ArcSwapOption<TrustSnapshot>,
    updates: channel::Sender<Option<Arc<TrustSnapshot>>>,
    status: Mutex<Status>,
}

impl Shared {
    fn new(status: Status) -> Shared {
        Shared {
            current: ArcSwapOption::empty(),
            updates: channel::Sender::new(None),
            status: Mutex::new(status),
        }
    }

    /// The swap comes first: who is woken must find the new snapshot.
    fn publish(&self, snapshot: Option<Arc<TrustSnapshot>>) {
        self.current.store(snapshot.clone());
        self.updates.send_replace(snapshot);
    }

    /// Never held across an await; nobody on the data path asks.
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
