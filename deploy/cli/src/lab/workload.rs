//! A workload: a namespace with addresses, its sidecar, and whatever runs in it.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::child::Birth;
use super::error::{During, Error};
use super::namespace::Namespace;
use super::network::Addresses;
use super::process::{Process, Recipe, clean_environment, spawn};
use super::records;
use super::sidecar::Sidecar;
use super::spec::WorkloadSpec;
use crate::app::client::{Call, Reply};

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
        let WorkloadSpec {
            namespace,
            service_account,
            spiffe_id,
            ..
        } = &self.spec;
        if let Some(id) = spiffe_id {
            return id.clone();
        }
        format!(
            "spiffe://{}/ns/{namespace}/sa/{service_account}",
            self.surroundings.trust_domain
        )
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
        self.sidecar
            .as_ref()
            .unwrap_or_else(|| panic!("{} has no sidecar", self.spec.id()))
    }

    /// Starts one of the lab's own applications, `kith __app …`, see [`crate::app`]. A server is ready on return.
    ///
    /// # Errors
    /// When it cannot start, or doesn't say that it listens.
    pub async fn app(&self, arguments: &[&str]) -> Result<Process, Error> {
        let mut program: Vec<OsString> =
            vec![self.surroundings.kith.clone().into(), "__app".into()];
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
        let name = program
            .first()
            .copied()
            .unwrap_or_default()
            .rsplit('/')
            .next()
            .unwrap_or_default();
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
        let birth = Birth {
            parent: Some(std::process::id()),
            ..self.birth()
        };
        let mut command = birth.command(&self.surroundings.kith, &program);
        clean_environment(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = spawn(command).during(|| format!("run {name}"))?;
        let pid = rustix::process::Pid::from_child(&child);
        let (ended, waited) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || ended.send(child.wait_with_output()));
        let limit = Duration::from_secs(60);
        let output = match tokio::time::timeout(limit, waited).await {
            Ok(output) => output
                .map_err(io::Error::other)
                .flatten()
                .during(|| format!("run {name}"))?,
            Err(_) => {
                // Not reaped yet, or the wait would have been over: the process id is still its own.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                return Err(Error::Timeout {
                    what: format!("the end of {name}"),
                    seconds: 60.0,
                    seen: String::new(),
                });
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
        std::thread::Builder::new()
            .name(self.spec.id())
            .spawn(move || {
                let run = || -> io::Result<T> {
                    namespace.enter()?;
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    let local = tokio::task::LocalSet::new();
                    Ok(runtime.block_on(local.run_until(async { work().await })))
                };
                let _ = sender.send(run());
            })?;
        receiver
            .await
            .map_err(|_| io::Error::other("code inside a workload panicked"))?
    }

    /// One GET on a connection of its own, e.g. `http://orders.shop:8080/`.
    ///
    /// # Errors
    /// When the URL is malformed, or the network does not give a whole response.
    pub async fn get(&self, url: &str) -> io::Result<Reply> {
        self.call(Call::get(url.parse().map_err(io::Error::other)?))
            .await
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// When the network does not give a whole response.
    pub async fn call(&self, call: Call) -> io::Result<Reply> {
        let address = self.resolve(&call.url.authority)?;
        self.enter(move || async move { call.run_at(address).await })
            .await?
    }

    /// The address that `host:port` stands for inside the lab.
    ///
    /// # Errors
    /// When nobody has the name.
    pub fn resolve(&self, authority: &str) -> io::Result<SocketAddr> {
        if let Ok(address) = authority.parse() {
            return Ok(address);
        }
        let unknown = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("nobody in the lab is called {authority}"),
            )
        };
        let (name, port) = authority.rsplit_once(':').ok_or_else(unknown)?;
        let hosts = std::fs::read_to_string(&self.surroundings.hosts)?;
        let found = hosts.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?;
            words
                .any(|word| word == name)
                .then(|| address.parse().ok())?
        });
        Ok(SocketAddr::new(
            found.ok_or_else(unknown)?,
            port.parse().map_err(io::Error::other)?,
        ))
    }

    /// Waits until something in the namespace listens on a TCP port.
    ///
    /// # Errors
    /// After 10 seconds.
    pub async fn listening(&self, port: u16) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if self
                .namespace
                .run(|| listens(port))
                .flatten()
                .unwrap_or(false)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let what = format!("something to listen on port {port} of {}", self.spec.id());
        Err(Error::Timeout {
            what,
            seconds: 10.0,
            seen: String::new(),
        })
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
    pub async fn wait_records(
        &self,
        count: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>, Error> {
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
            fields.next().is_some_and(|local| local.ends_with(&wanted))
                && fields.nth(1) == Some("0A")
        });
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
