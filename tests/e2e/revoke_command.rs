//! `kith revoke --wait` and `kith status` against a mesh of twenty sidecars and two thousand live connections.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

use crate::readme::program;

const SERVERS: usize = 10;
const CLIENTS: usize = 10;
/// Connections of each client to each server.
const EACH: usize = 20;
const ALL: usize = SERVERS * CLIENTS * EACH;

const MALLORY: &str = "spiffe://example.org/ns/shop/sa/mallory";

/// Everybody in the trust domain may do anything.
const ANYBODY: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: anybody}
spec:
  rules:
  - from: [{source: {principals: [example.org/*]}}]
";

async fn kith(lab: &Lab, arguments: &[&str]) -> Output {
    Command::new(program("kith"))
        .args(arguments)
        .env("KITH_CONTROL_SOCKET", lab.control().admin_socket())
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[derive(Debug)]
enum Event {
    Open,
    /// Of a client of this account.
    Ended(&'static str),
}

/// Opens `EACH` connections to each server, and keeps them until somebody closes them or `done` is said.
async fn hold(
    from: Arc<Workload>,
    account: &'static str,
    to: Vec<SocketAddr>,
    events: mpsc::UnboundedSender<Event>,
    done: watch::Receiver<bool>,
) {
    let work = move || async move {
        let mut tasks = Vec::new();
        for (number, to) in to.repeat(EACH).into_iter().enumerate() {
            let (events, mut done) = (events.clone(), done.clone());
            tasks.push(tokio::task::spawn_local(async move {
                let mut stream = TcpStream::connect(to).await.unwrap();
                stream.write_all(b"hello").await.unwrap();
                stream.read_exact(&mut [0; 5]).await.unwrap();
                events.send(Event::Open).unwrap();
                tokio::select! {
                    _ = stream.read_u8() => events.send(Event::Ended(account)).unwrap(),
                    _ = done.wait_for(|done| *done) => {}
                }
            }));
            // Handshakes of one client at a time, so that none waits in a backlog for long.
            if number % 8 == 7 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        drop(events);
        for task in tasks {
            task.await.unwrap();
        }
    };
    from.enter(work).await.unwrap();
}

#[tokio::test]
async fn twenty_sidecars_confirm_and_exactly_the_revoked_are_cut() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    lab.control().write("policies", ANYBODY).unwrap();
    let servers =
        (0..SERVERS).map(|n| WorkloadSpec::new("shop", &format!("server-{n}")).port(7000, "TCP"));
    let clients = (0..CLIENTS).map(|n| {
        let account = if n % 2 == 0 { "web" } else { "mallory" };
        WorkloadSpec::new("shop", &format!("client-{n}")).service_account(account)
    });
    let workloads = lab.workloads(servers.chain(clients)).await.unwrap();
    let (servers, clients) = workloads.split_at(SERVERS);
    let mut apps = Vec::new();
    for server in servers {
        apps.push(server.app(&["tcp", "--listen", "[::]:7000"]).await.unwrap());
    }
    let addresses: Vec<SocketAddr> = (0..SERVERS)
        .map(|n| {
            clients[0]
                .resolve(&format!("server-{n}.shop:7000"))
                .unwrap()
        })
        .collect();

    let (events, mut inbox) = mpsc::unbounded_channel();
    let (done, is_done) = watch::channel(false);
    let holding: Vec<_> = (clients.iter().enumerate())
        .map(|(n, client)| {
            let account = if n % 2 == 0 { "web" } else { "mallory" };
            let (to, events) = (addresses.clone(), events.clone());
            tokio::spawn(hold(client.clone(), account, to, events, is_done.clone()))
        })
        .collect();
    drop(events);
    for _ in 0..ALL {
        let event = tokio::time::timeout(Duration::from_secs(60), inbox.recv()).await;
        assert!(matches!(event.unwrap().unwrap(), Event::Open));
    }

    let order = [
        "revoke",
        MALLORY,
        "--reason",
        "its key was stolen",
        "--wait=20",
    ];
    let revoked = kith(&lab, &[&order[..], &["--json"]].concat()).await;
    assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    let done_by: Value = serde_json::from_slice(&revoked.stdout).unwrap();
    assert_eq!(done_by["not_confirmed"], serde_json::json!([]));
    let confirmed = done_by["confirmed"].as_array().unwrap();
    assert_eq!(confirmed.len(), SERVERS + CLIENTS);
    let mut slowest = 0.0_f64;
    for sidecar in confirmed {
        let node = sidecar["node"].as_str().unwrap();
        let ms = sidecar["ms"].as_f64().unwrap();
        slowest = slowest.max(ms);
        if node.starts_with("shop/server") {
            assert_eq!(sidecar["closed"], ALL / 2 / SERVERS, "{node}");
        }
    }
    println!(
        "{} sidecars confirmed, the last after {slowest:.1} ms",
        confirmed.len()
    );

    // All of the revoked, and nobody else: what was confirmed has happened already.
    for _ in 0..ALL / 2 {
        let event = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await;
        let Event::Ended(account) = event.unwrap().unwrap() else {
            panic!("opened twice")
        };
        assert_eq!(account, "mallory");
    }
    let more = tokio::time::timeout(Duration::from_millis(500), inbox.recv()).await;
    assert!(more.is_err(), "{more:?}");

    // Said again it changes nothing, and is for people to read.
    let again = kith(&lab, &order).await;
    assert!(again.status.success(), "{}", text(&again.stderr));
    let again = text(&again.stdout);
    assert!(
        again.starts_with(&format!("Revoked: {MALLORY}, until ")),
        "{again}"
    );
    assert!(
        again.contains("20 of 20 sidecars enforce it; 0 live connections were closed."),
        "{again}"
    );

    let status = kith(&lab, &["status"]).await;
    let told = text(&status.stdout);
    assert!(status.status.success(), "{told}");
    assert_eq!(
        told.matches("  none\n").count() + usize::from(told.ends_with("  none")),
        20,
        "{told}"
    );

    // A sidecar that is not there cannot confirm, and that is told.
    clients[9].sidecar().kill();
    let serial = [
        "revoke",
        "--serial",
        "4B:C3:7B",
        "--trust-domain",
        "example.org",
        "--reason",
        "lost",
        "--wait=5",
    ];
    let missing = kith(&lab, &serial).await;
    assert_eq!(missing.status.code(), Some(1));
    let told = text(&missing.stdout);
    assert!(told.contains("19 of 20 sidecars enforce it"), "{told}");
    assert!(told.contains("shop/client-9  is not connected"), "{told}");
    let status = kith(&lab, &["status"]).await;
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status.stdout).contains("shop/client-9 is not connected"));

    // What is revoked can be seen, and taken back.
    let listed = text(&kith(&lab, &["revoke", "--list"]).await.stdout);
    assert!(
        listed.contains(MALLORY) && listed.contains("its key was stolen"),
        "{listed}"
    );
    assert!(
        listed.contains("certificate 4bc37b of example.org"),
        "{listed}"
    );
    let lifted = kith(&lab, &["revoke", MALLORY, "--lift", "--wait=5"]).await;
    assert_eq!(lifted.status.code(), Some(1), "one sidecar is still away");
    let listed = text(&kith(&lab, &["revoke", "--list"]).await.stdout);
    assert!(!listed.contains(MALLORY), "{listed}");

    done.send(true).unwrap();
    for held in holding {
        held.await.unwrap();
    }
}

#[tokio::test]
async fn a_bad_order_or_an_absent_control_plane_is_said_in_one_line_with_exit_2() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let check = |output: &Output, expected: &str| {
        assert_eq!(output.status.code(), Some(2));
        let told = text(&output.stderr);
        assert!(told.contains(expected), "{told}");
        assert_eq!(told.trim().lines().count(), 1, "{told}");
    };
    let bad = kith(&lab, &["revoke", "example.org/web", "--reason", "r"]).await;
    check(&bad, "spiffe://");
    let nowhere = ["status", "--socket", "/nowhere/admin.sock"];
    check(&kith(&lab, &nowhere).await, "is the control plane running");
}
