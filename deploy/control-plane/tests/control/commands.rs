//! The program itself: exit codes, what it says, SIGTERM.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};

use crate::harness::{MESH, policy};

/// Exit code and everything it said, with `dir` as `DIR`.
fn check(dir: &Path, arguments: &[&str], expected: Expect) {
    let output = Command::new(env!("CARGO_BIN_EXE_kith-control"))
        .args(arguments)
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .env_remove("KITH_LOG")
        .current_dir(dir)
        .output()
        .unwrap();
    let said = format!(
        "exit {}\n{}{}",
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap()
    );
    expected.assert_eq(&said.replace(&dir.display().to_string(), "DIR"));
}

#[test]
fn check_validates_a_folder_without_serving_it() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("mesh.yaml", MESH);
    write(
        "policy.yaml",
        &policy("a", "GET").replace("  rules", "  action: DENY\n  rules"),
    );
    check(
        dir.path(),
        &["check", "."],
        expect![[r#"
            exit 0
            .: 2 workloads, 0 services, 1 authorization policy, 0 peer authentications, 0 request authentications, 0 revocations, 0 warnings
        "#]],
    );
    write(
        "policy.yaml",
        &policy("a", "GET").replace("app: orders", "app: order"),
    );
    check(
        dir.path(),
        &["check", "."],
        expect![[r#"
        exit 0
        .: 2 workloads, 0 services, 1 authorization policy, 0 peer authentications, 0 request authentications, 0 revocations, 1 warning
        warning: ./policy.yaml:5: AuthorizationPolicy shop/a: spec.selector.matchLabels: no workload in namespace `shop` has these labels: this has no effect
    "#]],
    );
    write(
        "policy.yaml",
        &policy("a", "GET").replace("selector", "selectors"),
    );
    write("other.yaml", "a: [\n");
    check(
        dir.path(),
        &["check", "."],
        expect![[r#"
            exit 2
            ./other.yaml:1: not valid YAML: unclosed bracket '['
            ./policy.yaml:5: spec.selectors: unknown field `selectors`, expected one of `selector`, `dryRun`, `action`, `rules`
            .: 2 problems
        "#]],
    );
    check(
        dir.path(),
        &["check", "nowhere"],
        expect![[r#"
            exit 2
            nowhere: cannot be read: No such file or directory (os error 2)
            nowhere: 1 problem
        "#]],
    );
}

#[test]
fn mistakes_about_a_cluster_are_told_together() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "serve",
        "--kubernetes",
        "--admin-socket",
        "admin.sock",
        "--pod-ip",
        "here",
        "--health-listen",
        "15021",
        "--cluster-domain",
        "a..b",
        "--spiffe-endpoint-socket",
        "unix:///run/api.sock",
    ];
    check(
        dir.path(),
        &arguments,
        expect![[r#"
        exit 2
        kith-control: --admin-socket (KITH_CONTROL_SOCKET): not with --kubernetes: revoke with `kubectl apply` of a Revocation, and see /status
        kith-control: --pod-ip: `here` is not an IP address
        kith-control: --injection: required, the settings that pods are injected with; without a webhook: --webhook-listen off
        kith-control: --cluster-domain: `a..b` is not a domain such as `cluster.local`
        kith-control: --health-listen: `15021` is not `ip:port`
    "#]],
    );
    let arguments = [
        "serve",
        "--files",
        ".",
        "--kubernetes",
        "--spiffe-endpoint-socket",
        "unix:///run/api.sock",
    ];
    check(
        dir.path(),
        &arguments,
        expect![[r#"
        exit 2
        kith-control: --files DIR or --kubernetes: one of the two, both given
    "#]],
    );
    let arguments = [
        "serve",
        "--files",
        ".",
        "--accept-istio",
        "--kubeconfig",
        "nowhere",
        "--spiffe-endpoint-socket",
        "unix:///run/api.sock",
    ];
    check(
        dir.path(),
        &arguments,
        expect![[r#"
        exit 2
        kith-control: --accept-istio: only with --kubernetes
        kith-control: --kubeconfig: only with --kubernetes
    "#]],
    );
}

#[test]
fn mistakes_on_the_command_line_are_told_together() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "serve",
        "--files",
        "nowhere",
        "--listen",
        "15010",
        "--status-listen",
        "0.0.0.0:1",
        "--jwks-ca",
        "nowhere.pem",
        "--log",
        "a=b=c",
    ];
    check(
        dir.path(),
        &arguments,
        expect![[r#"
            exit 2
            kith-control: --files: `nowhere` is not a folder
            kith-control: --listen: `15010` is not `ip:port`
            kith-control: --status-listen: `0.0.0.0:1` is not a loopback address
            kith-control: SPIFFE_ENDPOINT_SOCKET: required: `unix:///path` or `tcp://ip:port` of the Workload API
            kith-control: --jwks-ca: nowhere.pem: I/O error: No such file or directory (os error 2)
            kith-control: KITH_LOG: `a=b=c`: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
        "#]],
    );
    let arguments = [
        "serve",
        "--files",
        ".",
        "--spiffe-endpoint-socket",
        "unix:relative?x",
    ];
    check(
        dir.path(),
        &arguments,
        expect![[r#"
        exit 2
        kith-control: SPIFFE_ENDPOINT_SOCKET: "unix:relative?x" is no Workload API endpoint: an endpoint has no query; a unix endpoint needs the absolute path of a socket (expected unix:///path or tcp://ip:port)
    "#]],
    );
}

#[test]
fn ports_in_use_are_one_line_each_and_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_kith-control"))
        .args([
            "serve",
            "--files",
            ".",
            "--listen",
            &address,
            "--status-listen",
            &address,
        ])
        .env("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere")
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr)
        .unwrap()
        .replace(&address, "ADDRESS");
    expect![[r#"
        kith-control: cannot listen on ADDRESS (--listen): Address already in use (os error 98); free it or choose another
        kith-control: cannot listen on ADDRESS (--status-listen): Address already in use (os error 98); free it or choose another
    "#]].assert_eq(&said);
}

#[test]
fn sigterm_stops_it_cleanly_even_without_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mesh.yaml"), MESH).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kith-control"))
        .args([
            "serve",
            "--files",
            ".",
            "--listen",
            "127.0.0.1:0",
            "--status-listen",
            "127.0.0.1:0",
        ])
        .env("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere")
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(lines.by_ref().any(|line| line.unwrap().contains("loaded")));
    let begun = Instant::now();
    let kill = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(3));
}
