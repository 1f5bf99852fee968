//! What the numbers were taken on, and with which programs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kith::lab::privileges;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::envoy;

/// Enough for 10,000 connections, each of which a sidecar has twice.
const DESCRIPTORS: u64 = 65_536;

/// Programs of the system that are needed: name, Debian package.
const TOOLS: [(&str, &str); 6] = [
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx-light"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
];

/// What is not installed.
pub(crate) fn missing() -> impl Iterator<Item = &'static str> {
    let tools = TOOLS
        .into_iter()
        .filter(|(name, package)| privileges::tool(name, package).is_err());
    let envoy = envoy::program().is_none().then_some("envoy");
    tools.map(|(name, _)| name).chain(envoy)
}

/// For this process and all that it starts.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let enough = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(
            limit
                .maximum
                .map_or(DESCRIPTORS, |now| now.max(DESCRIPTORS)),
        ),
    };
    // Only root may go beyond the maximum. Measures say it when they run out of descriptors.
    if setrlimit(Resource::Nofile, enough).is_err() {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        );
    }
}

/// How many connections a sidecar can have open, up to `wanted`, in whole thousands.
pub(crate) fn connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS);
    // Some hundreds for everything else.
    let possible = usize::try_from(limit.saturating_sub(500) / 2).unwrap_or(usize::MAX);
    (possible / 1_000 * 1_000).clamp(1_000, wanted)
}

#[derive(Default)]
pub(crate) struct Machine {
    facts: Vec<(&'static str, String)>,
}

pub(crate) fn describe(kith: &Path) -> Machine {
    let tool =
        |name, package| privileges::tool(name, package).unwrap_or_else(|_| PathBuf::from(name));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let date = first_line(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]));
    let facts = vec![
        ("date", date),
        ("processor", format!("{}, {cores} cores", processor())),
        ("memory", format!("{:.0} GiB", memory_gib())),
        ("kernel", std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()),
        ("kith", first_line(Command::new(kith).arg("--version")) + revision().as_deref().unwrap_or_default()),
        ("envoy", envoy::program().map(|path| envoy_version(&path)).unwrap_or_default()),
        ("nginx", first_line(Command::new(tool("nginx", "nginx-light")).arg("-v"))),
        ("wrk", first_line(Command::new(tool("wrk", "wrk")).arg("-v"))),
        ("h2load", first_line(Command::new(tool("h2load", "nghttp2-client")).arg("--version"))),
        ("iperf3", first_line(Command::new(tool("iperf3", "iperf3")).arg("--version"))),
        (
            "conditions",
            "everything on this machine, in network namespaces; one worker each; TLS 1.3 with SPIFFE identities on \
             both ends; one policy by principal; JSON access log; medians of interleaved rounds"
                .to_owned(),
        ),
    ];
    Machine { facts }
}

impl Machine {
    pub(crate) fn to_json(&self) -> Value {
        self.facts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self
            .facts
            .iter()
            .map(|(name, value)| format!("{name:<10} {value}"))
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    field("cpu MHz").map_or(name.clone(), |mhz| format!("{name} ({mhz} MHz)"))
}

fn memory_gib() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0 / 1024.0
}

fn revision() -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(crate::repository())
        .args(["describe", "--always", "--dirty"])
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(format!(
        " ({})",
        String::from_utf8_lossy(&output.stdout).trim()
    ))
}

/// `…/envoy version: <commit>/1.40.0/Clean/RELEASE/BoringSSL` gives `1.40.0`.
fn envoy_version(path: &Path) -> String {
    let output = Command::new(path).arg("--version").output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.split('/').rev().nth(3).unwrap_or_default().to_owned()
}

fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else {
        return "not there".to_owned();
    };
    let printed = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&printed)
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .trim()
        .to_owned()
}
