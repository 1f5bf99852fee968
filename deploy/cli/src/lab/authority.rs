//! The lab's authority: a Workload API server with its own CA, and the socket that tells it what to do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::UnixStream;

use kith_certs::authority::{AuthorityConfig, command as command_over};

use super::LabOptions;
use super::child::Birth;
use super::error::{During, Error};
use super::namespace::Namespace;
use super::process::{Process, Recipe};
use super::workload::Workload;

/// The authority. Dereferences to its process, to kill it or start it again.
#[derive(Debug)]
pub struct Authority {
    process: Process,
    control: PathBuf,
    config: PathBuf,
    /// As in the file, which an authority that is started again reads.
    entries: Mutex<Value>,
}

impl std::ops::Deref for Authority {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Authority {
    /// Starts it with these entries; it need not be ready on return.
    pub(crate) fn start(
        kith: &Path,
        namespace: &Namespace,
        options: &LabOptions,
        directory: &Path,
        first: &[Value],
    ) -> Result<Self, Error> {
        let state = directory.join("authority");
        std::fs::create_dir(&state).during(|| format!("make {}", state.display()))?;
        let (control, config) = (state.join("control.sock"), state.join("config.json"));
        let mut entries = options.authority.clone();
        entries["trust_domain"] = options.trust_domain.clone().into();
        entries["ttl_seconds"] = options.svid_ttl.as_secs().into();
        entries["state_dir"] = json!(state);
        entries["entries"] = json!(first);
        write(&config, &entries)?;
        let mut program: Vec<OsString> = vec![kith.into(), "__authority".into()];
        program.extend([
            OsString::from("--config"),
            (&config).into(),
            "--control".into(),
            (&control).into(),
        ]);
        let process = Process::start(Recipe {
            name: "authority".to_owned(),
            kith: kith.to_owned(),
            birth: Birth {
                net: Some(namespace.path()),
                ..Birth::default()
            },
            program,
            environment: Vec::new(),
            logs: directory.join("log"),
        })?;
        Ok(Self {
            process,
            control,
            config,
            entries: Mutex::new(entries),
        })
    }

    /// Gives everyone who comes through `socket` an identity, now and after a restart.
    ///
    /// # Errors
    /// When the authority does not answer, or refuses.
    pub async fn add_entry(&self, id: &str, socket: &Path) -> Result<(), Error> {
        let entry = json!({"id": id, "socket": socket});
        {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(list) = entries["entries"].as_array_mut() {
                list.push(entry.clone());
            }
            write(&self.config, &entries)?;
        }
        self.command(&json!({"command": "add-entry", "entry": entry}))
            .await
            .map(drop)
    }

    /// Issues an SVID outside of the Workload API, for clients that aren't workloads of the lab: writes `svid.pem`, `key.pem`
    /// and `bundle.pem` into `directory`.
    ///
    /// # Errors
    /// When the authority does not answer, or refuses.
    pub async fn issue(&self, id: &str, directory: &Path) -> Result<(), Error> {
        self.command(&json!({"command": "issue", "id": id, "dir": directory}))
            .await
            .map(drop)
    }

    /// Sends one command to the control socket and gives back its answer.
    ///
    /// # Errors
    /// When the authority does not answer, or refuses.
    pub async fn command(&self, command: &Value) -> Result<Value, Error> {
        let part = || "authority".to_owned();
        let answer = command_over(&self.control, command)
            .await
            .map_err(|e| self.process.not_ready(&format!("does not answer: {e}")))?;
        match answer["error"].as_str() {
            Some(why) => Err(Error::Refused {
                part: part(),
                why: format!("{why} (asked for {command})"),
            }),
            None => Ok(answer),
        }
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer within `limit`.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        while let Err(error) = UnixStream::connect(&self.control).await {
            if self.process.ended().is_some() || Instant::now() > deadline {
                return Err(self
                    .process
                    .not_ready(&format!("does not listen on its control socket: {error}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// Where a sidecar gets its SVID: as its workload says, or through a socket of its own from the lab's authority.
pub(crate) async fn socket(own: Option<&Authority>, workload: &Workload) -> Result<PathBuf, Error> {
    match (&workload.spec.attested, own) {
        (Some(attested), _) => Ok(attested.workload_api.clone()),
        (None, Some(authority)) => {
            let socket = workload.directory().join("workload-api.sock");
            authority.add_entry(&workload.spiffe_id(), &socket).await?;
            Ok(socket)
        }
        (None, None) => Err(Error::Refused {
            part: "the lab".to_owned(),
            why: format!(
                "it has no authority: say who attests {}",
                workload.spec.id()
            ),
        }),
    }
}

fn write(config: &Path, entries: &Value) -> Result<(), Error> {
    std::fs::write(config, format!("{entries:#}\n"))
        .during(|| format!("write {}", config.display()))
}

/// What `kith __authority` is told.
#[derive(clap::Parser)]
#[command(name = "kith __authority", no_binary_name = true)]
struct Arguments {
    /// JSON, see [`AuthorityConfig`].
    #[arg(long)]
    config: PathBuf,
    /// Where to take commands.
    #[arg(long)]
    control: PathBuf,
}

/// Entry point of `kith __authority`: serves until it is killed.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let arguments = <Arguments as clap::Parser>::parse_from(arguments);
    let serve = || -> Result<(), Box<dyn std::error::Error>> {
        let filter = tracing_subscriber::EnvFilter::new("info");
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
        let config: AuthorityConfig = serde_json::from_slice(&std::fs::read(&arguments.config)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(kith_certs::authority::run(config, Some(&arguments.control)))?)
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kith: the authority cannot serve: {error}");
            ExitCode::FAILURE
        }
    }
}
