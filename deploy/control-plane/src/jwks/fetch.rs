//! Keeps the wanted key sets fresh. One task owns the schedule; what was fetched stays in force until
//! something newer is. An issuer that can't be asked takes no keys away; one that answers with a set of which no key
//! can be used does: those that it no longer names may be in the wrong hands.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::http::{Answer, Failed, Web};
use super::keys::{PublicKeys, judge};
use super::source::{allowed, quoted};
use super::{KeySets, Report, Source, Store, Wanted, WantedBy};
use crate::status::State;

/// Between two fetches, unless the server says how long its answer may be kept.
const REFRESH: Duration = Duration::from_secs(300);
/// Within these, what the server says counts.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);
/// After the first failure; doubled with every other.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
const AT_A_TIME: usize = 16;

pub(crate) struct Fetcher {
    web: Web,
    sets: BTreeMap<Source, Entry>,
    fetches: JoinSet<(Source, Outcome)>,
}

type Outcome = Result<(PublicKeys, Option<Duration>), Failed>;

/// One key set.
struct Entry {
    by: WantedBy,
    keys: Option<Arc<str>>,
    next: Instant,
    fetching: bool,
}

impl Fetcher {
    pub(crate) fn new(web: Web) -> Self {
        Self {
            web,
            sets: BTreeMap::new(),
            fetches: JoinSet::new(),
        }
    }

    /// Fetches what `state` wants, for as long as it is polled.
    pub(crate) async fn follow(mut self, state: Arc<State>) {
        let store = &state.keys;
        let mut wanted = store.wanted.subscribe();
        // What was wanted before this began is wanted too.
        wanted.mark_changed();
        loop {
            let due = self.start_due();
            tokio::select! {
                changed = wanted.changed() => {
                    // The sender is in `state`, which is held here.
                    if changed.is_err() { return }
                    let wanted = wanted.borrow_and_update().clone();
                    self.want(wanted, store);
                }
                Some(done) = self.fetches.join_next() => {
                    if let Ok((source, outcome)) = done {
                        self.fetched(&source, outcome, store);
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    /// When there is something to do again.
    fn start_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut due = now + LONGEST;
        for (source, entry) in &mut self.sets {
            if entry.fetching {
                continue;
            }
            if entry.next > now {
                due = due.min(entry.next);
            } else if self.fetches.len() < AT_A_TIME {
                entry.fetching = true;
                let (web, source, timeout) = (self.web.clone(), source.clone(), entry.by.timeout);
                self.fetches.spawn(async move {
                    let fetching = tokio::time::timeout(timeout, fetch(&web, &source));
                    // A defect that one answer shows must not end the fetching of that set for good.
                    let outcome = match AssertUnwindSafe(fetching).catch_unwind().await {
                        Ok(Ok(outcome)) => outcome,
                        Ok(Err(_)) => {
                            Err(Failed(format!("{source}: no answer within {timeout:?}")))
                        }
                        Err(_) => Err(Failed(format!(
                            "{source}: a defect of Kith, see the log above"
                        ))),
                    };
                    (source, outcome)
                });
            }
        }
        due
    }

    fn want(&mut self, wanted: Wanted, store: &Store) {
        self.sets.retain(|source, _| wanted.contains_key(source));
        for (source, by) in wanted {
            let entry = self.sets.entry(source).or_insert_with(|| Entry {
                by: WantedBy::default(),
                keys: None,
                next: Instant::now(),
                fetching: false,
            });
            entry.by = by;
        }
        let mut reports = store.lock();
        reports.retain(|source, _| self.sets.contains_key(source));
        for (source, entry) in &self.sets {
            let report = reports.entry(source.clone());
            report.or_insert_with(|| Report::new(source)).issuers = entry.by.issuers.clone();
        }
        drop(reports);
        self.publish(store);
    }

    fn fetched(&mut self, source: &Source, outcome: Outcome, store: &Store) {
        // Nobody wants it any more.
        let Some(entry) = self.sets.get_mut(source) else {
            return;
        };
        entry.fetching = false;
        let mut reports = store.lock();
        let Some(report) = reports.get_mut(source) else {
            return;
        };
        let doubled = RETRY * 2_u32.saturating_pow(report.failures.min(16));
        let again = doubled.min(LONGEST_RETRY);
        let wait = match outcome {
            Ok((keys, _)) if let Some(why) = keys.none_usable() => {
                let why = format!("{source}: {why}");
                if report.error.as_ref() != Some(&why) {
                    let issuers = Vec::from_iter(&report.issuers);
                    warn!(%source, ?issuers, error = why, "the issuer has no keys any more: no token of it is trusted");
                }
                entry.keys = None;
                report.keys = 0;
                report.skipped = keys.skipped;
                report.error = Some(why);
                report.failures = report.failures.saturating_add(1);
                again
            }
            Ok((keys, max_age)) => {
                if report.error.take().is_some() || report.fetched.is_none() {
                    info!(%source, keys = keys.usable, "fetched the keys of an issuer");
                }
                entry.keys = Some(keys.json.into());
                report.keys = keys.usable;
                report.skipped = keys.skipped;
                report.fetched = Some(SystemTime::now());
                report.failures = 0;
                max_age.map_or(REFRESH, |age| age.clamp(SHORTEST, LONGEST))
            }
            Err(Failed(why)) => {
                if report.error.as_ref() != Some(&why) {
                    let issuers = Vec::from_iter(&report.issuers);
                    if entry.keys.is_some() {
                        warn!(%source, ?issuers, error = why, "cannot fetch the keys of an issuer: those of before stay in force");
                    } else {
                        warn!(%source, ?issuers, error = why, "cannot fetch the keys of an issuer: no token of it is trusted");
                    }
                }
                report.error = Some(why);
                report.failures = report.failures.saturating_add(1);
                again
            }
        };
        drop(reports);
        // Not all control planes at once, nor all sets of one.
        entry.next = Instant::now() + wait.mul_f64(0.8 + 0.2 * fastrand::f64());
        self.publish(store);
    }

    fn publish(&self, store: &Store) {
        let sets = self.sets.iter();
        let sets = sets.filter_map(|(source, entry)| Some((source.clone(), entry.keys.clone()?)));
        let sets: KeySets = sets.collect();
        store.sets.send_if_modified(|before| {
            let changed = **before != sets;
            if changed {
                *before = Arc::new(sets);
            }
            changed
        });
        store.attempts.send_modify(|attempts| *attempts += 1);
    }
}

async fn fetch(web: &Web, source: &Source) -> Outcome {
    let answer = match source {
        Source::Jwks(url) => web.get(url).await?,
        Source::Discovery { issuer, metadata } => {
            let url = discovered(issuer, &web.get(metadata).await?, source)?;
            // What TLS proved of the metadata must not be lost on the way to the keys.
            if metadata.scheme() == "https" && url.scheme() != "https" {
                return Err(Failed(format!(
                    "{source}: its `jwks_uri` {url} is not https"
                )));
            }
            web.get(&url).await?
        }
    };
    judged(source, &answer)
}

fn judged(source: &Source, answer: &Answer) -> Outcome {
    let keys = judge(&answer.body);
    let keys = keys.map_err(|why| Failed(format!("{source}: what came {why}")))?;
    Ok((keys, answer.max_age))
}

/// OpenID Connect Discovery 1.0 sections 3 and 4.3.
fn discovered(issuer: &str, answer: &Answer, source: &Source) -> Result<url::Url, Failed> {
    let refuse = |why: String| Failed(format!("{source}: {why}"));
    let metadata: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| refuse(format!("not an issuer's metadata: {error}")))?;
    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    if text("issuer") != Some(issuer) {
        return Err(refuse(format!(
            "is the metadata of {}, not of `{issuer}`: the two must be the same, to the last slash",
            quoted(text("issuer").unwrap_or_default())
        )));
    }
    let uri = text("jwks_uri").ok_or_else(|| refuse("names no `jwks_uri`".into()))?;
    allowed(uri).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"one","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

    #[tokio::test]
    async fn what_was_wanted_before_it_began_is_fetched_too() {
        let state = Arc::new(State::default());
        let source = Source::jwks("http://127.0.0.1:1/keys").unwrap();
        let by = WantedBy {
            timeout: Duration::from_secs(5),
            ..WantedBy::default()
        };
        state.keys.wanted.send_replace(Wanted::from([(source, by)]));
        let fetcher = Fetcher::new(Web::new(None).unwrap());
        let following = tokio::spawn(fetcher.follow(Arc::clone(&state)));
        let tried = tokio::time::timeout(Duration::from_secs(10), state.keys.tried());
        assert!(tried.await.is_ok());
        following.abort();
    }

    #[tokio::test]
    async fn keys_go_when_the_issuer_withdraws_them_and_stay_when_it_is_away() {
        let source = Source::jwks("https://issuer.example/keys").unwrap();
        let store = Store::default();
        let mut fetcher = Fetcher::new(Web::new(None).unwrap());
        fetcher.want(
            Wanted::from([(source.clone(), WantedBy::default())]),
            &store,
        );
        let says = |body: &'static str| {
            let body = body.as_bytes().into();
            judged(
                &source,
                &Answer {
                    body,
                    max_age: None,
                },
            )
        };
        let mut holds = |outcome: Outcome| {
            fetcher.fetched(&source, outcome, &store);
            let keys = store.key_sets().get(&source).map(str::len);
            assert_eq!(store.reports()[0].keys, usize::from(keys.is_some()));
            keys.is_some()
        };
        assert!(holds(says(ONE)));
        for withdrawn in [
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"EC","crv":"secp256k1","kid":"new"}]}"#,
        ] {
            assert!(holds(Err(Failed("no answer".into()))));
            // An error page is no answer either.
            assert!(holds(says("<html>")));
            assert!(!holds(says(withdrawn)), "{withdrawn}");
            assert!(!holds(Err(Failed("no answer".into()))));
            assert!(holds(says(ONE)));
        }
        let report = &store.reports()[0];
        assert_eq!((report.failures, &report.error), (0, &None));
    }
}
