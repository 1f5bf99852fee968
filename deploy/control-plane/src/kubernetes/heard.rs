//! What every sidecar of the mesh is known to enforce, from this replica's connections and all others'.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::serve::replica::{ByNode, Said};

/// A sidecar reconnects when its SVID rotates or its replica stops. What it enforced it still enforces, since it keeps
/// what it has, so that for this long its last word counts.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Heard {
    nodes: HashMap<Arc<str>, Word>,
}

#[derive(Debug)]
struct Word {
    said: Said,
    /// Not connected anywhere since then.
    gone: Option<Instant>,
    /// Said in the round that is going on.
    fresh: bool,
}

impl Heard {
    /// Replaces what is known by what is said now by every replica that answers.
    pub(crate) fn update<'a>(&mut self, all: impl IntoIterator<Item = &'a ByNode>, now: Instant) {
        for word in self.nodes.values_mut() {
            word.fresh = false;
        }
        for (node, said) in all.into_iter().flatten() {
            match self.nodes.get_mut(node) {
                Some(word) if word.fresh => word.said.agree(said),
                Some(word) => {
                    if word.said != *said {
                        word.said.clone_from(said);
                    }
                    word.gone = None;
                    word.fresh = true;
                }
                None => {
                    let word = Word {
                        said: said.clone(),
                        gone: None,
                        fresh: true,
                    };
                    self.nodes.insert(Arc::clone(node), word);
                }
            }
        }
        self.nodes.retain(|_, word| {
            if !word.fresh && word.gone.is_none() {
                word.gone = Some(now);
            }
            word.gone.is_none_or(|gone| gone + GRACE > now)
        });
    }

    /// None: no sidecar of that name is connected, nor was one just now.
    pub(crate) fn of(&self, node: &str) -> Option<&Said> {
        self.nodes.get(node).map(|word| &word.said)
    }

    /// When the first of those that are gone is forgotten.
    pub(crate) fn next_forgotten(&self) -> Option<Instant> {
        let gone = self.nodes.values().filter_map(|word| word.gone);
        gone.min().map(|gone| gone + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(nodes: &[(&str, &str)]) -> ByNode {
        let each = nodes.iter().map(|(node, revision)| {
            let said = Said {
                revision: Some((*revision).into()),
                revocations: None,
                refused_configuration: None,
                refused_revocations: None,
            };
            (Arc::from(*node), said)
        });
        each.collect()
    }

    fn revision<'a>(heard: &'a Heard, node: &str) -> Option<&'a str> {
        heard.of(node)?.revision.as_deref()
    }

    #[test]
    fn every_replicas_sidecars_count_and_one_that_two_have_counts_if_they_agree() {
        let mut heard = Heard::default();
        let now = Instant::now();
        heard.update(
            [
                &says(&[("a", "1"), ("b", "1")]),
                &says(&[("b", "2"), ("c", "1")]),
            ],
            now,
        );
        assert_eq!(revision(&heard, "a"), Some("1"));
        assert_eq!(revision(&heard, "c"), Some("1"));
        assert_eq!(
            (heard.of("b").is_some(), revision(&heard, "b")),
            (true, None)
        );
        // The old connection of `b` is gone.
        heard.update(
            [&says(&[("a", "1")]), &says(&[("b", "2"), ("c", "1")])],
            now,
        );
        assert_eq!(revision(&heard, "b"), Some("2"));
        assert_eq!(heard.next_forgotten(), None);
    }

    #[test]
    fn a_sidecar_that_reconnects_in_time_was_never_gone() {
        let mut heard = Heard::default();
        let begun = Instant::now();
        let a = says(&[("a", "1")]);
        heard.update([&a], begun);
        heard.update([], begun + Duration::from_secs(1));
        assert_eq!(revision(&heard, "a"), Some("1"));
        assert_eq!(
            heard.next_forgotten(),
            Some(begun + Duration::from_secs(1) + GRACE)
        );
        // Still gone: the time counts from when it left.
        heard.update([], begun + GRACE);
        assert_eq!(revision(&heard, "a"), Some("1"));
        heard.update([&a], begun + GRACE);
        heard.update([], begun + GRACE * 2);
        assert_eq!(revision(&heard, "a"), Some("1"));
        heard.update([], begun + GRACE * 3);
        assert_eq!(heard.of("a"), None);
    }
}
