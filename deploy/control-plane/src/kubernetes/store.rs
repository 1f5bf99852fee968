//! What is known of the cluster's pods, services and slices, who hangs on whom, and what has to be made anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::object::{Id, Pod, Service, Slice};
use crate::yaml::schema::Protocol;

/// Something that clients may dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Address(IpAddr),
    Host(Arc<str>),
}

/// What may be another now than when it was last made.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) pods: HashSet<Id>,
    pub(crate) names: HashSet<Name>,
}

#[derive(Debug)]
pub(crate) struct Store {
    cluster_domain: Arc<str>,
    pods: HashMap<Id, Pod>,
    services: HashMap<Id, Service>,
    slices: HashMap<Id, Slice>,
    accounts: HashSet<Id>,
    pods_at: HashMap<IpAddr, BTreeSet<Id>>,
    services_at: HashMap<IpAddr, BTreeSet<Id>>,
    slices_of_service: HashMap<Id, BTreeSet<Id>>,
    slices_of_pod: HashMap<Id, BTreeSet<Id>>,
    /// Of endpoints that are no pods.
    slices_at: HashMap<IpAddr, BTreeSet<Id>>,
    /// The pods of one Deployment have the same labels: once in memory.
    labels: HashSet<Arc<BTreeMap<String, String>>>,
    names: HashSet<Arc<str>>,
    /// Accounts that came or went: their pods are found in one pass over all, however many accounts those are.
    accounts_changed: HashSet<Id>,
    dirty: Dirty,
}

impl Store {
    pub(crate) fn new(cluster_domain: &str) -> Self {
        Self {
            cluster_domain: cluster_domain.into(),
            pods: HashMap::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            accounts: HashSet::new(),
            pods_at: HashMap::new(),
            services_at: HashMap::new(),
            slices_of_service: HashMap::new(),
            slices_of_pod: HashMap::new(),
            slices_at: HashMap::new(),
            labels: HashSet::new(),
            names: HashSet::new(),
            accounts_changed: HashSet::new(),
            dirty: Dirty::default(),
        }
    }

    pub(crate) fn apply_pod(&mut self, id: &Id, mut pod: Pod) {
        if self.pods.get(id) == Some(&pod) {
            return;
        }
        self.remove_pod(id);
        pod.labels = shared(&mut self.labels, pod.labels);
        pod.service_account = shared(&mut self.names, pod.service_account);
        // The address of a pod of the host network is its node's.
        if !pod.host_network {
            for address in &pod.addresses {
                self.pods_at.entry(*address).or_default().insert(id.clone());
            }
        }
        self.pods.insert(id.clone(), pod);
        self.pod_changed(id);
    }

    pub(crate) fn remove_pod(&mut self, id: &Id) {
        // What hangs on where it was.
        self.pod_changed(id);
        let Some(pod) = self.pods.remove(id) else {
            return;
        };
        for address in &pod.addresses {
            forget(&mut self.pods_at, address, id);
        }
        let Pod {
            labels,
            service_account,
            ..
        } = pod;
        release(&mut self.labels, &labels);
        release(&mut self.names, &service_account);
    }

    pub(crate) fn apply_service(&mut self, id: &Id, service: Service) {
        if self.services.get(id) == Some(&service) {
            return;
        }
        self.remove_service(id);
        for address in &service.addresses {
            let services = self.services_at.entry(*address).or_default();
            services.insert(id.clone());
        }
        self.services.insert(id.clone(), service);
        self.service_changed(id);
    }

    pub(crate) fn remove_service(&mut self, id: &Id) {
        self.service_changed(id);
        let Some(service) = self.services.remove(id) else {
            return;
        };
        for address in &service.addresses {
            forget(&mut self.services_at, address, id);
        }
    }

    pub(crate) fn apply_slice(&mut self, id: &Id, slice: Slice) {
        if self.slices.get(id) == Some(&slice) {
            return;
        }
        let before = self.unlink_slice(id);
        for endpoint in &slice.endpoints {
            let slices = match &endpoint.pod {
                Some(pod) => self.slices_of_pod.entry(pod.clone()).or_default(),
                None => self.slices_at.entry(endpoint.address).or_default(),
            };
            slices.insert(id.clone());
        }
        let slices = self
            .slices_of_service
            .entry(slice.service.clone())
            .or_default();
        slices.insert(id.clone());
        self.service_changed(&slice.service);
        // Only what a slice says of ports is part of a pod: readiness alone changes none.
        let same_ports = before.as_ref().is_some_and(|it| it.ports == slice.ports);
        let pods = |slice: &Slice| -> HashSet<Id> {
            slice
                .endpoints
                .iter()
                .filter_map(|it| it.pod.clone())
                .collect()
        };
        let (was, is) = (before.as_ref().map(pods).unwrap_or_default(), pods(&slice));
        if same_ports {
            self.dirty
                .pods
                .extend(was.symmetric_difference(&is).cloned());
        } else {
            self.dirty.pods.extend(was.into_iter().chain(is));
        }
        self.slices.insert(id.clone(), slice);
    }

    pub(crate) fn remove_slice(&mut self, id: &Id) {
        if let Some(slice) = self.unlink_slice(id) {
            let pods = slice.endpoints.iter().filter_map(|it| it.pod.clone());
            self.dirty.pods.extend(pods);
        }
    }

    fn unlink_slice(&mut self, id: &Id) -> Option<Slice> {
        let slice = self.slices.remove(id)?;
        for endpoint in &slice.endpoints {
            match &endpoint.pod {
                Some(pod) => forget(&mut self.slices_of_pod, pod, id),
                None => forget(&mut self.slices_at, &endpoint.address, id),
            }
        }
        forget(&mut self.slices_of_service, &slice.service, id);
        self.service_changed(&slice.service);
        Some(slice)
    }

    pub(crate) fn apply_account(&mut self, id: &Id) {
        if self.accounts.insert(id.clone()) {
            self.accounts_changed.insert(id.clone());
        }
    }

    pub(crate) fn remove_account(&mut self, id: &Id) {
        if self.accounts.remove(id) {
            self.accounts_changed.insert(id.clone());
        }
    }

    /// What it is, or what clients must know of it.
    pub(crate) fn pod_changed(&mut self, id: &Id) {
        self.dirty.pods.insert(id.clone());
        let Some(pod) = self.pods.get(id) else {
            return;
        };
        let addresses = pod.addresses.clone();
        // Whoever has an address besides this pod has it alone now, or no more.
        for address in &addresses {
            self.dirty.names.insert(Name::Address(*address));
            let slices = self.slices_at.get(address).into_iter().flatten();
            let others = self.pods_at.get(address).into_iter().flatten();
            let of_others = others.filter_map(|other| self.slices_of_pod.get(other));
            let slices: Vec<Id> = slices.chain(of_others.flatten()).cloned().collect();
            self.services_of_slices_changed(&slices);
        }
        let slices = self.slices_of_pod.get(id).into_iter().flatten();
        let slices: Vec<Id> = slices.cloned().collect();
        self.services_of_slices_changed(&slices);
    }

    fn services_of_slices_changed(&mut self, slices: &[Id]) {
        let services = slices.iter().filter_map(|slice| self.slices.get(slice));
        let services: HashSet<Id> = services.map(|slice| slice.service.clone()).collect();
        for service in services {
            self.service_changed(&service);
        }
    }

    fn service_changed(&mut self, id: &Id) {
        if let Some(service) = self.services.get(id) {
            let addresses = service.addresses.iter().copied().map(Name::Address);
            self.dirty.names.extend(addresses);
        }
        self.dirty.names.insert(Name::Host(self.host(id)));
    }

    /// As DNS has a Service: `web.shop.svc.cluster.local`.
    fn host(&self, service: &str) -> Arc<str> {
        let (namespace, name) = super::object::namespace_and_name(service);
        format!("{name}.{namespace}.svc.{}", self.cluster_domain).into()
    }

    pub(crate) fn take_dirty(&mut self) -> Dirty {
        let changed = std::mem::take(&mut self.accounts_changed);
        if !changed.is_empty() {
            let pods = self.pods.iter();
            let having = pods.filter(|(id, pod)| changed.contains(account_of(id, pod).as_str()));
            self.dirty.pods.extend(having.map(|(id, _)| id.clone()));
        }
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = (&Id, &Pod)> {
        self.pods.iter()
    }

    pub(crate) fn pod(&self, id: &str) -> Option<&Pod> {
        self.pods.get(id)
    }

    pub(crate) fn service(&self, id: &str) -> Option<&Service> {
        self.services.get(id)
    }

    /// Its sidecar gets nothing before it has an address to be known by, nor once its account, and with it its identity, is
    /// gone.
    pub(crate) fn is_served(&self, id: &str, pod: &Pod) -> bool {
        !pod.addresses.is_empty() && self.accounts.contains(account_of(id, pod).as_str())
    }

    /// The pod that an address belongs to.
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<(&Id, &Pod)> {
        let pods = self.pods_at.get(&address)?.iter();
        let pods = pods.filter_map(|id| Some((id, self.pods.get(id)?)));
        pods.max_by_key(|(id, pod)| (pod.precedence(), *id))
    }

    /// The Service that is dialled under a name.
    pub(crate) fn service_of(&self, name: &Name) -> Option<&Id> {
        match name {
            Name::Address(address) => self.services_at.get(address)?.first(),
            Name::Host(host) => {
                let suffix = format!(".svc.{}", self.cluster_domain);
                let (name, namespace) = host.strip_suffix(&suffix)?.split_once('.')?;
                let id = format!("{namespace}/{name}");
                self.services.get_key_value(id.as_str()).map(|(id, _)| id)
            }
        }
    }

    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &Slice> {
        let slices = self.slices_of_service.get(service).into_iter().flatten();
        slices.filter_map(|id| self.slices.get(id))
    }

    /// The ports of a pod: what it declares, and what the services before it say is spoken there. Services that contradict
    /// each other say nothing; such ports come second.
    pub(crate) fn ports_of(
        &self,
        id: &str,
        pod: &Pod,
    ) -> (BTreeMap<u16, Option<Protocol>>, Vec<u16>) {
        let mut ports: BTreeMap<u16, Option<Protocol>> =
            pod.ports.iter().map(|port| (*port, None)).collect();
        let mut contested = BTreeSet::new();
        let slices = self.slices_of_pod.get(id).into_iter().flatten();
        let slices = slices.filter_map(|slice| self.slices.get(slice));
        for port in slices.flat_map(|slice| &slice.ports) {
            let known = ports.entry(port.number).or_default();
            match (*known, port.protocol) {
                (Some(before), Some(other)) if before != other => {
                    contested.insert(port.number);
                }
                (None, Some(declared)) => *known = Some(declared),
                _ => {}
            }
        }
        for port in &contested {
            ports.insert(*port, None);
        }
        (ports, contested.into_iter().collect())
    }

    /// Everything that can be dialled.
    pub(crate) fn all_names(&self) -> HashSet<Name> {
        let pods = self.pods_at.keys().chain(self.services_at.keys());
        let hosts = self.services.keys().map(|id| Name::Host(self.host(id)));
        pods.copied().map(Name::Address).chain(hosts).collect()
    }

    pub(crate) fn counts(&self) -> [(&'static str, usize); 4] {
        [
            ("pods", self.pods.len()),
            ("services", self.services.len()),
            ("endpointslices", self.slices.len()),
            ("serviceaccounts", self.accounts.len()),
        ]
    }

    pub(crate) fn pod_ids(&self) -> Vec<Id> {
        self.pods.keys().cloned().collect()
    }

    pub(crate) fn service_ids(&self) -> Vec<Id> {
        self.services.keys().cloned().collect()
    }

    pub(crate) fn slice_ids(&self) -> Vec<Id> {
        self.slices.keys().cloned().collect()
    }

    pub(crate) fn account_ids(&self) -> Vec<Id> {
        self.accounts.iter().cloned().collect()
    }
}

impl Name {
    /// As `Address` resources are named.
    pub(crate) fn to_key(&self) -> Arc<str> {
        match self {
            Self::Address(address) => address.to_string().into(),
            Self::Host(host) => Arc::clone(host),
        }
    }
}

fn account_of(id: &str, pod: &Pod) -> String {
    let (namespace, _) = super::object::namespace_and_name(id);
    format!("{namespace}/{}", pod.service_account)
}

fn forget<K: std::hash::Hash + Eq + Clone>(index: &mut HashMap<K, BTreeSet<Id>>, key: &K, id: &Id) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

fn shared<T: std::hash::Hash + Eq + ?Sized>(known: &mut HashSet<Arc<T>>, one: Arc<T>) -> Arc<T> {
    if let Some(same) = known.get(&one) {
        return Arc::clone(same);
    }
    known.insert(Arc::clone(&one));
    one
}

/// Forgets what nobody has any more but the set itself and whoever lets go of it here.
fn release<T: std::hash::Hash + Eq + ?Sized>(known: &mut HashSet<Arc<T>>, one: &Arc<T>) {
    if Arc::strong_count(one) <= 2 {
        known.remove(one);
    }
}
