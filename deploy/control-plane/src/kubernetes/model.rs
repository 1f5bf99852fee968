//! From what is known of the cluster to what is served: the same as a folder with the same in it, but one pod at a time.
//! Pure: changes in, a catalog and the names that changed out.

mod address;
mod outside;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kith_certs::SpiffeId;
use kith_xds_client::api::mesh as api;
use tracing::warn;

use self::address::View;
use self::outside::Outside;
use super::documents::{Documents, Findings};
use super::kind::{DocumentKind, Kind};
use super::object::{Id, Pod, Slice, namespace_and_name};
use super::read::told;
use super::store::{Dirty, Name, Store};
use super::verdict::Verdicts;
use super::watch::{Change, Event};
use crate::catalog::{Catalog, Changed, Counts, Encoded, Node, Shards};
use crate::jwks::KeySets;
use crate::problem::Problem;
use crate::resolve::rules::{Misplaced, Placed, Rules, Subject};
use crate::yaml::Loaded;
use crate::yaml::schema::{EncodedSlash, Protocol, WorkloadPort};
use crate::yaml::value::Port;

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
    loaded: Loaded,
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

    pub(crate) fn take_in(&mut self, change: Change) {
        match change {
            Change::Namespace(event) => {
                self.on(Kind::Namespace, event, |model, id, labels| match labels {
                    Some(labels) => _ = model.namespaces.insert(id, Arc::new(labels)),
                    None => _ = model.namespaces.remove(&id),
                })
            }
            Change::ServiceAccount(event) => {
                self.on(
                    Kind::ServiceAccount,
                    event,
                    |model, id, account| match account {
                        Some(()) => model.store.apply_account(id),
                        None => model.store.remove_account(&id),
                    },
                );
            }
            Change::Pod(event) => self.on(Kind::Pod, event, |model, id, pod| match pod {
                Some(pod) => model.store.apply_pod(id, pod),
                None => model.store.remove_pod(&id),
            }),
            Change::Service(event) => {
                self.on(Kind::Service, event, |model, id, service| match service {
                    Some(service) => model.store.apply_service(id, service),
                    None => model.store.remove_service(&id),
                })
            }
            Change::Slice(event) => {
                self.on(Kind::EndpointSlice, event, |model, id, slice| match slice {
                    Some(slice) => model.store.apply_slice(id, slice),
                    None => model.store.remove_slice(&id),
                })
            }
            Change::Document(kind, event) => {
                self.on(Kind::Document(kind), event, |model, id, object| {
                    model.told = true;
                    model.stale |= match object {
                        Some(object) => model.documents.apply(kind, &id, *object),
                        None => model.documents.remove(kind, &id),
                    };
                });
            }
            // Whoever watches knows what to make of it; what is known stays.
            Change::Trouble(..) => {}
        }
    }

    fn on<T>(&mut self, kind: Kind, event: Event<T>, put: impl Fn(&mut Self, Id, Option<T>)) {
        match event {
            Event::Listing => _ = self.listing.insert(kind, HashSet::new()),
            Event::Applied(id, object) => {
                if let Some(listed) = self.listing.get_mut(&kind) {
                    listed.insert(id.clone());
                }
                put(self, id, Some(object));
            }
            Event::Deleted(id) => put(self, id, None),
            Event::Listed => {
                let listed = self.listing.remove(&kind).unwrap_or_default();
                for id in self.ids(kind) {
                    if !listed.contains(&id) {
                        put(self, id, None);
                    }
                }
            }
        }
    }

    fn ids(&self, kind: Kind) -> Vec<Id> {
        match kind {
            Kind::Namespace => self.namespaces.keys().cloned().collect(),
            Kind::ServiceAccount => self.store.account_ids(),
            Kind::Pod => self.store.pod_ids(),
            Kind::Service => self.store.service_ids(),
            Kind::EndpointSlice => self.store.slice_ids(),
            Kind::Document(kind) => self.documents.ids(kind),
        }
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
                && pod.is_some_and(|pod| store.has_account(&id, pod))
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
            loaded: settled.loaded.clone(),
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
        let first = self.catalog.is_none();
        let catalog = Arc::new(catalog);
        self.catalog = Some(Arc::clone(&catalog));
        Outcome {
            catalog: (first || !changed.is_empty()).then_some((catalog, changed)),
            verdicts: Some(verdicts),
            loaded: Some(settled.loaded),
            problems: Some(Vec::new()),
        }
    }

    /// What hangs on these pods and names. None: it takes a rebuild.
    fn refresh(&mut self, dirty: &Dirty) -> Option<Outcome> {
        let Dirty { pods, names } = dirty;
        let mut catalog = Catalog::clone(self.catalog.as_ref()?);
        let mut changed = Changed::default();
        for id in pods {
            let node = self.refresh_pod(id)?;
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
        let outside = &self.in_force.as_ref()?.outside;
        let touched = names.iter().any(|name| outside.has(name))
            || pods.iter().any(|pod| outside.has_workload(pod));
        for name in names {
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
                let node = placed.node.filter(|_| self.store.has_account(id, pod));
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

struct PlacedPod {
    placed: Placed,
    contested: Vec<u16>,
}

fn place_all(store: &Store, rules: &Rules) -> Result<Vec<(Id, PlacedPod)>, Vec<Problem>> {
    let mut all = Vec::new();
    for (id, pod) in store.pods() {
        if pod.host_network {
            continue;
        }
        match place(store, rules, id, pod) {
            Ok(placed) => all.push((id.clone(), placed)),
            Err(Misplaced::Tokens(problems)) => return Err(problems.to_vec()),
            Err(Misplaced::Principal(problem)) => warn!(pod = %id, "is not served: {problem}"),
        }
    }
    Ok(all)
}

fn place(store: &Store, rules: &Rules, id: &Id, pod: &Pod) -> Result<PlacedPod, Misplaced> {
    let (ports, contested) = store.ports_of(id, pod);
    let ports: Vec<_> = ports.into_iter().filter_map(declared).collect();
    let placed = rules.workload(&subject(id, pod, &ports))?;
    Ok(PlacedPod { placed, contested })
}

fn subject<'a>(id: &'a str, pod: &'a Pod, ports: &'a [WorkloadPort]) -> Subject<'a> {
    let (namespace, name) = namespace_and_name(id);
    Subject {
        namespace,
        name,
        labels: &pod.labels,
        service_account: &pod.service_account,
        addresses: &pod.addresses,
        mesh: pod.mesh,
        spiffe_id: None,
        ports,
    }
}

fn declared((port, protocol): (u16, Option<Protocol>)) -> Option<WorkloadPort> {
    Some(WorkloadPort {
        port: Port::try_from(i64::from(port)).ok()?,
        protocol,
        encoded_slash: EncodedSlash::Refuse,
    })
}

fn warn_contested(pod: &str, ports: &[u16]) {
    for port in ports {
        warn!(
            pod,
            port,
            "services disagree on what is spoken here: its protocol counts as not declared; give them one appProtocol"
        );
    }
}

/// Each document that loses against another somewhere, once.
fn overlapping(store: &Store, rules: &Rules) -> Vec<Problem> {
    let mut found = BTreeSet::new();
    for (id, pod) in store.pods().filter(|(_, pod)| pod.mesh) {
        found.extend(rules.overlapping(&subject(id, pod, &[])));
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests;
