//! What two catalogs differ in, for streams to look at nothing else.

use std::collections::HashSet;
use std::sync::Arc;

use super::Catalog;

/// Names under which there may be something else now than before. One too many costs a comparison, one too few leaves
/// a sidecar with what is no longer so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Node ids: their configuration, their policies, or whose they are.
    pub(crate) nodes: HashSet<Arc<str>>,
    /// Names of `Address` resources.
    pub(crate) addresses: HashSet<Arc<str>>,
    pub(crate) revocations: bool,
}

impl Changed {
    /// Everything that is not the same in both.
    pub(crate) fn between(old: &Catalog, new: &Catalog) -> Self {
        // Most of it is the very same, and needs no look inside.
        let nodes = old
            .nodes
            .differing(&new.nodes, |old, new| Arc::ptr_eq(old, new) || old == new);
        let addresses = (old.addresses).differing(&new.addresses, |old, new| {
            Arc::ptr_eq(old, new) || old.stamp() == new.stamp()
        });
        Self {
            nodes: nodes.cloned().collect(),
            addresses: addresses.cloned().collect(),
            revocations: old.revocations.stamp() != new.revocations.stamp(),
        }
    }

    /// Everything that there is.
    pub(crate) fn all(catalog: &Catalog) -> Self {
        Self {
            nodes: catalog.nodes.keys().cloned().collect(),
            addresses: catalog.addresses.keys().cloned().collect(),
            revocations: true,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.addresses.is_empty() && !self.revocations
    }

    /// What changed in either step.
    pub(crate) fn extend(&mut self, later: Self) {
        self.nodes.extend(later.nodes);
        self.addresses.extend(later.addresses);
        self.revocations |= later.revocations;
    }
}
