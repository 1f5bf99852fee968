//! One watch a kind. Each object is trimmed the moment it arrives, and sent to the one owner of what is known.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::kind::{DocumentKind, Kind};
use super::object::{self, Id, Pod, Service, Slice};
use super::permission::{Trouble, in_full};
use super::read::Object;

/// A connection that died without a word is noticed after this, in seconds: a watch never lasts longer.
pub(super) const WATCH_TIMEOUT: u32 = 120;
/// Between attempts: doubled from the first to the last, less a random part so that replicas do not come all at once.
const FIRST_RETRY: Duration = Duration::from_millis(200);
pub(super) const LAST_RETRY: Duration = Duration::from_secs(10);
/// Troubles this far apart have nothing to do with each other.
const CALM: Duration = Duration::from_secs(60);

/// All that can happen to what is known of the cluster.
#[derive(Debug)]
pub(crate) enum Change {
    Namespace(Event<BTreeMap<String, String>>),
    ServiceAccount(Event<()>),
    Pod(Event<Pod>),
    Service(Event<Service>),
    Slice(Event<Slice>),
    Document(DocumentKind, Event<Box<Object>>),
    Trouble(Kind, Trouble),
}

/// What a watch says. Between `Listing` and `Listed` every object there is gets applied; one that does not is gone.
#[derive(Debug)]
pub(crate) enum Event<T> {
    Listing,
    Applied(Id, T),
    Deleted(Id),
    Listed,
}

/// What an event means for how much is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Listing,
    Listed,
    Other,
}

impl Change {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::Slice(_) => Kind::EndpointSlice,
            Self::Document(kind, _) => Kind::Document(*kind),
            Self::Trouble(kind, _) => *kind,
        }
    }

    pub(crate) fn step(&self) -> Step {
        match self {
            Self::Namespace(event) => event.step(),
            Self::ServiceAccount(event) => event.step(),
            Self::Pod(event) => event.step(),
            Self::Service(event) => event.step(),
            Self::Slice(event) => event.step(),
            Self::Document(_, event) => event.step(),
            Self::Trouble(..) => Step::Other,
        }
    }
}

impl<T> Event<T> {
    fn step(&self) -> Step {
        match self {
            Self::Listing => Step::Listing,
            Self::Listed => Step::Listed,
            Self::Applied(..) | Self::Deleted(_) => Step::Other,
        }
    }
}

/// Watches all kinds until dropped.
pub(crate) fn start(
    client: &Client,
    accept_istio: bool,
    changes: &mpsc::Sender<Change>,
    tasks: &mut JoinSet<()>,
) {
    let watch = |kind| Watch {
        kind,
        client: client.clone(),
        changes: changes.clone(),
    };
    // Of these two the metadata is all that is wanted, and all that is sent.
    let namespaces = Api::<PartialObjectMeta<core::Namespace>>::all(client.clone());
    let read =
        |it: PartialObjectMeta<core::Namespace>| Some(it.metadata.labels.unwrap_or_default());
    tasks.spawn(watch(Kind::Namespace).follow(namespaces, read, Change::Namespace));
    let accounts = Api::<PartialObjectMeta<core::ServiceAccount>>::all(client.clone());
    let read = |_: PartialObjectMeta<core::ServiceAccount>| Some(());
    tasks.spawn(watch(Kind::ServiceAccount).follow(accounts, read, Change::ServiceAccount));
    let pods = Api::<core::Pod>::all(client.clone());
    tasks.spawn(watch(Kind::Pod).follow(pods, Pod::of, Change::Pod));
    let services = Api::<core::Service>::all(client.clone());
    tasks.spawn(watch(Kind::Service).follow(services, Service::of, Change::Service));
    let slices = Api::<discovery::EndpointSlice>::all(client.clone());
    tasks.spawn(watch(Kind::EndpointSlice).follow(slices, Slice::of, Change::Slice));
    for kind in document_kinds(accept_istio) {
        let api = Api::<DynamicObject>::all_with(client.clone(), &kind.resource());
        let read = move |object| Some(Box::new(Object::of(kind, object)));
        let change = move |event| Change::Document(kind, event);
        tasks.spawn(watch(Kind::Document(kind)).follow(api, read, change));
    }
}

pub(crate) fn document_kinds(accept_istio: bool) -> impl Iterator<Item = DocumentKind> {
    let istio = DocumentKind::ISTIO
        .into_iter()
        .filter(move |_| accept_istio);
    DocumentKind::KITH.into_iter().chain(istio)
}

struct Watch {
    kind: Kind,
    client: Client,
    changes: mpsc::Sender<Change>,
}

impl Watch {
    async fn follow<K, T>(
        self,
        api: Api<K>,
        read: impl Fn(K) -> Option<T>,
        change: impl Fn(Event<T>) -> Change,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.pass_on(watcher(api, config()), read, change).await;
    }

    /// Ends when nobody listens any more.
    async fn pass_on<K: Resource, T>(
        self,
        events: impl futures_util::Stream<Item = watcher::Result<watcher::Event<K>>>,
        read: impl Fn(K) -> Option<T>,
        change: impl Fn(Event<T>) -> Change,
    ) {
        let mut events = pin!(events);
        let mut failures = 0;
        let mut failed_at = Instant::now();
        while let Some(event) = events.next().await {
            let told = match event {
                Ok(event) => change(trimmed(event, &read)),
                Err(error) => Change::Trouble(self.kind, self.trouble(&error).await),
            };
            let trouble = match &told {
                Change::Trouble(_, trouble) => Some(trouble.clone()),
                _ => None,
            };
            if self.changes.send(told).await.is_err() {
                return;
            }
            if let Some(trouble) = trouble {
                if failed_at.elapsed() > CALM {
                    failures = 0;
                }
                failed_at = Instant::now();
                // What has expired is listed anew at once: nothing is wrong with the API server.
                if trouble != Trouble::Expired {
                    tokio::time::sleep(retry_after(failures)).await;
                    failures += 1;
                }
            }
        }
    }
}

impl Watch {
    /// Objects of a kind that is there in another version only mean to restrict, and cannot be read: that is not to be
    /// taken for a cluster without them.
    async fn trouble(&self, error: &watcher::Error) -> Trouble {
        let trouble = Trouble::of(error);
        if trouble != Trouble::NotInstalled || !self.kind.may_be_missing() {
            return trouble;
        }
        match served_as(&self.client, self.kind).await {
            Ok(versions) if versions.is_empty() => trouble,
            Ok(versions) => Trouble::OtherVersions(versions),
            Err(error) => Trouble::Other(in_full(&error)),
        }
    }
}

/// The versions in which the API server has a kind.
async fn served_as(client: &Client, kind: Kind) -> kube::Result<Vec<String>> {
    let groups = client.list_api_groups().await?.groups;
    let group = groups.into_iter().filter(|it| it.name == kind.group());
    let mut served = Vec::new();
    for version in group.flat_map(|group| group.versions) {
        let listed = client
            .list_api_group_resources(&version.group_version)
            .await?;
        if listed.resources.iter().any(|it| it.name == kind.plural()) {
            served.push(version.version);
        }
    }
    Ok(served)
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_TIMEOUT)
}

fn retry_after(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.min(10));
    doubled.min(LAST_RETRY).mul_f64(1.0 - fastrand::f64() / 2.0)
}

fn trimmed<K: Resource, T>(event: watcher::Event<K>, read: impl Fn(K) -> Option<T>) -> Event<T> {
    let id_of = |object: &K| object::id(object.namespace().as_deref(), &object.name_any());
    match event {
        watcher::Event::Init => Event::Listing,
        watcher::Event::InitDone => Event::Listed,
        watcher::Event::Delete(object) => Event::Deleted(id_of(&object)),
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            let id = id_of(&object);
            match read(object) {
                Some(read) => Event::Applied(id, read),
                // It is there and does not matter any more, e.g. a pod that has ended.
                None => Event::Deleted(id),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_get_rarer_and_never_stop() {
        for (failures, at_least, at_most) in [(0, 100, 200), (3, 800, 1600), (1000, 5000, 10_000)] {
            let after = retry_after(failures).as_millis();
            assert!((at_least..=at_most).contains(&after), "{failures}: {after}");
        }
    }
}
