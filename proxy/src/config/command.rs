//! The command line of `kith-proxy`.

use std::ffi::OsString;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgMatches, Args, FromArgMatches};

use super::variables::{VARIABLES, Variable};
use crate::capture::CaptureOptions;

/// What this invocation is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run(Flags),
    Capture(CaptureOptions),
}

/// The flags of `run` that were given, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub(super) Vec<(&'static Variable, String)>);

/// # Errors
/// Also for `--help` and `--version`: let clap's `exit` print and choose the exit code, 2 for a mistake.
pub fn command_line(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let mut program = program();
    let matches = program.try_get_matches_from_mut(arguments)?;
    match matches.subcommand() {
        Some(("capture", matches)) => {
            let options = CaptureOptions::from_arg_matches(matches)?;
            Ok(Command::Capture(options))
        }
        Some((_, matches)) => Ok(Command::Run(flags(matches))),
        None => Err(program.error(
            clap::error::ErrorKind::MissingSubcommand,
            "say run or capture",
        )),
    }
}

fn program() -> clap::Command {
    clap::Command::new("kith-proxy")
        .about("The Kith sidecar: knows who is calling, and can prove it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run())
        .subcommand(CaptureOptions::augment_args(
            clap::Command::new("capture")
                .about("Install, verify or remove the rules that redirect this pod's TCP traffic to the sidecar")
                .long_about(crate::capture::LONG_ABOUT),
        ))
}

fn run() -> clap::Command {
    clap::Command::new("run")
        .about("Run the sidecar")
        .long_about(
            "Run the sidecar. Every flag can also be given as an environment variable; a flag wins. Unknown KITH_* \
             variables and bad values are all reported together, with exit code 2.",
        )
        .args(VARIABLES.iter().map(argument))
}

fn argument(variable: &'static Variable) -> Arg {
    let default = match variable.default {
        Some(default) => format!(" [default: {default}]"),
        None if variable.required => " [required]".to_owned(),
        None => String::new(),
    };
    Arg::new(variable.name)
        .long(variable.flag)
        .value_name(variable.shape)
        .value_parser(NonEmptyStringValueParser::new())
        .help(format!(
            "{} [env: {}]{default}",
            variable.help, variable.name
        ))
}

fn flags(matches: &ArgMatches) -> Flags {
    let given = |variable: &'static Variable| {
        Some((variable, matches.get_one::<String>(variable.name)?.clone()))
    };
    Flags(VARIABLES.iter().filter_map(given).collect())
}
