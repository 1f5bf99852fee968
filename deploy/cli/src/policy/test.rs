//! `kith policy test`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::because::because;
use super::expect::{Expect, Got};
use super::in_force::about;
use super::suite::{self, Test};
use super::{print, refuse};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Files of tests.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the result of every test as JSON.
    #[arg(long)]
    json: bool,
    /// Keep warnings about the policies to yourself.
    #[arg(long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Ran<'a> {
    file: &'a Path,
    line: u64,
    name: &'a str,
    passed: bool,
    expected: &'a Expect,
    got: Got,
    because: String,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut problems = Vec::new();
    let mut loaded = Vec::new();
    for path in &arguments.files {
        match suite::load(path) {
            Ok(file) => {
                if file.suites.iter().all(|suite| suite.tests.is_empty()) {
                    problems.push(about(path, "has no tests".to_owned()));
                }
                loaded.push((path, file));
            }
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return refuse(problems, arguments.json);
    }
    let warnings: Vec<_> = (loaded.iter())
        .flat_map(|(_, file)| &file.warnings)
        .filter(|_| !arguments.quiet)
        .collect();
    if !arguments.json {
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
    }
    let mut ran = Vec::new();
    for (path, file) in &loaded {
        for suite in &file.suites {
            let tests = suite.tests.iter();
            ran.extend(tests.map(|test| run(path, &suite.sidecar, test)));
        }
    }
    let failed = ran.iter().filter(|ran| !ran.passed).count();
    let passed = ran.len() - failed;
    if arguments.json {
        let report = json!({
            "passed": passed,
            "failed": failed,
            "tests": ran,
            "warnings": warnings,
        });
        print(&format!("{report:#}\n"));
    } else {
        let mut lines = String::new();
        for ran in ran.iter().filter(|ran| !ran.passed) {
            lines.push_str(&ran.line());
        }
        print(&format!("{lines}{passed} passed, {failed} failed\n"));
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run<'a>(file: &'a Path, sidecar: &kith_proxy::rehearse::Sidecar, test: &'a Test) -> Ran<'a> {
    let outcome = test.attempt.ask(sidecar);
    let got = Got::from(&outcome);
    Ran {
        file,
        line: test.line,
        name: &test.name,
        passed: test.expect.is_met_by(&got),
        expected: &test.expect,
        got,
        because: because(&outcome),
    }
}

impl Ran<'_> {
    fn line(&self) -> String {
        let Self {
            file,
            line,
            name,
            expected,
            got,
            because,
            ..
        } = self;
        let got = expected.beside(got);
        let file = file.display();
        format!("{file}:{line} {name}: expected {expected}, got {got} because {because}\n")
    }
}
