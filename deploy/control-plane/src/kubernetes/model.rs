//! From what is known of the cluster to what is served: the same as a folder with the same in it, but one pod at a time.
//! Pure: changes in, a catalog and the names that changed out.

mod address;
mod intake;
mod outside;
mod place;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kith_certs::SpiffeId;
use kith_xds_client::api::mesh as api;
use tracing::warn;

use self::address::View;
use self::outside::Outside;
use self::place::{PlacedPod, overlapping, place, place_all, warn_contested};
use super::documents::{Documents, Findings};
use super::kind::{DocumentKind, Kind};
use super::object::{Id, Slice};
use super::read::told;
use super::store::{Dirty, Name, Store};
use super::verdict::Verdicts;
use crate::catalog::{Catalog, Changed, Counts, Encoded, Node, Shards};
use crate::jwks::KeySets;
use crate::problem::Problem;
use crate::resolve::rules::{Misplaced, Placed, Rules};
use crate::yaml::Loaded;

#[derive(Debug)]
pub(crate) struct Model {
    store: Store,
    documents: Documents,
    namespaces: BTreeMap<Id, Arc<BTreeMap<String, String>>>,
    /// What was applied since a listing began; what was not is gone when it ends.
    listing: HashMap<Kind, HashSet<Id>>,
    in_force: Option<InForce>,
    placements: HashMap<Id, Placement>,
    /// Ports about which services contradict each other, told once each.
    contested: HashMap<Id, Vec<u16>>,
    catalog: Option<Arc<Catalog>>,
    /// Documents mean something else than when `in_force` was made.
    stale: bool,
    /// Only a status is another.
    told: bool,
}

/// The documents that hold, and what they mean.
#[derive(Debug)]
struct InForce {
    rules: Rules,
    findings: Findings,
    outside: Outside,
    /// Some contradict each other only where they select the same pod: other pods, other contradictions.
    meeting: bool,
}

/// What clients must know of a workload.
#[derive(Debug, Clone, PartialEq)]
struct Placement {
    principal: Option<SpiffeId>,
    ports: Box<[api::Port]>,
}

/// What became of the changes that were taken in.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// None: nothing that is served is another.
    pub(crate) catalog: Option<(Arc<Catalog>, Changed)>,
    /// None: nothing is said of any object that was not said before.
    pub(crate) verdicts: Option<Verdicts>,
    /// Documents hold that may not have held before.
    pub(crate) loaded: Option<Loaded>,
    /// Why nothing can be served, or not what is in the cluster now.
    pub(crate) problems: Option<Vec<Problem>>,
}

impl Model {
    pub(crate) fn new(cluster_domain: &str) -> Self {
        Self {
            store: Store::new(cluster_domain),
            documents: Documents::default(),
            namespaces: BTreeMap::new(),
            listing: HashMap::new(),
            in_force: None,
            placements: HashMap::new(),
            contested: HashMap::new(),
            catalog: None,
            stale: true,
            told: true,
        }
    }

    /// The labels of every namespace.
    pub(crate) fn namespaces(&self) -> &BTreeMap<Id, Arc<BTreeMap<String, String>>> {
        &self.namespaces
    }

    /// What is behind a service.
    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &Slice> {
        self.store.slices_of(service)
    }

    /// Other keys of issuers than before.
    pub(crate) fn keys_changed(&mut self) {
        self.stale = true;
    }

    /// How many objects there are of each kind that is watched.
    pub(crate) fn counts(&self, kinds: impl Iterator<Item = DocumentKind>) -> Vec<(String, usize)> {
        let own = self
            .store
            .counts()
            .map(|(kind, count)| (kind.to_owned(), count));
        let namespaces = ("namespaces".to_owned(), self.namespaces.len());
        let documents =
            kinds.map(|kind| (Kind::Document(kind).to_string(), self.documents.count(kind)));
        own.into_iter()
            .chain([namespaces])
            .chain(documents)
            .collect()
    }

    /// Makes anew what the changes concern.
    pub(crate) fn settle(&mut self, keys: &KeySets) -> Outcome {
        let dirty = self.store.take_dirty();
        if !dirty.pods.is_empty() && self.in_force.as_ref().is_some_and(|it| it.meeting) {
            self.stale = true;
        }
        if !self.stale
            && let Some(outcome) = self.refresh(&dirty)
        {
            return outcome;
        }
        let outcome = self.rebuild(keys);
        if outcome.loaded.is_some() {
            return outcome;
        }
        // What held before goes on, and pods come and go under it.
        let refreshed = self.refresh(&dirty).unwrap_or_default();
        Outcome {
            catalog: refreshed.catalog,
            ..outcome
        }
    }

    /// Everything, since documents may reach every workload.
    fn rebuild(&mut self, keys: &KeySets) -> Outcome {
        self.stale = false;
        self.told = false;
        let store = &self.store;
        let meeting = Cell::new(false);
        let settled = self.documents.settle(|loaded| {
            let rules = Rules::new(loaded, keys)?;
            let outside = Outside::new(loaded, &rules)?;
            let placed = place_all(store, &rules).inspect_err(|_| meeting.set(true))?;
            Ok((rules, outside, placed))
        });
        let settled = match settled {
            Ok(settled) => settled,
            Err((problems, findings)) => {
                return Outcome {
                    verdicts: Some(self.documents.verdicts(&findings)),
                    problems: Some(problems),
                    ..Outcome::default()
                };
            }
        };
        let (rules, outside, placed) = settled.made;
        let mut findings = settled.findings;
        let by_file = self.documents.by_file();
        let overlapping = overlapping(store, &rules);
        for warning in rules.warnings().iter().chain(&overlapping) {
            if let Some(key) = by_file.get(&*warning.file.to_string_lossy()) {
                let finding = findings.entry((*key).clone()).or_default();
                finding.warnings.push(told(warning));
            }
        }
        let mut nodes: Shards<Arc<Node>> = outside.nodes().collect();
        self.placements.clear();
        self.contested.clear();
        let before = self.catalog.as_deref();
        for (id, placed) in placed {
            let Placed {
                principal,
                ports,
                node,
            } = placed.placed;
            let pod = store.pod(&id);
            if let Some(node) = node
                && pod.is_some_and(|pod| store.is_served(&id, pod))
            {
                let same = before
                    .and_then(|it| it.nodes.get(&id))
                    .filter(|it| ***it == *node);
                nodes.insert(id.clone(), same.cloned().unwrap_or(node));
            }
            if !placed.contested.is_empty() {
                self.contested.insert(id.clone(), placed.contested);
            }
            self.placements.insert(
                id,
                Placement {
                    principal,
                    ports: ports.into(),
                },
            );
        }
        self.in_force = Some(InForce {
            meeting: meeting.get(),
            rules,
            findings,
            outside,
        });
        let mut names = self.store.all_names();
        names.extend(self.in_force.iter().flat_map(|it| it.outside.names()));
        let addresses = names.iter().filter_map(|name| {
            let made = self.make(name)?;
            let same = before.and_then(|it| it.addresses.get(made.name()));
            let same = same.filter(|it| it.stamp() == made.stamp()).cloned();
            Some((made.key(), same.unwrap_or(made)))
        });
        let addresses: Shards<Arc<Encoded>> = addresses.collect();
        let catalog = Catalog {
            revocations: self.revocations(),
            counts: self.catalog_counts(nodes.len()),
            nodes,
            addresses,
        };
        let changed = match &self.catalog {
            Some(before) => Changed::between(before, &catalog),
            None => Changed::all(&catalog),
        };
        let verdicts = self.verdicts();
        // No sidecar gets anything else for a PeerAuthentication that says what held already: statuses count it all the same.
        let same = changed.is_empty() && self.catalog.as_deref() == Some(&catalog);
        let catalog = Arc::new(catalog);
        self.catalog = Some(Arc::clone(&catalog));
        Outcome {
            catalog: (!same).then_some((catalog, changed)),
            verdicts: Some(verdicts),
            loaded: Some(settled.loaded),
            problems: Some(Vec::new()),
        }
    }

    /// What hangs on these pods and names. None: it takes a rebuild.
    fn refresh(&mut self, dirty: &Dirty) -> Option<Outcome> {
        let Dirty { pods, names } = dirty;
        let mut names = names.clone();
        let mut catalog = Catalog::clone(self.catalog.as_ref()?);
        let mut changed = Changed::default();
        for id in pods {
            let placement = self.placements.get(id).cloned();
            let node = self.refresh_pod(id)?;
            if self.placements.get(id) != placement.as_ref() {
                self.store.pod_changed(id);
            }
            let before = catalog.nodes.get(id);
            if before.map(|it| &**it) == node.as_deref() {
                continue;
            }
            changed.nodes.insert(id.clone());
            match node {
                Some(node) => _ = catalog.nodes.insert(id.clone(), node),
                None => _ = catalog.nodes.remove(id),
            }
        }
        // What clients learn of these pods, they learn under each of their names.
        names.extend(self.store.take_dirty().names);
        let outside = &self.in_force.as_ref()?.outside;
        let touched = names.iter().any(|name| outside.has(name))
            || pods.iter().any(|pod| outside.has_workload(pod));
        for name in &names {
            let key = name.to_key();
            let made = self.make(name);
            let before = catalog.addresses.get(&key).map(|it| it.stamp());
            if before == made.as_ref().map(|made| made.stamp()) {
                continue;
            }
            match made {
                Some(made) => _ = catalog.addresses.insert(Arc::clone(&key), made),
                None => _ = catalog.addresses.remove(&key),
            }
            changed.addresses.insert(key);
        }
        let verdicts = (touched || self.told).then(|| self.verdicts());
        self.told = false;
        let catalog = (!changed.is_empty()).then(|| {
            catalog.counts = self.catalog_counts(catalog.nodes.len());
            let catalog = Arc::new(catalog);
            self.catalog = Some(Arc::clone(&catalog));
            (catalog, changed)
        });
        Some(Outcome {
            catalog,
            verdicts,
            ..Outcome::default()
        })
    }

    /// The node of a pod as it is now. The outer None: documents contradict each other at it.
    #[expect(clippy::option_option, reason = "the outer one ends the whole refresh")]
    fn refresh_pod(&mut self, id: &Id) -> Option<Option<Arc<Node>>> {
        let in_force = self.in_force.as_ref()?;
        let outside = || in_force.outside.node(id).cloned();
        let Some(pod) = self.store.pod(id).filter(|pod| !pod.host_network) else {
            self.placements.remove(id);
            self.contested.remove(id);
            return Some(outside());
        };
        match place(&self.store, &in_force.rules, id, pod) {
            Ok(PlacedPod { placed, contested }) => {
                let told = self.contested.get(id).map_or(&[][..], Vec::as_slice);
                if contested != told {
                    warn_contested(id, &contested);
                }
                let node = placed.node.filter(|_| self.store.is_served(id, pod));
                if contested.is_empty() {
                    self.contested.remove(id);
                } else {
                    self.contested.insert(id.clone(), contested);
                }
                let placement = Placement {
                    principal: placed.principal,
                    ports: placed.ports.into(),
                };
                self.placements.insert(id.clone(), placement);
                Some(node.or_else(outside))
            }
            Err(Misplaced::Tokens(_)) => None,
            Err(Misplaced::Principal(problem)) => {
                warn!(pod = %id, "is not served: {problem}");
                self.placements.remove(id);
                Some(outside())
            }
        }
    }

    /// What is served under a name: what is in the cluster first, then what documents say of outside.
    fn make(&self, name: &Name) -> Option<Arc<Encoded>> {
        let in_force = self.in_force.as_ref()?;
        let view = View {
            store: &self.store,
            placements: &self.placements,
            outside: &in_force.outside,
            rules: &in_force.rules,
        };
        view.make(name)
    }

    fn verdicts(&mut self) -> Verdicts {
        let Some(in_force) = &self.in_force else {
            return self.documents.verdicts(&Findings::new());
        };
        let mut findings = in_force.findings.clone();
        let by_file = self.documents.by_file();
        for (file, problem) in in_force.outside.conflicts(&self.store) {
            if let Some(key) = by_file.get(&file) {
                let finding = findings.entry((*key).clone()).or_default();
                finding.problems.push(problem);
            }
        }
        self.documents.verdicts(&findings)
    }

    fn revocations(&self) -> Arc<Encoded> {
        match &self.in_force {
            Some(in_force) => Arc::clone(in_force.rules.revocations()),
            None => crate::resolve::revocation::list([]),
        }
    }

    /// Documents as they were made, and what the cluster has of the same.
    fn catalog_counts(&self, nodes: usize) -> Counts {
        let documents = self.in_force.as_ref().map(|it| it.rules.counts());
        let documents = documents.unwrap_or_default();
        let services = self.store.counts()[1].1;
        Counts {
            workloads: nodes,
            services: documents.services + services,
            ..documents
        }
    }
}

#[cfg(test)]
mod tests;
