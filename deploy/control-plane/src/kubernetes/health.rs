//! How well the cluster is known: what is still missing, what the API server refuses, and numbers for people. Written by
//! whoever follows the cluster, read by `/ready`, `/live` and `/metrics`, which the kubelet and Prometheus ask from
//! elsewhere: nothing here names a sidecar or a policy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::sync::watch;
use tracing::{info, warn};

use super::kind::Kind;
use super::operate::Numbers;
use super::permission::Trouble;
use super::watch::{Change, LAST_RETRY, Step};
use crate::http::{Answer, text};
use crate::status::State;

/// A trouble that did not come again for this long is over: it is tried again sooner.
const OVER: Duration = LAST_RETRY
    .saturating_mul(2)
    .saturating_add(Duration::from_secs(10));

/// Whether something else is ready.
pub(crate) type Gate = watch::Receiver<bool>;

#[derive(Debug)]
pub(crate) struct Health {
    /// Written by whoever writes statuses.
    pub(super) operation: Arc<Numbers>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Never listed in full yet.
    missing: BTreeSet<Kind>,
    troubles: BTreeMap<Kind, (Trouble, Instant)>,
    /// Why nothing can be served although all was read.
    problem: Option<String>,
    gates: Vec<(&'static str, Gate)>,
    counts: Vec<(String, usize)>,
    listings: BTreeMap<Kind, u64>,
    failures: BTreeMap<(Kind, &'static str), u64>,
    publications: u64,
    last_publication: Option<Duration>,
}

impl Health {
    /// `kinds`: what must be read before anything is served.
    pub(crate) fn new(kinds: impl IntoIterator<Item = Kind>) -> Arc<Self> {
        Arc::new(Self {
            operation: Arc::default(),
            inner: Mutex::new(Inner {
                missing: kinds.into_iter().collect(),
                ..Inner::default()
            }),
        })
    }

    /// Not ready while `gate` is closed, because of what `why` says.
    pub(crate) fn wait_for(&self, why: &'static str, gate: Gate) {
        self.inner().gates.push((why, gate));
    }

    /// Takes note of a change. True when by it everything is known for the first time.
    pub(super) fn saw(&self, change: &Change) -> bool {
        let kind = change.kind();
        let mut inner = self.inner();
        let complete = inner.missing.is_empty();
        match (change.step(), change) {
            (Step::Listing, _) => {}
            (Step::Listed, _) => {
                *inner.listings.entry(kind).or_default() += 1;
                inner.missing.remove(&kind);
                inner.recovered(kind);
            }
            (Step::Other, Change::Trouble(_, trouble)) => inner.trouble(kind, trouble),
            (Step::Other, _) => inner.recovered(kind),
        }
        !complete && inner.missing.is_empty()
    }

    /// Everything was read at least once.
    pub(super) fn is_complete(&self) -> bool {
        self.inner().missing.is_empty()
    }

    pub(super) fn published(&self, after: Duration) {
        let mut inner = self.inner();
        inner.publications += 1;
        inner.last_publication = Some(after);
    }

    pub(super) fn counted(&self, counts: Vec<(String, usize)>) {
        self.inner().counts = counts;
    }

    pub(super) fn cannot_serve(&self, problem: Option<String>) {
        self.inner().problem = problem;
    }

    /// Why no sidecar can be served. Empty: ready, as far as the cluster is concerned.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let inner = self.inner();
        let missing = inner
            .missing
            .iter()
            .map(|kind| match inner.troubles.get(kind) {
                Some((trouble, _)) => trouble.describe(kind.plural(), kind.group()),
                None => format!("{kind} were not listed yet"),
            });
        let mut not_ready: Vec<_> = missing.collect();
        not_ready.extend(inner.problem.clone());
        let closed = inner.gates.iter().filter(|(_, gate)| !*gate.borrow());
        not_ready.extend(closed.map(|(why, _)| (*why).to_owned()));
        not_ready
    }

    /// What is wrong although everything was read: it is served as it was read last.
    fn stale(&self) -> Vec<String> {
        let inner = self.inner();
        let current = inner.troubles.iter().filter(|(kind, (trouble, at))| {
            let fault = !(kind.may_be_missing() && *trouble == Trouble::NotInstalled);
            !inner.missing.contains(kind) && fault && at.elapsed() < OVER
        });
        current
            .map(|(kind, (trouble, _))| trouble.describe(kind.plural(), kind.group()))
            .collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn trouble(&mut self, kind: Kind, trouble: &Trouble) {
        *self.failures.entry((kind, trouble.code())).or_default() += 1;
        let absent = kind.may_be_missing() && *trouble == Trouble::NotInstalled;
        let known = self
            .troubles
            .insert(kind, (trouble.clone(), Instant::now()));
        let again = known.is_some_and(|(before, at)| before == *trouble && at.elapsed() < OVER);
        let had = self
            .counts
            .iter()
            .any(|(name, count)| *name == kind.to_string() && *count > 0);
        match trouble {
            // Nothing is amiss in a cluster without Istio.
            Trouble::NotInstalled if absent && !had => {
                self.missing.remove(&kind);
                if !again {
                    info!("{kind} are not installed: watching as soon as they are");
                }
            }
            Trouble::NotInstalled if absent && !again => {
                warn!("{kind} are no longer installed: what they said last still holds");
            }
            Trouble::Expired => info!("{}", trouble.describe(kind.plural(), kind.group())),
            _ if !again => warn!("{}", trouble.describe(kind.plural(), kind.group())),
            _ => {}
        }
    }

    fn recovered(&mut self, kind: Kind) {
        if let Some((trouble, _)) = self.troubles.remove(&kind)
            && trouble != Trouble::Expired
        {
            info!("{kind} are watched again");
        }
    }
}

/// `others` says why this program is not ready for reasons that are none of the cluster's.
pub(crate) fn answer(
    health: &Health,
    state: &State,
    others: &impl Fn() -> Option<String>,
    request: &Request<Incoming>,
) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    let mut not_ready = health.not_ready();
    if not_ready.is_empty() {
        not_ready.extend(state.not_ready());
    }
    not_ready.extend(others());
    match request.uri().path() {
        // It answers, and that is all the kubelet should restart it for.
        "/live" => text(StatusCode::OK, "live\n".into()),
        "/ready" if not_ready.is_empty() => {
            let mut lines = vec!["ready".to_owned()];
            lines.extend(health.stale());
            text(StatusCode::OK, lines.join("\n") + "\n")
        }
        "/ready" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready\n{}\n", not_ready.join("\n")),
        ),
        "/metrics" => text(StatusCode::OK, metrics(health, state, not_ready.is_empty())),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /ready, /live and /metrics\n".into(),
        ),
    }
}

fn metrics(health: &Health, state: &State, ready: bool) -> String {
    let connected = state.look_at_sidecars(|sidecars| sidecars.count());
    let inner = health.inner();
    let mut page = Page(String::new());
    page.family(
        "kith_control_ready",
        "gauge",
        "1 when sidecars can be served.",
    );
    page.value("kith_control_ready", "", u8::from(ready));
    page.family(
        "kith_control_objects",
        "gauge",
        "Objects of the cluster that are known, by kind.",
    );
    for (kind, count) in &inner.counts {
        page.value(
            "kith_control_objects",
            &format!("{{kind=\"{kind}\"}}"),
            count,
        );
    }
    page.family(
        "kith_control_sidecars_connected",
        "gauge",
        "Streams of sidecars.",
    );
    page.value("kith_control_sidecars_connected", "", connected);
    page.family(
        "kith_control_catalog_changes_total",
        "counter",
        "Publications of something else than before.",
    );
    page.value("kith_control_catalog_changes_total", "", inner.publications);
    if let Some(last) = inner.last_publication {
        let name = "kith_control_last_publication_seconds";
        page.family(
            name,
            "gauge",
            "From the arrival of the last change to its publication.",
        );
        page.value(name, "", last.as_secs_f64());
    }
    let name = "kith_control_watch_restarts_total";
    page.family(name, "counter", "Listings of a kind after the first.");
    for (kind, listings) in &inner.listings {
        page.value(
            name,
            &format!("{{kind=\"{kind}\"}}"),
            listings.saturating_sub(1),
        );
    }
    let name = "kith_control_watch_failures_total";
    page.family(
        name,
        "counter",
        "Attempts to list or watch a kind that failed.",
    );
    for ((kind, reason), count) in &inner.failures {
        let labels = format!("{{kind=\"{kind}\",reason=\"{reason}\"}}");
        page.value(name, &labels, count);
    }
    health.operation.metrics(&mut page.0);
    page.0
}

/// The text format of Prometheus. Labels hold nothing that anybody else chose.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::kind::DocumentKind;
    use crate::kubernetes::watch::Event;

    const ISTIO: Kind = Kind::Document(DocumentKind::IstioPeerAuthentication);

    #[test]
    fn it_is_complete_once_every_kind_was_listed_and_says_what_is_missing() {
        let health = Health::new([Kind::Pod, Kind::Namespace]);
        assert_eq!(
            health.not_ready(),
            ["namespaces were not listed yet", "pods were not listed yet"]
        );
        assert!(!health.saw(&Change::Pod(Event::Listing)));
        assert!(!health.saw(&Change::Pod(Event::Listed)));
        let forbidden = Trouble::Forbidden {
            verb: "list",
            user: "somebody".into(),
        };
        assert!(!health.saw(&Change::Trouble(Kind::Namespace, forbidden)));
        assert_eq!(
            health.not_ready(),
            [
                "`somebody` may not list `namespaces` of the core API group: allow the verbs get, list and watch on it \
                 in a ClusterRole that is bound to this user"
            ]
        );
        assert!(health.saw(&Change::Namespace(Event::Listed)));
        assert!(health.not_ready().is_empty());
        // Only the first time is the first.
        assert!(!health.saw(&Change::Namespace(Event::Listed)));
    }

    #[test]
    fn a_cluster_without_istio_is_complete() {
        let health = Health::new([ISTIO]);
        assert!(health.saw(&Change::Trouble(ISTIO, Trouble::NotInstalled)));
        assert!(health.stale().is_empty());
    }

    #[test]
    fn a_kind_of_kiths_own_must_be_there() {
        let kind = Kind::Document(DocumentKind::MeshConfig);
        let health = Health::new([kind]);
        assert!(!health.saw(&Change::Trouble(kind, Trouble::NotInstalled)));
        assert_eq!(
            health.not_ready(),
            [
                "the API server does not know meshconfigs.kith.dev: apply its CustomResourceDefinition"
            ]
        );
    }

    #[test]
    fn what_was_read_once_is_served_in_trouble_and_the_trouble_is_shown() {
        let health = Health::new([Kind::Pod]);
        health.saw(&Change::Pod(Event::Listed));
        health.saw(&Change::Trouble(Kind::Pod, Trouble::Other("gone".into())));
        assert!(health.not_ready().is_empty());
        assert_eq!(health.stale(), ["pods cannot be watched: gone"]);
        health.saw(&Change::Pod(Event::Deleted("shop/web".into())));
        assert!(health.stale().is_empty());
    }

    #[test]
    fn others_may_have_to_be_ready_first() {
        let health = Health::new([]);
        let (open, gate) = watch::channel(false);
        health.wait_for("the webhook has no certificate yet", gate);
        assert_eq!(health.not_ready(), ["the webhook has no certificate yet"]);
        open.send_replace(true);
        assert!(health.not_ready().is_empty());
    }

    #[test]
    fn numbers_are_told_as_prometheus_reads_them() {
        let health = Health::new([Kind::Pod]);
        health.saw(&Change::Pod(Event::Listed));
        health.saw(&Change::Trouble(Kind::Pod, Trouble::Expired));
        health.saw(&Change::Pod(Event::Listed));
        health.counted(vec![("pods".into(), 3)]);
        health.published(Duration::from_millis(4));
        let page = metrics(&health, &State::default(), false);
        for line in [
            "kith_control_ready 0",
            "kith_control_objects{kind=\"pods\"} 3",
            "kith_control_sidecars_connected 0",
            "kith_control_catalog_changes_total 1",
            "kith_control_last_publication_seconds 0.004",
            "kith_control_watch_restarts_total{kind=\"pods\"} 1",
            "kith_control_watch_failures_total{kind=\"pods\",reason=\"expired\"} 1",
            "kith_control_leader 0",
            "kith_control_status_writes_total{result=\"failed\"} 0",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} in {page}");
        }
    }
}
