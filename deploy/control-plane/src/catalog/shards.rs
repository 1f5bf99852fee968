//! A map by name that is cheap to clone and to change a little: cut into parts that are shared until one is changed.
//!
//! A catalog of ten thousand workloads is published anew for each of them that changes; copying all of it every time
//! would cost more than everything else together.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A few dozen names each in the largest mesh that is meant to be served.
const SHARDS: usize = 512;

/// Names in the order of their text, so that a part takes no more room than what is in it.
type Shard<V> = Vec<(Arc<str>, V)>;

/// By name.
#[derive(Clone)]
pub struct Shards<V> {
    shards: Box<[Arc<Shard<V>>]>,
}

#[allow(
    dead_code,
    reason = "a folder is always read as a whole; what changes bit by bit needs it"
)]
impl<V: Clone> Shards<V> {
    pub fn get(&self, name: &str) -> Option<&V> {
        let shard = &self.shards[place(name)];
        position(shard, name).ok().map(|at| &shard[at].1)
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Returns what was there before.
    pub(crate) fn insert(&mut self, name: Arc<str>, value: V) -> Option<V> {
        let shard = Arc::make_mut(&mut self.shards[place(&name)]);
        match position(shard, &name) {
            Ok(at) => Some(std::mem::replace(&mut shard[at].1, value)),
            Err(at) => {
                shard.insert(at, (name, value));
                None
            }
        }
    }

    /// Returns what was there.
    pub(crate) fn remove(&mut self, name: &str) -> Option<V> {
        let shard = &mut self.shards[place(name)];
        let at = position(shard, name).ok()?;
        Some(Arc::make_mut(shard).remove(at).1)
    }

    /// In no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        let all = self.shards.iter().flat_map(|shard| shard.iter());
        all.map(|(name, value)| (name, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(name, _)| name)
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    /// Names whose values are not the same in `other`, those that are only in one of the two included. What both share
    /// is not looked at.
    pub(crate) fn differing<'a>(
        &'a self,
        other: &'a Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let pairs = self.shards.iter().zip(&other.shards);
        let unshared = pairs.filter(|(one, other)| !Arc::ptr_eq(one, other));
        unshared.flat_map(move |(one, other)| {
            let mut names = Vec::new();
            for (name, value) in one.iter() {
                let there = position(other, name).ok().map(|at| &other[at].1);
                if !there.is_some_and(|there| same(value, there)) {
                    names.push(name);
                }
            }
            let only_there = other.iter().map(|(name, _)| name);
            names.extend(only_there.filter(|name| position(one, name).is_err()));
            names
        })
    }
}

fn place(name: &str) -> usize {
    // The same in every map, so that two of them can be compared part by part.
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() % SHARDS as u64) as usize
}

fn position<V>(shard: &Shard<V>, name: &str) -> Result<usize, usize> {
    shard.binary_search_by(|(known, _)| (**known).cmp(name))
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        let empty = Arc::new(Vec::new());
        Self {
            shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(),
        }
    }
}

impl<V: Clone> FromIterator<(Arc<str>, V)> for Shards<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(entries: I) -> Self {
        let mut all = Self::default();
        for (name, value) in entries {
            all.insert(name, value);
        }
        all
    }
}

impl<V: PartialEq> PartialEq for Shards<V> {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.shards.iter().zip(&other.shards);
        pairs.all(|(one, other)| Arc::ptr_eq(one, other) || one == other)
    }
}

impl<V: fmt::Debug> fmt::Debug for Shards<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.shards.iter().flat_map(|shard| shard.iter());
        f.debug_map()
            .entries(all.map(|(name, value)| (name, value)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn names<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> BTreeSet<String> {
        names.map(ToString::to_string).collect()
    }

    #[test]
    fn it_is_a_map() {
        let mut map = Shards::default();
        let mut model = BTreeMap::new();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let name = format!("shop/w-{}", random.u32(..3000));
            let value = random.u32(..);
            if random.bool() {
                assert_eq!(
                    map.insert(name.as_str().into(), value),
                    model.insert(name, value)
                );
            } else {
                assert_eq!(map.remove(&name), model.remove(&name));
            }
        }
        assert_eq!(map.len(), model.len());
        assert!(!map.is_empty());
        for (name, value) in &model {
            assert_eq!(map.get(name), Some(value));
        }
        assert_eq!(names(map.keys()), model.into_keys().collect());
    }

    #[test]
    fn a_clone_is_apart_and_differs_by_what_was_changed() {
        let all = (0..5000).map(|i| (Arc::from(format!("n{i}")), i));
        let before: Shards<i32> = all.collect();
        let mut after = before.clone();
        assert_eq!(before, after);
        after.insert("n7".into(), -1);
        after.insert("n8".into(), 8);
        after.insert("new".into(), 1);
        after.remove("n9");
        assert_eq!(before.get("n7"), Some(&7));
        assert!(before.contains_key("n9") && !before.contains_key("new"));
        let differing = |one: &Shards<_>, other| names(one.differing(other, |a, b| a == b));
        let expected: BTreeSet<String> = ["n7", "n9", "new"].map(String::from).into();
        assert_eq!(differing(&before, &after), expected);
        assert_eq!(differing(&after, &before), expected);
        assert_ne!(before, after);
        // Only the parts that were changed were copied.
        let pairs = before.shards.iter().zip(&after.shards);
        let copied = pairs
            .filter(|(one, other)| !Arc::ptr_eq(one, other))
            .count();
        assert!((1..=4).contains(&copied), "{copied}");
    }
}
