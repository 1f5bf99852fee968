//! What the API server has, kept up to date by watching it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

/// Namespace (empty: cluster scope) and name.
pub(super) type Key = (String, String);

/// All objects of one kind.
pub(super) struct Table<K>(RefCell<BTreeMap<Key, Rc<K>>>);

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Resource> Table<K> {
    pub(super) fn all(&self) -> Vec<Rc<K>> {
        self.0.borrow().values().cloned().collect()
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Rc<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.0.borrow().get(&key).cloned()
    }

    /// What was just made counts at once, lest it is made twice before the watch tells of it.
    pub(super) fn made(&self, object: K) {
        let mut map = self.0.borrow_mut();
        map.entry(key(&object)).or_insert_with(|| Rc::new(object));
    }
}

fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[derive(Default)]
pub(super) struct Objects {
    pub(super) pods: Table<Pod>,
    pub(super) services: Table<Service>,
    pub(super) namespaces: Table<Namespace>,
    pub(super) accounts: Table<ServiceAccount>,
    pub(super) deployments: Table<Deployment>,
    pub(super) jobs: Table<Job>,
}

impl Objects {
    /// Starts watching; `changed` is told of every change.
    pub(super) fn watch(client: &Client, changed: &Rc<Notify>) -> Rc<Self> {
        let this = Rc::new(Self::default());
        follow(client, &this, changed, |objects| &objects.pods);
        follow(client, &this, changed, |objects| &objects.services);
        follow(client, &this, changed, |objects| &objects.namespaces);
        follow(client, &this, changed, |objects| &objects.accounts);
        follow(client, &this, changed, |objects| &objects.deployments);
        follow(client, &this, changed, |objects| &objects.jobs);
        this
    }
}

fn follow<K>(
    client: &Client,
    objects: &Rc<Objects>,
    changed: &Rc<Notify>,
    table: fn(&Objects) -> &Table<K>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
    let (objects, changed) = (objects.clone(), changed.clone());
    tokio::task::spawn_local(async move {
        let mut stream = std::pin::pin!(stream.default_backoff());
        let mut listed = BTreeMap::new();
        while let Some(event) = stream.next().await {
            let table = table(&objects);
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.insert(key(&object), Rc::new(object));
                }
                Ok(Event::InitDone) => *table.0.borrow_mut() = std::mem::take(&mut listed),
                Ok(Event::Apply(object)) => {
                    table.0.borrow_mut().insert(key(&object), Rc::new(object));
                }
                Ok(Event::Delete(object)) => {
                    table.0.borrow_mut().remove(&key(&object));
                }
                // An API server that restarts, or forgot the version we were at: the watcher begins anew.
                Err(_) => continue,
            }
            changed.notify_one();
        }
    });
}
