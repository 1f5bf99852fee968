//! The bookkeeping of one kind.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, WireResource};

/// Resources in one remembered response.
const REMEMBERED_AT_ONCE: usize = 64;

#[derive(Default)]
pub(super) struct Book {
    /// What is subscribed to.
    wanted: BTreeSet<String>,
    /// What the server was told on this stream; none before the first request of this type.
    told: Option<BTreeSet<String>>,
    /// Names to be asked for again although the server was told.
    again: BTreeSet<String>,
    /// What is in force. Always wanted, too.
    held: BTreeMap<String, WireResource>,
    /// Deliveries may be answered out of order: the sequence number of the one that had the last word on
    /// a name. Kept only while older ones are unanswered.
    settled: BTreeMap<String, u64>,
    /// Whether `wanted` and `told` may differ.
    news: bool,
}

impl Book {
    pub(super) fn wanted(&self) -> &BTreeSet<String> {
        &self.wanted
    }

    pub(super) fn was_told(&self) -> bool {
        self.told.is_some()
    }

    pub(super) fn has_news(&self) -> bool {
        self.news
    }

    pub(super) fn want(&mut self, name: String) {
        // xDS: this name means everything there is. Names may come from what an application dials.
        if name == "*" || self.wanted.contains(&name) {
            return;
        }
        // Dropped and wanted again before the server heard of it: nothing is held any more, so it must
        // be sent again.
        if self.told.as_ref().is_some_and(|told| told.contains(&name)) {
            self.again.insert(name.clone());
        }
        self.wanted.insert(name);
        self.news = true;
    }

    pub(super) fn ask_again(&mut self, name: String) {
        if self.wanted.contains(&name) && !self.held.contains_key(&name) {
            self.again.insert(name);
            self.news = true;
        }
    }

    /// Drops a name; true if a resource was held. Deliveries up to `settled_at` can't bring it back.
    pub(super) fn forget(&mut self, name: &str, settled_at: Option<u64>) -> bool {
        if !self.wanted.remove(name) {
            return false;
        }
        self.again.remove(name);
        if let Some(sequence) = settled_at {
            self.settled.insert(name.to_owned(), sequence);
        }
        self.news = true;
        self.held.remove(name).is_some()
    }

    pub(super) fn stream_started(&mut self) {
        self.told = None;
        self.again.clear();
        self.news = true;
    }

    /// `under_way` are names about which the consumer has something that it did not answer yet: whatever is held of
    /// them is on its way out, and the server must send what is right now.
    pub(super) fn next_request(
        &mut self,
        type_url: &str,
        under_way: impl Fn(&str) -> bool,
    ) -> Option<DeltaDiscoveryRequest> {
        if !std::mem::take(&mut self.news) {
            return None;
        }
        let Some(told) = &mut self.told else {
            // xDS: a first request without names would subscribe to everything there is.
            if self.wanted.is_empty() {
                return None;
            }
            self.told = Some(self.wanted.clone());
            return Some(DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                resource_names_subscribe: self.wanted.iter().cloned().collect(),
                // xDS: only in the first request of a type on a stream, and only what is subscribed to.
                initial_resource_versions: self
                    .held
                    .iter()
                    .filter(|(name, _)| !under_way(name))
                    .map(|(name, held)| (name.clone(), held.version.clone()))
                    .collect(),
                ..Default::default()
            });
        };
        let again = std::mem::take(&mut self.again);
        let subscribe: Vec<String> = self
            .wanted
            .iter()
            .filter(|name| !told.contains(*name) || again.contains(*name))
            .cloned()
            .collect();
        let unsubscribe: Vec<String> = told.difference(&self.wanted).cloned().collect();
        for name in &unsubscribe {
            told.remove(name);
        }
        told.extend(subscribe.iter().cloned());
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        Some(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Default::default()
        })
    }

    /// Records a resource that is in force; true if that changed what is held.
    pub(super) fn hold(&mut self, resource: WireResource, sequence: u64) -> bool {
        if !self.wanted.contains(&resource.name) || !self.settle(&resource.name, sequence) {
            return false;
        }
        let news = self.held.get(&resource.name) != Some(&resource);
        self.held.insert(resource.name.clone(), resource);
        news
    }

    /// Records that a resource is gone; true if it was held.
    pub(super) fn remove(&mut self, name: &str, sequence: u64) -> bool {
        self.settle(name, sequence) && self.held.remove(name).is_some()
    }

    /// Forgets who had the last word where nobody is left to contradict.
    pub(super) fn prune(&mut self, oldest_unanswered: Option<u64>) {
        match oldest_unanswered {
            Some(oldest) => self.settled.retain(|_, sequence| *sequence >= oldest),
            None => self.settled.clear(),
        }
    }

    /// Appends what is held, in the form in which it came. A few resources at a time: with 10,000 policies, one message of
    /// all of them would take their memory twice, and decoded at the next start several times.
    pub(super) fn remember(&self, type_url: &str, encoded: &mut Vec<u8>) {
        let mut held = self.held.values().peekable();
        while held.peek().is_some() {
            let response = DeltaDiscoveryResponse {
                type_url: type_url.to_owned(),
                resources: held.by_ref().take(REMEMBERED_AT_ONCE).cloned().collect(),
                ..Default::default()
            };
            encoded.extend(response.encode_length_delimited_to_vec());
        }
    }

    /// Whether the delivery with this number has the last word on a name.
    fn settle(&mut self, name: &str, sequence: u64) -> bool {
        match self.settled.get_mut(name) {
            Some(settled) if *settled >= sequence => false,
            Some(settled) => {
                *settled = sequence;
                true
            }
            None => {
                self.settled.insert(name.to_owned(), sequence);
                true
            }
        }
    }
}
