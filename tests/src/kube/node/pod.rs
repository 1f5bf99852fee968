//! A pod that runs here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use kith::app::client::{Call, Reply};
use kith::lab::process::Process;
use kith::lab::{Workload, WorkloadSpec, records};
use kube::ResourceExt;
use serde_json::Value;
use tokio::sync::watch;

use super::Node;
use super::container::{Container, State};

/// How long a record may take to be written.
const RECORD: Duration = Duration::from_secs(10);

/// A pod that runs here. Tests look inside it as they do with the lab's workloads.
pub struct Pod {
    /// Its network.
    pub workload: Arc<Workload>,
    /// Init containers first, in the order of the spec.
    pub containers: Vec<Rc<Container>>,
    object: RefCell<Rc<core::Pod>>,
    namespace: String,
    name: String,
    uid: String,
    host: String,
    hosts: PathBuf,
    /// Counts what happens to it, for those who wait.
    version: watch::Sender<u64>,
    /// Seconds of grace, once somebody deletes it.
    pub(super) deleted: Cell<Option<u64>>,
    /// No container is to be started again.
    pub(super) stopping: Cell<bool>,
    /// Gone from the API server.
    pub(super) killed: Cell<bool>,
    pub(super) phase: Cell<&'static str>,
    /// Ready, as the API server has it, and those services that select it lead to it.
    pub(in crate::kube) shown: Cell<bool>,
    /// Volumes' folders, once prepared.
    pub(super) volumes: RefCell<BTreeMap<String, PathBuf>>,
    pub(super) began: String,
    /// Each condition, and since when it has been so.
    pub(super) conditions: RefCell<BTreeMap<&'static str, (bool, String)>>,
    /// Why it does not come up.
    pub(super) message: RefCell<String>,
}

impl Pod {
    pub(super) async fn new(node: &Node, object: Rc<core::Pod>) -> Result<Self, String> {
        let namespace = object.namespace().unwrap_or_default();
        let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
        // Pods of one name may follow each other.
        let short = uid.split('-').next().unwrap_or_default();
        let place = WorkloadSpec::new(&namespace, &format!("{name}-{short}"));
        let workload = node.lab.start_workload(place).await;
        let workload = workload.map_err(|e| e.to_string())?;
        let spec = object.spec.clone().unwrap_or_default();
        if spec.host_network == Some(true) {
            return Err("hostNetwork is more than this node gives".to_owned());
        }
        let inits = spec.init_containers.unwrap_or_default().into_iter();
        let mains = spec.containers.into_iter();
        let containers = inits.map(|spec| Rc::new(Container::new(spec, true)));
        let containers = containers.chain(mains.map(|spec| Rc::new(Container::new(spec, false))));
        Ok(Self {
            containers: containers.collect(),
            workload,
            namespace,
            name,
            uid,
            host: node.machine.addresses.v4.to_string(),
            hosts: node.lab.directory().join("hosts"),
            version: watch::Sender::new(0),
            deleted: Cell::default(),
            stopping: Cell::default(),
            killed: Cell::default(),
            phase: Cell::new("Pending"),
            shown: Cell::default(),
            volumes: RefCell::default(),
            began: super::status::now(),
            conditions: RefCell::default(),
            message: RefCell::default(),
            object: RefCell::new(object),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What tells it from others of its name.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The node id of its sidecar.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its principal.
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        format!(
            "spiffe://{}/ns/{}/sa/{}",
            super::volume::TRUST_DOMAIN,
            self.namespace,
            self.service_account()
        )
    }

    /// What it runs under.
    #[must_use]
    pub fn service_account(&self) -> String {
        let object = self.object();
        let spec = object.spec.as_ref();
        spec.and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| "default".to_owned())
    }

    /// As the API server has it.
    #[must_use]
    pub fn object(&self) -> Rc<core::Pod> {
        self.object.borrow().clone()
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<String> {
        self.object().labels().get(name).cloned()
    }

    /// Whether somebody has deleted it.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.deleted.get().is_some() || self.killed.get()
    }

    /// Whether every container, sidecars included, is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase.get() == "Running"
            && self
                .containers
                .iter()
                .filter(|container| !container.init || container.is_sidecar())
                .all(|container| container.ready.get())
    }

    /// Everything about it that tells why a test waits for it.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!(
            "\n{} {} {} {}",
            self.id(),
            self.workload.addresses.v4,
            self.phase.get(),
            self.message.borrow()
        );
        for container in &self.containers {
            let (started, ready) = (container.started.get(), container.ready.get());
            text += &format!(
                "\n  {}: {:?}, started {started}, ready {ready}, {} restarts",
                container.spec.name,
                container.state(),
                container.restarts()
            );
            if let (Some(process), false) = (&*container.process.borrow(), ready) {
                text += &format!("\n    {}", process.not_ready("log"));
            }
        }
        text
    }

    /// A container by name.
    ///
    /// # Panics
    /// When it has none of that name.
    #[must_use]
    #[track_caller]
    pub fn container(&self, name: &str) -> &Rc<Container> {
        let mut containers = self.containers.iter();
        containers
            .find(|container| container.spec.name == name)
            .unwrap_or_else(|| panic!("{} has no container {name}", self.id()))
    }

    /// The process of its sidecar.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn sidecar(&self) -> Rc<Process> {
        self.container("kith-proxy").process()
    }

    /// What its sidecar has recorded so far.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        records::read(&self.directory().join("kith-proxy.out"))
    }

    /// Waits for a record that satisfies `wanted`.
    ///
    /// # Panics
    /// When there is none in time; shows the last ones.
    pub async fn wait_record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + RECORD;
        loop {
            let records = self.records();
            if let Some(found) = records.iter().find(|record| wanted(record)) {
                return found.clone();
            }
            if Instant::now() > deadline {
                let last: Vec<String> =
                    records.iter().rev().take(5).map(Value::to_string).collect();
                panic!(
                    "waited {RECORD:?} for a record of {}; {} there are, the last ones:\n{}",
                    self.id(),
                    records.len(),
                    last.join("\n")
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One GET from inside, as its application would.
    ///
    /// # Errors
    /// When the network gives no whole response.
    pub async fn get(&self, url: &str) -> std::io::Result<Reply> {
        self.workload.get(url).await
    }

    /// One request from inside, as its application would.
    ///
    /// # Errors
    /// When the network gives no whole response.
    pub async fn call(&self, call: Call) -> std::io::Result<Reply> {
        self.workload.call(call).await
    }

    pub(super) fn directory(&self) -> &Path {
        self.workload.directory()
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn hosts(&self) -> &Path {
        &self.hosts
    }

    /// Takes note of what the API server says of it now.
    pub(super) fn learn(&self, object: Rc<core::Pod>) {
        if object.metadata.deletion_timestamp.is_some() && self.deleted.get().is_none() {
            let grace = object.metadata.deletion_grace_period_seconds;
            let grace = grace.and_then(|seconds| u64::try_from(seconds).ok());
            self.deleted.set(Some(grace.unwrap_or(30)));
            self.touch();
        }
        *self.object.borrow_mut() = object;
    }

    /// Ends everything in it at once.
    pub(super) fn kill(&self) {
        if !self.killed.replace(true) {
            self.stopping.set(true);
            for container in &self.containers {
                if let Some(process) = &*container.process.borrow() {
                    process.kill();
                }
            }
            self.touch();
        }
    }

    /// Tells those who wait that something has changed.
    pub(super) fn touch(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Waits until something is the case, asking whenever something has changed.
    pub(super) async fn until(&self, mut condition: impl FnMut() -> bool) {
        let mut changes = self.version.subscribe();
        while !condition() && changes.changed().await.is_ok() {}
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn mains(&self) -> impl DoubleEndedIterator<Item = &Rc<Container>> {
        self.containers.iter().filter(|container| !container.init)
    }

    pub(super) fn sidecars(&self) -> impl DoubleEndedIterator<Item = &Rc<Container>> {
        self.containers
            .iter()
            .filter(|container| container.is_sidecar())
    }

    pub(super) fn restart_policy(&self) -> String {
        let object = self.object();
        let policy = object
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.clone());
        policy.unwrap_or_else(|| "Always".to_owned())
    }
}

impl Container {
    pub(super) fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), State::Running(_))
    }
}
