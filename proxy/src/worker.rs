//! A data worker: one thread, one runtime, its own listeners, registry and pools. A connection that it
//! accepted never leaves it, so nothing here is locked.

use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kith_certs::TrustSnapshot;
use kith_policy::Reason;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::accept;
use crate::authenticate::Tls;
use crate::connections::Registry;
use crate::forward::balance::Loads;
use crate::forward::pool::Pool;
use crate::record::{ClosedBy, Direction, Sink};
use crate::renew::{self, Renewal, Renewed};
use crate::shared::{Shared, Slot};
use crate::signal::{Barrier, Closing};
use crate::telemetry::metrics;
use crate::token;

/// How often time alone is looked at: leases, idle connections, deadlines.
const TICK: Duration = Duration::from_millis(250);

/// What the main thread asks of every worker.
pub(crate) enum Command {
    /// The snapshot was published: close what it forbids, count that at once, and answer when it is closed.
    Recheck(Arc<AtomicU64>, oneshot::Sender<()>),
    /// The bundles or the own SVID changed.
    Trust {
        before: Option<Arc<TrustSnapshot>>,
        trust: Arc<TrustSnapshot>,
        rotated: bool,
    },
    /// The Workload API denies us an identity, and the grace is over.
    Withdrawn,
    /// A client renews; connections are looked for on every worker.
    Renew(Renewal, oneshot::Sender<Vec<Renewed>>),
    /// For the admin listener.
    List(oneshot::Sender<Vec<serde_json::Value>>),
    /// How many inbound connections are open, and how many outbound ones are in use.
    Count(oneshot::Sender<(usize, usize)>),
    /// Accept no more inbound connections, end what is idle, let requests finish.
    Drain,
    /// The deadline has come: close everything.
    Stop(oneshot::Sender<()>),
}

/// Speaks to all workers.
#[derive(Clone)]
pub(crate) struct Workers(Vec<mpsc::UnboundedSender<Command>>);

impl Workers {
    pub(crate) fn new(senders: Vec<mpsc::UnboundedSender<Command>>) -> Self {
        Workers(senders)
    }

    pub(crate) fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.0 {
            let _ = worker.send(command());
        }
    }

    /// The answers of all workers; one that is gone does not answer.
    pub(crate) async fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let mut waiting = Vec::with_capacity(self.0.len());
        for worker in &self.0 {
            let (sender, receiver) = oneshot::channel();
            if worker.send(command(sender)).is_ok() {
                waiting.push(receiver);
            }
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for receiver in waiting {
            answers.extend(receiver.await.ok());
        }
        answers
    }
}

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Workers,
    pub(crate) registry: Rc<Registry>,
    pub(crate) tls: Tls,
    pub(crate) pool: Pool,
    pub(crate) loads: Loads,
    pub(crate) sink: Sink,
    pub(crate) renewals: renew::Pending,
    pub(crate) tokens: token::Cache,
}

/// Bound listeners, made before the thread starts so that a port in use is an error of the start.
pub(crate) struct Listeners {
    pub(crate) inbound: std::net::TcpListener,
    pub(crate) outbound: std::net::TcpListener,
}

impl Worker {
    fn tick(self: &Rc<Self>, clock: Instant, now: SystemTime) {
        self.registry.sweep(now, clock, &self.shared.grace);
        self.pool.sweep(clock);
        self.loads.forget_idle();
        self.tokens.sweep(clock);
        renew::start_due(self, now);
    }

    pub(crate) fn mark(&self) -> Option<u32> {
        self.shared.config.socket_mark
    }
}

/// The body of a worker's thread. Returns when told to stop.
pub(crate) fn run(
    shared: Arc<Shared>,
    workers: Workers,
    listeners: Listeners,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let worker = Rc::new(Worker {
            tls: Tls::new(&shared.identity),
            workers,
            registry: Rc::default(),
            pool: Pool::default(),
            loads: Loads::default(),
            sink: shared.recorder.sink(),
            renewals: renew::Pending::default(),
            tokens: token::Cache::default(),
            shared,
        });
        let (stop_inbound, inbound_stopped) = watch::channel(());
        let inbound = TcpListener::from_std(listeners.inbound)?;
        let outbound = TcpListener::from_std(listeners.outbound)?;
        tokio::task::spawn_local(accept_loop(
            Rc::clone(&worker),
            inbound,
            Direction::Inbound,
            Some(inbound_stopped),
        ));
        tokio::task::spawn_local(accept_loop(
            Rc::clone(&worker),
            outbound,
            Direction::Outbound,
            None,
        ));
        tokio::task::spawn_local(tick(Rc::downgrade(&worker)));
        obey(&worker, commands, stop_inbound).await;
        Ok(())
    })
}

async fn accept_loop(
    worker: Rc<Worker>,
    listener: TcpListener,
    direction: Direction,
    mut stopped: Option<watch::Receiver<()>>,
) {
    loop {
        let next = accept::accept(&listener, |error| {
            metrics::accept_paused();
            tracing::warn!(%error, direction = direction.as_str(), "a connection could not be accepted");
        });
        let (tcp, source) = match &mut stopped {
            None => next.await,
            Some(stopped) => tokio::select! {
                accepted = next => accepted,
                // The sender is dropped when the worker drains.
                _ = stopped.changed() => return,
            },
        };
        let Some(slot) = worker.shared.take_slot() else {
            metrics::accept_paused();
            let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
            continue;
        };
        let accepted = match accept::captured(tcp, source) {
            Ok(accepted) => accepted,
            Err(problem) => {
                tracing::debug!(%source, %problem, "refused a connection");
                continue;
            }
        };
        let worker = Rc::clone(&worker);
        tokio::task::spawn_local(one_connection(worker, accepted, direction, slot));
    }
}

/// A panic ends one connection, is counted and logged (security.md, row 30); its record is written as it unwinds.
async fn one_connection(
    worker: Rc<Worker>,
    accepted: accept::Accepted,
    direction: Direction,
    slot: Slot,
) {
    let source = accepted.source;
    let serve = async {
        match direction {
            Direction::Inbound => crate::inbound::serve(worker, accepted).await,
            Direction::Outbound => crate::outbound::serve(worker, accepted).await,
        }
    };
    contain_panic(
        serve,
        || tracing::error!(%source, "a connection was ended by a panic; please report it"),
    )
    .await;
    drop(slot);
}

pub(crate) async fn contain_panic(future: impl Future<Output = ()>, report: impl FnOnce()) {
    let mut future = std::pin::pin!(future);
    let caught = std::future::poll_fn(|context| {
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match poll {
            Ok(poll) => poll.map(|()| false),
            Err(_) => std::task::Poll::Ready(true),
        }
    })
    .await;
    if caught {
        metrics::panicked();
        report();
    }
}

async fn tick(worker: std::rc::Weak<Worker>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(worker) = worker.upgrade() else {
            return;
        };
        // Leases and deadlines hang on this: one panic must not be the last tick.
        let report = || tracing::error!("a tick of a data worker panicked; please report it");
        contain_panic(
            async { worker.tick(Instant::now(), SystemTime::now()) },
            report,
        )
        .await;
    }
}

async fn obey(
    worker: &Rc<Worker>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    stop_inbound: watch::Sender<()>,
) {
    let mut stop_inbound = Some(stop_inbound);
    while let Some(command) = commands.recv().await {
        match command {
            Command::Recheck(closed, done) => {
                let (barrier, fallen) = Barrier::new();
                if let Some(snapshot) = &*worker.shared.snapshot() {
                    let lost = worker.registry.recheck(snapshot, &barrier);
                    closed.fetch_add(lost, Ordering::Relaxed);
                }
                drop(barrier);
                worker.pool.sweep(Instant::now());
                tokio::task::spawn_local(async move {
                    let _ = fallen.await;
                    let _ = done.send(());
                });
            }
            Command::Trust {
                before,
                trust,
                rotated,
            } => {
                if before
                    .as_ref()
                    .is_some_and(|before| before.jwt_bundles() != trust.jwt_bundles())
                {
                    worker.registry.recheck_requests();
                }
                let checking = Rc::clone(worker);
                tokio::task::spawn_local(async move {
                    let registry = &checking.registry;
                    if registry.recheck_trust(before.as_deref(), &trust).await {
                        renew::start_doubted(&checking);
                    }
                    checking.pool.sweep(Instant::now());
                });
                if rotated {
                    worker.pool.retire();
                    renew::start_all(worker);
                }
            }
            Command::Withdrawn => {
                worker.pool.retire();
                worker.registry.withdraw(SystemTime::now());
            }
            Command::Renew(renewal, answer) => {
                let _ = answer.send(renew::extend(worker, &renewal));
            }
            Command::List(answer) => {
                let _ = answer.send(
                    worker
                        .registry
                        .all()
                        .iter()
                        .map(|live| live.describe())
                        .collect(),
                );
            }
            Command::Count(answer) => {
                let registry = &worker.registry;
                let _ = answer.send((
                    registry.count(Direction::Inbound, |_| true),
                    registry.count(Direction::Outbound, super::connections::Live::is_in_use),
                ));
            }
            Command::Drain => {
                stop_inbound = None;
                worker.registry.drain();
            }
            Command::Stop(answer) => {
                worker
                    .registry
                    .close(&Closing::new(ClosedBy::Drain, Reason::Draining));
                // Let the owners act on it: close their sockets, complete their records.
                for _ in 0..50 {
                    if worker.registry.len() == 0 {
                        break;
                    }
                    worker.pool.retire();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let _ = answer.send(());
                return;
            }
        }
    }
    drop(stop_inbound);
}
