//! Policies for people: tested, explained and checked offline, by the engine that enforces them.
//!
//! In reading order: `attempt` (one connection and request, as a person states it), `in_force` (the policies of one
//! workload, read, resolved and translated as a sidecar gets them), `suite` (a file of tests), `expect` (what a test
//! wants), `because` (why a decision came out as it did), and the commands `test`, `explain` and `check`.
//!
//! **Architecture invariant:** nothing is decided here. Documents go through the control plane's reader and resolver,
//! and decisions come from the sidecar's own steps (`kith_proxy::rehearse`).

mod attempt;
mod because;
mod check;
mod expect;
mod explain;
mod in_force;
mod suite;
mod test;

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;
use kith_control::Problem;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the tests in files: does each connection or request get the decision that is expected?
    ///
    /// A file holds policies, the workload they are for, and tests. Where a test says nothing, it is a GET of / for host
    /// localhost, from 192.0.2.1 to 192.0.2.2:8080, by a peer without identity. mTLS is permissive unless there is a
    /// PeerAuthentication among the policies. A token in a test counts as verified.
    ///
    /// Exit 0 when all pass, 1 when some fail, 2 when something in the files is wrong; then nothing is run.
    Test(test::Arguments),
    /// Show how a decision comes about: every policy considered, clause by clause, and the decision.
    ///
    /// The policies come from a folder as kith-control serves it (with --workload), or from a file of tests (with --test
    /// for the connection and request of one of them; flags that are given replace what it says). A token of a test counts
    /// as verified; of a folder, only if a RequestAuthentication for the workload is about its issuer.
    ///
    /// Exit 0 whatever the decision, 2 when it cannot be explained.
    Explain(Box<explain::Arguments>),
    /// Look for mistakes in a folder of policies, and for what is allowed and probably not meant.
    ///
    /// Exit 0 when it can be served, 1 when there are warnings and --strict is given, 2 when it cannot be served.
    Check(check::Arguments),
}

#[must_use]
pub fn main(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Test(arguments) => test::main(&arguments),
        Command::Explain(arguments) => explain::main(*arguments),
        Command::Check(arguments) => check::main(&arguments),
    }
}

/// Nobody is left to tell when standard output is closed, `| head` included.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Wrong input: nothing was done.
fn refuse(mut problems: Vec<Problem>, as_json: bool) -> ExitCode {
    problems.sort();
    problems.dedup();
    if as_json {
        print(&format!("{:#}\n", json!({ "problems": problems })));
    } else {
        for problem in &problems {
            eprintln!("{problem}");
        }
    }
    ExitCode::from(2)
}
