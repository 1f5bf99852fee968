//! A workload: a namespace with addresses, its sidecar, and whatever runs in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::child::Birth;
use super::error::{During, Error};
use super::namespace::Namespace;
use super::network::Addresses;
use super::process::{Process, Recipe, clean_environment, spawn};
use super::records;
use super::sidecar::Sidecar;
use crate::app::client::{Call, Reply};

/// A port that a workload's application listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// `HTTP`, `HTTP2`, `GRPC`, `TCP`, `TLS`, or not declared.
    pub protocol: Option<String>,
}

/// What a workload is to be.
#[derive(Clone, Debug)]
pub struct WorkloadSpec {
    /// Its namespace, in the mesh's sense.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// What its SPIFFE ID is made of; as the name, unless said otherwise.
    pub service_account: String,
    /// For selectors; `app: NAME` is there already.
    pub labels: BTreeMap<String, String>,
    /// Ports of its application, as declared to the control plane.
    pub ports: Vec<Port>,
    /// Whether it has a sidecar and a capture.
    pub sidecar: bool,
    /// Whether the control plane is told of it.
    pub announced: bool,
    /// Whether there is a service of the same name, with the same ports, that selects `app: NAME`.
    pub service: bool,
    /// Further variables of the sidecar.
    pub environment: Vec<(String, String)>,
    /// Further arguments of `kith-proxy capture`.
    pub capture: Vec<String>,
}

impl WorkloadSpec {
    /// A workload with sidecar, without ports.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            sidecar: true,
            announced: true,
            service: true,
            environment: Vec::new(),
            capture: Vec::new(),
        }
    }

    /// Adds a port: `HTTP`, `HTTP2`, `GRPC`, `TCP`, `TLS`, or `""` for one that is not declared.
    #[must_use]
    pub fn port(mut self, number: u16, protocol: &str) -> Self {
        let protocol = (!protocol.is_empty()).then(|| protocol.to_owned());
        self.ports.push(Port { number, protocol });
        self
    }

    /// Sets the service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets a variable of the sidecar.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument to `kith-proxy capture`.
    #[must_use]
    pub fn capture(mut self, argument: &str) -> Self {
        self.capture.push(argument.to_owned());
        self
    }

    /// A machine without sidecar: announced with `mesh: false`.
    #[must_use]
    pub fn without_sidecar(mut self) -> Self {
        self.sidecar = false;
        self
    }

    /// Nobody tells the control plane of it.
    #[must_use]
    pub fn unannounced(mut self) -> Self {
        self.announced = false;
        self.service = false;
        self
    }

    /// No service of its own: another workload's may select it by label.
    #[must_use]
    pub fn without_service(mut self) -> Self {
        self.service = false;
        self
    }

    /// `namespace/name`, the node id.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn ports_json(&self) -> Vec<Value> {
        let entry = |port: &Port| match &port.protocol {
            Some(protocol) => json!({"port": port.number, "protocol": protocol}),
            None => json!({"port": port.number}),
        };
        self.ports.iter().map(entry).collect()
    }

    /// The documents that tell the control plane of it.
    pub(crate) fn documents(&self, addresses: Addresses, service: Option<Addresses>) -> Vec<Value> {
        let mut documents = Vec::new();
        if self.announced {
            documents.push(json!({
                "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
                "metadata": {"namespace": self.namespace, "name": self.name, "labels": self.labels},
                "spec": {
                    "serviceAccount": self.service_account, "addresses": addresses.both(), "mesh": self.sidecar,
                    "ports": self.ports_json(),
                },
            }));
        }
        if let Some(service) = service {
            documents.push(json!({
                "apiVersion": "kith.dev/v1alpha1", "kind": "Service",
                "metadata": {"namespace": self.namespace, "name": self.name},
                "spec": {
                    "addresses": service.both(), "hosts": [format!("{}.{}", self.name, self.namespace)],
                    "selector": {"app": self.name}, "ports": self.ports_json(),
                },
            }));
        }
        documents
    }
}

/// What a workload needs to know of its lab.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) kith: PathBuf,
    pub(crate) hosts: PathBuf,
    /// This workload's own folder.
    pub(crate) directory: PathBuf,
    pub(crate) trust_domain: String,
}

/// A workload that is up.
#[derive(Debug)]
pub struct Workload {
    /// As it was asked for.
    pub spec: WorkloadSpec,
    /// Its own addresses.
    pub addresses: Addresses,
    /// Its service's addresses.
    pub service: Option<Addresses>,
    /// Its sidecar.
    pub sidecar: Option<Sidecar>,
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) surroundings: Surroundings,
    pub(crate) started: AtomicUsize,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Output {
    /// stdout as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or(Value::Null)
    }
}

impl Workload {
    /// Its principal.
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        let WorkloadSpec { namespace, service_account, .. } = &self.spec;
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.surroundings.trust_domain)
    }

    /// The folder with its logs and records.
    #[must_use]
    pub fn directory(&self) -> &PathBuf {
        &self.surroundings.directory
    }

    /// Its network namespace.
    #[must_use]
    pub fn network(&self) -> &Namespace {
        &self.namespace
    }

    /// Its sidecar.
    ///
    /// # Panics
    /// When it has none, which is the caller's mistake.
    #[must_use]
    #[track_caller]
    pub fn sidecar(&self) -> &Sidecar {
        self.sidecar.as_ref().unwrap_or_else(|| panic!("{} has no sidecar", self.spec.id()))
    }

    /// Starts one of the lab's own applications, `kith __app …`, see [`crate::app`]. A server is ready on return.
    ///
    /// # Errors
    /// When it cannot start, or doesn't say that it listens.
    pub async fn app(&self, arguments: &[&str]) -> Result<Process, Error> {
        let mut program: Vec<OsString> = vec![self.surroundings.kith.clone().into(), "__app".into()];
        program.extend(arguments.iter().map(OsString::from));
        let kind = arguments.first().copied().unwrap_or("app");
        let process = self.start(kind, program)?;
        if matches!(kind, "http" | "tcp") {
            process.says("listening").await?;
        }
        Ok(process)
    }

    /// Starts a command that goes on; its output is in the workload's folder.
    ///
    /// # Errors
    /// When it cannot be started. A program that is not there shows in its log and as exit code 127.
    pub fn spawn(&self, program: &[&str]) -> Result<Process, Error> {
        let name = program.first().copied().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        self.start(name, program.iter().map(OsString::from).collect())
    }

    fn start(&self, name: &str, program: Vec<OsString>) -> Result<Process, Error> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Process::start(Recipe {
            name: format!("{name}-{number}"),
            kith: self.surroundings.kith.clone(),
            birth: self.birth(),
            program,
            environment: Vec::new(),
            logs: self.surroundings.directory.clone(),
        })
    }

    /// Runs a command to its end; it is killed after 60 seconds.
    ///
    /// # Errors
    /// When it cannot be started or doesn't end. A bad exit code is no error.
    pub async fn exec(&self, program: &[&str]) -> Result<Output, Error> {
        let name = program.first().copied().unwrap_or_default().to_owned();
        let program: Vec<OsString> = program.iter().map(OsString::from).collect();
        let birth = Birth { parent: Some(std::process::id()), ..self.birth() };
        let mut command = birth.command(&self.surroundings.kith, &program);
        clean_environment(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawn(command).during(|| format!("run {name}"))?;
        let pid = rustix::process::Pid::from_child(&child);
        let waited = tokio::task::spawn_blocking(move || child.wait_with_output());
        let limit = Duration::from_secs(60);
        let output = match tokio::time::timeout(limit, waited).await {
            Ok(output) => output.map_err(io::Error::other).flatten().during(|| format!("run {name}"))?,
            Err(_) => {
                // Not reaped yet, or the wait would have been over: the process id is still its own.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                return Err(Error::Timeout { what: format!("the end of {name}"), seconds: 60.0, seen: String::new() });
            }
        };
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs async code of this process inside the namespace, on a thread and a runtime of its own. Names of the lab are
    /// not known there: dial addresses ([`Workload::get`] and [`Workload::call`] translate them).
    ///
    /// # Errors
    /// When the thread cannot be made or moved in, or panicked.
    pub async fn enter<T, F, R>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = T>,
    {
        let namespace = self.namespace.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name(self.spec.id()).spawn(move || {
            let run = || -> io::Result<T> {
                namespace.enter()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let local = tokio::task::LocalSet::new();
                Ok(runtime.block_on(local.run_until(async { work().await })))
            };
            let _ = sender.send(run());
        })?;
        receiver.await.map_err(|_| io::Error::other("code inside a workload panicked"))?
    }

    /// One GET on a connection of its own, e.g. `http://orders.shop:8080/`.
    ///
    /// # Errors
    /// When the URL is malformed, or the network does not give a whole response.
    pub async fn get(&self, url: &str) -> io::Result<Reply> {
        self.call(Call::get(url.parse().map_err(io::Error::other)?)).await
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// When the network does not give a whole response.
    pub async fn call(&self, call: Call) -> io::Result<Reply> {
        let address = self.resolve(&call.url.authority)?;
        self.enter(move || async move { call.run_at(address).await }).await?
    }

    /// The address that `host:port` stands for inside the lab.
    ///
    /// # Errors
    /// When nobody has the name.
    pub fn resolve(&self, authority: &str) -> io::Result<SocketAddr> {
        if let Ok(address) = authority.parse() {
            return Ok(address);
        }
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("nobody in the lab is called {authority}"));
        let (name, port) = authority.rsplit_once(':').ok_or_else(unknown)?;
        let hosts = std::fs::read_to_string(&self.surroundings.hosts)?;
        let found = hosts.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?;
            words.any(|word| word == name).then(|| address.parse().ok())?
        });
        Ok(SocketAddr::new(found.ok_or_else(unknown)?, port.parse().map_err(io::Error::other)?))
    }

    /// Waits until something in the namespace listens on a TCP port.
    ///
    /// # Errors
    /// After 10 seconds.
    pub async fn listening(&self, port: u16) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if self.namespace.run(|| listens(port)).flatten().unwrap_or(false) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let what = format!("something to listen on port {port} of {}", self.spec.id());
        Err(Error::Timeout { what, seconds: 10.0, seen: String::new() })
    }

    /// All records that its sidecar has written so far.
    ///
    /// # Panics
    /// When it has no sidecar.
    #[must_use]
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        records::read(self.sidecar().records())
    }

    /// Waits for a record that satisfies `wanted`.
    ///
    /// # Errors
    /// After 5 seconds: shows the last records there are.
    ///
    /// # Panics
    /// When it has no sidecar.
    pub async fn wait_record(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value, Error> {
        Ok(self.wait_records(1, wanted).await?.swap_remove(0))
    }

    /// Waits for at least `count` records that satisfy `wanted`, and gives back all of them.
    ///
    /// # Errors
    /// After 5 seconds: shows the last records there are.
    ///
    /// # Panics
    /// When it has no sidecar.
    pub async fn wait_records(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>, Error> {
        let what = format!("{count} matching records of {}", self.spec.id());
        records::wait(self.sidecar().records(), &what, count, wanted).await
    }

    pub(crate) fn birth(&self) -> Birth {
        Birth {
            net: Some(self.namespace.path()),
            hosts: Some(self.surroundings.hosts.clone()),
            ..Birth::default()
        }
    }
}

/// Whether a socket of the calling thread's namespace listens on the port (`proc_net_tcp`: state 0A is LISTEN).
fn listens(port: u16) -> io::Result<bool> {
    let wanted = format!(":{port:04X}");
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let found = std::fs::read_to_string(file)?.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
        });
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
