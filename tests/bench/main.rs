//! `kith-bench`, what `make bench` runs: the price of a sidecar, next to no sidecar and next to Envoy.
//!
//! Everything that is measured is a real process: client and server in network namespaces of the lab, nginx as the
//! application, and between them nothing (`direct`), a pair of Envoys, or a pair of Kith's sidecars, which all do the
//! same job: capture, TLS 1.3 with SPIFFE identities on both ends, a policy on the principal, JSON access log, one
//! worker. The three take turns, round by round, and a round that something else on the machine disturbed is
//! repeated. What counts are the ratios; absolute numbers belong to the machine that is named above the table.
//!
//! In reading order: [`mesh`] builds what is measured, [`measure`] has the list of measures, [`load`], [`memory`] and
//! [`policy`] take them, [`noise`] judges the round, [`results`] and [`table`] show what came out.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use kith::lab::privileges;

use measure::{Kind, Measure};
use noise::Patience;
use results::{Outcome, Results, Sample};

mod connections;
mod envoy;
mod goals;
mod load;
mod machine;
mod many_policies;
mod measure;
mod memory;
mod mesh;
mod mesh_size;
mod noise;
mod policy;
mod proc;
mod profile;
mod results;
mod table;

/// Anything that keeps a number from being measured; said to a person, never handled.
type Failure = Box<dyn std::error::Error>;

/// Measures what a Kith sidecar costs, next to no sidecar and next to Envoy, in network namespaces of its own.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "kith-bench",
    version,
    after_help = "Needs wrk, h2load, iperf3, nginx and Envoy; what is missing is installed by tests/interop/setup.sh.\n\
                  Raw numbers: target/bench/latest.json. Exit codes: 0 measured, 1 something could not be, 2 could not begin."
)]
struct Arguments {
    /// Only these measures
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<Measure>,
    /// Only these contestants
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    of: Vec<Kind>,
    /// How often everything is measured; the table shows medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// One short round, 1,000 connections instead of 10,000: to see that it works, not for numbers
    #[arg(long)]
    quick: bool,
    /// How long, all in all, to wait for a quiet machine and to repeat disturbed rounds
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    patience: u64,
    /// Also write the raw numbers to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also record where Kith's sidecars spend their time (needs perf): target/bench/profile-*.txt
    #[arg(long)]
    profile: bool,
    /// The kith binary to measure [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    kith: Option<PathBuf>,
    /// A kith-proxy binary to measure instead of the one inside kith
    #[arg(long, value_name = "FILE")]
    proxy: Option<PathBuf>,
}

impl Arguments {
    fn measures(&self) -> Vec<Measure> {
        chosen(&self.only, Measure::all())
    }

    fn kinds(&self) -> Vec<Kind> {
        chosen(&self.of, Kind::all())
    }
}

fn chosen<T: Copy + PartialEq>(wanted: &[T], all: &[T]) -> Vec<T> {
    let keep = |one: &T| wanted.is_empty() || wanted.contains(one);
    all.iter().copied().filter(keep).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kith = match begin(&arguments) {
        Ok(kith) => kith,
        Err(error) => {
            eprintln!("kith-bench: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(&arguments, &kith)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kith-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Programs, descriptors, the right to make namespaces.
fn begin(arguments: &Arguments) -> Result<PathBuf, Failure> {
    if machine::missing().next().is_some() {
        let script = repository().join("tests/interop/setup.sh");
        let status = Command::new("sh").arg(&script).status()?;
        if !status.success() {
            return Err(format!("{} did not install what is missing", script.display()).into());
        }
        if let Some(missing) = machine::missing().next() {
            return Err(format!("{missing} is missing").into());
        }
    }
    let kith = match &arguments.kith {
        Some(path) => path
            .canonicalize()
            .map_err(|e| format!("{}: {e}", path.display()))?,
        None => privileges::kith_binary()?,
    };
    // May start this program anew, in a user namespace: nothing is printed before.
    privileges::ensure(&kith)?;
    machine::raise_descriptors();
    Ok(kith)
}

/// The checkout, where the programs to compare with are installed and results are written.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Gives back whether everything could be measured.
async fn run(arguments: &Arguments, kith: &Path) -> Result<bool, Failure> {
    let machine = machine::describe(kith);
    eprintln!("{machine}");
    eprintln!("starting the lab");
    let bench = mesh::Bench::start(arguments, kith).await?;
    let mut results = Results::new(machine);
    let mut patience = Patience::new(Duration::from_secs(arguments.patience));
    for measure in arguments.measures() {
        measure_in_rounds(&bench, arguments, measure, &mut patience, &mut results).await;
    }
    if arguments.profile {
        profile::record(&bench, &output_folder()?).await?;
    }
    // First of all: a file that can't be written must not cost what was measured.
    print!("{}", table::render(&results, &arguments.measures()));
    results.write(&output_folder()?.join("latest.json"))?;
    if let Some(path) = &arguments.json {
        results.write(path)?;
    }
    Ok(!results.any_failed())
}

fn output_folder() -> Result<PathBuf, Failure> {
    let folder = repository().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}

/// The contestants take turns, so that a machine that gets slower gets slower for all of them.
async fn measure_in_rounds(
    bench: &mesh::Bench,
    arguments: &Arguments,
    measure: Measure,
    patience: &mut Patience,
    results: &mut Results,
) {
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    for round in 1..=rounds {
        for pair in bench
            .pairs
            .iter()
            .filter(|pair| measure.concerns(pair.kind))
        {
            if round == 1
                && let Err(error) = measure.warm_up(bench, pair).await
            {
                eprintln!("{measure:<16} {:<7} warm-up: {error}", pair.kind);
            }
            while !once(bench, arguments, (measure, pair, round), patience, results).await {}
        }
    }
}

/// Takes a measure, and gives back whether that was good enough or has to be.
async fn once(
    bench: &mesh::Bench,
    arguments: &Arguments,
    (measure, pair, round): (Measure, &mesh::Pair, u32),
    patience: &mut Patience,
    results: &mut Results,
) -> bool {
    if measure.can_be_disturbed() {
        patience.wait_for_quiet(bench).await;
    }
    let (started, watch) = (Instant::now(), noise::Watch::start(bench));
    let taken = measure.take(bench, pair, arguments).await;
    let (noise, took) = (watch.stop(bench), started.elapsed());
    let outcome = match taken {
        Ok(figures) => Outcome::Measured(figures),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    let kind = pair.kind;
    let sample = Sample {
        measure,
        kind,
        round,
        noise,
        outcome,
    };
    let done = sample.is_quiet() || !patience.is_left();
    eprintln!(
        "{sample}{}",
        if done { "" } else { "  disturbed: once more" }
    );
    results.add(sample);
    bench.empty_logs();
    if !done {
        patience.spend(took);
    }
    done
}
