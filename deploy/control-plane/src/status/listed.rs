//! How long a sidecar is listed, and what it acknowledged remembered.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Inner, Sidecar, State};
use crate::catalog::{Changed, Version};

/// Lists a stream while it lives.
pub(crate) struct Listed {
    state: Arc<State>,
    id: u64,
}

impl State {
    pub(crate) fn list(self: &Arc<Self>, sidecar: Sidecar) -> Listed {
        let mut inner = self.inner();
        let id = inner.next_stream;
        inner.next_stream += 1;
        inner.sidecars.insert(id, sidecar);
        drop(inner);
        self.moved();
        Listed {
            state: Arc::clone(self),
            id,
        }
    }

    /// A pod's sidecar leaves before the pod does: what it acknowledged is forgotten when the later of the two is gone
    /// ([`Listed`] for the sidecar that is later), or there would be more of it with every pod that ever was.
    pub(super) fn forget_gone(&self, changed: &Changed) {
        let Some(catalog) = self.catalog() else {
            return;
        };
        let gone = changed.nodes.iter();
        let gone: Vec<_> = gone.filter(|id| catalog.node(id).is_none()).collect();
        if gone.is_empty() {
            return;
        }
        let mut inner = self.inner();
        let Inner {
            sidecars,
            acknowledged,
            ..
        } = &mut *inner;
        let connected: HashSet<&Arc<str>> = sidecars.values().map(|it| &it.node).collect();
        for id in gone.into_iter().filter(|id| !connected.contains(id)) {
            acknowledged.remove(id);
        }
    }
}

impl Listed {
    pub(crate) fn update(&self, update: impl FnOnce(&mut Sidecar)) {
        if let Some(sidecar) = self.state.inner().sidecars.get_mut(&self.id) {
            update(sidecar);
        }
    }

    /// A revision is in force; said again, it stays the one that was heard first.
    pub(crate) fn acknowledged(&self, revision: Version) {
        let mut inner = self.state.inner();
        let Some(sidecar) = inner.sidecars.get_mut(&self.id) else {
            return;
        };
        let news = sidecar.revision_enforced.replace(revision) != Some(revision);
        let node = Arc::clone(&sidecar.node);
        inner.acknowledged.entry(node).or_default().add(revision);
        drop(inner);
        if news {
            self.state.moved();
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut inner = self.state.inner();
        let Some(sidecar) = inner.sidecars.remove(&self.id) else {
            return;
        };
        self.state.moved();
        // What is neither declared nor connected any more is forgotten.
        let catalog = self.state.catalog();
        let declared = catalog.is_some_and(|it| it.node(&sidecar.node).is_some());
        if !declared
            && !inner
                .sidecars
                .values()
                .any(|other| other.node == sidecar.node)
        {
            inner.acknowledged.remove(&sidecar.node);
        }
    }
}
