//! `kith demo` as a person runs it: the real program, its exit codes, what it leaves behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn kith(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    // Away from a demo that the person who runs the tests may have up.
    command
        .env("XDG_RUNTIME_DIR", home)
        .env("KITH_LAB_DIR", home)
        .stdin(Stdio::null());
    command
}

fn exec(home: &Path, arguments: &[&str]) -> Output {
    kith(home).arg("demo").args(arguments).output().unwrap()
}

/// Starts a demo and reads its output up to the line that contains `until`.
fn start(
    home: &Path,
    arguments: &[&str],
    until: &str,
) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut demo = kith(home)
        .arg("demo")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut seen = Vec::new();
    for line in lines.by_ref() {
        let found = line.contains(until);
        seen.push(line);
        if found {
            return (demo, lines);
        }
    }
    let status = demo.wait().unwrap();
    panic!(
        "the demo ended ({status}) without {until:?}:\n{}",
        seen.join("\n")
    );
}

fn stop(
    mut demo: Child,
    signal: Signal,
    rest: impl Iterator<Item = String>,
) -> (Option<i32>, String) {
    kill_process(Pid::from_child(&demo), signal).unwrap();
    let rest: Vec<String> = rest.collect();
    (demo.wait().unwrap().code(), rest.join("\n"))
}

fn assert_empty(home: &Path) {
    let left: Vec<_> = std::fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_walk_is_as_expected_and_the_mesh_stays_up_until_it_is_told_to_stop() {
    let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = elsewhere.path().join("steps.json");
    let (demo, lines) = start(
        home.path(),
        &["--json", json.to_str().unwrap()],
        "curl -s http://127.0.0.1:15000/certs",
    );

    let app = env!("CARGO_BIN_EXE_kith");
    let call = |workload: &str, url: &str| {
        exec(
            home.path(),
            &["exec", workload, "--", app, "__app", "get", url],
        )
    };
    let allowed: Value =
        serde_json::from_slice(&call("web", "http://orders.shop:8080/orders/1").stdout).unwrap();
    assert_eq!(
        (&allowed["status"], &allowed["body"]["app"]),
        (&200.into(), &"orders".into()),
        "{allowed}"
    );
    let denied: Value =
        serde_json::from_slice(&call("web", "http://payments.shop:8080/charges/1").stdout).unwrap();
    assert_eq!(
        denied["headers"]["x-kith-reason"], "no-allow-policy-matches",
        "{denied}"
    );
    let output = call("nobody", "http://orders.shop:8080/");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "kith: the demo has no `nobody`, only web, gateway, orders, payments, stranger\n"
    );
    let policies = String::from_utf8(exec(home.path(), &["policy"]).stdout).unwrap();
    assert!(
        std::fs::read_to_string(policies.trim())
            .unwrap()
            .contains("no-deletes")
    );

    let (code, rest) = stop(demo, Signal::INT, lines);
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((code, &report["ok"]), (Some(0), &true.into()), "{report:#}");
    assert!(rest.contains("everything is cleared away"), "{rest}");
    assert_empty(home.path());
}

#[test]
fn a_demo_that_is_interrupted_or_killed_leaves_nothing_behind() {
    for (signal, code) in [(Signal::TERM, Some(1)), (Signal::KILL, None)] {
        let home = tempfile::tempdir().unwrap();
        let (demo, lines) = start(home.path(), &["--once"], " 3. ");
        assert_eq!(stop(demo, signal, lines).0, code);
        // After a kill, the lab's keeper needs a moment.
        for _ in 0..500 {
            if std::fs::read_dir(home.path()).unwrap().next().is_none() {
                break;
            }
            pause();
        }
        assert_empty(home.path());
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let output = exec(home.path(), &["exec", "web", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "kith: no demo runs: start one with `kith demo`\n"
    );
    assert_eq!(exec(home.path(), &["--twice"]).status.code(), Some(2));
    assert_eq!(kith(home.path()).output().unwrap().status.code(), Some(2));
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test without a runtime may sleep"
)]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(10));
}
