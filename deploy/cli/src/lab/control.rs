//! The lab's control plane: `kith-control serve` over a folder of YAML, in a namespace of its own.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::child::Birth;
use super::error::{During, Error};
use super::namespace::Namespace;
use super::process::{Process, Recipe};
use crate::app::client::Call;

const STATUS: &str = "127.0.0.1:15014";

/// The control plane. Dereferences to its process, to kill it or start it again.
#[derive(Debug)]
pub struct Control {
    process: Process,
    files: PathBuf,
    admin: PathBuf,
    namespace: Arc<Namespace>,
}

impl std::ops::Deref for Control {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// What the control plane needs to know of the lab.
pub(crate) struct Place<'a> {
    pub(crate) kith: &'a Path,
    /// Program and first arguments of `kith-control`.
    pub(crate) program: Vec<OsString>,
    pub(crate) namespace: Arc<Namespace>,
    /// Where sidecars find it.
    pub(crate) listen: String,
    pub(crate) socket: &'a Path,
    pub(crate) files: PathBuf,
    pub(crate) logs: PathBuf,
}

impl Control {
    /// Starts it; it need not be ready on return.
    pub(crate) fn start(place: Place<'_>) -> Result<Self, Error> {
        let Place {
            kith,
            mut program,
            namespace,
            listen,
            socket,
            files,
            logs,
        } = place;
        program.extend(["serve", "--files"].map(OsString::from));
        program.push(files.clone().into());
        program.extend(["--listen", &listen, "--status-listen", STATUS].map(OsString::from));
        let admin = files.with_file_name("admin.sock");
        program.extend([OsString::from("--admin-socket"), admin.clone().into()]);
        let process = Process::start(Recipe {
            name: "control-plane".to_owned(),
            kith: kith.to_owned(),
            birth: Birth {
                net: Some(namespace.path()),
                ..Birth::default()
            },
            program,
            environment: vec![(
                "SPIFFE_ENDPOINT_SOCKET".to_owned(),
                format!("unix://{}", socket.display()),
            )],
            logs,
        })?;
        Ok(Self {
            process,
            files,
            admin,
            namespace,
        })
    }

    /// The folder of YAML that it serves.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Where `kith revoke` and `kith status` speak to it.
    #[must_use]
    pub fn admin_socket(&self) -> &Path {
        &self.admin
    }

    /// What it says at `/status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> io::Result<Value> {
        let namespace = self.namespace.clone();
        let call = Call::get(
            format!("http://{STATUS}/status")
                .parse()
                .map_err(io::Error::other)?,
        );
        let ask = move || -> io::Result<Value> {
            namespace.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(call.run())?.json())
        };
        // Not a thread of the runtime's pool: this one stays in the namespace until it ends.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().spawn(move || sender.send(ask()))?;
        receiver.await.map_err(io::Error::other)?
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer within `limit`.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        let mut last = "does not answer on /status".to_owned();
        loop {
            match self.status().await {
                Ok(status) if status["ready"] == true => return Ok(()),
                Ok(status) => last = format!("is not ready: {}", status["not_ready"]),
                Err(_) => {}
            }
            if self.process.ended().is_some() || Instant::now() > deadline {
                return Err(self.process.not_ready(&last));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes one file of the folder and waits until every connected sidecar has acknowledged what follows from it.
    ///
    /// # Errors
    /// When the control plane refuses the file, with its problems, or a sidecar has not acknowledged within 10 seconds.
    pub async fn apply(&self, name: &str, yaml: &str) -> Result<(), Error> {
        let before = self.ask().await?["load"]["attempted"].clone();
        self.write(name, yaml)?;
        self.acknowledged(&before).await
    }

    /// Waits until the folder was read again after `before`, and every connected sidecar is up to date.
    async fn acknowledged(&self, before: &Value) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut read_again = false;
        loop {
            let status = self.ask().await?;
            // One more look after the folder was read: by then every stream has compared what it sent with what there is.
            if read_again {
                if let Some(problems) = status["load"]["problems"]
                    .as_array()
                    .filter(|problems| !problems.is_empty())
                {
                    let why = problems
                        .iter()
                        .map(|problem| format!("\n  {problem}"))
                        .collect::<String>();
                    return Err(Error::Refused {
                        part: "control plane".to_owned(),
                        why,
                    });
                }
                let behind = |sidecar: &Value| {
                    sidecar["revision_wanted"] != sidecar["revision_acknowledged"]
                        || sidecar["revocations"]["version"] != status["revocations"]
                };
                if !status["sidecars"]
                    .as_array()
                    .is_some_and(|sidecars| sidecars.iter().any(behind))
                {
                    return Ok(());
                }
            }
            read_again |= status["load"]["attempted"] != *before;
            if Instant::now() > deadline {
                return Err(self
                    .process
                    .not_ready(&format!("not in force everywhere after 10 s: {status:#}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask(&self) -> Result<Value, Error> {
        self.status().await.map_err(|error| {
            self.process
                .not_ready(&format!("does not answer on /status: {error}"))
        })
    }

    /// Writes one file of the folder, whole: a reader sees the old text or the new.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, yaml: &str) -> Result<PathBuf, Error> {
        let path = self.files.join(format!("{name}.yaml"));
        // Beside the folder, so that the folder changes once.
        let new = self.files.with_file_name(format!("{name}.new"));
        std::fs::write(&new, yaml)
            .and_then(|()| std::fs::rename(&new, &path))
            .during(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// As [`Control::apply`], without the file.
    ///
    /// # Errors
    /// As [`Control::apply`].
    pub async fn withdraw(&self, name: &str) -> Result<(), Error> {
        let before = self.ask().await?["load"]["attempted"].clone();
        self.remove(name)?;
        self.acknowledged(&before).await
    }

    /// Removes one file of the folder; nothing happens when there is none.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.files.join(format!("{name}.yaml"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.during(|| format!("remove {}", path.display())),
        }
    }
}
