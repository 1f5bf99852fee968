//! Which stream must look at what: a publication wakes the streams that have one of the changed names, and no other.
//!
//! A stream says that it is interested **before** it looks a name up, and a publication puts the new catalog in place
//! **before** it asks who is interested: so either the stream sees the new catalog, or it is woken for it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::catalog::Changed;

/// Everybody who wants to know.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    // Held for moments, never across an await.
    listeners: Mutex<Listeners>,
}

#[derive(Debug, Default)]
struct Listeners {
    next: u32,
    inboxes: HashMap<u32, Arc<Inbox>>,
    nodes: Names,
    addresses: Names,
    revocations: HashSet<u32>,
}

/// Who is interested in a name.
type Names = HashMap<Arc<str>, Few>;

/// A name of one listener needs no list: most have no more, and there are many.
#[derive(Debug)]
enum Few {
    One(u32),
    Some(Vec<u32>),
}

/// What a stream has not looked at yet.
#[derive(Debug, Default)]
struct Inbox {
    pending: Mutex<Pending>,
    filled: Notify,
}

/// Names to look at, all that there are since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The stream's own node.
    pub(crate) node: bool,
    pub(crate) addresses: Vec<Arc<str>>,
    pub(crate) revocations: bool,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        !self.node && self.addresses.is_empty() && !self.revocations
    }
}

/// One stream's interest, until it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    interest: Arc<Interest>,
    id: u32,
    node: Arc<str>,
    addresses: HashSet<Arc<str>>,
    inbox: Arc<Inbox>,
}

impl Interest {
    /// A stream of `node`, which is interested in that from now on.
    pub(crate) fn listen(self: &Arc<Self>, node: &str) -> Listener {
        let inbox = Arc::new(Inbox::default());
        let mut listeners = self.lock();
        let id = listeners.free_id();
        listeners.inboxes.insert(id, Arc::clone(&inbox));
        let node = add(&mut listeners.nodes, node, id);
        drop(listeners);
        Listener {
            interest: Arc::clone(self),
            id,
            node,
            addresses: HashSet::new(),
            inbox,
        }
    }

    /// Wakes those who are interested in what changed; says how many that were. `other_list`: the revocation list is
    /// another one.
    pub(crate) fn publish(&self, changed: &Changed, other_list: bool) -> usize {
        let listeners = self.lock();
        let mut due: HashMap<u32, Pending> = HashMap::new();
        for id in changed
            .nodes
            .iter()
            .flat_map(|name| of(&listeners.nodes, name))
        {
            due.entry(*id).or_default().node = true;
        }
        for name in &changed.addresses {
            for id in of(&listeners.addresses, name) {
                let pending = due.entry(*id).or_default();
                pending.addresses.push(Arc::clone(name));
            }
        }
        if changed.revocations || other_list {
            for id in &listeners.revocations {
                due.entry(*id).or_default().revocations = true;
            }
        }
        let woken = due.len();
        for (id, pending) in due {
            if let Some(inbox) = listeners.inboxes.get(&id) {
                inbox.put(pending);
            }
        }
        woken
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listeners {
    fn free_id(&mut self) -> u32 {
        // Round after four thousand million streams, past those that still live.
        while self.inboxes.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        id
    }
}

impl Inbox {
    fn put(&self, new: Pending) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.node |= new.node;
        pending.revocations |= new.revocations;
        pending.addresses.extend(new.addresses);
        drop(pending);
        self.filled.notify_one();
    }
}

impl Listener {
    pub(crate) fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// What there is to look at, if anything. The catalog must be read after this.
    pub(crate) fn take(&self) -> Pending {
        let mut inbox = (self.inbox.pending.lock()).unwrap_or_else(PoisonError::into_inner);
        let mut pending = std::mem::take(&mut *inbox);
        drop(inbox);
        // Slow streams are told of the same name again and again.
        pending.addresses.sort_unstable();
        pending.addresses.dedup();
        pending
    }

    /// Returns once there may be something to [`take`](Self::take).
    pub(crate) async fn woken(&self) {
        self.inbox.filled.notified().await;
    }

    /// These addresses as well, from now on; names that are known already are fine.
    pub(crate) fn add_addresses<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        let mut listeners = self.interest.lock();
        for name in names {
            if !self.addresses.contains(name) {
                let name = add(&mut listeners.addresses, name, self.id);
                self.addresses.insert(name);
            }
        }
    }

    /// No longer these.
    pub(crate) fn remove_addresses<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        let mut listeners = self.interest.lock();
        for name in names {
            if self.addresses.remove(name) {
                remove(&mut listeners.addresses, name, self.id);
            }
        }
    }

    /// The revocation list as well, or no longer.
    pub(crate) fn set_revocations(&self, interested: bool) {
        let mut listeners = self.interest.lock();
        if interested {
            listeners.revocations.insert(self.id);
        } else {
            listeners.revocations.remove(&self.id);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.interest.lock();
        listeners.inboxes.remove(&self.id);
        listeners.revocations.remove(&self.id);
        remove(&mut listeners.nodes, &self.node, self.id);
        for name in &self.addresses {
            remove(&mut listeners.addresses, name, self.id);
        }
    }
}

/// Returns the name as it is kept here, so that it is kept once.
fn add(names: &mut Names, name: &str, id: u32) -> Arc<str> {
    if let Some((kept, _)) = names.get_key_value(name) {
        let kept = Arc::clone(kept);
        if let Some(interested) = names.get_mut(name) {
            interested.add(id);
        }
        return kept;
    }
    let kept: Arc<str> = name.into();
    names.insert(Arc::clone(&kept), Few::One(id));
    kept
}

fn remove(names: &mut Names, name: &str, id: u32) {
    let nobody = names
        .get_mut(name)
        .is_some_and(|interested| interested.remove(id));
    if nobody {
        names.remove(name);
    }
}

impl Few {
    fn add(&mut self, id: u32) {
        match self {
            Few::One(one) => *self = Few::Some(vec![*one, id]),
            Few::Some(some) => some.push(id),
        }
    }

    /// Says whether nobody is left.
    fn remove(&mut self, id: u32) -> bool {
        match self {
            Few::One(one) => *one == id,
            Few::Some(some) => {
                if let Some(at) = some.iter().position(|known| *known == id) {
                    some.swap_remove(at);
                }
                some.is_empty()
            }
        }
    }

    fn ids(&self) -> &[u32] {
        match self {
            Few::One(one) => std::slice::from_ref(one),
            Few::Some(some) => some,
        }
    }
}

fn of<'n>(names: &'n Names, name: &str) -> &'n [u32] {
    names.get(name).map_or(&[], Few::ids)
}
