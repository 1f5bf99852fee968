//! All documents of the cluster, what holds of them, and what is wrong with the others. Pure.
//!
//! A folder with one mistake is refused as a whole, for somebody is there to correct it. A cluster has many authors: what
//! one of them got wrong is replaced by what is surely not weaker (`substitute`), and the others' documents hold.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use kith_policy::model::Action;

use super::kind::DocumentKind;
use super::object::{self, Id};
use super::read::{Object, key, read, told};
use super::substitute::substitute;
use super::verdict::{Effect, ObjectKey, Verdict, Verdicts};
use crate::problem::Problem;
use crate::yaml::Loaded;

/// Names the cluster in problems that no object is at fault for.
const CLUSTER: &str = "cluster";

#[derive(Debug, Default)]
pub(crate) struct Documents {
    known: BTreeMap<ObjectKey, Known>,
    /// The MeshConfig that counts, as it was valid last.
    mesh: Option<(ObjectKey, Loaded)>,
    verdicts: Verdicts,
}

#[derive(Debug)]
struct Known {
    kind: DocumentKind,
    object: Object,
    read: Result<Loaded, Vec<Problem>>,
}

/// What was found wrong, by object.
pub(crate) type Findings = BTreeMap<ObjectKey, Finding>;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Finding {
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Documents that hold together, and what was made of them.
#[derive(Debug)]
pub(crate) struct Settled<R> {
    pub(crate) made: R,
    pub(crate) loaded: Loaded,
    pub(crate) findings: Findings,
}

impl Documents {
    /// Every object of a kind, by id.
    pub(crate) fn ids(&self, kind: DocumentKind) -> Vec<Id> {
        let of_kind = self.known.iter();
        let of_kind = of_kind.filter(|(_, known)| known.kind == kind);
        of_kind
            .map(|(key, _)| object::id(Some(&key.namespace), &key.name))
            .collect()
    }

    /// True when it means something else than before: a status that was written does not.
    pub(crate) fn apply(&mut self, kind: DocumentKind, id: &Id, object: Object) -> bool {
        let key = key(kind, id);
        if let Some(known) = self.known.get_mut(&key)
            && known.object.document == object.document
            && known.object.created == object.created
        {
            known.object = object;
            return false;
        }
        let read = read(&key, &object.document);
        self.known.insert(key, Known { kind, object, read });
        true
    }

    pub(crate) fn remove(&mut self, kind: DocumentKind, id: &Id) -> bool {
        self.known.remove(&key(kind, id)).is_some()
    }

    /// How many there are of a kind.
    pub(crate) fn count(&self, kind: DocumentKind) -> usize {
        self.known
            .values()
            .filter(|known| known.kind == kind)
            .count()
    }

    /// Finds documents that hold together: `make` refuses contradictions, each by naming the object at fault in the
    /// problem's `file`, until what is left has none.
    ///
    /// # Errors
    /// Nothing can hold, e.g. because there never was a valid MeshConfig.
    pub(crate) fn settle<R>(
        &mut self,
        make: impl Fn(&Loaded) -> Result<R, Vec<Problem>>,
    ) -> Result<Settled<R>, (Vec<Problem>, Findings)> {
        let mut findings = Findings::new();
        let Some(mesh) = self.choose_mesh(&mut findings) else {
            self.tell_all(&mut findings);
            return Err((vec![no_mesh_config()], findings));
        };
        // How many times something was tried in place of an object.
        let mut broken: BTreeMap<&ObjectKey, usize> = BTreeMap::new();
        for (key, known) in self.documents() {
            if let Err(problems) = &known.read {
                let finding = findings.entry(key.clone()).or_default();
                finding.problems.extend(problems.iter().map(told));
                broken.insert(key, 0);
            }
        }
        let by_file = self.by_file();
        loop {
            let loaded = self.join(&mesh, &broken);
            let problems = match make(&loaded) {
                Ok(made) => {
                    self.tell_effects(&broken, &mut findings);
                    return Ok(Settled {
                        made,
                        loaded,
                        findings,
                    });
                }
                Err(problems) => problems,
            };
            let mut left = Vec::new();
            for problem in problems {
                let Some(key) = by_file.get(&*problem.file.to_string_lossy()) else {
                    left.push(problem);
                    continue;
                };
                let found = told(&problem);
                let finding = findings.entry((*key).clone()).or_default();
                if !finding.problems.contains(&found) {
                    finding.problems.push(found);
                }
                // Its name may be the contradiction: what holds in its place has another.
                broken
                    .entry(key)
                    .and_modify(|tried| *tried += 1)
                    .or_insert(1);
            }
            if !left.is_empty() {
                return Err((left, findings));
            }
        }
    }

    /// The objects by what names them in problems.
    pub(crate) fn by_file(&self) -> HashMap<String, &ObjectKey> {
        let known = self.known.keys();
        known.map(|key| (key.to_string(), key)).collect()
    }

    /// What is said of every object, `findings` and all; what did not change is the same as before.
    pub(crate) fn verdicts(&mut self, findings: &Findings) -> Verdicts {
        let none = Finding::default();
        let verdicts = self.known.iter().map(|(key, known)| {
            let finding = findings.get(key).unwrap_or(&none);
            let verdict = Verdict {
                uid: known.object.uid.clone(),
                generation: known.object.generation,
                problems: finding.problems.clone(),
                warnings: finding.warnings.clone(),
                effect: known
                    .read
                    .as_ref()
                    .map_or_else(|_| Effect::default(), effect),
                status: known.object.status.clone(),
            };
            let verdict = match self.verdicts.get(key) {
                Some(before) if **before == verdict => Arc::clone(before),
                _ => Arc::new(verdict),
            };
            (key.clone(), verdict)
        });
        self.verdicts = Arc::new(verdicts.collect());
        Arc::clone(&self.verdicts)
    }

    /// The oldest valid one counts. One that counted and became invalid counts as it was: every sidecar's trust domain
    /// hangs on it.
    fn choose_mesh(&mut self, findings: &mut Findings) -> Option<Loaded> {
        let of_kind = self.known.iter();
        let mut all: Vec<_> = of_kind
            .filter(|(_, known)| known.kind == DocumentKind::MeshConfig)
            .collect();
        all.sort_by_key(|(key, known)| (known.object.created, (*key).clone()));
        let broken_since = self.mesh.as_ref().is_some_and(|(key, _)| {
            let known = self.known.get(key);
            known.is_some_and(|known| known.read.is_err())
        });
        let valid = all.iter().find_map(|(key, known)| {
            let loaded = known.read.as_ref().ok()?;
            Some(((*key).clone(), loaded.clone()))
        });
        let chosen = match valid {
            Some(valid) if !broken_since => Some(valid),
            _ => self.mesh.clone(),
        };
        for (key, known) in all {
            let problems = match &known.read {
                Err(problems) => {
                    let mut told: Vec<_> = problems.iter().map(told).collect();
                    if chosen.as_ref().is_some_and(|(chosen, _)| chosen == key) {
                        told.push("until it is corrected its last valid version holds".into());
                    }
                    told
                }
                Ok(_) => match &chosen {
                    Some((chosen, _)) if chosen != key => vec![format!(
                        "kind: a second MeshConfig; `{}` counts, which is older: remove one of the two",
                        chosen.name
                    )],
                    _ => continue,
                },
            };
            findings.entry(key.clone()).or_default().problems = problems;
        }
        self.mesh = chosen;
        self.mesh.as_ref().map(|(_, loaded)| loaded.clone())
    }

    /// Nothing holds yet, and still each author is told.
    fn tell_all(&self, findings: &mut Findings) {
        for (key, known) in self.documents() {
            if let Err(problems) = &known.read {
                let finding = findings.entry(key.clone()).or_default();
                finding.problems.extend(problems.iter().map(told));
            }
        }
    }

    fn documents(&self) -> impl Iterator<Item = (&ObjectKey, &Known)> {
        let known = self.known.iter();
        known.filter(|(_, known)| known.kind != DocumentKind::MeshConfig)
    }

    /// Substitutes come first, since the first wins where only one can; then the oldest, as Istio has it.
    fn join(&self, mesh: &Loaded, broken: &BTreeMap<&ObjectKey, usize>) -> Loaded {
        let mut parts = vec![mesh.clone()];
        for (key, attempt) in broken {
            let Some(known) = self.known.get(*key) else {
                continue;
            };
            let Some(substitute) = substitute(known.kind, &known.object.document, *attempt) else {
                continue;
            };
            // Of a Revocation's subjects the readable ones are left over here.
            let documents = substitute.documents.iter();
            parts.extend(documents.filter_map(|document| read(key, document).ok()));
        }
        let mut good: Vec<_> = self
            .documents()
            .filter(|(key, _)| !broken.contains_key(key))
            .filter_map(|(key, known)| {
                let loaded = known.read.as_ref().ok()?;
                Some(((known.object.created, key), loaded.clone()))
            })
            .collect();
        good.sort_by_key(|(age, _)| *age);
        parts.extend(good.into_iter().map(|(_, loaded)| loaded));
        Loaded::join(Path::new(CLUSTER), parts)
    }

    fn tell_effects(&self, broken: &BTreeMap<&ObjectKey, usize>, findings: &mut Findings) {
        for (key, attempt) in broken {
            let known = self.known.get(*key);
            let effect =
                known.and_then(|known| substitute(known.kind, &known.object.document, *attempt));
            let effect = effect.map_or("until it is corrected it has no effect", |it| it.effect);
            let finding = findings.entry((*key).clone()).or_default();
            finding.problems.push(effect.to_owned());
        }
    }
}

/// Of the one document of an object.
fn effect(loaded: &Loaded) -> Effect {
    let policies = loaded.files().flat_map(|file| &file.authorization_policies);
    let mut policies = policies.map(|document| document.spec.policy());
    let revocations = loaded.files().flat_map(|file| &file.revocations);
    if policies.any(|policy| policy.dry_run || policy.action == Action::Audit) {
        return Effect::Records;
    }
    let until = revocations.map(|document| document.spec.until).next();
    until.map_or(Effect::Decides, Effect::Until)
}

fn no_mesh_config() -> Problem {
    Problem {
        file: CLUSTER.into(),
        line: 0,
        field: String::new(),
        message: "no valid MeshConfig: apply one with the mesh's `spec.trustDomain`".into(),
    }
}

#[cfg(test)]
mod tests;
