//! `kith policy check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use kith_control::check::{Checked, check_dir};
use serde_json::json;

use super::{print, refuse};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder, as `kith-control serve --files` gets it.
    dir: PathBuf,
    /// Exit 1 when there are warnings.
    #[arg(long)]
    strict: bool,
    /// Print counts, warnings and problems as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let Checked { counts, warnings } = match check_dir(&arguments.dir, SystemTime::now()) {
        Ok(checked) => checked,
        Err(problems) => return refuse(problems, arguments.json),
    };
    if arguments.json {
        let report = json!({ "counts": counts, "warnings": warnings });
        print(&format!("{report:#}\n"));
    } else {
        let mut text = String::new();
        for warning in &warnings {
            text.push_str(&format!("{warning}\n"));
        }
        let policies = counts.authorization_policies
            + counts.peer_authentications
            + counts.request_authentications;
        text.push_str(&format!(
            "{}, {}, {}\n",
            counted(policies, "policy", "policies"),
            counted(counts.workloads, "workload", "workloads"),
            counted(warnings.len(), "warning", "warnings"),
        ));
        print(&text);
    }
    if arguments.strict && !warnings.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}
