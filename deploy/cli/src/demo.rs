//! `kith demo`: a mesh on this machine, and a walk through what it does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use crate::lab::{Error, Lab, privileges};

mod mesh;
mod screen;
mod state;
mod steps;
mod table;

use mesh::{Mesh, POLICY_FILE};
use screen::{Outcome, Screen, Step, report};
use state::{Place, State};
use steps::{Scene, Seen};

/// What `kith demo` is told.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// End after the walk instead of staying up.
    #[arg(long)]
    once: bool,
    /// Write what was expected and observed in each step to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Run a command as a workload of the running demo does, behind its sidecar.
    Exec {
        /// web, gateway, orders, payments or stranger.
        workload: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Print the path of the running demo's policy file.
    Policy,
    /// Print the path of a sidecar's access log.
    Records {
        /// web, gateway, orders or payments.
        workload: String,
    },
}

/// Runs it. Exit code 0: as expected, 1: a step was not, 2: it could not begin.
#[must_use]
pub fn main(arguments: Arguments) -> ExitCode {
    match arguments.action {
        Some(action) => match act(&action) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => refuse(&why),
        },
        None => {
            // Before anything is printed: this may start the program anew.
            if let Err(error) = prepare() {
                return refuse(&error.to_string());
            }
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => return refuse(&error.to_string()),
            };
            runtime.block_on(run(&arguments))
        }
    }
}

fn act(action: &Action) -> Result<(), String> {
    let state = State::find().map_err(|error| error.to_string())?;
    match action {
        Action::Exec { workload, command } => {
            let birth = state.birth(workload).map_err(|error| error.to_string())?;
            Err(birth.become_program(command))
        }
        Action::Policy => {
            println!("{}", state.policies.display());
            Ok(())
        }
        Action::Records { workload } => {
            let place = state.place(workload).map_err(|error| error.to_string())?;
            let records = place
                .records
                .as_ref()
                .ok_or_else(|| format!("{workload} has no sidecar and so no records"))?;
            println!("{}", records.display());
            Ok(())
        }
    }
}

fn prepare() -> Result<(), Error> {
    privileges::tool("ip", "iproute2")?;
    privileges::tool("nft", "nftables")?;
    privileges::ensure(&privileges::kith_binary()?)
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("kith: {why}");
    ExitCode::from(2)
}

async fn run(arguments: &Arguments) -> ExitCode {
    let mut walk = Walk::default();
    // Dropping the steps under way, and with them the scene, takes the lab down.
    let scene = tokio::select! {
        scene = walk.through() => scene,
        () = asked_to_stop() => None,
    };
    if let Some(path) = &arguments.json
        && let Err(error) = std::fs::write(
            path,
            format!("{:#}\n", report(&walk.outcomes, walk.finished)),
        )
    {
        eprintln!("kith: cannot write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    let code = walk.conclude(scene.as_ref());
    if let Some(mut scene) = scene
        && !arguments.once
    {
        stay(&mut scene).await;
        drop(scene);
        println!("\nstopped; everything is cleared away");
    }
    code
}

/// Ctrl-C, SIGTERM, or the terminal is gone.
async fn asked_to_stop() {
    let signals = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .map(signal);
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

#[derive(Debug, Default)]
struct Walk {
    outcomes: Vec<Outcome>,
    /// Whether all steps were taken, with whatever outcome.
    finished: bool,
}

impl Walk {
    /// All steps. A failed one does not end the walk, unless there is no mesh to walk through.
    async fn through(&mut self) -> Option<Scene> {
        let mut scene = self.begin().await?;
        self.step(&mut scene, steps::HTTP_ALLOWED, steps::http_allowed)
            .await;
        self.step(&mut scene, steps::CALL_FOLLOWED, steps::call_followed)
            .await;
        self.step(&mut scene, steps::GRPC_ALLOWED, steps::grpc_allowed)
            .await;
        self.step(&mut scene, steps::NOT_ALLOWED, steps::not_allowed)
            .await;
        self.step(&mut scene, steps::DENIED, steps::denied_by_rule)
            .await;
        self.step(&mut scene, steps::PLAINTEXT, steps::plaintext_denied)
            .await;
        self.step(&mut scene, steps::POLICY_EDITED, steps::policy_edited)
            .await;
        self.step(&mut scene, steps::POLICY_RESTORED, steps::policy_restored)
            .await;
        self.step(&mut scene, steps::TOKEN, steps::token_ends).await;
        self.step(&mut scene, steps::DRY_RUN, steps::dry_run).await;
        self.step(&mut scene, steps::REVOKED, steps::revoked).await;
        self.step(&mut scene, steps::ROTATION, steps::svids_rotate)
            .await;
        self.step(&mut scene, steps::AUTHORITY_GONE, steps::authority_gone)
            .await;
        self.step(&mut scene, steps::AUTHORITY_BACK, steps::authority_back)
            .await;
        self.step(&mut scene, steps::HOPS, steps::hops_join).await;
        show_records(&mut scene).await;
        self.finished = true;
        Some(scene)
    }

    async fn begin(&mut self) -> Option<Scene> {
        let mut screen = Screen::new();
        screen.headline("kith demo: a mesh on this machine, in network namespaces of its own. Nothing outside is touched.");
        screen.start(1, steps::START);
        let start = Instant::now();
        screen.progress("authority and control plane start");
        let mesh = match Lab::new(mesh::options()).await {
            Ok(lab) => Mesh::start(lab, |what| screen.progress(what)).await,
            Err(error) => Err(error),
        };
        let result = match &mesh {
            Ok(mesh) => Ok(format!(
                "ready; {} and three more have SVIDs valid for {} s\nlogs and records are in {}",
                mesh.web.spiffe_id(),
                mesh::SVID_TTL.as_secs(),
                mesh.lab.directory().display()
            )),
            Err(error) => Err(error.to_string()),
        };
        self.conclude_step(
            &mut screen,
            Outcome {
                step: steps::START,
                result,
                took: start.elapsed(),
            },
        );
        Some(Scene {
            mesh: mesh.ok()?,
            screen,
            lasting: None,
        })
    }

    async fn step(
        &mut self,
        scene: &mut Scene,
        step: Step,
        work: impl AsyncFnOnce(&mut Scene) -> Seen,
    ) {
        scene.screen.start(self.outcomes.len() + 1, step);
        let start = Instant::now();
        let result = work(scene).await.map_err(|error| error.to_string());
        self.conclude_step(
            &mut scene.screen,
            Outcome {
                step,
                result,
                took: start.elapsed(),
            },
        );
    }

    fn conclude_step(&mut self, screen: &mut Screen, outcome: Outcome) {
        screen.end(&outcome);
        self.outcomes.push(outcome);
    }

    fn conclude(&self, scene: Option<&Scene>) -> ExitCode {
        let failed: Vec<&Outcome> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.result.is_err())
            .collect();
        println!(
            "\nsteps: {}, as expected: {}, not: {}",
            self.outcomes.len(),
            self.outcomes.len() - failed.len(),
            failed.len()
        );
        for outcome in &failed {
            println!(
                "not as expected: {} ({})",
                outcome.step.title, outcome.step.name
            );
        }
        match scene {
            Some(_) if failed.is_empty() => return ExitCode::SUCCESS,
            Some(scene) => {
                scene.mesh.lab.keep_files();
                println!(
                    "logs and records are kept in {}",
                    scene.mesh.lab.directory().display()
                );
            }
            None if failed.is_empty() => println!("interrupted; everything is cleared away"),
            None => {}
        }
        ExitCode::FAILURE
    }
}

async fn show_records(scene: &mut Scene) {
    let Scene { mesh, screen, .. } = scene;
    let mut all = Vec::new();
    for workload in mesh.sidecars() {
        let owner = format!(
            "{}/{}",
            workload.spec.namespace, workload.spec.service_account
        );
        all.extend(
            workload
                .records()
                .into_iter()
                .map(|record| (owner.clone(), record)),
        );
    }
    screen.headline(&format!(
        "\nWho called whom, from {} records of 4 sidecars",
        all.len()
    ));
    for line in table::who_called_whom(&all) {
        screen.line(&format!("  {line}"));
    }
    if let Ok((client, server)) = steps::hop(mesh).await {
        screen.headline("\nOne hop, from both ends");
        for line in table::side_by_side(&client, &server) {
            screen.line(&format!("  {line}"));
        }
    }
}

/// Stays up until Ctrl-C, with something to try.
async fn stay(scene: &mut Scene) {
    let Scene { mesh, screen, .. } = scene;
    let policies = mesh
        .lab
        .control()
        .files()
        .join(format!("{POLICY_FILE}.yaml"));
    let workloads = [
        &mesh.web,
        &mesh.gateway,
        &mesh.orders,
        &mesh.payments,
        &mesh.stranger,
    ];
    let places = workloads.map(|workload| Place {
        name: workload.spec.name.clone(),
        net: workload.network().path(),
        records: workload
            .sidecar
            .as_ref()
            .map(|sidecar| sidecar.records().to_owned()),
    });
    let state = State::new(
        policies.clone(),
        mesh.lab.directory().join("hosts"),
        places.into(),
    );
    if let Err(error) = state.publish(&mesh.lab) {
        screen.line(&format!("\n{error}"));
    }
    let admin = mesh.lab.control().admin_socket();
    let kith = std::env::args().next().unwrap_or_else(|| "kith".to_owned());
    screen.headline("\nThe mesh stays up until Ctrl-C. In another terminal, try:");
    for (what, command) in [
        (
            "an allowed call",
            format!("{kith} demo exec web -- curl -si http://orders.shop:8080/orders/1"),
        ),
        (
            "a denied one",
            format!("{kith} demo exec web -- curl -si http://payments.shop:8080/charges/1"),
        ),
        (
            "without a sidecar",
            format!("{kith} demo exec stranger -- curl -si http://orders.shop.pod:8080/orders/1"),
        ),
        (
            "gRPC",
            format!("{kith} demo exec web -- {kith} __app grpc http://orders.shop:9090 watch"),
        ),
        (
            "a sidecar's certificates",
            format!("{kith} demo exec web -- curl -s http://127.0.0.1:15000/certs"),
        ),
        (
            "who is connected",
            format!("{kith} status --socket {}", admin.display()),
        ),
        (
            "revoke somebody",
            format!(
                "{kith} revoke {} --reason test --wait --socket {}",
                mesh.web.spiffe_id(),
                admin.display()
            ),
        ),
        (
            "edit who may call whom",
            format!("$EDITOR {}", policies.display()),
        ),
        (
            "watch the decisions",
            format!("tail -f {}", mesh.orders.sidecar().records().display()),
        ),
    ] {
        screen.line(&format!("  {what:<26}{command}"));
    }
    asked_to_stop().await;
}
