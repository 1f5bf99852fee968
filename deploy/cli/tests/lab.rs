//! The lab itself: its wires, its processes, and that nothing is left of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kith::lab::{Lab, LabOptions, WorkloadSpec};
use serde_json::json;

/// Says to a copy of this test program that it is to be the lab that gets killed.
const VICTIM: &str = "TEST_LAB_VICTIM";

fn options() -> LabOptions {
    LabOptions {
        kith: Some(env!("CARGO_BIN_EXE_kith").into()),
        ..LabOptions::default()
    }
}

fn bare(name: &str) -> WorkloadSpec {
    WorkloadSpec::new("shop", name).without_sidecar()
}

#[tokio::test]
async fn workloads_meet_over_ipv4_and_ipv6_and_by_name() {
    let lab = Lab::bare(options()).unwrap();
    // As for a sidecar: with a way out for packets to addresses that nobody has.
    let web = lab
        .workload(WorkloadSpec::new("shop", "web"))
        .await
        .unwrap();
    let orders = lab.workload(bare("orders")).await.unwrap();
    let _app = orders.app(&["http", "--name", "orders"]).await.unwrap();
    for host in [
        orders.addresses.v4.to_string(),
        format!("[{}]", orders.addresses.v6),
        "orders.shop.pod".to_owned(),
    ] {
        let reply = web.get(&format!("http://{host}:8080/hello")).await.unwrap();
        assert_eq!(
            (reply.status, &reply.json()["app"]),
            (200, &"orders".into()),
            "via {host}"
        );
    }
    // Commands of the system see the names as well.
    let output = web
        .exec(&["getent", "hosts", "v6.orders.shop.pod"])
        .await
        .unwrap();
    assert!(output.stdout.starts_with("fd00:6b69::"), "{output:?}");
}

#[tokio::test]
async fn labs_side_by_side_never_meet() {
    let (one, two) = (Lab::bare(options()).unwrap(), Lab::bare(options()).unwrap());
    let server = one.workload(bare("server")).await.unwrap();
    let client = one.workload(bare("client")).await.unwrap();
    let stranger = two.workload(bare("stranger")).await.unwrap();
    let lonely = two.workload(bare("lonely")).await.unwrap();
    assert_eq!(
        server.addresses, stranger.addresses,
        "every lab has the same addresses"
    );
    let _app = server.app(&["http", "--name", "server"]).await.unwrap();
    let url = format!("http://{}:8080/", server.addresses.v4);
    assert_eq!(client.get(&url).await.unwrap().status, 200);
    let error = lonely.get(&url).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn applications_speak_http_grpc_and_tcp() {
    let lab = Lab::bare(options()).unwrap();
    let web = lab.workload(bare("web")).await.unwrap();
    let orders = lab.workload(bare("orders")).await.unwrap();
    let _http = orders.app(&["http", "--name", "orders"]).await.unwrap();
    let _smtp = orders
        .app(&["tcp", "--listen", "[::]:2525", "--greeting", "220 orders"])
        .await
        .unwrap();
    let kith = env!("CARGO_BIN_EXE_kith");

    let output = web
        .exec(&[
            kith,
            "__app",
            "get",
            "http://orders.shop.pod:8080/stream?ticks=2&ms=1",
            "--http2",
        ])
        .await
        .unwrap();
    assert_eq!(output.json()["body"], "tick 0\ntick 1\n", "{output:?}");

    let output = web
        .exec(&[
            kith,
            "__app",
            "grpc",
            "http://orders.shop.pod:8080",
            "chat",
            "--interval-ms",
            "1",
        ])
        .await
        .unwrap();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{output:?}");
    assert_eq!(lines[2], r#"{"note":"note 2"}"#);
    assert!(lines[3].contains(r#""status":0"#), "{output:?}");

    let address = web.resolve("orders.shop.pod:2525").unwrap();
    let greeting = web
        .enter(move || async move {
            let mut line = String::new();
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::io::AsyncBufReadExt::read_line(
                &mut tokio::io::BufReader::new(stream),
                &mut line,
            )
            .await
            .unwrap();
            line
        })
        .await
        .unwrap();
    assert_eq!(greeting, "220 orders\r\n");

    let load = [
        "__app",
        "load",
        "http://orders.shop.pod:8080/",
        "--seconds",
        "0.3",
        "--rate",
        "200",
        "--json",
    ];
    let output = web.exec(&[&[kith], &load[..]].concat()).await.unwrap();
    assert_eq!(
        (
            output.json()["failed"].as_u64(),
            output.json()["ok"].as_u64().unwrap() > 40
        ),
        (Some(0), true),
        "{output:?}"
    );

    let hold = web
        .app(&[
            "hold",
            "orders.shop.pod:2525",
            "--count",
            "5",
            "--say",
            "hello",
        ])
        .await
        .unwrap();
    hold.says("{\"open\":5}\n").await.unwrap();
    drop(_smtp);
    hold.wait(Duration::from_secs(5)).await.unwrap();
    assert!(
        hold.stdout()
            .ends_with("{\"closed\":5,\"held\":0,\"opened\":5}\n"),
        "{}",
        hold.stdout()
    );
}

#[tokio::test]
async fn nothing_is_left_when_a_lab_is_dropped() {
    let lab = Lab::bare(options()).unwrap();
    let web = lab.workload(bare("web")).await.unwrap();
    let grandparent = web
        .spawn(&["sh", "-c", "sleep 1000 & echo $!; wait"])
        .unwrap();
    grandparent.says("\n").await.unwrap();
    let child = grandparent.stdout().trim().to_owned();
    let directory = lab.directory().to_owned();
    assert!(Path::new("/proc").join(&child).exists());
    drop((lab, web, grandparent));
    assert_gone(&[child], &directory).await;
}

#[tokio::test]
async fn nothing_is_left_when_the_process_of_a_lab_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_lab_that_gets_killed", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let left = lines
        .find_map(|line| line.unwrap().strip_prefix("victim: ").map(str::to_owned))
        .unwrap();
    let mut left = left.split(' ').map(str::to_owned);
    let directory = left.next().unwrap();
    let processes: Vec<String> = left.collect();
    assert_eq!(processes.len(), 2);
    for pid in &processes {
        assert!(Path::new("/proc").join(pid).exists());
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_gone(&processes, Path::new(&directory)).await;
}

/// Not a test by itself: the other half of the one above.
#[tokio::test]
async fn the_lab_that_gets_killed() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let lab = Lab::bare(options()).unwrap();
    let web = lab.workload(bare("web")).await.unwrap();
    let process = web
        .spawn(&["sh", "-c", "sleep 1000 & echo $!; wait"])
        .unwrap();
    process.says("\n").await.unwrap();
    println!(
        "\nvictim: {} {} {}",
        lab.directory().display(),
        process.pid(),
        process.stdout().trim()
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_program_that_cannot_run_says_why() {
    let lab = Lab::bare(options()).unwrap();
    let web = lab.workload(bare("web")).await.unwrap();
    let output = web.exec(&["/no/such/program"]).await.unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(
        output
            .stderr
            .starts_with("kith: cannot run /no/such/program: No such file"),
        "{output:?}"
    );
}

#[tokio::test]
async fn the_authority_and_the_control_plane_can_be_killed_and_started_again() {
    let lab = Lab::new(options()).await.unwrap();
    let before = lab
        .authority()
        .command(&json!({"command": "bundle"}))
        .await
        .unwrap();
    for part in [&**lab.authority(), &**lab.control()] {
        part.kill();
        part.restart().unwrap();
    }
    lab.authority()
        .ready(Duration::from_secs(10))
        .await
        .unwrap();
    lab.control().ready(Duration::from_secs(10)).await.unwrap();
    let after = lab
        .authority()
        .command(&json!({"command": "bundle"}))
        .await
        .unwrap();
    assert_eq!(before, after, "the same authority as before");
}

#[tokio::test]
async fn a_policy_that_cannot_be_understood_is_refused_with_its_place() {
    let lab = Lab::new(options()).await.unwrap();
    let error = lab
        .apply(
            "broken",
            "apiVersion: kith.dev/v1alpha1\nkind: Nonsense\nmetadata: {}\n",
        )
        .await
        .unwrap_err();
    assert!(error.to_string().contains("broken.yaml"), "{error}");
    lab.withdraw("broken").await.unwrap();
}

#[tokio::test]
async fn an_authority_says_why_it_refuses() {
    let lab = Lab::new(options()).await.unwrap();
    let error = lab
        .authority()
        .command(&json!({"command": "sing"}))
        .await
        .unwrap_err();
    assert!(
        error.to_string().starts_with("authority: not a command"),
        "{error}"
    );
}

async fn assert_gone(processes: &[String], directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let alive: Vec<_> = processes
            .iter()
            .filter(|pid| Path::new("/proc").join(pid).exists())
            .collect();
        if alive.is_empty() && !directory.exists() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "still there: {alive:?}, {}: {}",
            directory.display(),
            directory.exists()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
