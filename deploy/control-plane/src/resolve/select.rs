//! Which workloads a selector picks, without looking at every workload for every selector.

use std::collections::{BTreeMap, HashMap};

use crate::yaml::Document;
use crate::yaml::schema::Workload;

/// All workloads, by where they stand in the folder.
pub(crate) struct Index<'a> {
    pub(crate) workloads: Vec<&'a Document<Workload>>,
    by_namespace: HashMap<&'a str, Vec<usize>>,
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
    by_namespaced_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
}

/// Where a selector looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope<'s> {
    Mesh,
    Namespace(&'s str),
}

impl<'s> Scope<'s> {
    /// A policy in the root namespace reaches the whole mesh (resources.md, Scope).
    pub(crate) fn of(namespace: &'s str, root_namespace: &str) -> Self {
        if namespace == root_namespace {
            Scope::Mesh
        } else {
            Scope::Namespace(namespace)
        }
    }
}

impl<'a> Index<'a> {
    pub(crate) fn new(workloads: impl Iterator<Item = &'a Document<Workload>>) -> Self {
        let workloads: Vec<_> = workloads.collect();
        let mut index = Self {
            workloads: Vec::new(),
            by_namespace: HashMap::new(),
            by_label: HashMap::new(),
            by_namespaced_label: HashMap::new(),
        };
        for (position, workload) in workloads.iter().enumerate() {
            let namespace = workload.metadata.namespace.as_str();
            index
                .by_namespace
                .entry(namespace)
                .or_default()
                .push(position);
            for (key, value) in &workload.metadata.labels {
                index
                    .by_label
                    .entry((key, value))
                    .or_default()
                    .push(position);
                index
                    .by_namespaced_label
                    .entry((namespace, key, value))
                    .or_default()
                    .push(position);
            }
        }
        index.workloads = workloads;
        index
    }

    /// Positions of the workloads in `scope` that have all of `labels`, in the folder's order.
    pub(crate) fn select(&self, scope: Scope<'_>, labels: &BTreeMap<String, String>) -> Vec<usize> {
        // The rarest label first: what is left to compare is then short.
        let rarest = labels
            .iter()
            .map(|(key, value)| self.with_label(scope, key, value))
            .min_by_key(|list| list.len());
        let candidates: Vec<usize> = match (rarest, scope) {
            (Some(list), _) => list.to_vec(),
            (None, Scope::Mesh) => (0..self.workloads.len()).collect(),
            (None, Scope::Namespace(namespace)) => self
                .by_namespace
                .get(namespace)
                .cloned()
                .unwrap_or_default(),
        };
        let has_all = |position: &usize| {
            let own = &self.workloads[*position].metadata.labels;
            labels
                .iter()
                .all(|(key, value)| own.get(key) == Some(value))
        };
        candidates.into_iter().filter(has_all).collect()
    }

    fn with_label<'i>(&'i self, scope: Scope<'i>, key: &'i str, value: &'i str) -> &'i [usize] {
        let found = match scope {
            Scope::Mesh => self.by_label.get(&(key, value)),
            Scope::Namespace(namespace) => self.by_namespaced_label.get(&(namespace, key, value)),
        };
        found.map_or(&[], Vec::as_slice)
    }
}
