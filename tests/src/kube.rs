//! A cluster without machines: a real etcd and a real API server in the lab's network, and this process in place of
//! everything else that a cluster has. It plays the node ([`node`]), which runs the containers of pods' specs as
//! processes in network namespaces, and the controllers that the tests need ([`controllers`]): Deployments, Jobs,
//! EndpointSlices, default service accounts. SVIDs come from the lab's dev authority through `csi.spiffe.io` volumes.
//!
//! What is applied with the real kubectl goes through real admission; what runs is the spec that came out of it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kith::lab::{Authority, Lab, LabOptions, Output, Workload, WorkloadSpec, privileges};

use crate::wait::wait_for;
use api_server::ApiServer;
use node::{Node, Pod};

pub mod api_server;
pub mod controllers;
pub mod install;
pub mod node;
mod objects;
mod services;

/// How long a pod, or what depends on pods, may take; the machine may be busy with another cluster.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that is up.
pub struct Cluster {
    /// etcd and the API server.
    pub api: ApiServer,
    /// Runs pods.
    pub node: Rc<Node>,
    /// Gives pods their SVIDs.
    pub authority: Rc<Authority>,
    /// The node's machine, which also is the operator's: kubectl runs there.
    pub machine: Arc<Workload>,
    /// The switch below it all.
    pub lab: Rc<Lab>,
}

impl Cluster {
    /// Starts a cluster, runs a scenario on it, and takes it down. The scenario's own sockets are the node's.
    ///
    /// # Panics
    /// When the cluster cannot be started, or the scenario panics; logs are kept then.
    pub fn run<R: Future<Output = ()>>(scenario: impl FnOnce(Rc<Self>) -> R + Send + 'static) {
        // A thread of its own: it moves into the node's network for good.
        let thread = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || {
                let lab = Lab::bare(LabOptions::default()).unwrap();
                assert!(
                    privileges::can_switch_users(),
                    "cluster tests run containers under users of their own: run them as root"
                );
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let machine = WorkloadSpec::new("kube", "node");
                let machine = runtime.block_on(lab.start_workload(machine)).unwrap();
                machine.network().enter().unwrap();
                let tasks = tokio::task::LocalSet::new();
                tasks.block_on(&runtime, async {
                    let cluster = Rc::new(Self::start(lab, machine).await);
                    let work = tokio::task::spawn_local(cluster.node.clone().work());
                    tokio::select! {
                        () = scenario(cluster.clone()) => {}
                        ended = work => panic!("the node ended: {ended:?}"),
                    }
                    cluster.node.forget();
                });
            })
            .unwrap();
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    async fn start(lab: Lab, machine: Arc<Workload>) -> Self {
        let authority = Rc::new(lab.authority_in(&machine).await.unwrap());
        let api = ApiServer::start(&lab, &machine, &authority).await;
        let lab = Rc::new(lab);
        let node = Node::start(lab.clone(), machine.clone(), authority.clone(), &api).await;
        Self {
            api,
            node,
            authority,
            machine,
            lab,
        }
    }

    /// Runs kubectl as cluster-admin. A bad exit code is no error.
    ///
    /// # Panics
    /// When it cannot be run or does not end within a minute.
    pub async fn kubectl(&self, arguments: &[&str]) -> Output {
        self.api.kubectl(&self.machine, arguments).await
    }

    /// Runs kubectl, which must succeed, and gives back what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn must<'a>(&'a self, arguments: &'a [&'a str]) -> impl Future<Output = String> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let output = self.kubectl(arguments).await;
            assert!(
                output.status.success(),
                "{caller}: kubectl {}: {}",
                arguments.join(" "),
                output.stderr
            );
            output.stdout
        }
    }

    /// `kubectl apply --server-side` of some YAML. A bad exit code is no error.
    ///
    /// # Panics
    /// As [`Cluster::kubectl`].
    pub async fn try_apply(&self, yaml: &str) -> Output {
        let file = self.file(yaml);
        let file = file.to_str().unwrap();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file])
            .await
    }

    /// `kubectl apply --server-side` of some YAML that the API server takes.
    ///
    /// # Panics
    /// When it refuses.
    #[track_caller]
    pub fn apply<'a>(&'a self, yaml: &'a str) -> impl Future<Output = String> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let output = self.try_apply(yaml).await;
            assert!(
                output.status.success(),
                "{caller}: {}\n{yaml}",
                output.stderr
            );
            output.stdout
        }
    }

    /// A file with some text, for programs that read files.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, text: &str) -> PathBuf {
        let path = self
            .lab
            .directory()
            .join(format!("applied-{}.yaml", fastrand::u64(..)));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Makes a namespace whose pods are injected, and waits until pods may be made in it.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn namespace(&self, name: &str) {
        self.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{kith.dev/injection: enabled}}}}}}"
        ))
        .await;
        self.service_account(name, "default").await;
    }

    /// Waits until a service account is there.
    ///
    /// # Panics
    /// When it never is.
    pub async fn service_account(&self, namespace: &str, name: &str) {
        wait_for(
            &format!("service account {namespace}/{name}"),
            PATIENCE,
            || async {
                let found = self.node.has_account(namespace, name).await;
                found.then_some(())
            },
        )
        .await;
    }

    /// The running pod of a name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn pod(&self, namespace: &str, name: &str) -> Rc<Pod> {
        self.node
            .pod(namespace, name)
            .unwrap_or_else(|| panic!("no pod {namespace}/{name} runs here"))
    }

    /// The running pods with a label of this value that are not being deleted.
    #[must_use]
    pub fn labelled(&self, namespace: &str, (label, value): (&str, &str)) -> Vec<Rc<Pod>> {
        let mut pods = self.node.pods();
        pods.retain(|pod| {
            pod.namespace() == namespace
                && pod.label(label).as_deref() == Some(value)
                && !pod.is_terminating()
        });
        pods
    }

    /// As [`Cluster::labelled`], by label `app`.
    #[must_use]
    pub fn pods(&self, namespace: &str, app: &str) -> Vec<Rc<Pod>> {
        self.labelled(namespace, ("app", app))
    }

    /// Waits until `count` pods with a label of this value are ready, reachable by service, and no others with it are left.
    ///
    /// # Panics
    /// When they never are; says what each is waiting for.
    #[track_caller]
    pub fn ready_by<'a>(
        &'a self,
        namespace: &'a str,
        label: (&'a str, &'a str),
        count: usize,
    ) -> impl Future<Output = Vec<Rc<Pod>>> + 'a {
        let caller = std::panic::Location::caller();
        let deadline = std::time::Instant::now() + PATIENCE;
        async move {
            loop {
                let pods = self.labelled(namespace, label);
                if pods.len() == count && pods.iter().all(|pod| pod.is_ready() && pod.shown.get()) {
                    return pods;
                }
                if std::time::Instant::now() > deadline {
                    let seen: Vec<String> = pods.iter().map(|pod| pod.describe()).collect();
                    panic!(
                        "{caller}: waited {PATIENCE:?} for {count} ready pods of {namespace}, {label:?}; there are: {}{}",
                        seen.join("\n"),
                        self.node.troubles()
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// As [`Cluster::ready_by`], by label `app`.
    ///
    /// # Panics
    /// When they never are; says what each is waiting for.
    #[track_caller]
    pub fn ready_pods<'a>(
        &'a self,
        namespace: &'a str,
        app: &'a str,
        count: usize,
    ) -> impl Future<Output = Vec<Rc<Pod>>> + 'a {
        self.ready_by(namespace, ("app", app), count)
    }

    /// The one ready pod with label `app` of this value.
    ///
    /// # Panics
    /// When it never is.
    pub async fn ready_pod(&self, namespace: &str, app: &str) -> Rc<Pod> {
        self.ready_pods(namespace, app, 1).await.remove(0)
    }
}
