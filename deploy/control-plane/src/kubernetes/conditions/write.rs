//! Writing statuses: only what differs, what people wait for first, and never faster than the API server should bear.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Status, Tally, desired};
use crate::kubernetes::kind::DocumentKind;
use crate::kubernetes::operate::Numbers;
use crate::kubernetes::permission::in_full;
use crate::kubernetes::verdict::{Effect, ObjectKey, Verdict, Verdicts};

/// The name of what is ours, for server-side apply.
const MANAGER: &str = "kith-control";

/// Writes in one round, and at a time. With the pause between rounds: 80 a second at most.
const ROUND: usize = 20;
/// Of these, what nobody waits for. In a large mesh some pod is always coming or going, and with it the numbers of all that
/// holds for the whole mesh: 8 a second, however much that is.
const UNASKED: usize = 2;
const AT_A_TIME: usize = 8;
pub(in crate::kubernetes) const PAUSE: Duration = Duration::from_millis(250);
/// One write.
const DEADLINE: Duration = Duration::from_secs(5);
/// Mere numbers are written when they have differed for this long ...
const SETTLE: Duration = Duration::from_secs(2);
/// ... and the last write of the object is this long ago.
const SELDOM: Duration = Duration::from_secs(5);
/// For this long what was written is believed over what the watch says, which lags.
const BELIEVE: Duration = Duration::from_secs(10);
/// The wall's clock is looked at again after this.
const OVER: Duration = Duration::from_secs(3600);
/// After a write that was refused: the object, or all objects of the kind.
const REFUSED: Duration = Duration::from_secs(30);
/// After a write that was not answered, doubling: all objects.
const UNANSWERED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A status to be written.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::kubernetes) struct Write {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) status: Status,
    urgency: Urgency,
    /// Since when it differs from what is there.
    since: Instant,
}

/// What is written first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// People wait for it.
    News,
    /// What was said before is no longer so.
    Retraction,
    Numbers,
}

/// What is remembered of an object between rounds.
#[derive(Debug, Default)]
struct Memory {
    uid: String,
    written: Option<Written>,
    /// Since when what should be written differs from what is there.
    differs: Option<Instant>,
    /// Not before.
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Written {
    status: Status,
    /// What the watch said when it was written: as long as it says that, it is not newer.
    seen: Option<Value>,
    at: Instant,
}

/// How a write ended.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::kubernetes) enum End {
    Done,
    /// The object is gone, or another of that name is there.
    Gone,
    /// The API server says that this control plane may not.
    Forbidden(String),
    /// It will be the same next time.
    Refused(String),
    /// Not answered, or asked to come later.
    Later(String),
}

#[derive(Debug, Default)]
pub(in crate::kubernetes) struct Writer {
    objects: HashMap<ObjectKey, Memory>,
    /// Kinds that may not be written, until then; and those of which it was said.
    forbidden: HashMap<&'static str, Instant>,
    said: HashSet<&'static str>,
    unanswered: u32,
    paused: Option<Instant>,
    numbers: Arc<Numbers>,
}

/// What to write now, and when to ask again if nothing changes meanwhile.
pub(in crate::kubernetes) type Due = (Vec<Write>, Option<Instant>);

impl Writer {
    pub(in crate::kubernetes) fn new(numbers: Arc<Numbers>) -> Self {
        Self {
            numbers,
            ..Self::default()
        }
    }

    /// What to write now, the most waited for first, and when to ask again if nothing changes meanwhile.
    pub(in crate::kubernetes) fn due(
        &mut self,
        verdicts: &Verdicts,
        tally: &Tally<'_>,
        now: Instant,
        wall: Timestamp,
    ) -> Due {
        self.objects.retain(|key, _| verdicts.contains_key(key));
        let mut writes = Vec::new();
        let mut next: Option<Instant> = None;
        for (key, verdict) in verdicts.iter().filter(|(key, _)| known(key.kind).is_some()) {
            let memory = self.objects.entry(key.clone()).or_default();
            if memory.uid != verdict.uid {
                *memory = Memory {
                    uid: verdict.uid.clone(),
                    ..Memory::default()
                };
            }
            let current = memory.current(verdict, now);
            let status = desired(key, verdict, tally, current.as_ref(), wall);
            if let Some(until) = over_in(verdict.effect, wall) {
                next = Some(next.map_or(now + until, |next| next.min(now + until)));
            }
            if current.as_ref() == Some(&status) {
                memory.differs = None;
                continue;
            }
            let since = *memory.differs.get_or_insert(now);
            let news = status.is_news_after(current.as_ref());
            let quiet = memory.written.as_ref().map(|written| written.at + SELDOM);
            let not_before = [
                if news { None } else { Some(since + SETTLE) },
                if news { None } else { quiet },
                memory.refused,
                self.forbidden.get(key.kind).copied(),
                self.paused,
            ];
            match not_before.into_iter().flatten().max() {
                Some(later) if later > now => {
                    next = Some(next.map_or(later, |next| next.min(later)));
                }
                _ => writes.push(Write {
                    key: key.clone(),
                    uid: verdict.uid.clone(),
                    urgency: match &current {
                        _ if news => Urgency::News,
                        Some(current) if status.retracts(current) => Urgency::Retraction,
                        _ => Urgency::Numbers,
                    },
                    status,
                    since,
                }),
            }
        }
        writes.sort_by_key(|write| (write.urgency, write.since));
        let news = writes.iter();
        let news = news.filter(|write| write.urgency == Urgency::News).count();
        let most = ROUND.min(news + UNASKED);
        if writes.len() > most {
            writes.truncate(most);
            next = Some(now + PAUSE);
        }
        (writes, next)
    }

    /// Takes note of how a write ended.
    pub(in crate::kubernetes) fn ended(
        &mut self,
        write: Write,
        verdicts: &Verdicts,
        end: End,
        now: Instant,
    ) {
        let Write { key, status, .. } = write;
        let Some(memory) = self.objects.get_mut(&key) else {
            return;
        };
        if end != End::Gone {
            self.numbers.count_write(end == End::Done);
        }
        match end {
            End::Done => {
                self.unanswered = 0;
                if self.said.remove(key.kind) {
                    info!(kind = key.kind, "statuses can be written again");
                }
                self.forbidden.remove(key.kind);
                memory.written = Some(Written {
                    status,
                    seen: verdicts
                        .get(&key)
                        .and_then(|verdict| verdict.status.clone()),
                    at: now,
                });
                memory.differs = None;
            }
            // Most often the watch has not said so yet. If it never does, there is no such subresource.
            End::Gone => {
                debug!(object = %key, "gone before its status was written");
                memory.refused = Some(now + REFUSED);
            }
            End::Forbidden(message) => {
                self.forbidden.insert(key.kind, now + REFUSED);
                if self.said.insert(key.kind) {
                    let plural = known(key.kind).map_or("", DocumentKind::plural);
                    warn!(
                        message,
                        "statuses of this kind are not written: allow the verb patch on {plural}/status of API group \
                         kith.dev in the ClusterRole of this control plane"
                    );
                }
            }
            End::Refused(message) => {
                memory.refused = Some(now + REFUSED);
                warn!(object = %key, message, "the API server refuses its status: are the CRDs those of this version?");
            }
            End::Later(message) => {
                let (first, most) = UNANSWERED;
                let wait = first.saturating_mul(1 << self.unanswered.min(10)).min(most);
                let until = now + wait.mul_f64(0.5 + fastrand::f64() / 2.0);
                // Of many that were under way together the first counts.
                if self.paused.is_none_or(|paused| paused <= now) {
                    warn!(object = %key, message, "its status was not written, and will be later");
                    self.unanswered += 1;
                    self.paused = Some(until);
                }
            }
        }
    }

    /// Writes what is due. When to come back if nothing changes meanwhile.
    pub(in crate::kubernetes) async fn round(
        &mut self,
        client: &Client,
        verdicts: &Verdicts,
        due: Due,
    ) -> Option<Instant> {
        let (writes, mut next) = due;
        let mut ends = futures_util::stream::iter(writes)
            .map(|write| async {
                let end = write.send(client).await;
                (write, end)
            })
            .buffer_unordered(AT_A_TIME);
        while let Some((write, end)) = ends.next().await {
            debug!(object = %write.key, ?end, "status");
            let done = end == End::Done;
            self.ended(write, verdicts, end, Instant::now());
            if !done {
                next = Some(next.map_or(Instant::now() + PAUSE, |next| {
                    next.min(Instant::now() + PAUSE)
                }));
            }
        }
        next
    }
}

impl Memory {
    /// What the status is, as far as can be known: the watch may not have told of the last write yet.
    fn current(&self, verdict: &Verdict, now: Instant) -> Option<Status> {
        if let Some(written) = &self.written
            && written.seen == verdict.status
            && written.at + BELIEVE > now
        {
            return Some(written.status.clone());
        }
        verdict.status.as_ref().and_then(Status::read)
    }
}

impl Write {
    async fn send(&self, client: &Client) -> End {
        let Some(kind) = known(self.key.kind) else {
            return End::Refused("not a kind of Kith's".into());
        };
        let resource = kind.resource();
        let namespaced = !self.key.namespace.is_empty();
        let api: Api<DynamicObject> = if namespaced {
            Api::namespaced_with(client.clone(), &self.key.namespace, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        // With the uid: the status of an object that was deleted is not that of another with its name.
        let mut metadata = BTreeMap::from([("name", &self.key.name), ("uid", &self.uid)]);
        if namespaced {
            metadata.insert("namespace", &self.key.namespace);
        }
        let body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
            "status": self.status,
        });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&body);
        let written = api.patch_status(&self.key.name, &params, &patch);
        match tokio::time::timeout(DEADLINE, written).await {
            Ok(Ok(_)) => End::Done,
            Ok(Err(error)) => end_of(error),
            Err(_) => End::Later(format!("no answer in {} s", DEADLINE.as_secs())),
        }
    }
}

/// How long until the object has no effect any more, if that is soon. Looked at again by then in any case, since the
/// wall's clock may be set.
fn over_in(effect: Effect, wall: Timestamp) -> Option<Duration> {
    let Effect::Until(until) = effect else {
        return None;
    };
    let left = Timestamp::try_from(until).ok()?.duration_since(wall);
    let left = Duration::try_from(left).ok()?;
    (!left.is_zero()).then_some(left.min(OVER))
}

fn end_of(error: kube::Error) -> End {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => End::Gone,
            // Not another manager's fields, since ours are forced, but another uid under this name; or, of several
            // writes at once, one too many.
            409 if status.message.contains("uid") => End::Gone,
            403 => End::Forbidden(status.message),
            409 | 429 | 500.. => End::Later(status.message),
            _ => End::Refused(status.message),
        },
        error => End::Later(in_full(&error)),
    }
}

/// Kith's own kinds; Istio's are not ours to write to.
fn known(kind: &str) -> Option<DocumentKind> {
    let mut kinds = DocumentKind::KITH.into_iter();
    kinds.find(|one| one.key() == kind)
}
