//! Which replica writes status: the one that holds the Lease. Everything else runs on all of them.
//!
//! ```text
//! Lease in the API ─► Observation ─► decide ─► create, replace or wait ─► Leadership
//! ```
//!
//! Two leaders at once are possible for a moment, as with any lease (a request can be under way while it runs out). What
//! a leader does must bear that; statuses do, since both write what they see.

mod lease;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use self::lease::{Decision, GIVE_UP, LOOK, Observation, RENEW, decide, held, jittered, released};
use super::permission::in_full;

/// One request about the Lease. Longer, and the next attempt would come too late to keep it.
const DEADLINE: Duration = Duration::from_secs(4);
/// A Lease that cannot be released in this time runs out by itself.
const RELEASE: Duration = Duration::from_secs(2);

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// This replica does, now.
    pub(crate) leading: bool,
    /// Who holds the Lease. None: nobody, or the Lease could not be read yet.
    pub(crate) holder: Option<String>,
}

/// Takes part in one election for as long as the process runs.
pub(crate) struct Candidate {
    leases: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    /// As it was last read or written.
    known: Option<Known>,
    /// It may say something else by now.
    stale: bool,
    /// Leading until then, unless renewed.
    until: Option<Instant>,
    said: watch::Sender<Leadership>,
    /// The last fault that was logged, so that one that lasts is said once.
    fault: Option<String>,
}

struct Known {
    lease: Lease,
    seen: Observation,
}

impl Candidate {
    /// `identity` must be another in every replica: the pod's name.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            known: None,
            stale: false,
            until: None,
            said: watch::Sender::default(),
            fault: None,
        }
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.said.subscribe()
    }

    /// Until `stopping` is true or its sender is gone; then gives the Lease up if it is held.
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut next = Instant::now();
        loop {
            // A holder whose time is up stops leading, whatever it is waiting for.
            let end = self.until.unwrap_or(next);
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => break,
                () = tokio::time::sleep_until(next.min(end)) => {}
            }
            let now = Instant::now();
            if self.until.is_some_and(|until| until <= now) {
                self.until = None;
                self.tell();
            }
            let most = now + DEADLINE;
            let deadline = self.until.map_or(most, |until| until.min(most));
            let attempt = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => break,
                attempt = tokio::time::timeout_at(deadline, self.attempt()) => attempt,
            };
            next = Instant::now() + self.after(attempt);
            self.tell();
        }
        self.release().await;
    }

    /// Reads, decides and writes, once. How long until the next time.
    async fn attempt(&mut self) -> Result<Duration, kube::Error> {
        // Ours is not read again: if anybody wrote to it, replacing it fails, and then it is.
        if self.until.is_none() || self.stale {
            let lease = self.leases.get_opt(&self.name).await?;
            self.learn(lease);
            self.stale = false;
        }
        let now = Instant::now();
        let decision = match &self.known {
            None => Decision::Claim,
            Some(known) => decide(&self.identity, &known.seen, now),
        };
        match decision {
            Decision::Wait(until) => {
                self.until = None;
                let patience = until.saturating_duration_since(now);
                Ok(patience.min(jittered(LOOK, fastrand::f64())))
            }
            Decision::Claim | Decision::Renew => {
                let written = self.write().await?;
                self.learn(Some(written));
                // Counted from before the request, and so from before anybody can have seen the renewal.
                self.until = Some(now + GIVE_UP);
                Ok(jittered(RENEW, fastrand::f64()))
            }
        }
    }

    async fn write(&self) -> Result<Lease, kube::Error> {
        let before = self.known.as_ref().map(|known| &known.lease);
        let spec = held(
            &self.identity,
            before.and_then(|lease| lease.spec.as_ref()),
            Timestamp::now(),
        );
        let params = PostParams::default();
        match before {
            // With the version that was read, so that of several that claim it one gets it.
            Some(lease) => {
                let lease = Lease {
                    metadata: lease.metadata.clone(),
                    spec: Some(spec),
                };
                self.leases.replace(&self.name, &params, &lease).await
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        namespace: Some(self.namespace.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                self.leases.create(&params, &lease).await
            }
        }
    }

    fn learn(&mut self, lease: Option<Lease>) {
        let before = self.known.take().map(|known| known.seen);
        self.known = lease.map(|lease| {
            let spec = lease.spec.clone().unwrap_or_default();
            let seen = Observation::of(&spec, before.as_ref(), Instant::now());
            Known { lease, seen }
        });
    }

    /// What an attempt came to; how long until the next.
    fn after(
        &mut self,
        attempt: Result<Result<Duration, kube::Error>, tokio::time::error::Elapsed>,
    ) -> Duration {
        // What failed may have been done all the same.
        self.stale |= !matches!(attempt, Ok(Ok(_)));
        let fault = match attempt {
            Ok(Ok(wait)) => {
                if self.fault.take().is_some() {
                    info!(lease = self.name, "the Lease can be used again");
                }
                return wait;
            }
            // Somebody else was faster; or the Lease is gone, or is there now. All of it shows when it is read.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                return jittered(LOOK, fastrand::f64()) / 4;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => format!(
                "the API server does not let this control plane use it: grant get, create and update on \
                 leases.coordination.k8s.io in namespace {} ({})",
                self.namespace, status.message
            ),
            Ok(Err(error)) => in_full(&error),
            Err(_) => format!("no answer from the API server in {} s", DEADLINE.as_secs()),
        };
        if self.fault.as_ref() != Some(&fault) {
            warn!(lease = self.name, fault, "who writes status is not settled");
            self.fault = Some(fault);
        }
        jittered(LOOK, fastrand::f64())
    }

    fn tell(&self) {
        let now = Leadership {
            leading: self.until.is_some(),
            holder: (self.known.as_ref()).and_then(|known| known.seen.holder.clone()),
        };
        let told = self.said.borrow().clone();
        if told == now {
            return;
        }
        match (&now.holder, now.leading) {
            (_, true) if !told.leading => {
                info!(lease = self.name, "this replica writes status now");
            }
            (_, false) if told.leading => warn!(
                lease = self.name,
                "this replica does not write status any more: it could not renew its Lease"
            ),
            (Some(holder), false) if told.holder != now.holder => {
                info!(lease = self.name, holder, "another replica writes status");
            }
            _ => {}
        }
        self.said.send_replace(now);
    }

    /// Says that it is free, so that another replica need not wait for it to run out.
    async fn release(mut self) {
        let leading = self.until.take().is_some();
        self.said.send_replace(Leadership::default());
        let Some(Known { mut lease, .. }) = self.known.take().filter(|_| leading) else {
            return;
        };
        lease.spec = lease.spec.map(|spec| released(&spec, Timestamp::now()));
        let params = PostParams::default();
        let replaced = self.leases.replace(&self.name, &params, &lease);
        match tokio::time::timeout(RELEASE, replaced).await {
            Ok(Ok(_)) => info!(lease = self.name, "released"),
            Ok(Err(error)) => warn!(lease = self.name, %error, "not released: it will run out"),
            Err(_) => warn!(lease = self.name, "not released in time: it will run out"),
        }
    }
}
