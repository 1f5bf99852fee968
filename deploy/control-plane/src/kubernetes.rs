//! The cluster as the source of policies and workloads, in place of a folder: watched, never polled.
//!
//! ```text
//! API server ─► watch, one a kind: trimmed on arrival ─► follow, the one owner ─► model: store, documents ─► Catalog
//!                                                                              └► verdicts, on each document
//! ```
//!
//! In reading order: `kind` (what is watched), `object` (what is kept of it), `read` (an object as a document),
//! `substitute` (what holds in place of a broken one), `documents` (what holds together), `store` (pods, services, and who
//! hangs on whom), `model` (what is served, made anew where something changed), `watch`, `follow`, `health`. All up to
//! `model` is free of IO. Then what the cluster is told in turn: `leader` (which replica writes), `replicas` and `heard` (what
//! all sidecars enforce), `conditions` (what each object's status says), `operate` (all four, live).
//!
//! **Architecture invariant:** nothing is taken away before the API server says that it is gone. A connection that breaks,
//! a version that expires, a permission that is withdrawn: what was known stays in force.

mod client;
mod conditions;
mod documents;
mod follow;
pub(crate) mod health;
mod heard;
mod kind;
mod leader;
mod model;
mod object;
mod operate;
mod permission;
mod read;
mod replicas;
mod store;
mod substitute;
pub(crate) mod verdict;
mod watch;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kith_certs::IdentitySource;
use kube::Client;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;

pub use self::client::ClientError;
pub(crate) use self::client::client;
use self::follow::Follower;
pub(crate) use self::follow::Namespaces;
use self::health::Health;
use self::kind::Kind;
use self::model::Model;
use self::operate::Operation;
pub(crate) use self::operate::operate;
use self::replicas::Own;
use self::verdict::Verdicts;
use crate::status::State;

/// Changes that wait to be taken in; who watches waits when there are more.
const WAITING_CHANGES: usize = 1024;

/// How the cluster is found, and what this control plane is in it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Else `$KUBECONFIG`, else what a pod is given.
    pub kubeconfig: Option<PathBuf>,
    /// Istio's kinds count too.
    pub accept_istio: bool,
    /// Where this control plane runs.
    pub namespace: String,
    /// Its pod, if it is one.
    pub pod_name: Option<String>,
    pub pod_ip: Option<IpAddr>,
    /// None: no webhook.
    pub webhook: Option<Webhook>,
    /// Where the kubelet asks for `/ready` and `/live`, and Prometheus for `/metrics`.
    pub health_listen: SocketAddr,
    /// The suffix of the cluster's names in DNS.
    pub cluster_domain: String,
}

/// What the API server asks about pods and documents that somebody applies.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub listen: SocketAddr,
    /// What pods are injected with.
    pub injection: Arc<crate::inject::Settings>,
    /// How long a serving certificate is valid.
    pub certificate_lifetime: Duration,
}

/// What others of this program wait for.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    #[allow(
        dead_code,
        reason = "for what writes statuses; receivers are made from it"
    )]
    pub(crate) verdicts: channel::Sender<Verdicts>,
    pub(crate) namespaces: channel::Sender<Namespaces>,
    /// Where the other replicas of this control plane listen for sidecars.
    pub(crate) replicas: channel::Sender<BTreeSet<SocketAddr>>,
}

/// A cluster that is followed.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) health: Arc<Health>,
    pub(crate) published: Published,
}

impl Cluster {
    /// Follows the cluster until `tasks` are ended.
    pub(crate) fn follow(
        client: &Client,
        settings: &Settings,
        state: &Arc<State>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let documents = watch::document_kinds(settings.accept_istio).map(Kind::Document);
        let health = Health::new(Kind::CLUSTER.into_iter().chain(documents));
        let published = Published::new();
        let (changes, taken_in) = mpsc::channel(WAITING_CHANGES);
        watch::start(client, settings.accept_istio, &changes, tasks);
        let follower = Follower {
            model: Model::new(&settings.cluster_domain),
            accept_istio: settings.accept_istio,
            health: Arc::clone(&health),
            state: Arc::clone(state),
            published: published.clone(),
            own: Own::new(settings),
        };
        tasks.spawn(follower.follow(taken_in));
        Self { health, published }
    }

    /// What [`operate`] needs to write statuses.
    pub(crate) fn operation(
        &self,
        client: Client,
        settings: &Settings,
        state: &Arc<State>,
        identity: &IdentitySource,
    ) -> Operation {
        // Outside of a pod any name will do that no other replica has.
        let unique = || format!("kith-control-{:016x}", fastrand::u64(..));
        Operation {
            client,
            namespace: settings.namespace.clone(),
            pod: settings.pod_name.clone().unwrap_or_else(unique),
            identity: identity.clone(),
            state: Arc::clone(state),
            verdicts: self.published.verdicts.subscribe(),
            replicas: self.published.replicas.subscribe(),
            numbers: Arc::clone(&self.health.operation),
        }
    }
}
