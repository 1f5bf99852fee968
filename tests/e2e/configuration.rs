//! What a sidecar and the control plane are told: mistakes are named, all at once, and what was good stays in force.

mod admin;
mod resources;

use std::time::Duration;

use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wait::wait_for;
use kith_tests::wire;
use tokio::net::TcpStream;

const HTTP: &[(u16, &str)] = &[(8080, "HTTP")];

fn kith() -> String {
    kith::lab::privileges::kith_binary()
        .unwrap()
        .display()
        .to_string()
}

/// A command line with variables in front of it, in a workload without a sidecar.
async fn run(
    workload: &Workload,
    environment: &[(&str, &str)],
    program: &[&str],
) -> (Option<i32>, String, String) {
    let variables: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let command: Vec<&str> = ["timeout", "10", "env"]
        .into_iter()
        .chain(variables.iter().map(String::as_str))
        .chain(program.iter().copied())
        .collect();
    let output = workload.exec(&command).await.unwrap();
    (output.status.code(), output.stdout, output.stderr)
}

const COMPLETE: [(&str, &str); 4] = [
    (
        "SPIFFE_ENDPOINT_SOCKET",
        "unix:///nowhere/workload-api.sock",
    ),
    ("KITH_XDS_ADDRESS", "https://127.0.0.1:15010"),
    ("KITH_XDS_SPIFFE_ID", "spiffe://example.org/control"),
    ("KITH_NODE_ID", "shop/web"),
];

#[tokio::test]
async fn a_start_that_cannot_succeed_says_everything_that_is_wrong_in_few_lines() {
    let lab = Lab::bare(LabOptions::default()).unwrap();
    let machine = lab
        .workload(WorkloadSpec::new("shop", "machine").without_sidecar())
        .await
        .unwrap();
    let proxy = [&kith(), "__proxy", "run"];

    // All mistakes at once, exit code 2.
    let wrong = [
        ("SPIFFE_ENDPOINT_SOCKET", "/run/spire.sock"),
        ("KITH_XDS_ADDRESS", "http://control:15010"),
        ("KITH_NODE_ID", "web"),
        ("KITH_WORKERS", "0"),
        ("KITH_EXPIRY_GRACE", "30"),
        ("KITH_ADMIN_LISTEN", "0.0.0.0:15000"),
        ("KITH_ACESS_LOG", "stdout"),
        ("KITH_OUTBOUND_LISTEN", "[::]:15006"),
    ];
    let (code, _, stderr) = run(&machine, &wrong, &proxy).await;
    assert_eq!(code, Some(2), "{stderr}");
    for name in wrong
        .map(|(name, _)| name)
        .iter()
        .chain(&["KITH_XDS_SPIFFE_ID", "KITH_ACCESS_LOG"])
    {
        assert!(stderr.contains(name), "{name} is not in\n{stderr}");
    }
    assert_eq!(
        stderr.lines().count(),
        10,
        "one line for each, and one before them:\n{stderr}"
    );

    // Where there is nothing wrong with the words, but with the world: one line, exit code 1.
    let one_line =
        |what: &str, (code, stdout, stderr): (Option<i32>, String, String), parts: &[&str]| {
            println!("{what}: {}", stderr.trim_end());
            let last = stderr.lines().last().unwrap_or_default();
            assert_eq!(code, Some(1), "{what}: {stdout}{stderr}");
            assert!(
                parts.iter().all(|part| last.contains(part)),
                "{what}: {parts:?} in {stderr}"
            );
            assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
        };
    let _taken = machine
        .app(&["tcp", "--listen", "[::]:15006"])
        .await
        .unwrap();
    let taken = run(&machine, &COMPLETE, &proxy).await;
    one_line(
        "port in use",
        taken,
        &["KITH_INBOUND_LISTEN", "15006", "in use"],
    );
    let with = |more: &[(&'static str, &'static str)]| {
        [
            &COMPLETE[..],
            &[("KITH_INBOUND_LISTEN", "[::]:16006")],
            more,
        ]
        .concat()
    };
    let health = run(
        &machine,
        &with(&[("KITH_HEALTH_LISTEN", "[::1]:15006")]),
        &proxy,
    )
    .await;
    one_line(
        "health port in use",
        health,
        &["KITH_HEALTH_LISTEN", "15006", "in use"],
    );
    let log = run(
        &machine,
        &with(&[("KITH_ACCESS_LOG", "/nowhere/log")]),
        &proxy,
    )
    .await;
    one_line(
        "no place for records",
        log,
        &["KITH_ACCESS_LOG", "/nowhere/log"],
    );

    // As nobody in particular: no capability.
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ];
    if kith::lab::privileges::can_switch_users() {
        let capture = run(
            &machine,
            &[],
            &[
                &nobody[..],
                &[&kith(), "__proxy", "capture", "--uid", "1337"],
            ]
            .concat(),
        )
        .await;
        one_line("capture without NET_ADMIN", capture, &["NET_ADMIN"]);
        let marked = with(&[("KITH_SOCKET_MARK", "1")]);
        let mark = run(&machine, &marked, &[&nobody[..], &proxy].concat()).await;
        one_line(
            "mark without NET_ADMIN",
            mark,
            &["KITH_SOCKET_MARK", "NET_ADMIN"],
        );
    }
    // Hidden from this command alone, which has a mount namespace of its own.
    let hide = r#"mount -t tmpfs none "$(dirname "$(readlink -f "$(command -v nft)")")" && PATH=/usr/sbin:/usr/bin exec "$0" __proxy capture"#;
    let no_nft = run(&machine, &[], &["sh", "-c", hide, &kith()]).await;
    one_line("no nft", no_nft, &["nft", "nftables"]);
}

#[tokio::test]
async fn row_22_a_sidecar_that_reaches_nobody_lets_nobody_through_keeps_trying_and_becomes_ready() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let later = lab.directory().join("later.sock");
    let no_api = WorkloadSpec::new("shop", "no-api").env(
        "SPIFFE_ENDPOINT_SOCKET",
        &format!("unix://{}", later.display()),
    );
    let no_api = lab.start_workload(no_api).await.unwrap();
    let why = wait_for("the reason", Duration::from_secs(10), || async {
        let reply = no_api.health("/ready").await.ok()?;
        (reply.status == 503 && reply.text().contains("No such file")).then(|| reply.text())
    })
    .await;
    println!("{why}");
    assert!(
        why.contains("waiting svid: no SVID yet") && why.contains("later.sock"),
        "{why}"
    );
    assert!(
        no_api.sidecar().stderr().contains("later.sock"),
        "{}",
        no_api.sidecar().stderr()
    );
    // Before it knows who it is, it lets nobody through.
    // It waits a little for that.
    let denied = no_api.enter(|| async {
        let mut stream = TcpStream::connect("10.75.0.1:80").await.unwrap();
        wire::say(
            &mut stream,
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            Duration::from_secs(8),
        )
        .await
    });
    lab.control().kill();
    let no_control = lab
        .start_workload(WorkloadSpec::new("shop", "no-control"))
        .await
        .unwrap();
    let denied = denied.await.unwrap();
    assert_eq!(denied.statuses(), [503], "{denied:?}");
    assert!(
        denied.text().contains("x-kith-reason: no-configuration"),
        "{}",
        denied.text()
    );
    no_api
        .wait_record(|record| {
            record["reason"] == "no-configuration" && record["decision"] == "deny"
        })
        .await
        .unwrap();
    let why = wait_for("the reason", Duration::from_secs(10), || async {
        let reply = no_control.health("/ready").await.ok()?;
        (reply.status == 503 && reply.text().contains("refused")).then(|| reply.text())
    })
    .await;
    println!("{why}");
    assert!(
        why.contains("ok      svid:") && why.contains("not connected to https://"),
        "{why}"
    );

    lab.authority()
        .add_entry(&no_api.spiffe_id(), &later)
        .await
        .unwrap();
    lab.control().restart().unwrap();
    tokio::join!(
        async { no_api.ready(Duration::from_secs(20)).await.unwrap() },
        async {
            no_control.ready(Duration::from_secs(20)).await.unwrap();
        }
    );
}

#[tokio::test]
async fn who_is_not_who_was_expected_gets_nothing() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let wrong_control = lab
        .start_workload(WorkloadSpec::new("shop", "web").env(
            "KITH_XDS_SPIFFE_ID",
            "spiffe://example.org/ns/kith-system/sa/other",
        ))
        .await
        .unwrap();
    let thief = lab
        .start_workload(WorkloadSpec::new("shop", "thief").env("KITH_NODE_ID", "shop/web"))
        .await
        .unwrap();
    let reason = |workload: std::sync::Arc<Workload>, part: &'static str| async move {
        wait_for(part, Duration::from_secs(10), || async {
            let reply = workload.health("/ready").await.ok()?;
            (reply.status == 503 && reply.text().contains(part))
                .then(|| println!("{}", reply.text()))
        })
        .await;
    };
    tokio::join!(
        reason(wrong_control, "sa/control"),
        reason(thief, "shop/web")
    );
    let status = lab.control().status().await.unwrap();
    assert_eq!(status["sidecars"], serde_json::json!([]), "{status:#}");
}

#[tokio::test]
async fn a_folder_with_a_mistake_is_refused_with_its_place_and_the_last_good_stays() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let folder = shop.lab.control().files().display().to_string();
    let check = || async { run(&shop.web, &[], &[&kith(), "__control", "check", &folder]).await };
    let (code, stdout, _) = check().await;
    assert_eq!(code, Some(0));
    assert!(
        stdout.contains("2 workloads, 1 service, 1 authorization policy"),
        "{stdout}"
    );

    let broken = WEB_MAY_ALL.replace("principals: [", "principal: [");
    let error = shop
        .lab
        .apply("policies", &broken)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("policies.yaml")
            && error.contains("\"line\":8")
            && error.contains("principal"),
        "{error}"
    );
    assert_eq!(shop.get("/", &[]).await.status, 200, "the last good state");
    let (code, _, stderr) = check().await;
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("policies.yaml:8") && stderr.contains("1 problem"),
        "{stderr}"
    );
    let (code, _, stderr) = run(&shop.web, &[], &[&kith(), "__control", "check", "/nowhere"]).await;
    assert_eq!(code, Some(2), "{stderr}");

    shop.lab.apply("policies", WEB_MAY_ALL).await.unwrap();
    assert_eq!(check().await.0, Some(0));
}
