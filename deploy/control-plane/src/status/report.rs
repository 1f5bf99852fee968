//! What `/status` says, drift included: where sidecars are not what they should be.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::history::{Acknowledged, History};
use super::{Enforced, Inner, LastNack, Load, Sidecar, State, Subscribed, Svid, rfc3339};
use crate::catalog::{Counts, Version};
use crate::jwks;

/// An update on its way is not drift.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// SVIDs are renewed at half of their life; with less than a quarter left something is in the way.
const NEAR_EXPIRY: f64 = 0.25;

#[derive(Serialize)]
pub(super) struct Report {
    ready: bool,
    not_ready: Vec<String>,
    load: Load,
    serving: Option<Counts>,
    /// The version of the revocation list that every sidecar should enforce.
    revocations: Option<Version>,
    /// The keys of issuers that are fetched from elsewhere.
    key_sets: Vec<jwks::Report>,
    sidecars: Vec<SidecarReport>,
    /// Declared, in the mesh, and not here.
    not_connected: Vec<String>,
}

#[derive(Serialize)]
struct SidecarReport {
    node: String,
    principal: Box<str>,
    address: SocketAddr,
    #[serde(serialize_with = "rfc3339")]
    connected_since: Option<SystemTime>,
    revision_wanted: Option<Version>,
    revision_acknowledged: Option<Version>,
    #[serde(serialize_with = "rfc3339")]
    acknowledged_at: Option<SystemTime>,
    /// How long ago the oldest push was sent that is not acknowledged.
    behind_ms: u128,
    last_nack: Option<Box<LastNack>>,
    svid: Svid,
    /// Plaintext connections that it accepted since it started.
    plaintext: u64,
    revocations: Option<Enforced>,
    /// What is not as it should be, and what to do about it.
    drift: Vec<Drift>,
    subscriptions: Subscribed,
    /// Oldest first.
    acknowledgements: Vec<Acknowledged>,
}

/// One way in which a sidecar is not what it should be.
#[derive(Debug, PartialEq, Serialize)]
struct Drift {
    kind: &'static str,
    message: String,
}

impl State {
    pub(super) fn report(&self, not_ready: Vec<String>) -> Report {
        let catalog = self.catalog();
        let inner = self.inner();
        let connected: HashSet<&str> = inner
            .sidecars
            .values()
            .map(|sidecar| &*sidecar.node)
            .collect();
        let nodes = catalog.iter().flat_map(|catalog| catalog.nodes.keys());
        let mut not_connected: Vec<String> = nodes
            .filter(|id| !connected.contains(&***id))
            .map(ToString::to_string)
            .collect();
        not_connected.sort();
        let revocations = catalog.as_ref().map(|catalog| catalog.revocations.stamp());
        let now = SystemTime::now();
        Report {
            ready: not_ready.is_empty(),
            not_ready,
            load: inner.load.clone(),
            key_sets: self.keys.reports(),
            serving: catalog.map(|catalog| catalog.counts),
            sidecars: inner
                .sidecars
                .values()
                .map(|sidecar| inner.describe(sidecar, revocations, now))
                .collect(),
            revocations,
            not_connected,
        }
    }
}

impl Inner {
    fn describe(
        &self,
        sidecar: &Sidecar,
        revocations: Option<Version>,
        now: SystemTime,
    ) -> SidecarReport {
        let acknowledgements: Vec<_> = self
            .acknowledged
            .get(&sidecar.node)
            .into_iter()
            .flat_map(History::iter)
            .collect();
        let last = acknowledgements.last();
        SidecarReport {
            drift: drift(sidecar, revocations, now),
            node: sidecar.node.to_string(),
            principal: sidecar.principal.clone(),
            address: sidecar.address,
            connected_since: Some(sidecar.connected_since),
            revision_wanted: sidecar.revision_wanted,
            revision_acknowledged: last.map(|last| last.revision),
            acknowledged_at: last.map(|last| last.time),
            behind_ms: sidecar
                .behind_since
                .map_or(0, |since| since.elapsed().as_millis()),
            last_nack: sidecar.last_nack.clone(),
            svid: sidecar.svid.clone(),
            plaintext: sidecar.plaintext,
            revocations: sidecar.revocations.clone(),
            subscriptions: sidecar.subscriptions,
            acknowledgements,
        }
    }
}

fn drift(sidecar: &Sidecar, revocations: Option<Version>, now: SystemTime) -> Vec<Drift> {
    let mut drift = Vec::new();
    let mut add = |kind, message| drift.push(Drift { kind, message });
    if sidecar.refused > 0 {
        let why = sidecar.last_nack.as_ref().map_or("", |nack| &nack.message);
        let message = format!(
            "refused {} of the resources sent, what it had before stays in force: {why}",
            sidecar.refused
        );
        add("refused", message);
    }
    let behind = sidecar.behind_since.map(|since| since.elapsed());
    if let Some(behind) = behind.filter(|behind| *behind > ON_ITS_WAY && sidecar.refused == 0) {
        let message = format!(
            "has not acknowledged what was sent {:.0} s ago; see its own log, /ready and /config",
            behind.as_secs_f64()
        );
        add("behind", message);
    }
    let enforced = sidecar.revocations.as_ref();
    let listed = now
        .duration_since(sidecar.connected_since)
        .unwrap_or_default();
    if revocations.is_some()
        && enforced.map(|enforced| enforced.version) != revocations
        && listed > ON_ITS_WAY
        && behind.is_none_or(|behind| behind > ON_ITS_WAY)
    {
        let message = "does not enforce the current revocation list".to_owned();
        add("revocations", message);
    }
    if let Some(expires) = sidecar.svid.expires {
        let left = expires.duration_since(now).unwrap_or_default();
        if left < sidecar.svid.lifetime.mul_f64(NEAR_EXPIRY) {
            let message = format!(
                "its SVID ends in {} s and was not renewed: look at its Workload API",
                left.as_secs()
            );
            add("svid", message);
        }
    }
    if sidecar.plaintext > 0 {
        let message = format!(
            "accepted {} plaintext connections since it started: make the port STRICT, or give the callers a sidecar",
            sidecar.plaintext
        );
        add("plaintext", message);
    }
    drift
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sidecar(now: SystemTime) -> Sidecar {
        Sidecar {
            node: "shop/web-1".into(),
            principal: "spiffe://example.org/ns/shop/sa/web".into(),
            address: ([127, 0, 0, 1], 1).into(),
            connected_since: now - Duration::from_secs(60),
            revision_wanted: None,
            revision_enforced: None,
            in_force: None,
            behind_since: None,
            last_nack: None,
            subscriptions: Subscribed::default(),
            refused: 0,
            refused_configuration: None,
            refused_list: None,
            svid: Svid {
                serial: "1".into(),
                expires: Some(now + Duration::from_secs(1800)),
                lifetime: Duration::from_secs(3600),
            },
            plaintext: 0,
            revocations: Some(Enforced {
                version: Version::of(&[b"v1"]),
                closed: None,
                enforced_ms: None,
                time: None,
                heard: Instant::now(),
            }),
            unanswered_list: false,
            list_seen: None,
        }
    }

    /// What is said of a sidecar that differs from a good one in this.
    fn check(change: impl FnOnce(&mut Sidecar), expected: &[&str]) {
        let now = SystemTime::now();
        let mut sidecar = sidecar(now);
        change(&mut sidecar);
        let kinds: Vec<_> = drift(&sidecar, Some(Version::of(&[b"v1"])), now)
            .iter()
            .map(|drift| drift.kind)
            .collect();
        assert_eq!(kinds, expected);
    }

    #[test]
    fn drift_is_what_lasts_and_not_what_is_on_its_way() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        check(|_| (), &[]);
        check(|it| it.behind_since = Some(Instant::now()), &[]);
        check(|it| it.behind_since = ago(5), &["behind"]);
        check(
            |it| {
                it.refused = 1;
                it.behind_since = ago(5);
            },
            &["refused"],
        );
        check(|it| it.revocations = None, &["revocations"]);
        check(
            |it| {
                it.revocations = None;
                it.behind_since = Some(Instant::now());
            },
            &[],
        );
        let soon = SystemTime::now() + Duration::from_secs(899);
        check(|it| it.svid.expires = Some(soon), &["svid"]);
        check(|it| it.plaintext = 2, &["plaintext"]);
    }
}
