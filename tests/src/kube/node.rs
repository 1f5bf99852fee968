//! The node: what a kubelet does as far as sidecars can tell. Pods that are bound to it get a network namespace with
//! addresses of both families, their init containers one after the other, native sidecars among them, then their
//! containers; each is a process of the spec's image, command, environment, user, powers and mounts. Probes come from
//! the node's own address, a deleted pod ends in the order that Kubernetes promises, and status is reported.
//!
//! An image is a program of this workspace ([`container::Image`]). What the node cannot honour stops the pod and is
//! said in its status: nothing of a spec is passed over in silence, but for resource limits and seccomp.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use kith::lab::{Authority, Lab, Workload, privileges};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;

use super::api_server::{ApiServer, PORT};
use super::controllers;
use super::objects::Objects;
use super::services::Services;
pub use pod::Pod;

pub mod container;
mod environment;
mod life;
mod pod;
mod probe;
mod status;
mod volume;

/// What it is called.
pub const NAME: &str = "node";

/// The node, and what this process knows of the cluster.
pub struct Node {
    pub(super) client: Client,
    pub(super) objects: Rc<Objects>,
    pub(super) changed: Rc<Notify>,
    pub(super) services: Services,
    lab: Rc<Lab>,
    machine: Arc<Workload>,
    authority: Rc<Authority>,
    api_address: String,
    pub(super) certificate: String,
    /// Where the workspace's programs are.
    programs: PathBuf,
    running: RefCell<BTreeMap<String, Rc<Pod>>>,
    troubles: RefCell<Vec<String>>,
}

impl Node {
    pub(super) async fn start(
        lab: Rc<Lab>,
        machine: Arc<Workload>,
        authority: Rc<Authority>,
        api: &ApiServer,
    ) -> Rc<Self> {
        let client = api.client().await;
        let changed = Rc::new(Notify::new());
        let kith = privileges::kith_binary().unwrap();
        let this = Rc::new(Self {
            objects: Objects::watch(&client, &changed),
            services: Services::new(lab.directory().join("hosts")),
            client,
            changed,
            lab,
            machine,
            authority,
            api_address: api.address().to_owned(),
            certificate: api.certificate(),
            programs: kith.parent().unwrap().to_owned(),
            running: RefCell::default(),
            troubles: RefCell::default(),
        });
        let object = core::Node {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            ..core::Node::default()
        };
        Api::<core::Node>::all(this.client.clone())
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        this
    }

    /// Acts on what the API server has, for ever.
    pub(super) async fn work(self: Rc<Self>) {
        controllers::run(self).await;
    }

    /// The running pods.
    #[must_use]
    pub fn pods(&self) -> Vec<Rc<Pod>> {
        self.running.borrow().values().cloned().collect()
    }

    /// The running pod of a name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Rc<Pod>> {
        let running = self.running.borrow();
        let mut pods = running.values();
        pods.find(|pod| pod.namespace() == namespace && pod.name() == name)
            .cloned()
    }

    /// Whether pods may run under a service account.
    pub(super) async fn has_account(&self, namespace: &str, name: &str) -> bool {
        let api = Api::<core::ServiceAccount>::namespaced(self.client.clone(), namespace);
        matches!(api.get_opt(name).await, Ok(Some(_)))
    }

    /// What went wrong in controllers and pods, for messages of tests that failed.
    #[must_use]
    pub fn troubles(&self) -> String {
        let troubles = self.troubles.borrow();
        troubles.iter().map(|line| format!("\n  {line}")).collect()
    }

    pub(super) fn trouble(&self, text: String) {
        let mut troubles = self.troubles.borrow_mut();
        if troubles.last() != Some(&text) {
            troubles.push(text);
        }
    }

    /// Lets go of all pods: what holds them holds the lab.
    pub(super) fn forget(&self) {
        self.running.borrow_mut().clear();
    }

    /// Starts and ends pods, so that those run that the API server says are bound here.
    pub(super) async fn run_pods(self: &Rc<Self>) -> Result<(), kube::Error> {
        for object in self.objects.pods.all() {
            let Some(spec) = &object.spec else { continue };
            let uid = object.uid().unwrap_or_default();
            let here = self.running.borrow().get(&uid).cloned();
            match (spec.node_name.as_deref(), here) {
                (None, _) if object.metadata.deletion_timestamp.is_none() => {
                    self.bind(&object).await?;
                }
                (Some(NAME), Some(pod)) => pod.learn(object),
                (Some(NAME), None) if object.metadata.deletion_timestamp.is_some() => {
                    self.delete(&object).await?;
                }
                (Some(NAME), None) if !is_over(&object) => self.begin(object, uid).await,
                _ => {}
            }
        }
        // Deleted without grace: there is nothing left to report to.
        for pod in self.pods() {
            let object = self.objects.pods.get(pod.namespace(), pod.name());
            if object.is_none_or(|object| object.uid().as_deref() != Some(pod.uid())) {
                pod.kill();
            }
        }
        Ok(())
    }

    async fn begin(self: &Rc<Self>, object: Rc<core::Pod>, uid: String) {
        let name = format!(
            "{}/{}",
            object.namespace().unwrap_or_default(),
            object.name_any()
        );
        match Pod::new(self, object).await {
            Ok(pod) => {
                let pod = Rc::new(pod);
                self.running.borrow_mut().insert(uid.clone(), pod.clone());
                let node = self.clone();
                tokio::task::spawn_local(async move {
                    life::live(&node, &pod).await;
                    node.running.borrow_mut().remove(&uid);
                    if let Err(error) = node.lab.disconnect(&pod.workload) {
                        node.trouble(format!("{name}: {error}"));
                    }
                    node.changed.notify_one();
                });
            }
            Err(why) => self.trouble(format!("{name} cannot be run: {why}")),
        }
    }

    async fn bind(&self, object: &core::Pod) -> Result<(), kube::Error> {
        let namespace = object.namespace().unwrap_or_default();
        let api = Api::<core::Pod>::namespaced(self.client.clone(), &namespace);
        let name = object.name_any();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"namespace": namespace, "name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NAME},
        });
        let result: Result<serde_json::Value, _> = api
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await;
        match result {
            // Deleted, or bound by us a moment ago.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Takes a pod that ended out of the API server.
    pub(super) async fn delete(&self, object: &core::Pod) -> Result<(), kube::Error> {
        let api = Api::<core::Pod>::namespaced(
            self.client.clone(),
            &object.namespace().unwrap_or_default(),
        );
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&object.name_any(), &parameters).await {
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            other => other.map(drop),
        }
    }

    /// `host:port` of the API server, for pods.
    fn api_server(&self) -> (&str, u16) {
        (&self.api_address, PORT)
    }

    fn programs(&self) -> &Path {
        &self.programs
    }
}

fn is_over(object: &core::Pod) -> bool {
    let phase = object
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
