//! Keeping the statuses of the cluster's objects true: elected among the replicas, then, for as long as that lasts, what
//! is served and what all sidecars say becomes what `kubectl get` shows.
//!
//! ```text
//! leader ─► verdicts, catalog, acknowledgements (own and every other replica's) ─► conditions ─► write
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kith_certs::IdentitySource;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::conditions::Tally;
use super::conditions::write::{Due, PAUSE, Writer};
use super::heard::Heard;
use super::leader::Candidate;
use super::replicas::{self, Replies, Reply};
use super::verdict::Verdicts;
use crate::catalog::Catalog;
use crate::serve::replica::{ByNode, by_node};
use crate::status::State;

/// The Lease of whoever writes status.
const LEASE: &str = "kith-control";
/// After something happened: what belongs to it happens within this time, most often.
const GATHER: Duration = Duration::from_millis(50);
/// Counting may take one part in this many of the time.
const SHARE: u32 = 5;

/// What writing statuses needs.
pub(crate) struct Operation {
    pub(crate) client: Client,
    /// Where this control plane runs: the namespace of its Lease.
    pub(crate) namespace: String,
    /// The name of this replica's pod.
    pub(crate) pod: String,
    pub(crate) identity: IdentitySource,
    pub(crate) state: Arc<State>,
    pub(crate) verdicts: watch::Receiver<Verdicts>,
    /// Where the other replicas listen for sidecars, whether they are ready or not. Not this one.
    pub(crate) replicas: watch::Receiver<BTreeSet<SocketAddr>>,
    pub(crate) numbers: Arc<Numbers>,
}

/// For `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    leading: AtomicBool,
    written: AtomicU64,
    failed: AtomicU64,
}

impl Numbers {
    pub(super) fn count_write(&self, done: bool) {
        let counter = if done { &self.written } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Prometheus text, appended to what is there.
    pub(crate) fn metrics(&self, text: &mut String) {
        let leading = u8::from(self.leading.load(Ordering::Relaxed));
        let written = self.written.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "# HELP kith_control_leader Whether this replica writes the status of objects.\n\
             # TYPE kith_control_leader gauge\n\
             kith_control_leader {leading}\n\
             # HELP kith_control_status_writes_total Statuses written, and attempts that failed.\n\
             # TYPE kith_control_status_writes_total counter\n\
             kith_control_status_writes_total{{result=\"ok\"}} {written}\n\
             kith_control_status_writes_total{{result=\"failed\"}} {failed}\n"
        );
    }
}

/// Until `stopping` is true; then the Lease is given up, so that another replica need not wait for it. That takes up to
/// two seconds.
pub(crate) async fn operate(operation: Operation, stopping: watch::Receiver<bool>) {
    let Operation {
        client,
        namespace,
        pod,
        ..
    } = &operation;
    let candidate = Candidate::new(client.clone(), namespace, LEASE, pod);
    let mut leadership = candidate.leadership();
    let following = async {
        loop {
            let leading = leadership.borrow_and_update().leading;
            let numbers = &operation.numbers;
            numbers.leading.store(leading, Ordering::Relaxed);
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = lead(&operation), if leading => {}
            }
        }
    };
    tokio::join!(candidate.run(stopping), following);
}

/// Until dropped.
async fn lead(operation: &Operation) {
    let state = &operation.state;
    let mut verdicts = operation.verdicts.clone();
    let mut catalogs = state.follow_served();
    let mut moves = state.moves.subscribe();
    let (said, mut replies) = watch::channel(Replies::new());
    let mut asking = JoinSet::new();
    let (identity, addresses) = (operation.identity.clone(), operation.replicas.clone());
    asking.spawn(replicas::follow(identity, addresses, said));

    let mut round = Round {
        writer: Writer::new(Arc::clone(&operation.numbers)),
        heard: Heard::default(),
    };
    loop {
        let begun = Instant::now();
        moves.borrow_and_update();
        let replies_now = replies.borrow_and_update().clone();
        // In this order: what a verdict is about is in every catalog from then on.
        let verdicts_now = verdicts.borrow_and_update().clone();
        let served = catalogs.borrow_and_update().clone();
        let mut next = None;
        let mut took = Duration::ZERO;
        // Before the cluster was read in full nothing is known to say.
        if !verdicts_now.is_empty() {
            let local = by_node(state.acknowledgements());
            let about = Arc::clone(&verdicts_now);
            // Ten thousand sidecars take a while, and streams are served on this thread.
            let counted = tokio::task::spawn_blocking(move || {
                let catalog = served.as_ref().map(|served| &*served.catalog);
                let due = round.count(catalog, &about, &local, &replies_now);
                (round, due)
            });
            let due;
            (round, due) = match counted.await {
                Ok(counted) => counted,
                // The runtime is shutting down, or it panicked, which is on record: begin anew.
                Err(_) => return,
            };
            took = begun.elapsed();
            let writing = round.writer.round(&operation.client, &verdicts_now, due);
            let again = [writing.await, round.heard.next_forgotten()];
            next = again.into_iter().flatten().min();
        }
        tokio::time::sleep_until(begun + PAUSE.max(took * SHARE)).await;
        let forever = Instant::now() + Duration::from_secs(3600);
        let gone = tokio::select! {
            changed = verdicts.changed() => changed.is_err(),
            changed = catalogs.changed() => changed.is_err(),
            changed = moves.changed() => changed.is_err(),
            changed = replies.changed() => changed.is_err(),
            () = tokio::time::sleep_until(next.unwrap_or(forever)) => continue,
        };
        if gone {
            // Whoever watched the cluster is gone: the process is ending.
            return std::future::pending().await;
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// What is kept from round to round while leading.
struct Round {
    writer: Writer,
    heard: Heard,
}

impl Round {
    fn count(
        &mut self,
        catalog: Option<&Catalog>,
        verdicts: &Verdicts,
        local: &ByNode,
        replies: &Replies,
    ) -> Due {
        let now = Instant::now();
        let others = replies.values().filter_map(|reply| match reply {
            Reply::Says(nodes) => Some(&**nodes),
            Reply::Silent(_) => None,
        });
        self.heard.update(std::iter::once(local).chain(others), now);
        let silent = |reply: &&Reply| matches!(reply, Reply::Silent(_));
        let silent = replies.values().filter(silent).count();
        let tally = catalog.map_or_else(Tally::of_nothing, |catalog| {
            Tally::of(catalog, &self.heard, silent)
        });
        self.writer.due(verdicts, &tally, now, Timestamp::now())
    }
}
