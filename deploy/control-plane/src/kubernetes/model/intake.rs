//! What the watches say, put where it belongs.

use std::collections::HashSet;
use std::sync::Arc;

use super::Model;
use crate::kubernetes::kind::Kind;
use crate::kubernetes::object::Id;
use crate::kubernetes::watch::{Change, Event};

impl Model {
    pub(crate) fn take_in(&mut self, change: Change) {
        match change {
            Change::Namespace(event) => {
                self.on(Kind::Namespace, event, |model, id, labels| match labels {
                    Some(labels) => _ = model.namespaces.insert(id, Arc::new(labels)),
                    None => _ = model.namespaces.remove(&id),
                })
            }
            Change::ServiceAccount(event) => {
                self.on(
                    Kind::ServiceAccount,
                    event,
                    |model, id, account| match account {
                        Some(()) => model.store.apply_account(&id),
                        None => model.store.remove_account(&id),
                    },
                );
            }
            Change::Pod(event) => self.on(Kind::Pod, event, |model, id, pod| match pod {
                Some(pod) => model.store.apply_pod(&id, pod),
                None => model.store.remove_pod(&id),
            }),
            Change::Service(event) => {
                self.on(Kind::Service, event, |model, id, service| match service {
                    Some(service) => model.store.apply_service(&id, service),
                    None => model.store.remove_service(&id),
                })
            }
            Change::Slice(event) => {
                self.on(Kind::EndpointSlice, event, |model, id, slice| match slice {
                    Some(slice) => model.store.apply_slice(&id, slice),
                    None => model.store.remove_slice(&id),
                })
            }
            Change::Document(kind, event) => {
                self.on(Kind::Document(kind), event, |model, id, object| {
                    model.told = true;
                    model.stale |= match object {
                        Some(object) => model.documents.apply(kind, &id, *object),
                        None => model.documents.remove(kind, &id),
                    };
                });
            }
            // Whoever watches knows what to make of it; what is known stays.
            Change::Trouble(..) => {}
        }
    }

    fn on<T>(&mut self, kind: Kind, event: Event<T>, put: impl Fn(&mut Self, Id, Option<T>)) {
        match event {
            Event::Listing => _ = self.listing.insert(kind, HashSet::new()),
            Event::Applied(id, object) => {
                if let Some(listed) = self.listing.get_mut(&kind) {
                    listed.insert(id.clone());
                }
                put(self, id, Some(object));
            }
            Event::Deleted(id) => put(self, id, None),
            Event::Listed => {
                let listed = self.listing.remove(&kind).unwrap_or_default();
                for id in self.ids(kind) {
                    if !listed.contains(&id) {
                        put(self, id, None);
                    }
                }
            }
        }
    }

    fn ids(&self, kind: Kind) -> Vec<Id> {
        match kind {
            Kind::Namespace => self.namespaces.keys().cloned().collect(),
            Kind::ServiceAccount => self.store.account_ids(),
            Kind::Pod => self.store.pod_ids(),
            Kind::Service => self.store.service_ids(),
            Kind::EndpointSlice => self.store.slice_ids(),
            Kind::Document(kind) => self.documents.ids(kind),
        }
    }
}
