//! A workload's sidecar: the capture in its namespace and the `kith-proxy run` process.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::child::Birth;
use super::error::{During, Error};
use super::privileges::{SIDECAR_UID, can_switch_users};
use super::process::{Process, Recipe, clean_environment};
use super::workload::Workload;
use crate::app::client::{Call, Reply};

/// `SO_MARK` of the sidecar's packets where it cannot have a user of its own: "Ki".
const MARK: &str = "0x4b69";

/// The sidecar's own addresses, as in a pod.
const HEALTH: &str = "http://127.0.0.1:15021";
const ADMIN: &str = "http://127.0.0.1:15000";

/// A sidecar. Dereferences to its process, to kill it or start it again.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    records: PathBuf,
}

impl std::ops::Deref for Sidecar {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// What sidecars need to know of the lab.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    /// Program and first arguments of `kith-proxy`.
    pub(crate) proxy: Vec<OsString>,
    pub(crate) xds_address: String,
    pub(crate) xds_spiffe_id: String,
    /// For every sidecar.
    pub(crate) environment: Vec<(String, String)>,
}

impl Sidecar {
    /// Installs the capture and starts the proxy, which need not be ready on return.
    pub(crate) fn start(workload: &Workload, mesh: &Mesh, socket: &Path) -> Result<Self, Error> {
        install_capture(workload, mesh)?;
        let own_user = can_switch_users();
        let directory = &workload.surroundings.directory;
        let records = directory.join("records.jsonl");
        let state = directory.join("state");
        std::fs::create_dir(&state).during(|| format!("make {}", state.display()))?;
        // Made here, because the sidecar may not make files in a folder that isn't its own.
        std::fs::File::create(&records).during(|| format!("make {}", records.display()))?;
        if own_user {
            for path in [&state, &records] {
                std::os::unix::fs::chown(path, Some(SIDECAR_UID), Some(SIDECAR_UID))
                    .during(|| format!("give {} to user {SIDECAR_UID}", path.display()))?;
            }
        }
        let mut environment: Vec<(String, String)> = [
            (
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", socket.display()),
            ),
            ("KITH_XDS_ADDRESS", mesh.xds_address.clone()),
            ("KITH_XDS_SPIFFE_ID", mesh.xds_spiffe_id.clone()),
            ("KITH_NODE_ID", workload.spec.id()),
            ("KITH_ACCESS_LOG", records.display().to_string()),
            ("KITH_STATE_DIR", state.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if !own_user {
            environment.push(("KITH_SOCKET_MARK".to_owned(), MARK.to_owned()));
        }
        environment.extend(mesh.environment.iter().cloned());
        environment.extend(workload.spec.environment.iter().cloned());
        let mut program = match &workload.spec.attested {
            Some(attested) => vec![attested.kith.clone().into(), "__proxy".into()],
            None => mesh.proxy.clone(),
        };
        program.push("run".into());
        let process = Process::start(Recipe {
            name: format!("sidecar-{}", workload.spec.name),
            kith: workload.surroundings.kith.clone(),
            birth: Birth {
                uid: own_user.then_some(SIDECAR_UID),
                ..workload.birth()
            },
            program,
            environment,
            logs: directory.clone(),
        })?;
        Ok(Self { process, records })
    }

    /// Its access log.
    #[must_use]
    pub fn records(&self) -> &Path {
        &self.records
    }
}

impl Workload {
    /// Asks the sidecar's health listener, e.g. `/ready` or `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn health(&self, path: &str) -> io::Result<Reply> {
        self.own(HEALTH, path).await
    }

    /// Asks the sidecar's admin listener, e.g. `/config`, `/certs` or `/connections`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn admin(&self, path: &str) -> io::Result<Reply> {
        self.own(ADMIN, path).await
    }

    async fn own(&self, base: &str, path: &str) -> io::Result<Reply> {
        let mut call = Call::get(format!("{base}{path}").parse().map_err(io::Error::other)?);
        call.limit = Duration::from_secs(2);
        self.call(call).await
    }

    /// Waits until the sidecar says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within `limit`: shows why it says it isn't, and the end of its log.
    ///
    /// # Panics
    /// When the workload has no sidecar.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        let mut last = String::from("nothing listens on the health port");
        loop {
            match self.health("/ready").await {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) => last = format!("/ready says {} {}", reply.status, reply.text().trim()),
                Err(_) => {}
            }
            let process = self.sidecar();
            if process.ended().is_some() || Instant::now() > deadline {
                let seconds = limit.as_secs_f32();
                return Err(process.not_ready(&format!(
                    "the sidecar of {} is not ready after {seconds} s: {last}",
                    self.spec.id()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the sidecar says that it is not ready, and gives back why.
    ///
    /// # Errors
    /// When it still is ready after `limit`.
    pub async fn not_ready(&self, limit: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Ok(reply) = self.health("/ready").await
                && reply.status != 200
            {
                return Ok(reply.text());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let what = format!("the sidecar of {} not to be ready", self.spec.id());
        Err(Error::Timeout {
            what,
            seconds: limit.as_secs_f64(),
            seen: String::new(),
        })
    }
}

fn install_capture(workload: &Workload, mesh: &Mesh) -> Result<(), Error> {
    let [program, first @ ..] = mesh.proxy.as_slice() else {
        return Err(Error::Refused {
            part: "the lab".to_owned(),
            why: "no proxy program given".to_owned(),
        });
    };
    let mut command = Command::new(program);
    command.args(first).arg("capture");
    if can_switch_users() {
        command.arg("--uid").arg(SIDECAR_UID.to_string());
    } else {
        command.args(["--mark", MARK]);
    }
    command.args(&workload.spec.capture).stdin(Stdio::null());
    clean_environment(&mut command);
    let output = workload
        .namespace
        .run(|| command.output())
        .flatten()
        .during(|| "run kith-proxy capture".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command {
        command: format!("kith-proxy capture in {}", workload.spec.id()),
        output: text,
    })
}
