//! The command line. `kith` embeds it too, so it is a function that returns an exit code.
//!
//! Exit codes: 0 done; 1 could not be done; 2 the input or the folder is at fault.

mod kubernetes;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand};
use kith_certs::Endpoint;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::check::{Checked, check_dir};
use crate::crd;
use crate::jwks::Web;
use crate::serve::{Config, Server, Source};

/// Where `kith revoke` and `kith status` find the control plane.
pub const ADMIN_SOCKET: &str = "KITH_CONTROL_SOCKET";
const WORKLOAD_API: &str = "SPIFFE_ENDPOINT_SOCKET";

#[derive(Debug, Parser)]
#[command(
    name = "kith-control",
    version,
    about = "Serves policies and services from a folder of YAML, or a Kubernetes cluster, to Kith sidecars"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a folder of YAML, or a Kubernetes cluster, over delta xDS. Changes take effect without a restart.
    Serve(Box<Serve>),
    /// Validate a folder of YAML as `serve` would, without serving it.
    Check {
        /// The folder.
        dir: PathBuf,
    },
    /// Print the CustomResourceDefinitions of `kith.dev`, for a cluster.
    Crds {
        /// Write them into this folder instead, each into a file of its own.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
}

// Addresses stay text here, so that all mistakes can be told at once.
#[derive(Debug, clap::Args)]
struct Serve {
    /// The folder of YAML.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Serve the cluster instead: its pods and services, and the kinds of kith.dev.
    #[arg(long)]
    kubernetes: bool,
    #[command(flatten)]
    cluster: kubernetes::Flags,
    /// Where sidecars connect.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15010")]
    listen: String,
    /// Where /status and /ready are: a loopback address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    status_listen: String,
    /// The Unix socket for `kith revoke` and `kith status`, open to this program's own user only. Without it, neither works.
    #[arg(long, value_name = "PATH", env = ADMIN_SOCKET)]
    admin_socket: Option<PathBuf>,
    /// More CAs to trust, in PEM, when the keys of token issuers are fetched.
    #[arg(long, value_name = "FILE")]
    jwks_ca: Option<PathBuf>,
    /// The Workload API: `unix:///path` or `tcp://ip:port`.
    #[arg(long, value_name = "URI", env = WORKLOAD_API, default_value = "")]
    spiffe_endpoint_socket: String,
    /// Filter of the diagnostics on stderr.
    #[arg(long, value_name = "FILTER", env = "KITH_LOG", default_value = "info")]
    log: String,
}

/// Runs the program on `args`, the program's name first, and says how it went on stderr.
pub fn main<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // To stdout for --help, to stderr for mistakes; nobody is left to tell if that fails.
            _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match arguments.command {
        Command::Check { dir } => check(&dir),
        Command::Crds { write } => match crds(write.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("kith-control: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Serve(serve) => match serve.configure() {
            Ok((config, filter)) => run(config, filter),
            Err(mistakes) => {
                for mistake in &mistakes {
                    eprintln!("kith-control: {mistake}");
                }
                ExitCode::from(2)
            }
        },
    }
}

fn crds(folder: Option<&Path>) -> io::Result<()> {
    if let Some(folder) = folder {
        for file in crd::write(folder)? {
            eprintln!("{}", file.display());
        }
        return Ok(());
    }
    let texts = crd::definitions()?.into_iter().map(|it| it.text);
    let texts = texts.collect::<Vec<_>>().join("---\n");
    io::stdout().write_all(texts.as_bytes())
}

fn check(dir: &Path) -> ExitCode {
    match check_dir(dir, SystemTime::now()) {
        Ok(Checked { counts, warnings }) => {
            for warning in &warnings {
                eprintln!("warning: {warning}");
            }
            let counted = [
                counted(counts.workloads, "workload", "s"),
                counted(counts.services, "service", "s"),
                counted(counts.authorization_policies, "authorization polic", "ies"),
                counted(counts.peer_authentications, "peer authentication", "s"),
                counted(
                    counts.request_authentications,
                    "request authentication",
                    "s",
                ),
                counted(counts.revocations, "revocation", "s"),
                counted(warnings.len(), "warning", "s"),
            ];
            println!("{}: {}", dir.display(), counted.join(", "));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!(
                "{}: {}",
                dir.display(),
                counted(problems.len(), "problem", "s")
            );
            ExitCode::from(2)
        }
    }
}

fn counted(count: usize, word: &str, plural: &str) -> String {
    match (count, plural) {
        (1, "ies") => format!("1 {word}y"),
        (1, _) => format!("1 {word}"),
        _ => format!("{count} {word}{plural}"),
    }
}

impl Serve {
    /// All mistakes together, each with the flag's name and what was expected.
    fn configure(self) -> Result<(Config, EnvFilter), Vec<String>> {
        let mut mistakes = Vec::new();
        let source = match (self.files, self.kubernetes) {
            (Some(dir), false) => {
                if !dir.is_dir() {
                    mistakes.push(format!("--files: `{}` is not a folder", dir.display()));
                }
                self.cluster.refuse(&mut mistakes);
                Some(Source::Files(dir))
            }
            (None, true) => {
                // Orders are written into a folder, which a cluster has not.
                if self.admin_socket.is_some() {
                    mistakes.push(format!(
                        "--admin-socket ({ADMIN_SOCKET}): not with --kubernetes: revoke with `kubectl apply` of a Revocation, \
                         and see /status"
                    ));
                }
                let cluster = self.cluster.configure(&mut mistakes);
                cluster.map(Source::Kubernetes)
            }
            (files, _) => {
                let what = if files.is_some() { "both" } else { "neither" };
                mistakes.push(format!(
                    "--files DIR or --kubernetes: one of the two, {what} given"
                ));
                None
            }
        };
        let listen = address("--listen", &self.listen, &mut mistakes);
        let status_listen = address("--status-listen", &self.status_listen, &mut mistakes);
        // security.md, row 21: who is connected and what is wrong is not for the network.
        if status_listen.is_some_and(|address| !address.ip().is_loopback()) {
            mistakes.push(format!(
                "--status-listen: `{}` is not a loopback address",
                self.status_listen
            ));
        }
        let workload_api = if self.spiffe_endpoint_socket.is_empty() {
            mistakes.push(format!(
                "{WORKLOAD_API}: required: `unix:///path` or `tcp://ip:port` of the Workload API"
            ));
            None
        } else {
            let parsed = Endpoint::parse(&self.spiffe_endpoint_socket);
            parsed
                .map_err(|error| mistakes.push(format!("{WORKLOAD_API}: {error}")))
                .ok()
        };
        let web = Web::new(self.jwks_ca.as_deref());
        let web = web
            .map_err(|error| mistakes.push(format!("--jwks-ca: {error}")))
            .ok();
        // The client tells of every attempt as if somebody had to act; what is wrong is told here once, and by name.
        let quiet = if self.kubernetes && !self.log.contains("kube") {
            ",kube_client=off,kube_runtime=off"
        } else {
            ""
        };
        let filter = EnvFilter::try_new(format!("{}{quiet}", self.log));
        let filter = filter
            .map_err(|error| mistakes.push(format!("KITH_LOG: `{}`: {error}", self.log)))
            .ok();
        match (source, listen, status_listen, workload_api, web, filter) {
            (
                Some(source),
                Some(listen),
                Some(status_listen),
                Some(workload_api),
                Some(web),
                Some(filter),
            ) if mistakes.is_empty() => Ok((
                Config {
                    source,
                    listen,
                    status_listen,
                    admin_socket: self.admin_socket,
                    workload_api,
                    web,
                },
                filter,
            )),
            _ => Err(mistakes),
        }
    }
}

fn address(flag: &str, text: &str, mistakes: &mut Vec<String>) -> Option<SocketAddr> {
    let parsed = text.parse();
    parsed
        .map_err(|_| mistakes.push(format!("{flag}: `{text}` is not `ip:port`")))
        .ok()
}

fn run(config: Config, filter: EnvFilter) -> ExitCode {
    // Err: the program that embeds this one has set up its own.
    _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("kith-control: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let server = match Server::bind(config).await {
            Ok(server) => server,
            Err(errors) => {
                for error in errors {
                    eprintln!("kith-control: {error}");
                }
                return ExitCode::FAILURE;
            }
        };
        let signals = signal(SignalKind::terminate())
            .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
        let (mut terminate, mut interrupt) = match signals {
            Ok(signals) => signals,
            Err(error) => {
                eprintln!("kith-control: cannot listen for signals: {error}");
                return ExitCode::FAILURE;
            }
        };
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.run(stop).await;
        ExitCode::SUCCESS
    })
}

/// A descriptor for each sidecar: the usual soft limit of 1024 is for programs that use select(2).
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
