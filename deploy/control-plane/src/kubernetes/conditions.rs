//! What each object's status should say: accepted or not, and how many of the sidecars it concerns enforce it. A function
//! of what was made of the object, what is served, and what the sidecars say.

pub(super) mod write;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::heard::Heard;
use super::verdict::{Effect, ObjectKey, Verdict};
use crate::catalog::{Catalog, Encoded};
use crate::problem::printable;

/// A condition's message may have 32,768 bytes; more than this nobody reads.
const MOST_WORDS: usize = 4096;

/// `status` of every `kith.dev` kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) observed_generation: i64,
    pub(crate) conditions: Vec<Condition>,
    /// Of kinds that sidecars enforce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sidecars: Option<Sidecars>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sidecars {
    pub(crate) selected: u32,
    pub(crate) enforced: u32,
}

/// `metav1.Condition`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    pub(crate) r#type: String,
    /// `True` or `False`.
    pub(crate) status: String,
    pub(crate) observed_generation: i64,
    /// RFC 3339, whole seconds: when `status` changed.
    pub(crate) last_transition_time: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Of the sidecars that something concerns.
#[derive(Debug, Clone, Copy, Default)]
struct Count<'a> {
    selected: u32,
    enforced: u32,
    /// Served, and no sidecar is connected for it.
    absent: u32,
    /// Do not enforce it, and refused an update.
    refused: u32,
    /// The first of these by name.
    refusal: Option<Refusal<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal<'a> {
    node: &'a str,
    why: &'a str,
}

/// How one sidecar stands.
#[derive(Debug, Clone, Copy)]
enum Standing<'a> {
    Enforces,
    Behind,
    Refused(Refusal<'a>),
    Absent,
}

impl<'a> Count<'a> {
    fn add(&mut self, standing: Standing<'a>) {
        self.selected += 1;
        match standing {
            Standing::Enforces => self.enforced += 1,
            Standing::Behind => {}
            Standing::Refused(refusal) => {
                self.refused += 1;
                self.name(Some(refusal));
            }
            Standing::Absent => self.absent += 1,
        }
    }

    fn join(&mut self, other: Self) {
        self.selected += other.selected;
        self.enforced += other.enforced;
        self.absent += other.absent;
        self.refused += other.refused;
        self.name(other.refusal);
    }

    fn name(&mut self, refusal: Option<Refusal<'a>>) {
        self.refusal = self.refusal.into_iter().chain(refusal).min();
    }
}

/// The policies of one sidecar. Two are equal when they are the same in memory: a policy is encoded once for all that it
/// selects, and one that was not is only counted in two parts.
struct Policies<'a>(&'a [Arc<Encoded>]);

impl Hash for Policies<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Folded before it is hashed, since there may be thousands. What is folded comes from the allocator, and not
        // from whoever writes policies.
        let fold = |sum: u64, policy: &Arc<Encoded>| {
            let mixed = sum.rotate_left(5) ^ Arc::as_ptr(policy).addr() as u64;
            mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        state.write_u64(self.0.iter().fold(0, fold));
    }
}

impl PartialEq for Policies<'_> {
    fn eq(&self, other: &Self) -> bool {
        let pairs = || self.0.iter().zip(other.0);
        self.0.len() == other.0.len() && pairs().all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl Eq for Policies<'_> {}

/// All counts, by what they are about.
#[derive(Default)]
pub(super) struct Tally<'a> {
    /// There is something to serve.
    served: bool,
    /// By the revision of the configuration.
    all: Count<'a>,
    /// By the version of the revocation list.
    revocations: Count<'a>,
    policies: HashMap<&'a str, Count<'a>>,
    authentications: HashMap<(&'static str, &'a str), Count<'a>>,
    /// Replicas of the control plane whose sidecars are unknown.
    pub(super) silent: usize,
}

impl<'a> Tally<'a> {
    /// Nothing is served: nothing of what is written down can be in force, and its authors are told all the same.
    pub(super) fn of_nothing() -> Self {
        Self::default()
    }

    /// One pass over the sidecars, whatever the number of policies.
    pub(super) fn of(catalog: &'a Catalog, heard: &'a Heard, silent: usize) -> Self {
        // Sidecars of one application have the same policies: counted as one set, and taken apart at the end, so that
        // a mesh-wide policy is not looked up for each sidecar.
        let mut sets: HashMap<Policies<'a>, Count<'a>> = HashMap::new();
        let mut authentications: HashMap<(&'static str, &'a str), Count<'a>> = HashMap::new();
        let mut all = Count::default();
        let mut revocations = Count::default();
        let list = catalog.revocations.version();
        for (id, node) in catalog.nodes() {
            let said = heard.of(id);
            let standing = |says: bool, refused: &'a Option<String>| match refused {
                _ if says => Standing::Enforces,
                Some(why) => Standing::Refused(Refusal { node: id, why }),
                None => Standing::Behind,
            };
            let configured = said.map_or(Standing::Absent, |said| {
                let enforces = said.revision.as_deref() == Some(node.revision.as_str());
                standing(enforces, &said.refused_configuration)
            });
            all.add(configured);
            revocations.add(said.map_or(Standing::Absent, |said| {
                let enforces = said.revocations.as_deref() == Some(list);
                standing(enforces, &said.refused_revocations)
            }));
            let set = sets.entry(Policies(&node.policies));
            set.or_default().add(configured);
            for (kind, name) in &node.authentications {
                let counted = authentications.entry((*kind, &**name));
                counted.or_default().add(configured);
            }
        }
        let mut policies: HashMap<&'a str, Count<'a>> = HashMap::new();
        for (set, count) in sets {
            for policy in set.0 {
                policies.entry(policy.name()).or_default().join(count);
            }
        }
        Self {
            served: true,
            all,
            revocations,
            policies,
            authentications,
            silent,
        }
    }

    /// None: a kind that no sidecar enforces by itself.
    fn count(&self, key: &ObjectKey) -> Option<Count<'a>> {
        let name = format!("{}/{}", key.namespace, key.name);
        let found = match key.kind {
            "AuthorizationPolicy" => self.policies.get(&*name),
            "PeerAuthentication" | "RequestAuthentication" => {
                self.authentications.get(&(key.kind, &*name))
            }
            "MeshConfig" => Some(&self.all),
            "Revocation" => Some(&self.revocations),
            _ => return None,
        };
        Some(found.copied().unwrap_or_default())
    }
}

/// What the status of an object should be now, `current` being what it is.
pub(super) fn desired(
    key: &ObjectKey,
    verdict: &Verdict,
    tally: &Tally<'_>,
    current: Option<&Status>,
    now: Timestamp,
) -> Status {
    let count = tally.count(key);
    let accepted = verdict.problems.is_empty();
    let generation = verdict.generation;
    let condition = |kind: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let before = current.and_then(|current| current.condition(kind));
        let since = before.filter(|before| before.status == status);
        Condition {
            r#type: kind.into(),
            status: status.into(),
            observed_generation: generation,
            last_transition_time: since
                .map_or_else(|| rfc3339(now), |since| since.last_transition_time.clone()),
            reason: reason.into(),
            message,
        }
    };
    let (reason, message) = if !accepted {
        (
            "Invalid",
            printable(&verdict.problems.join("; "), MOST_WORDS),
        )
    } else if verdict.warnings.is_empty() {
        ("Valid", "accepted as written".to_owned())
    } else {
        let warnings = verdict.warnings.join("; ");
        let message = format!("accepted as written, but see: {warnings}");
        ("Valid", printable(&message, MOST_WORDS))
    };
    let mut conditions = vec![condition("Accepted", accepted, reason, message)];
    let over = over(verdict.effect, now);
    if let Some(count) = count {
        let (status, reason, message) = match over {
            Some(until) if accepted => (false, "Expired", expired(generation, until)),
            _ => enforced(verdict, count, tally),
        };
        conditions.push(condition("Enforced", status, reason, message));
    }
    Status {
        observed_generation: generation,
        conditions,
        sidecars: count.map(|count| Sidecars {
            selected: count.selected,
            // What stands in for an object that is not accepted is not what it says, and what is over is not enforced.
            enforced: match over {
                None if accepted => count.enforced,
                _ => 0,
            },
        }),
    }
}

/// Since when, if the object has no effect any more.
fn over(effect: Effect, now: Timestamp) -> Option<Timestamp> {
    let Effect::Until(until) = effect else {
        return None;
    };
    let until = Timestamp::try_from(until).ok()?;
    (until <= now).then_some(until)
}

fn expired(generation: i64, until: Timestamp) -> String {
    format!(
        "spec.until of generation {generation} is over since {}: no sidecar honours it any more. Delete it, or give it \
         a later time",
        rfc3339(until)
    )
}

/// Whole seconds.
fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn enforced(
    verdict: &Verdict,
    count: Count<'_>,
    tally: &Tally<'_>,
) -> (bool, &'static str, String) {
    let generation = verdict.generation;
    let Count {
        selected,
        enforced,
        absent,
        refused,
        refusal,
    } = count;
    if !verdict.problems.is_empty() {
        let message = format!("generation {generation} is not accepted: see condition Accepted");
        return (false, "NotAccepted", message);
    }
    if !tally.served {
        let message = format!(
            "generation {generation} is not served, since nothing can be: most often no MeshConfig is valid. /ready of \
             the control plane says why"
        );
        return (false, "NothingServed", message);
    }
    if selected == 0 {
        let message = format!("no sidecar is selected: nothing enforces generation {generation}");
        return (false, "NoSidecars", message);
    }
    let noun = if selected == 1 { "sidecar" } else { "sidecars" };
    let verb = if selected == 1 { "enforces" } else { "enforce" };
    let mut message = format!("{enforced} of {selected} {noun} {verb} generation {generation}");
    if verdict.effect == Effect::Records {
        message += ", which is recorded and decides nothing";
    }
    if enforced == selected {
        return (true, "AllSidecars", message);
    }
    if absent > 0 {
        let verb = if absent == 1 { "is" } else { "are" };
        message += &format!("; {absent} {verb} not connected");
    }
    let silent = tally.silent;
    if silent > 0 {
        let noun = if silent == 1 { "replica" } else { "replicas" };
        message += &format!(
            "; what sidecars of {silent} other {noun} of the control plane enforce is unknown"
        );
    }
    let Some(Refusal { node, why }) = refusal else {
        return (false, "Waiting", message);
    };
    message += &match refused {
        1 => format!("; 1 refused an update: {node}: {why}"),
        _ => format!("; {refused} refused an update, among them {node}: {why}"),
    };
    (false, "Refused", message)
}

impl Status {
    /// What is ours of a status as the API has it; None when it is none that was written by us.
    pub(super) fn read(status: &serde_json::Value) -> Option<Self> {
        let mut status = Self::deserialize(status).ok()?;
        // Others may add conditions of their own.
        let ours = |condition: &Condition| matches!(&*condition.r#type, "Accepted" | "Enforced");
        status.conditions.retain(ours);
        status.conditions.sort_by(|a, b| a.r#type.cmp(&b.r#type));
        Some(status)
    }

    fn condition(&self, kind: &str) -> Option<&Condition> {
        let mut conditions = self.conditions.iter();
        conditions.find(|condition| condition.r#type == kind)
    }

    /// Whether what `current` says to be enforced is not.
    pub(super) fn retracts(&self, current: &Self) -> bool {
        current.holds() && !self.holds()
    }

    fn holds(&self) -> bool {
        let condition = self.condition("Enforced");
        condition.is_some_and(|condition| condition.status == "True")
    }

    fn is_refused(&self) -> bool {
        let condition = self.condition("Enforced");
        condition.is_some_and(|condition| condition.reason == "Refused")
    }

    /// Whether people wait for `self` in place of `current`: another generation, other problems, a refusal, or more than
    /// was said before. Less, and mere numbers, come and go with every pod that starts.
    pub(super) fn is_news_after(&self, current: Option<&Self>) -> bool {
        let Some(current) = current else { return true };
        let differs = |kind| {
            let part = |status: &Self| {
                let condition = status.condition(kind);
                condition.map(|one| (one.status.clone(), one.reason.clone(), one.message.clone()))
            };
            part(self) != part(current)
        };
        self.observed_generation != current.observed_generation
            || differs("Accepted")
            || (self.holds() && !current.holds())
            || (self.is_refused() && !current.is_refused() && !current.holds())
            || self.conditions.len() != current.conditions.len()
    }
}
