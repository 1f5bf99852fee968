//! Talking to `nft`, and turning what it complains about into what to do.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use thiserror::Error;

/// One line each, with what to do about it.
#[derive(Debug, Error)]
pub(super) enum NftError {
    #[error("nft is not there; install the package nftables")]
    Missing,
    #[error(
        "changing the packet filter needs the capability NET_ADMIN; run as root in the pod's network namespace (in Kubernetes: an init container with NET_ADMIN)"
    )]
    NotPermitted,
    #[error(
        "this kernel has no nftables NAT for table family inet; it needs nf_tables, nft_chain_nat, nft_redir and nft_fib_inet (nft: {0})"
    )]
    Unsupported(String),
    #[error("nft can't be run: {0}")]
    Run(#[from] io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Runs a script, all of it or nothing.
pub(super) fn apply(script: &str) -> Result<(), NftError> {
    let output = nft(&["-f", "-"], script)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(explain(&output))
    }
}

/// The table as it is, None when there is none.
pub(super) fn list() -> Result<Option<String>, NftError> {
    // Without counters, and priorities as numbers.
    let output = nft(&["-s", "-y", "list", "table", "inet", "kith"], "")?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    if String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
        return Ok(None);
    }
    Err(explain(&output))
}

fn nft(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    // Often not in the PATH of users who aren't root.
    for program in ["nft", "/usr/sbin/nft"] {
        let spawned = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            spawned => spawned?,
        };
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                // It gave up before it read everything, and says why on stderr.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                written => written?,
            }
        }
        return Ok(child.wait_with_output()?);
    }
    Err(NftError::Missing)
}

fn explain(output: &Output) -> NftError {
    let text = String::from_utf8_lossy(&output.stderr);
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if has(&[
        "Operation not permitted",
        "Permission denied",
        "must be root",
    ]) {
        return NftError::NotPermitted;
    }
    let line = text
        .lines()
        .find(|line| line.contains("rror"))
        .unwrap_or("no reason given")
        .trim()
        .to_owned();
    if has(&[
        "No such file or directory",
        "not supported",
        "Protocol not available",
    ]) {
        return NftError::Unsupported(line);
    }
    NftError::Refused(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn explained(stderr: &str) -> String {
        let output = Output {
            status: ExitStatus::from_raw(256),
            stdout: Vec::new(),
            stderr: stderr.into(),
        };
        explain(&output).to_string()
    }

    #[test]
    fn errors_are_one_line_that_says_what_to_do() {
        for (stderr, expected) in [
            (
                "netlink: Error: cache initialization failed: Operation not permitted\n",
                "needs the capability NET_ADMIN",
            ),
            (
                "Operation not permitted (you must be root)\n",
                "needs the capability NET_ADMIN",
            ),
            (
                "/dev/stdin:4:3-9: Error: Could not process rule: No such file or directory\n\t\ttype nat\n\t\t^^^^\n",
                "this kernel has no nftables NAT",
            ),
            (
                "/dev/stdin:4:3-9: Error: syntax error, unexpected x\n  ^^\n",
                "nft refused the rules: /dev/stdin:4:3-9: Error",
            ),
        ] {
            let text = explained(stderr);
            assert!(text.contains(expected), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}
