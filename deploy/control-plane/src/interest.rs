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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn changed(nodes: &[&str], addresses: &[&str], revocations: bool) -> Changed {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        Changed {
            nodes: names(nodes),
            addresses: names(addresses),
            revocations,
        }
    }

    /// Node, addresses, `revocations`: what is pending.
    fn taken(listener: &Listener) -> String {
        let pending = listener.take();
        let mut all: Vec<&str> = Vec::new();
        all.extend(pending.node.then_some("node"));
        all.extend(pending.addresses.iter().map(AsRef::as_ref));
        all.extend(pending.revocations.then_some("revocations"));
        assert_eq!(pending.is_empty(), all.is_empty());
        all.join(" ")
    }

    #[test]
    fn a_stream_is_told_of_its_own_names_and_of_no_other() {
        let interest = Arc::new(Interest::default());
        let mut web = interest.listen("shop/web");
        let mut orders = interest.listen("shop/orders");
        web.add_addresses(["10.0.0.1", "none.example", "10.0.0.1"]);
        orders.add_addresses(["10.0.0.1"]);
        orders.set_revocations(true);
        let publish = |changed: &Changed| interest.publish(changed, false);

        assert_eq!(publish(&changed(&["shop/other"], &["10.9.9.9"], false)), 0);
        assert_eq!(publish(&changed(&["shop/web"], &[], false)), 1);
        assert_eq!((taken(&web), taken(&orders)), ("node".into(), "".into()));
        assert_eq!(
            publish(&changed(&[], &["10.0.0.1", "none.example"], true)),
            2
        );
        // Told twice before it looks, it looks once.
        assert_eq!(publish(&changed(&[], &["10.0.0.1"], false)), 2);
        assert_eq!(taken(&web), "10.0.0.1 none.example");
        assert_eq!(taken(&orders), "10.0.0.1 revocations");
        // Whoever publishes says it, or the list itself does.
        assert_eq!(interest.publish(&Changed::default(), true), 1);
        assert_eq!(
            (taken(&web), taken(&orders)),
            ("".into(), "revocations".into())
        );

        web.remove_addresses(["10.0.0.1", "never added"]);
        orders.set_revocations(false);
        assert_eq!(publish(&changed(&[], &["10.0.0.1"], true)), 1);
        assert_eq!(
            (taken(&web), taken(&orders)),
            ("".into(), "10.0.0.1".into())
        );
        drop(orders);
        assert_eq!(publish(&changed(&["shop/orders"], &["10.0.0.1"], true)), 0);
        drop(web);
        let listeners = interest.lock();
        assert!(listeners.inboxes.is_empty() && listeners.revocations.is_empty());
        assert!(listeners.nodes.is_empty() && listeners.addresses.is_empty());
    }

    #[test]
    fn two_streams_of_one_node_are_both_told() {
        let interest = Arc::new(Interest::default());
        let (one, other) = (interest.listen("shop/web"), interest.listen("shop/web"));
        assert_eq!(
            interest.publish(&changed(&["shop/web"], &[], false), false),
            2
        );
        drop(one);
        assert_eq!(
            interest.publish(&changed(&["shop/web"], &[], false), false),
            1
        );
        assert_eq!(taken(&other), "node");
    }

    #[tokio::test]
    async fn who_was_told_before_waiting_does_not_wait() {
        let interest = Arc::new(Interest::default());
        let listener = interest.listen("shop/web");
        interest.publish(&changed(&["shop/web"], &[], false), false);
        let wait = std::time::Duration::from_secs(10);
        tokio::time::timeout(wait, listener.woken()).await.unwrap();
        assert_eq!(taken(&listener), "node");
    }

    #[test]
    fn any_sequence_tells_everybody_what_is_theirs() {
        let mut random = fastrand::Rng::with_seed(3);
        let interest = Arc::new(Interest::default());
        let name = |random: &mut fastrand::Rng| format!("a{}", random.u8(..20));
        let mut streams: Vec<(Listener, BTreeSet<String>)> = Vec::new();
        let mut told = 0;
        for _ in 0..3000 {
            match random.u8(..8) {
                0 => {
                    let listener = interest.listen(&name(&mut random));
                    streams.push((listener, BTreeSet::new()));
                }
                1 if streams.len() > 8 => {
                    streams.swap_remove(random.usize(..streams.len()));
                }
                2..=5 if !streams.is_empty() => {
                    let at = random.usize(..streams.len());
                    let (listener, names) = &mut streams[at];
                    let name = name(&mut random);
                    if random.bool() {
                        listener.add_addresses([name.as_str()]);
                        names.insert(name);
                    } else {
                        listener.remove_addresses([name.as_str()]);
                        names.remove(&name);
                    }
                }
                _ => {
                    let names: Vec<String> = (0..3).map(|_| name(&mut random)).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    let news = changed(&names[..1], &names, false);
                    let woken = interest.publish(&news, false);
                    let mut expected = 0;
                    for (listener, held) in &streams {
                        let pending = listener.take();
                        let addresses: BTreeSet<&str> =
                            pending.addresses.iter().map(AsRef::as_ref).collect();
                        let theirs = names.iter().copied().filter(|name| held.contains(*name));
                        assert_eq!(addresses, theirs.collect());
                        assert_eq!(pending.node, &**listener.node() == names[0]);
                        expected += usize::from(!pending.is_empty());
                    }
                    assert_eq!(woken, expected);
                    told += woken;
                }
            }
        }
        assert!(told > 1000, "{told}");
    }
}
