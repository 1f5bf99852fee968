//! From what the control plane and the Workload API say to what is in force. The only writer of the snapshot.
//!
//! An update counts as applied when it is enforced: the snapshot published, the connections it forbids
//! closed. Only then is the delivery finished, and with it the ACK sent.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kith_certs::TrustSnapshot;
use kith_policy::{FieldError, ValidPolicy};
use kith_xds_client::{Client, Delivery, Enforced, Facts, Kind, Rejection, Resource};
use tokio::sync::{mpsc, watch};

use crate::revocation::Revocations;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, Workload};
use crate::telemetry::metrics;
use crate::translate;
use crate::worker::{Command, Workers};

/// The most that closing connections may hold up what comes next.
const ENFORCED: Duration = Duration::from_secs(2);

/// How often unused addresses are given up.
const SWEEP: Duration = Duration::from_secs(10);

/// How often what data workers count is looked at.
const COUNT: Duration = Duration::from_secs(1);

pub(crate) struct Control {
    shared: Arc<Shared>,
    workers: Workers,
    client: Client,
    policies: HashMap<String, Arc<ValidPolicy>>,
    workload: Option<Arc<Workload>>,
    /// The last list received; it goes into every snapshot.
    revocations: Arc<Revocations>,
    facts: Facts,
    /// Accepted, but not in force until the snapshot is complete.
    waiting: Vec<Delivery>,
    /// What is missing for the next snapshot, for readiness and admin.
    missing: watch::Sender<Vec<String>>,
}

impl Control {
    pub(crate) fn new(
        shared: Arc<Shared>,
        workers: Workers,
        client: Client,
        missing: watch::Sender<Vec<String>>,
    ) -> Self {
        Control {
            shared,
            workers,
            client,
            policies: HashMap::new(),
            workload: None,
            revocations: Arc::default(),
            facts: Facts::default(),
            waiting: Vec::new(),
            missing,
        }
    }

    /// Runs until the process ends.
    pub(crate) async fn run(
        mut self,
        mut deliveries: mpsc::Receiver<Delivery>,
        mut identity: watch::Receiver<Option<Arc<TrustSnapshot>>>,
    ) {
        let mut current: Option<Arc<TrustSnapshot>> = None;
        let mut sweep = tokio::time::interval(SWEEP);
        let mut count = tokio::time::interval(COUNT);
        identity.mark_changed();
        loop {
            tokio::select! {
                Some(delivery) = deliveries.recv() => self.deliver(delivery).await,
                Ok(()) = identity.changed() => {
                    let latest = identity.borrow_and_update().clone();
                    self.trust(&mut current, latest);
                }
                _ = sweep.tick() => self.shared.destinations.sweep(Instant::now()),
                _ = count.tick() => {
                    let plaintext = self.shared.plaintext();
                    if plaintext != self.facts.plaintext {
                        self.facts.plaintext = plaintext;
                        self.client.set_facts(self.facts.clone());
                    }
                }
                else => return,
            }
        }
    }

    fn trust(
        &mut self,
        current: &mut Option<Arc<TrustSnapshot>>,
        latest: Option<Arc<TrustSnapshot>>,
    ) {
        let Some(trust) = latest else {
            // The first value of the channel is none too.
            if current.take().is_some() {
                metrics::svid_withdrawn();
                self.workers.tell(|| Command::Withdrawn);
            }
            return;
        };
        let rotated = current
            .as_ref()
            .is_some_and(|before| before.serial() != trust.serial());
        if current.is_none() || rotated {
            tracing::info!(
                principal = trust.principal().as_str(),
                serial = trust.serial(),
                expires = %crate::record::rfc3339(trust.not_after()),
                "{}", if rotated { "the SVID was rotated" } else { "an SVID is here" }
            );
            metrics::svid(trust.not_after());
        }
        metrics::bundles(trust.bundles().count());
        self.facts.svid_serial = trust.serial().to_owned();
        self.facts.svid_expires = Some(trust.not_after());
        self.client.set_facts(self.facts.clone());
        let before = current.replace(Arc::clone(&trust));
        self.workers.tell(|| Command::Trust {
            before: before.clone(),
            trust: Arc::clone(&trust),
            rotated,
        });
    }

    async fn deliver(&mut self, mut delivery: Delivery) {
        let rejections = match delivery.kind {
            Kind::WorkloadConfig => self.workload_config(&delivery),
            Kind::AuthorizationPolicy => self.authorization_policies(&delivery),
            Kind::Address => {
                self.shared
                    .destinations
                    .apply(&delivery, |name, resource| match resource {
                        Resource::Address(address) => translate::destination(address)
                            .map_err(|errors| rejection(name, &errors)),
                        _ => Err(foreign(name)),
                    })
            }
            Kind::RevocationList => self.revocation_list(&delivery),
        };
        count(&delivery, rejections.len());
        for rejected in delivery.refused.iter().chain(&rejections) {
            tracing::warn!(
                kind = delivery.kind.name(),
                name = rejected.name,
                field = rejected.field,
                message = rejected.message,
                "refused a resource of the control plane; what was in force stays"
            );
        }
        match delivery.kind {
            Kind::WorkloadConfig | Kind::AuthorizationPolicy => {
                if rejections.is_empty() && delivery.refused.is_empty() {
                    // Translated by now; while thousands of policies come in, only the answer to them need be kept.
                    delivery.changed = Vec::new();
                    self.waiting.push(delivery);
                } else {
                    // The good ones of the response still take effect; the NACK need not wait for that.
                    delivery.finish(rejections);
                }
                self.publish().await;
            }
            Kind::RevocationList if rejections.is_empty() && delivery.refused.is_empty() => {
                self.revoke(delivery).await;
            }
            Kind::Address | Kind::RevocationList => delivery.finish(rejections),
        }
    }

    fn workload_config(&mut self, delivery: &Delivery) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for versioned in &delivery.changed {
            let Resource::WorkloadConfig(config) = &versioned.resource else {
                rejections.push(foreign(&versioned.name));
                continue;
            };
            match translate::workload(&versioned.name, config) {
                Ok(workload) => {
                    let names: BTreeSet<String> = workload.policies.iter().cloned().collect();
                    self.client
                        .set_subscription(Kind::AuthorizationPolicy, names);
                    self.workload = Some(Arc::new(workload));
                }
                Err(errors) => rejections.push(rejection(&versioned.name, &errors)),
            }
        }
        if !delivery.removed.is_empty() {
            tracing::warn!(
                "the control plane has no configuration for this workload any more; the last good one stays in force"
            );
        }
        rejections
    }

    fn authorization_policies(&mut self, delivery: &Delivery) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for versioned in &delivery.changed {
            let Resource::AuthorizationPolicy(policy) = &versioned.resource else {
                rejections.push(foreign(&versioned.name));
                continue;
            };
            match translate::policy(&versioned.name, policy) {
                Ok(policy) => {
                    for warning in policy.warnings() {
                        tracing::warn!(
                            policy = versioned.name,
                            field = %warning.field,
                            warning = %warning.message,
                            "a policy may not mean what it seems to"
                        );
                    }
                    self.policies.insert(versioned.name.clone(), policy);
                }
                Err(errors) => rejections.push(rejection(&versioned.name, &errors)),
            }
        }
        for name in &delivery.removed {
            self.policies.remove(name);
        }
        rejections
    }

    fn revocation_list(&mut self, delivery: &Delivery) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for versioned in &delivery.changed {
            let Resource::RevocationList(list) = &versioned.resource else {
                rejections.push(foreign(&versioned.name));
                continue;
            };
            match Revocations::new(&versioned.name, list) {
                Ok(revocations) => self.revocations = Arc::new(revocations),
                Err(errors) => rejections.push(rejection(&versioned.name, &errors)),
            }
        }
        // A list that got lost looks the same, and what it revoked would be trusted again.
        let taken_back = delivery
            .removed
            .iter()
            .filter(|_| !self.revocations.is_empty());
        rejections.extend(taken_back.map(|name| Rejection {
            name: name.clone(),
            field: String::new(),
            message:
                "can't be taken back while it revokes anything; send an empty list instead".into(),
        }));
        rejections
    }

    /// Puts the list in force, for what is live too, then acknowledges it.
    async fn revoke(&self, delivery: Delivery) {
        let current = self.shared.snapshot.load_full();
        if let Some(current) = &current {
            let snapshot = current.with_revocations(&self.revocations);
            self.shared.snapshot.store(Some(Arc::new(snapshot)));
        }
        // Before the first snapshot nothing is let through that could be checked; each has the list in it.
        let what = format!("a revocation list with {} entries", self.revocations.len());
        self.enforce(what, vec![delivery]).await;
    }

    /// Puts in force what is complete, has everything live checked against it, then acknowledges.
    async fn publish(&mut self) {
        let Some(workload) = &self.workload else {
            return;
        };
        let policies = &self.policies;
        let snapshot = match Snapshot::complete(workload, &self.revocations, |name| {
            policies.get(name).cloned()
        }) {
            Ok(snapshot) => snapshot,
            Err(missing) => {
                tracing::debug!(
                    ?missing,
                    "the configuration names policies that are not here yet; the one before stays in force"
                );
                self.missing.send_replace(missing);
                return;
            }
        };
        let first = self.shared.snapshot().is_none();
        let revision = snapshot.revision_shared();
        // Unnamed policies can't come back into force without being sent again.
        self.policies
            .retain(|name, _| workload.policies.contains(name));
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        metrics::config_revision(&revision);
        self.missing.send_replace(Vec::new());
        let what = format!(
            "{} configuration, revision {revision}, with {} policies",
            if first { "the first" } else { "a" },
            self.policies.len()
        );
        let acknowledged = std::mem::take(&mut self.waiting);
        self.enforce(what, acknowledged).await;
    }

    /// Has everything live checked against what was just published, and acknowledges it when the last forbidden
    /// connection is closed, however long that takes: an ACK says that it is enforced. Only a while of it holds up
    /// what comes next.
    async fn enforce(&self, what: String, acknowledged: Vec<Delivery>) {
        finish(enforce(self.workers.clone(), what, acknowledged)).await;
    }
}

/// Waits for it for a while; what takes longer goes on by itself.
async fn finish(enforcing: impl Future<Output = ()> + Send + 'static) {
    let mut enforcing = Box::pin(enforcing);
    if tokio::time::timeout(ENFORCED, &mut enforcing)
        .await
        .is_err()
    {
        tracing::error!(
            "forbidden connections take long to close, and the ACK waits for them; is a data worker stuck?"
        );
        tokio::spawn(enforcing);
    }
}

async fn enforce(workers: Workers, what: String, acknowledged: Vec<Delivery>) {
    let (started, closed) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&closed);
    workers
        .ask(move |done| Command::Recheck(Arc::clone(&count), done))
        .await;
    let (closed, took) = (closed.load(Ordering::Relaxed), started.elapsed());
    tracing::info!(closed, ?took, "{what}, is in force");
    // Put in force together: the last one says how many were closed, so that adding up counts each once.
    let mut acknowledged = acknowledged.into_iter().peekable();
    while let Some(delivery) = acknowledged.next() {
        let closed = if acknowledged.peek().is_none() {
            closed
        } else {
            0
        };
        delivery.finish_enforced(Vec::new(), Enforced { closed, took });
    }
}

fn rejection(name: &str, errors: &[FieldError]) -> Rejection {
    let mut errors = errors.iter();
    let (field, mut message) = errors.next().map_or_else(Default::default, |first| {
        (first.field.clone(), first.message.clone())
    });
    // The field of the first is said by whoever shows this.
    message.extend(errors.map(|error| format!("; {}: {}", error.field, error.message)));
    Rejection {
        name: name.to_owned(),
        field,
        message,
    }
}

fn foreign(name: &str) -> Rejection {
    Rejection {
        name: name.to_owned(),
        field: String::new(),
        message: "is a resource of another kind".into(),
    }
}

fn count(delivery: &Delivery, rejected: usize) {
    let kind = delivery.kind.name();
    let now = SystemTime::now();
    for index in 0..delivery.changed.len() {
        metrics::xds_update(
            kind,
            if index < rejected {
                "rejected"
            } else {
                "applied"
            },
            now,
        );
    }
    for _ in &delivery.refused {
        metrics::xds_update(kind, "rejected", now);
    }
    for _ in &delivery.removed {
        metrics::xds_update(kind, "removed", now);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_takes_long_to_enforce_holds_up_the_next_for_a_while_and_is_finished_all_the_same()
    {
        let (let_go, stuck) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let started = Instant::now();
        finish(async move {
            let _ = stuck.await;
            let _ = tell.send(());
        })
        .await;
        let held_up = started.elapsed();
        assert!(
            (ENFORCED..ENFORCED + Duration::from_secs(1)).contains(&held_up),
            "{held_up:?}"
        );
        let mut told = std::pin::pin!(told);
        let early = tokio::time::timeout(Duration::from_millis(50), &mut told).await;
        assert!(early.is_err(), "acknowledged, and not enforced");
        let_go.send(()).unwrap();
        told.await.unwrap();
    }
}
