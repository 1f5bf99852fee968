//! The only writer of the current snapshot: turns what the Workload API says into snapshots,
//! and what it fails to say into alarms.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::watch::{Event, Failure, watch_jwt, watch_x509};
use super::{Shared, SourceConfig, SvidStatus};
use crate::TrustSnapshot;
use crate::trust::{JwtBundles, RefusedBundle, jwt};
use crate::workload_api::WorkloadApiClient;
use crate::workload_api::proto::{JwtBundlesResponse, X509svidResponse};

/// Updates that come faster than this are merged: only the newest counts, since each is the
/// full state, and every snapshot makes its subscribers work.
const SHORTEST_BETWEEN_UPDATES: Duration = Duration::from_millis(50);
/// How often to knock again on a stream that stays silent past the SVID's end.
const KNOCK_WHEN_EXPIRED: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    config: SourceConfig,
    keepalive: Duration,
    shared: Arc<Shared>,
    /// The newest update that isn't published yet, and when it will be.
    pending: Option<X509svidResponse>,
    publish_at: Option<Instant>,
    last_publish: Option<Instant>,
    /// Of the update in force.
    fingerprint: Option<[u8; 32]>,
    jwks: Arc<JwtBundles>,
    generation: u64,
    /// When the grace after PermissionDenied is over.
    denied_until: Option<Instant>,
    /// When to look again whether our SVID was renewed.
    renewal_due: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(config: SourceConfig, keepalive: Duration, shared: Arc<Shared>) -> Keeper {
        Keeper {
            config,
            keepalive,
            shared,
            pending: None,
            publish_at: None,
            last_publish: None,
            fingerprint: None,
            jwks: Arc::default(),
            generation: 0,
            denied_until: None,
            renewal_due: None,
        }
    }

    pub(super) async fn run(mut self, mut lifetime: channel::Receiver<bool>) {
        let (sender, mut events) = mpsc::channel(16);
        let mut watchers = self.watchers(&sender);
        let shared = self.shared.clone();
        loop {
            let deadline = [self.publish_at, self.denied_until, self.renewal_due]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                () = ended(&mut lifetime, &shared) => break,
                Some(event) = events.recv() => self.on_event(event),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if self.on_deadline(Instant::now()) == Next::Reconnect {
                        watchers = self.watchers(&sender);
                    }
                }
            }
        }
        drop(watchers);
        self.shared.status().connected = false;
        debug!("no longer following the Workload API");
    }

    /// Dropping the set ends the tasks in it.
    fn watchers(&self, events: &mpsc::Sender<Event>) -> JoinSet<()> {
        let client = WorkloadApiClient::new(&self.config.endpoint, self.keepalive);
        // As long as a frozen server goes unnoticed by pings: interval plus timeout.
        let answer_within = self.keepalive * 2;
        let mut watchers = JoinSet::new();
        watchers.spawn(watch_x509(client.clone(), answer_within, events.clone()));
        watchers.spawn(watch_jwt(client, answer_within, events.clone()));
        watchers
    }

    fn on_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::X509(update) => {
                self.pending = Some(update);
                self.schedule(now);
            }
            Event::Jwt(update) => self.on_jwt_bundles(&update, now),
            Event::X509Failed(failure) => self.on_failure(failure, now),
            Event::JwtFailed(failure) => {
                let (Failure::Final(text) | Failure::Denied(text) | Failure::Unavailable(text)) =
                    failure;
                debug!(error = %text, "no JWT bundles from the Workload API");
                self.shared.status().jwt_error = Some(text);
            }
        }
    }

    /// A bad bundle is left out; like every message, this one replaces all of the last.
    fn on_jwt_bundles(&mut self, update: &JwtBundlesResponse, now: Instant) {
        let (jwks, refused) = jwt::collect(update, &self.jwks);
        let mut status = self.shared.status();
        status.jwt_error = None;
        if status.refused_jwt_bundles != refused {
            for RefusedBundle { trust_domain, why } in &refused {
                warn!(trust_domain, why, "a JWT bundle is left out");
            }
            status.refused_jwt_bundles = refused;
        }
        drop(status);
        if jwks != *self.jwks {
            for (trust_domain, bundle) in &jwks {
                for key in bundle.keys().unusable() {
                    debug!(%trust_domain, %key, "a key for JWT-SVIDs can't be used");
                }
            }
            self.jwks = Arc::new(jwks);
            self.schedule(now);
        }
    }

    fn schedule(&mut self, now: Instant) {
        if self.publish_at.is_none() {
            let earliest = self
                .last_publish
                .map_or(now, |last| last + SHORTEST_BETWEEN_UPDATES);
            self.publish_at = Some(earliest.max(now));
        }
    }

    fn on_failure(&mut self, failure: Failure, now: Instant) {
        let mut status = self.shared.status();
        status.connected = false;
        let text = match failure {
            Failure::Final(text) => {
                status.gave_up = true;
                error!(endpoint = %self.config.endpoint, error = %text,
                    "the Workload API doesn't understand us; not asking again");
                text
            }
            Failure::Denied(text) => {
                if status.denied_since.is_none() {
                    status.denied_since = Some(SystemTime::now());
                    if self.fingerprint.is_some() {
                        self.denied_until = Some(now + self.config.denied_grace);
                        warn!(endpoint = %self.config.endpoint, error = %text, grace_s = self.config.denied_grace.as_secs(),
                            "the Workload API no longer has an identity for us; the SVID stays in use for the grace period");
                    } else {
                        warn!(endpoint = %self.config.endpoint, error = %text,
                            "the Workload API has no identity for us; is this workload registered?");
                    }
                }
                text
            }
            Failure::Unavailable(text) => {
                if status.last_error.as_ref() != Some(&text) {
                    warn!(endpoint = %self.config.endpoint, error = %text, "the Workload API isn't available; trying again");
                }
                text
            }
        };
        status.last_error = Some(text);
    }

    fn on_deadline(&mut self, now: Instant) -> Next {
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish_at = None;
            self.publish(now);
        }
        if self.denied_until.is_some_and(|at| at <= now) {
            self.denied_until = None;
            self.withdraw();
        }
        if self.renewal_due.is_some_and(|at| at <= now) {
            return self.on_renewal_overdue(now);
        }
        Next::Continue
    }

    fn publish(&mut self, now: Instant) {
        self.last_publish = Some(now);
        let wall = SystemTime::now();
        let current = self.shared.current.load_full();
        let snapshot = match self.pending.take() {
            Some(update) => {
                let fingerprint = fingerprint(&update);
                let unchanged = self.fingerprint == Some(fingerprint);
                let same_jwks = current
                    .as_ref()
                    .is_some_and(|c| *c.jwt_bundles() == *self.jwks);
                if unchanged && same_jwks {
                    return self.on_good_answer(wall);
                }
                let hint = self.config.hint.as_deref();
                match TrustSnapshot::from_update(
                    &update,
                    hint,
                    self.jwks.clone(),
                    self.generation + 1,
                    wall,
                ) {
                    Ok(snapshot) => {
                        self.fingerprint = Some(fingerprint);
                        self.on_good_answer(wall);
                        let serial = snapshot.serial();
                        self.shared.status().svids = update
                            .svids
                            .iter()
                            .filter_map(|svid| SvidStatus::of(svid, serial))
                            .collect();
                        snapshot
                    }
                    Err(error) => {
                        let text = format!("an update of the Workload API was refused: {error}");
                        let mut status = self.shared.status();
                        status.connected = true;
                        status.refused_updates += 1;
                        if status.last_error.as_ref() != Some(&text) {
                            error!(endpoint = %self.config.endpoint, keeps_last_good = current.is_some(), "{text}");
                        }
                        status.last_error = Some(text);
                        return;
                    }
                }
            }
            // Only the JWT bundles changed. Without an SVID there is no snapshot to put them in yet.
            None => match &current {
                Some(current) => current.with_jwt_bundles(self.jwks.clone(), self.generation + 1),
                None => return,
            },
        };
        self.adopt(snapshot, current.as_deref(), now, wall);
    }

    fn on_good_answer(&mut self, wall: SystemTime) {
        self.denied_until = None;
        let mut status = self.shared.status();
        if status.last_error.is_some() {
            info!(endpoint = %self.config.endpoint, "the Workload API serves us again");
        }
        status.connected = true;
        status.last_error = None;
        status.denied_since = None;
        status.withdrawn = false;
        status.last_update = Some(wall);
    }

    fn adopt(
        &mut self,
        snapshot: TrustSnapshot,
        previous: Option<&TrustSnapshot>,
        now: Instant,
        wall: SystemTime,
    ) {
        self.generation = snapshot.generation();
        let renewed =
            previous.is_none_or(|p| p.certified_key().cert != snapshot.certified_key().cert);
        let mut status = self.shared.status();
        status.adopt(&snapshot, wall);
        for refused in snapshot.refused_bundles() {
            warn!(trust_domain = %refused.trust_domain, why = %refused.why, "a bundle is left out");
        }
        for refused in &status.refused_crls {
            warn!(issuer = %refused.issuer, why = %refused.why, "a CRL is left out; what it revokes stays in use");
        }
        for crl in &status.crls {
            if crl.trust_domains.is_empty() {
                warn!(issuer = %crl.issuer, "no authority of any bundle signed this CRL; it counts only for peers \
                    that present its issuer");
            }
            if crl.stale {
                warn!(issuer = %crl.issuer, "the next CRL is overdue; the last one stays in force");
            }
        }
        let revoked = snapshot.is_own_svid_revoked(wall);
        if revoked && !status.revoked {
            error!(principal = %snapshot.principal(), serial = snapshot.serial(),
                "our own SVID was revoked by CRL; peers refuse it until the Workload API gives us another");
        }
        status.revoked = revoked;
        if renewed {
            status.overdue = false;
            status.expired = false;
            status.rotations += u64::from(previous.is_some());
            let remaining = snapshot
                .not_after()
                .duration_since(wall)
                .unwrap_or_default();
            // Half of the remaining life, and a tenth for authorities that renew at exactly half.
            self.renewal_due = Some(now + remaining / 2 + remaining / 10);
            info!(principal = %snapshot.principal(), serial = snapshot.serial(), remaining_s = remaining.as_secs(),
                generation = self.generation, "SVID in use");
        }
        drop(status);
        self.shared.publish(Some(Arc::new(snapshot)));
    }

    fn withdraw(&mut self) {
        error!(endpoint = %self.config.endpoint,
            "the Workload API denied us an identity for longer than the grace; the SVID is no longer used");
        self.fingerprint = None;
        self.renewal_due = None;
        {
            let mut status = self.shared.status();
            status.withdrawn = true;
            status.svids.clear();
        }
        self.shared.publish(None);
    }

    /// Half of the life passed without renewal: say so, and knock anew, for the stream may be
    /// up and yet dead. Again at half of what then remains, and at the end.
    fn on_renewal_overdue(&mut self, now: Instant) -> Next {
        let Some(snapshot) = self.shared.current.load_full() else {
            self.renewal_due = None;
            return Next::Continue;
        };
        let remaining = snapshot
            .not_after()
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let mut status = self.shared.status();
        status.overdue = true;
        if remaining.is_zero() {
            if !status.expired {
                error!(principal = %snapshot.principal(), endpoint = %self.config.endpoint,
                    "our SVID has expired without renewal; every handshake is refused until the Workload API renews it");
            }
            status.expired = true;
            self.renewal_due = Some(now + KNOCK_WHEN_EXPIRED);
        } else {
            warn!(principal = %snapshot.principal(), endpoint = %self.config.endpoint, remaining_s = remaining.as_secs(),
                "our SVID is overdue for renewal; look at the Workload API's agent");
            // The last look is just past the end.
            self.renewal_due = Some(
                now + (remaining / 2).max(Duration::from_secs(2).min(remaining))
                    + Duration::from_millis(20),
            );
        }
        if status.gave_up {
            Next::Continue
        } else {
            Next::Reconnect
        }
    }
}

#[derive(PartialEq)]
enum Next {
    Continue,
    Reconnect,
}

/// Waits until the source is shut down, or nobody can read it any more.
async fn ended(lifetime: &mut channel::Receiver<bool>, shared: &Shared) {
    if lifetime.wait_for(|stop| *stop).await.is_err() {
        shared.updates.closed().await;
    }
}

/// Tells whether two updates are the same without keeping the private key to compare.
fn fingerprint(update: &X509svidResponse) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut field = |bytes: &[u8]| {
        context.update(&bytes.len().to_be_bytes());
        context.update(bytes);
    };
    field(&update.svids.len().to_be_bytes());
    for svid in &update.svids {
        field(svid.spiffe_id.as_bytes());
        field(&svid.x509_svid);
        field(&svid.x509_svid_key);
        field(&svid.bundle);
        field(svid.hint.as_bytes());
    }
    field(&update.crl.len().to_be_bytes());
    for crl in &update.crl {
        field(crl);
    }
    for (id, bundle) in &update.federated_bundles {
        field(id.as_bytes());
        field(bundle);
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    sha256
}
