//! Which selectors pick a workload, without looking at every selector for every workload.

use std::collections::{BTreeMap, HashMap};

use super::select::Scope;

/// Things that are for whoever has some labels, in the order they were given.
#[derive(Debug)]
pub(super) struct Selectors<T> {
    entries: Vec<Entry<T>>,
    mesh: Candidates,
    namespaces: HashMap<Box<str>, Candidates>,
}

#[derive(Debug)]
struct Entry<T> {
    labels: BTreeMap<String, String>,
    value: T,
}

/// Positions of the entries of one scope, each in one place only: by one label that it asks for, or among those that
/// ask for none.
#[derive(Debug, Default)]
struct Candidates {
    for_everybody: Vec<usize>,
    /// By key, then by value.
    by_label: HashMap<Box<str>, HashMap<Box<str>, Vec<usize>>>,
}

impl<T> Selectors<T> {
    pub(super) fn new<'s>(
        given: impl IntoIterator<Item = (Scope<'s>, &'s BTreeMap<String, String>, T)>,
    ) -> Self {
        let given: Vec<_> = given.into_iter().collect();
        // By the label that fewest others ask for: `app: orders` tells more apart than `team: shop`.
        let mut asked_for: HashMap<(Scope<'_>, &str, &str), usize> = HashMap::new();
        for (scope, labels, _) in &given {
            for (key, value) in *labels {
                *asked_for.entry((*scope, key, value)).or_default() += 1;
            }
        }
        let mut selectors = Self {
            entries: Vec::with_capacity(given.len()),
            mesh: Candidates::default(),
            namespaces: HashMap::new(),
        };
        for (scope, labels, value) in given {
            let candidates = match scope {
                Scope::Mesh => &mut selectors.mesh,
                Scope::Namespace(namespace) => {
                    selectors.namespaces.entry(namespace.into()).or_default()
                }
            };
            let rarest = labels
                .iter()
                .min_by_key(|(key, value)| asked_for.get(&(scope, key, value)));
            let list = match rarest {
                None => &mut candidates.for_everybody,
                Some((key, value)) => candidates
                    .by_label
                    .entry(key.as_str().into())
                    .or_default()
                    .entry(value.as_str().into())
                    .or_default(),
            };
            list.push(selectors.entries.len());
            let labels = labels.clone();
            selectors.entries.push(Entry { labels, value });
        }
        selectors
    }

    /// Positions of what is for a workload, in order.
    pub(super) fn positions(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<usize> {
        let mut found = Vec::new();
        let own = self.namespaces.get(namespace);
        for candidates in own.into_iter().chain([&self.mesh]) {
            found.extend_from_slice(&candidates.for_everybody);
            for (key, value) in labels {
                let with_key = candidates.by_label.get(key.as_str());
                let with_label = with_key.and_then(|values| values.get(value.as_str()));
                let asking = with_label.into_iter().flatten().copied();
                found.extend(asking.filter(|position| self.entries[*position].picks(labels)));
            }
        }
        found.sort_unstable();
        found
    }

    /// What is for a workload, in order.
    pub(super) fn of(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&T> {
        let positions = self.positions(namespace, labels);
        positions
            .into_iter()
            .map(|position| self.get(position))
            .collect()
    }

    pub(super) fn get(&self, position: usize) -> &T {
        &self.entries[position].value
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<T> Entry<T> {
    fn picks(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut asked_for = self.labels.iter();
        asked_for.all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every selector against every workload, as it is defined.
    fn naive(
        selectors: &[(String, BTreeMap<String, String>)],
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<usize> {
        let picks = |(scope, asked_for): &(String, BTreeMap<String, String>)| {
            (scope == "root" || scope == namespace)
                && asked_for.iter().all(|(k, v)| labels.get(k) == Some(v))
        };
        let all = selectors.iter().enumerate();
        all.filter(|(_, selector)| picks(selector))
            .map(|(position, _)| position)
            .collect()
    }

    #[test]
    fn they_pick_what_looking_at_each_of_them_would() {
        let mut random = fastrand::Rng::with_seed(42);
        let mut labels = |most: usize| -> BTreeMap<String, String> {
            let count = random.usize(..=most);
            let label = |_| {
                let (key, value) = (random.u8(b'a'..=b'd'), random.u8(b'x'..=b'z'));
                (char::from(key).to_string(), char::from(value).to_string())
            };
            (0..count).map(label).collect()
        };
        let namespaces = ["root", "shop", "bank", "nobody"];
        let mut picked = 0;
        for round in 0..200 {
            let selectors: Vec<_> = (0..round % 40)
                .map(|i| (namespaces[i % 4].to_owned(), labels(3)))
                .collect();
            let given = selectors.iter().enumerate();
            let given = given.map(|(position, (namespace, labels))| {
                (Scope::of(namespace, "root"), labels, position)
            });
            let index = Selectors::new(given);
            for namespace in ["shop", "bank", "root"] {
                let workload = labels(5);
                let found: Vec<_> = index
                    .of(namespace, &workload)
                    .into_iter()
                    .copied()
                    .collect();
                assert_eq!(found, naive(&selectors, namespace, &workload));
                assert_eq!(found, index.positions(namespace, &workload));
                picked += found.len();
            }
        }
        assert!(picked > 1000, "{picked}");
    }
}
