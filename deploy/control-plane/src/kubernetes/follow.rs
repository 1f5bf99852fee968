//! The one owner of what is known of the cluster: takes changes in, publishes what they come to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::Published;
use super::health::Health;
use super::kind::Kind;
use super::model::{Model, Outcome};
use super::replicas::Own;
use super::verdict::Verdicts;
use super::watch::{Change, document_kinds};
use crate::catalog::Changed;
use crate::problem::Problem;
use crate::status::{Load, State};

/// How long the first publication waits for the keys of issuers, so that a restart does not take away what sidecars have.
const FIRST_KEYS: Duration = Duration::from_secs(5);
/// As many changes are taken in before what they come to is published: no change waits for ever behind others.
const MOST_AT_ONCE: usize = 10_000;

pub(super) struct Follower {
    pub(super) model: Model,
    pub(super) accept_istio: bool,
    pub(super) health: Arc<Health>,
    pub(super) state: Arc<State>,
    pub(super) published: Published,
    pub(super) own: Own,
}

impl Follower {
    /// Until nobody sends changes any more.
    pub(super) async fn follow(mut self, mut changes: mpsc::Receiver<Change>) {
        let mut keys = self.state.keys.subscribe();
        loop {
            let begun;
            let mut kinds = BTreeSet::new();
            tokio::select! {
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    begun = Instant::now();
                    kinds.insert(self.take_in(change));
                    // What waits already comes along: one publication for all of it.
                    for _ in 0..MOST_AT_ONCE {
                        let Ok(change) = changes.try_recv() else { break };
                        kinds.insert(self.take_in(change));
                    }
                }
                changed = keys.changed() => {
                    // The sender is in `state`, which is held here.
                    if changed.is_err() { return }
                    begun = Instant::now();
                    self.model.keys_changed();
                }
            }
            self.hand_on(&kinds);
            self.health
                .counted(self.model.counts(document_kinds(self.accept_istio)));
            if !self.health.is_complete() {
                continue;
            }
            self = self.publish(begun).await;
        }
    }

    fn take_in(&mut self, change: Change) -> Kind {
        let kind = change.kind();
        if self.health.saw(&change) {
            info!("the cluster was read in full");
        }
        self.model.take_in(change);
        kind
    }

    /// What others wait for that is no part of the catalog, once for all changes that were taken in.
    fn hand_on(&self, kinds: &BTreeSet<Kind>) {
        if kinds.contains(&Kind::Namespace) {
            let namespaces = Arc::new(self.model.namespaces().clone());
            self.published.namespaces.send_replace(namespaces);
        }
        if kinds.contains(&Kind::EndpointSlice) {
            let replicas = (self.own).others(self.model.slices_of(self.own.service()));
            self.published.replicas.send_if_modified(|before| {
                let other = *before != replicas;
                *before = replicas;
                other
            });
        }
    }

    async fn publish(mut self, begun: Instant) -> Self {
        let mut outcome;
        (self, outcome) = self.settle().await;
        if self.state.served().is_none()
            && let Some(loaded) = &outcome.loaded
        {
            self.state.keys.want(loaded);
            // Without them it is served as well: only their tokens are refused.
            _ = tokio::time::timeout(FIRST_KEYS, self.state.keys.tried()).await;
            let first = outcome.catalog.take();
            self.model.keys_changed();
            (self, outcome) = self.settle().await;
            // With no keys that came, the second is the first.
            outcome.catalog = outcome.catalog.or(first);
        }
        let Outcome {
            catalog,
            verdicts,
            loaded,
            problems,
        } = outcome;
        if let Some(loaded) = &loaded {
            self.state.keys.want(loaded);
        }
        let publishes = catalog.is_some();
        if let Some((catalog, changed)) = catalog {
            let counts = catalog.counts;
            let first = self.state.served().is_none();
            let changed = if first {
                Changed::all(&catalog)
            } else {
                changed
            };
            self.state.publish(catalog, &changed);
            self.health.published(begun.elapsed());
            if first {
                info!(?counts, "serving the cluster");
            }
        }
        if let Some(problems) = &problems {
            let problem = problems.first().map(ToString::to_string);
            // What was served before goes on being served.
            let problem = problem.filter(|_| self.state.served().is_none());
            self.health.cannot_serve(problem);
        }
        if let Some(verdicts) = verdicts {
            self.tell(begun, &verdicts, problems.unwrap_or_default());
            // Not before: what they say is in the catalog.
            self.published.verdicts.send_if_modified(|before| {
                let other = *before != verdicts;
                *before = verdicts;
                other
            });
        } else if publishes {
            let last = self.state.last_load();
            self.state.loaded(Load {
                attempted: Some(SystemTime::now()),
                succeeded: Some(SystemTime::now()),
                took_ms: milliseconds(begun),
                ..last
            });
        }
        self
    }

    /// Large clusters take a while, and streams must go on meanwhile.
    async fn settle(mut self) -> (Self, Outcome) {
        let keys = self.state.keys.key_sets();
        let working = tokio::task::spawn_blocking(move || {
            let outcome = self.model.settle(&keys);
            (self, outcome)
        });
        match working.await {
            Ok(done) => done,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// In `/status` and in the log; what was told before is not told again.
    fn tell(&self, begun: Instant, verdicts: &Verdicts, mut problems: Vec<Problem>) {
        let last = self.state.last_load();
        let nothing_holds = !problems.is_empty();
        let mut warnings = Vec::new();
        for (key, verdict) in verdicts.iter() {
            let about = |message: &String| Problem {
                file: PathBuf::from(key.to_string()),
                line: 0,
                field: String::new(),
                message: message.clone(),
            };
            problems.extend(verdict.problems.iter().map(about));
            warnings.extend(verdict.warnings.iter().map(about));
        }
        for problem in problems.iter().filter(|it| !last.problems.contains(it)) {
            warn!("{problem}");
        }
        for warning in warnings.iter().filter(|it| !last.warnings.contains(it)) {
            warn!("{warning}");
        }
        if problems.is_empty() && !last.problems.is_empty() {
            info!("every object is honoured again");
        }
        let now = Some(SystemTime::now());
        self.state.loaded(Load {
            attempted: now,
            succeeded: if nothing_holds { last.succeeded } else { now },
            took_ms: milliseconds(begun),
            problems,
            warnings,
        });
    }
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}

/// The labels of every namespace, for whoever admits pods.
pub(crate) type Namespaces = Arc<BTreeMap<Arc<str>, Arc<BTreeMap<String, String>>>>;

impl Published {
    pub(super) fn new() -> Self {
        Self {
            verdicts: watch::Sender::new(Verdicts::default()),
            namespaces: watch::Sender::new(Namespaces::default()),
            replicas: watch::Sender::default(),
        }
    }
}
