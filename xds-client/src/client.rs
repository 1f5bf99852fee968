//! The public face: what a client is configured with, and what it can be asked to do.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, warn};

use crate::api::envoy::config::core::v3::Node;
use crate::backoff::Backoff;
use crate::delivery::{Delivery, Rejection};
use crate::facts::{Enforced, Facts};
use crate::ledger::{Answered, Ledger};
use crate::resource::Kind;
use crate::status::Status;
use crate::stream;

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A byte stream to the control plane.
pub trait AsyncIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncIo for T {}

/// Makes one byte stream to the control plane, authenticated in both directions. Called once for each attempt.
pub type Connector = Arc<dyn Fn() -> BoxFuture<io::Result<Box<dyn AsyncIo>>> + Send + Sync>;

/// How many deliveries may wait for a consumer that is busy before the stream is no longer read.
const WAITING_DELIVERIES: usize = 2;

/// The one name under which the control plane publishes the revocation list.
const REVOCATION_LIST: &str = "mesh";

#[derive(Clone)]
pub struct Config {
    /// `host:port` of the control plane, for `:authority` and messages; `connector` decides what is dialled.
    pub authority: String,
    /// `namespace/name` of this workload; also the name of its WorkloadConfig.
    pub node_id: String,
    pub user_agent_version: String,
    /// Where the last good resources are kept; none: nowhere.
    pub state_dir: Option<PathBuf>,
    pub connector: Connector,
    /// What this side proves itself with, by any name that changes with it: as long as there is nothing, nothing is
    /// dialled; with something new the stream is opened anew, before the server ends it for what has expired.
    /// Without it the connector is taken to need nothing.
    pub identity: Option<watch::Receiver<Option<String>>>,
    pub backoff: Backoff,
}

/// A handle on the one stream to the control plane. Can be used from any thread.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// Starts the client on the current tokio runtime. It subscribes to the node's own WorkloadConfig and
    /// to the RevocationList by itself, and runs until the receiver is dropped.
    ///
    /// What the disk remembers, if anything, is delivered first. The first stream waits for these
    /// deliveries to be answered (one second at most), because what is in force by then is what the
    /// control plane need not send again.
    pub fn start(config: Config) -> (Client, mpsc::Receiver<Delivery>) {
        let node = Node {
            id: config.node_id.clone(),
            user_agent_name: "kith".to_owned(),
            user_agent_version: config.user_agent_version.clone(),
            ..Default::default()
        };
        let mut ledger = Ledger::new(node, config.state_dir.is_some());
        ledger.subscribe(Kind::WorkloadConfig, [config.node_id.clone()]);
        ledger.subscribe(Kind::RevocationList, [REVOCATION_LIST.to_owned()]);
        let shared = Arc::new(Shared {
            ledger: Mutex::new(ledger),
            news: Notify::new(),
            recorded: Notify::new(),
            status: watch::Sender::new(Status::at_start()),
        });
        let (deliveries, receiver) = mpsc::channel(WAITING_DELIVERIES);
        tokio::spawn(stream::run(config, shared.clone(), deliveries));
        (Client { shared }, receiver)
    }

    /// Subscribes to more names of a kind. Names already subscribed to are left as they are.
    pub fn subscribe(&self, kind: Kind, names: impl IntoIterator<Item = String>) {
        self.shared.change(|ledger| ledger.subscribe(kind, names));
    }

    /// Gives up names of a kind. Nothing is delivered for it: the caller knows.
    pub fn unsubscribe<'a>(&self, kind: Kind, names: impl IntoIterator<Item = &'a str>) {
        self.shared.change(|ledger| ledger.unsubscribe(kind, names));
    }

    /// Makes `names` the exact subscription of a kind: subscribes to what is new, gives up what is not in it.
    pub fn set_subscription(&self, kind: Kind, names: BTreeSet<String>) {
        self.shared
            .change(|ledger| ledger.set_subscription(kind, names));
    }

    /// Asks again for names that are subscribed to but not held, in case the control plane has thought
    /// better of it.
    pub fn ask_again(&self, kind: Kind, names: impl IntoIterator<Item = String>) {
        self.shared.change(|ledger| ledger.ask_again(kind, names));
    }

    /// What this side says of itself from now on. It goes along with the next answer or, when it differs from what
    /// the control plane was told last, in a request of its own, at most one every ten seconds.
    pub fn set_facts(&self, facts: Facts) {
        self.shared.ledger().set_facts(facts);
        self.shared.news.notify_one();
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }
}

/// What the handles, the deliveries and the task share.
pub(crate) struct Shared {
    ledger: Mutex<Ledger>,
    /// The ledger may have a request for the stream.
    pub(crate) news: Notify,
    /// What is held may have changed.
    pub(crate) recorded: Notify,
    pub(crate) status: watch::Sender<Status>,
}

impl Shared {
    /// Held for bookkeeping only: never across an await, a callback or the drop of a delivery.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn finish(
        &self,
        sequence: u64,
        rejected: Option<Vec<Rejection>>,
        enforced: Option<Enforced>,
    ) {
        let answered = self.ledger().finish(sequence, rejected, enforced);
        if let Some(answered) = answered {
            self.answered(answered);
        }
        self.news.notify_one();
        self.recorded.notify_one();
    }

    pub(crate) fn answered(&self, answered: Answered) {
        let kind = answered.kind.map_or("unknown", Kind::name);
        match &answered.nack {
            Some(reason) => warn!(
                kind,
                from_disk = answered.from_disk,
                reason,
                "resources refused"
            ),
            None => debug!(kind, from_disk = answered.from_disk, "resources in force"),
        }
        if !answered.from_disk {
            self.status
                .send_modify(|status| status.answered(answered.kind, answered.nack));
        }
    }

    fn change(&self, change: impl FnOnce(&mut Ledger)) {
        change(&mut self.ledger());
        self.news.notify_one();
        self.recorded.notify_one();
    }
}
