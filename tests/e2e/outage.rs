//! The control plane, the authority or a sidecar goes away, or stands still: traffic goes on as long as it may, and
//! everything is current again once they are back.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use kith::lab::{Lab, LabOptions, Process, WorkloadSpec};
use kith_tests::app::App;
use kith_tests::metrics::Metrics;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::time::time;
use kith_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::sleep;

const HTTP: &[(u16, &str)] = &[(8080, "HTTP")];

/// As [`WEB_MAY_ALL`], and nobody may see `/secret`.
const NO_SECRETS: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: no-secrets}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/secret]}}]
";

/// New connections and kept ones, until it is told to stop.
struct Load(Process);

impl Load {
    async fn start(shop: &Shop) -> Self {
        let url = "http://orders.shop:8080/load";
        let load = [
            "load",
            url,
            "--rate",
            "100",
            "--connections",
            "4",
            "--seconds",
            "120",
            "--json",
        ];
        Self(shop.web.app(&load).await.unwrap())
    }

    /// How many requests there were, none of which failed.
    async fn stop(self) -> u64 {
        self.0.stop(Duration::from_secs(5)).await.unwrap();
        let report: Value = serde_json::from_str(&self.0.stdout()).unwrap();
        assert_eq!(report["failed"], 0, "{report}");
        report["ok"].as_u64().unwrap()
    }
}

async fn status(shop: &Shop, path: &str) -> u16 {
    shop.get(path, &[]).await.status
}

/// Asks on new connections, for as long.
async fn asks_succeed_for(shop: &Shop, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert_eq!(status(shop, "/new").await, 200);
        sleep(Duration::from_millis(50)).await;
    }
}

async fn connected(shop: &Shop) -> bool {
    Metrics::of(&shop.orders)
        .await
        .sum("kith_xds_connected", &[])
        == 1.0
}

#[tokio::test]
async fn without_its_control_plane_a_sidecar_goes_on_and_follows_it_once_it_is_back() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let control = shop.lab.control();
    assert_eq!(status(&shop, "/secret").await, 200);
    let load = Load::start(&shop).await;

    control.kill();
    wait_for("the loss to be seen", Duration::from_secs(5), || async {
        (!connected(&shop).await).then_some(())
    })
    .await;
    let ready = shop.orders.health("/ready").await.unwrap();
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert!(
        ready.text().contains("not connected to https://"),
        "{}",
        ready.text()
    );
    asks_succeed_for(&shop, Duration::from_secs(2)).await;
    control.write("secrets", NO_SECRETS).unwrap();
    control.restart().unwrap();
    let start = Instant::now();
    wait_for("the new policy", Duration::from_secs(20), || async {
        (status(&shop, "/secret").await == 403).then_some(())
    })
    .await;
    println!(
        "killed and started again: the new policy was in force {:?} after the start",
        start.elapsed()
    );
    wait_for("the connection", Duration::from_secs(20), || async {
        connected(&shop).await.then_some(())
    })
    .await;

    // A control plane that says nothing is as good as none.
    control.signal(Signal::STOP).unwrap();
    control.remove("secrets").unwrap();
    asks_succeed_for(&shop, Duration::from_secs(2)).await;
    assert_eq!(status(&shop, "/secret").await, 403);
    control.signal(Signal::CONT).unwrap();
    let start = Instant::now();
    wait_for("the policy to go", Duration::from_secs(20), || async {
        (status(&shop, "/secret").await == 200).then_some(())
    })
    .await;
    println!("frozen and thawed: in force after {:?}", start.elapsed());
    println!("{} requests, 0 failed", load.stop().await);
}

#[tokio::test]
async fn a_sidecar_that_is_killed_comes_back_without_the_control_plane_with_what_was_last_good() {
    let policies = format!("{WEB_MAY_ALL}---{NO_SECRETS}");
    let shop = Shop::open(HTTP, &policies).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    assert_eq!(
        (status(&shop, "/").await, status(&shop, "/secret").await),
        (200, 403)
    );
    let revision =
        shop.orders.admin("/config").await.unwrap().json()["in_force"]["revision"].clone();

    // What is held is written down once a second.
    sleep(Duration::from_millis(1200)).await;
    shop.lab.control().kill();
    for workload in [&shop.orders, &shop.web] {
        workload.sidecar().kill();
        workload.sidecar().restart().unwrap();
        workload.ready(Duration::from_secs(10)).await.unwrap();
    }
    let config = shop.orders.admin("/config").await.unwrap().json();
    assert_eq!(
        (
            &config["in_force"]["revision"],
            &config["control_plane"]["connected"]
        ),
        (&revision, &false.into()),
        "{config}"
    );
    assert_eq!(
        (status(&shop, "/").await, status(&shop, "/secret").await),
        (200, 403)
    );
    let (_, denied) = kith_tests::expect::ends(&shop.web, &shop.orders, |record| {
        record["http.path"] == "/secret" && record["revision"] == revision
    })
    .await;
    assert_eq!(
        (&denied["reason"], &denied["policy"]),
        (&"denied-by-rule".into(), &"shop/no-secrets".into())
    );

    shop.lab.control().restart().unwrap();
    shop.lab
        .control()
        .ready(Duration::from_secs(10))
        .await
        .unwrap();
    wait_for("the connection", Duration::from_secs(20), || async {
        connected(&shop).await.then_some(())
    })
    .await;
    shop.lab.withdraw("policies").await.unwrap();
    assert_eq!(
        status(&shop, "/").await,
        403,
        "what the control plane says now"
    );
}

/// Until the SVIDs run out nothing fails; then everything is denied by that name; then all is well again.
async fn authority_goes_and_comes_back(go: impl FnOnce(&Shop), come_back: impl FnOnce(&Shop)) {
    let options = LabOptions {
        svid_ttl: Duration::from_secs(6),
        ..LabOptions::default()
    };
    let shop = Shop::with(options, HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let load = Load::start(&shop).await;
    asks_succeed_for(&shop, Duration::from_millis(500)).await;
    go(&shop);
    sleep(Duration::from_millis(200)).await;
    let mut expiries = Vec::new();
    for workload in [&shop.web, &shop.orders] {
        expiries.push(time(
            &workload.admin("/certs").await.unwrap().json()["svids"][0]["not_after"],
        ));
    }
    let first = expiries
        .iter()
        .min()
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap();
    // Connections are given up a second before their lease ends.
    asks_succeed_for(&shop, first.saturating_sub(Duration::from_millis(1500))).await;
    println!("{} requests without authority, 0 failed", load.stop().await);
    let last = *expiries.iter().max().unwrap();
    sleep(last.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(300))
        .await;

    let reply = shop.get("/expired", &[]).await;
    assert_eq!(
        reply.header("x-kith-reason"),
        Some("svid-expired"),
        "{} {}",
        reply.status,
        reply.text()
    );
    let record = shop
        .web
        .wait_record(|record| record["http.path"] == "/expired")
        .await
        .unwrap();
    assert_eq!(
        (&record["decision"], &record["reason"]),
        (&"deny".into(), &"svid-expired".into()),
        "{record}"
    );
    for workload in [&shop.web, &shop.orders] {
        let why = workload.not_ready(Duration::from_secs(3)).await.unwrap();
        assert!(why.contains("svid"), "{why}");
    }

    come_back(&shop);
    let start = Instant::now();
    wait_for("an answer", Duration::from_secs(20), || async {
        (status(&shop, "/again").await == 200).then_some(())
    })
    .await;
    println!("back: the first answer after {:?}", start.elapsed());
    for workload in [&shop.web, &shop.orders] {
        workload.ready(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn without_the_authority_nothing_fails_until_svids_expire_and_all_is_well_after_its_return() {
    let kill = |shop: &Shop| shop.lab.authority().kill();
    authority_goes_and_comes_back(kill, |shop| shop.lab.authority().restart().unwrap()).await;
}

#[tokio::test]
async fn a_frozen_authority_is_no_worse_than_none() {
    let freeze = |shop: &Shop| shop.lab.authority().signal(Signal::STOP).unwrap();
    authority_goes_and_comes_back(freeze, |shop| {
        shop.lab.authority().signal(Signal::CONT).unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_control_plane_with_several_addresses_is_found_behind_those_that_do_not_answer() {
    const NAME: &str = "kith-control.kith-system.svc";
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let frozen = WorkloadSpec::new("kith-system", "frozen")
        .without_sidecar()
        .unannounced();
    let frozen = lab.workload(frozen).await.unwrap();
    // It accepts and says nothing, as a replica on a node that hangs.
    let _silent = App::listen(&frozen, 15010, |stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let control = "10.75.0.2";
    let hosts = lab.directory().join("hosts");
    let mut hosts = std::fs::OpenOptions::new()
        .append(true)
        .open(hosts)
        .unwrap();
    let addresses = [
        frozen.addresses.v4.to_string(),
        frozen.addresses.v6.to_string(),
        control.to_owned(),
    ];
    for address in addresses {
        writeln!(hosts, "{address} {NAME}").unwrap();
    }
    let web =
        WorkloadSpec::new("shop", "web").env("KITH_XDS_ADDRESS", &format!("https://{NAME}:15010"));
    let web = lab.start_workload(web).await.unwrap();
    web.ready(Duration::from_secs(9)).await.unwrap();
    let text = web.health("/ready").await.unwrap().text();
    assert!(
        text.contains(&format!("connected to https://{NAME}:15010")),
        "{text}"
    );
}

#[tokio::test]
async fn a_control_plane_without_an_address_is_named_with_what_to_look_at() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let web =
        WorkloadSpec::new("shop", "web").env("KITH_XDS_ADDRESS", "https://nobody.invalid:15010");
    let web = lab.start_workload(web).await.unwrap();
    let why = wait_for("the reason", Duration::from_secs(20), || async {
        let text = web.health("/ready").await.ok()?.text();
        text.contains("has no address").then_some(text)
    })
    .await;
    assert!(
        why.contains("nobody.invalid:15010") && why.contains("/etc/resolv.conf"),
        "{why}"
    );
    // The next look-up is under way, or soon; the end of a pod does not wait for it.
    sleep(Duration::from_secs(2)).await;
    let status = web.sidecar().stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(status.code(), Some(0));
}
