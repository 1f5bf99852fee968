//! `kith-proxy run` and `kith-proxy capture`: arguments, then exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::config::{Command, Config, command_line};

/// Exit codes: 0 done; 1 it did not work; 2 it was asked for wrongly.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match command_line(arguments) {
        Err(problem) => {
            let code = u8::try_from(problem.exit_code()).unwrap_or(2);
            let _ = problem.print();
            ExitCode::from(code)
        }
        Ok(Command::Capture(options)) => crate::capture::run(&options),
        Ok(Command::Run(flags)) => match Config::load(flags) {
            Ok(config) => run(config),
            Err(mistakes) => {
                eprintln!("{mistakes}");
                ExitCode::from(2)
            }
        },
    }
}

fn run(config: Config) -> ExitCode {
    match crate::app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("kith-proxy: {problem}");
            ExitCode::FAILURE
        }
    }
}
