//! `kith-scale`, what `make scale` runs: a control plane on a real API server with thousands of pods, and a simulated
//! sidecar for each of them.
//!
//! The pods exist in the API and nowhere else; a sidecar here is one delta xDS stream over mutual TLS, with the SVID of
//! its pod's service account, that asks for what a real one asks for, acknowledges everything, and notes when something
//! arrived. What is measured: memory, the time to the first full sync, and for one change at a time in the API how long
//! it takes to everybody who asked for what changed. Nobody else may be sent anything.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

mod changes;
mod cluster;
mod population;
mod program;
mod report;
mod sidecars;

/// Anything that keeps a number from being measured; said to a person, never handled.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures the control plane at the size of a large cluster, on a real etcd and a real API server.
#[derive(Parser, Clone, Debug)]
#[command(name = "kith-scale", version)]
struct Arguments {
    /// Pods in the API, each with a sidecar in its spec
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Services; the pods are dealt out to them
    #[arg(long, default_value_t = 2_000)]
    services: usize,
    /// AuthorizationPolicies, each for the pods of one service
    #[arg(long, default_value_t = 500)]
    policies: usize,
    /// Connected sidecars, for the first so many pods
    #[arg(long, default_value_t = 10_000)]
    sidecars: usize,
    /// Changes that are measured, one after another
    #[arg(long, default_value_t = 400)]
    changes: usize,
    /// The kith-control to measure
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/release/kith-control"
    )]
    control: PathBuf,
    /// Folder with kube-apiserver, unless KITH_TEST_APISERVER names one
    #[arg(long, value_name = "DIR", default_value = "target/cluster/bin")]
    kubernetes: PathBuf,
    /// Folder with the CustomResourceDefinitions
    #[arg(long, value_name = "DIR", default_value = "deploy/chart/crds")]
    crds: PathBuf,
    /// Where the numbers are written
    #[arg(long, value_name = "FILE", default_value = "target/bench/scale.json")]
    json: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            // Whatever has been started ends with what waits for it.
            tokio::select! {
                done = run(&arguments) => done,
                told = told_to_stop() => Err(told?.into()),
            }
        })
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kith-scale: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns when somebody wants this program to end, in whichever way short of killing it.
async fn told_to_stop() -> Result<&'static str, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok("told to stop")
}

/// Gives back whether every goal was met.
async fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let folder = program::Folder::new()?;
    say("starting etcd and the API server");
    let api = cluster::ApiServer::start(&folder, arguments).await?;
    let begun = Instant::now();
    let population = population::create(&api, arguments).await?;
    say(&format!(
        "{} pods, {} services and {} policies created in {:.0} s",
        arguments.pods,
        arguments.services,
        arguments.policies,
        begun.elapsed().as_secs_f64()
    ));

    let _authority = sidecars::authority(&folder)?;
    let control = cluster::Control::start(&folder, arguments, &api).await?;
    let synced = control.started.elapsed();
    let alone = control.settled_memory().await?;
    say(&format!(
        "ready {:.2} s after its start, {:.0} MiB",
        synced.as_secs_f64(),
        alone.resident_mib
    ));

    let (fleet, mut arrivals) =
        sidecars::connect(&folder, &population, arguments, control.xds).await?;
    let connected = control.settled_memory().await?;
    say(&format!(
        "{} sidecars are connected and have everything after {:.1} s: {:.0} MiB",
        arguments.sidecars,
        fleet.took.as_secs_f64(),
        connected.resident_mib
    ));

    let measured = changes::measure(
        &api,
        &population,
        &fleet,
        &mut arrivals,
        arguments,
        &control,
    )
    .await?;
    let after = control.settled_memory().await?;
    let report = report::Report {
        pods: arguments.pods,
        services: arguments.services,
        policies: arguments.policies,
        sidecars: arguments.sidecars,
        first_sync_s: synced.as_secs_f64(),
        alone,
        connected,
        after,
        cpu_ms_per_change: measured.cpu_ms_per_change(&control)?,
        latency: measured.latency(),
        deliveries: measured.deliveries(),
        strays: measured.strays,
        missing: measured.missing,
    };
    report.write(&arguments.json)?;
    println!("{}", report.table());
    Ok(report.meets_goals())
}

fn say(what: &str) {
    eprintln!("kith-scale: {what}");
}

/// A descriptor for each sidecar, here and, inherited, in the control plane.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where that is too little, connecting says so.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// How long a part may take to become ready.
const START: Duration = Duration::from_secs(120);
