//! Envoy as mTLS client of a Kith inbound.

use std::sync::Arc;

use kith::app::client::{Call, Reply};
use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};
use serde_json::{Value, json};

use crate::envoy::{client_tls, cluster, listener, start, tcp_listener, to_cluster};
use crate::expect;
use crate::partner::{Svid, allow};

const WELCOME: &str = "ns/partners/sa/welcome";
const UNWELCOME: &str = "ns/partners/sa/unwelcome";

struct Scene {
    lab: Lab,
    orders: Arc<Workload>,
    partner: Arc<Workload>,
    welcome: Svid,
    unwelcome: Svid,
    _applications: Vec<Process>,
}

/// `orders` behind a sidecar, which lets one partner in, and a workload for that partner's Envoy.
async fn scene(options: LabOptions) -> Scene {
    let lab = Lab::new(options).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "orders")
            .port(8080, "HTTP")
            .port(8081, "HTTP2")
            .port(7000, "TCP")
            .port(8083, ""),
        WorkloadSpec::new("partners", "envoy")
            .without_sidecar()
            .unannounced(),
    ];
    let [orders, partner] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    let welcome = Svid::issue(&lab, &partner, WELCOME).await;
    let unwelcome = Svid::issue(&lab, &partner, UNWELCOME).await;
    lab.apply("orders", &allow("orders", &[&welcome.id]))
        .await
        .unwrap();
    let mut applications = Vec::new();
    for port in ["8080", "8081", "8083"] {
        applications.push(
            orders
                .app(&[
                    "http",
                    "--name",
                    "orders",
                    "--listen",
                    &format!("[::]:{port}"),
                ])
                .await
                .unwrap(),
        );
    }
    applications.push(
        orders
            .app(&["tcp", "--listen", "[::]:7000", "--greeting", "hello"])
            .await
            .unwrap(),
    );
    Scene {
        lab,
        orders,
        partner,
        welcome,
        unwelcome,
        _applications: applications,
    }
}

impl Scene {
    /// One listener of Envoy on loopback for each way in: (port, SVID, port of orders, HTTP/2).
    async fn envoy(&self, ways: &[(u16, &Svid, u16, bool)]) -> Process {
        let server = self.orders.addresses.v4.to_string();
        let mut listeners = Vec::new();
        let mut clusters = Vec::new();
        for (port, svid, target, http2) in ways {
            let name = format!("orders-{port}");
            let alpn: &[&str] = if *http2 { &["h2"] } else { &["http/1.1"] };
            let tls = client_tls(svid, &self.orders.spiffe_id(), alpn);
            listeners.push(listener("127.0.0.1", *port, &to_cluster(&name), None));
            clusters.push(cluster(&name, &server, *target, Some(tls), *http2));
        }
        start(&self.partner, listeners, clusters).await
    }

    async fn get(&self, port: u16, path: &str) -> Reply {
        self.partner
            .get(&format!("http://127.0.0.1:{port}{path}"))
            .await
            .unwrap()
    }

    async fn record(&self, path: &str) -> Value {
        self.orders
            .wait_record(|record| record["http.path"] == path)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn envoy_as_client_is_authenticated_and_allowed_by_principal() {
    let scene = scene(LabOptions::default()).await;
    let ways = [
        (9001, &scene.welcome, 8080, false),
        (9002, &scene.welcome, 8081, true),
        (9003, &scene.welcome, 8083, true),
    ];
    let _envoy = scene.envoy(&ways).await;
    for (port, path, version, target) in [
        (9001, "/one", "1.1", 8080),
        (9002, "/two", "2", 8081),
        (9003, "/undeclared", "2", 8083),
    ] {
        let reply = scene.get(port, path).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let told = reply.json()["headers"]["x-forwarded-client-cert"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            told.contains(&format!("URI={}", scene.welcome.id)),
            "what the application was told: {told:?}"
        );
        let record = scene.record(path).await;
        expect::fields(
            &record,
            &json!({
                "record": "request", "direction": "inbound",
                "decision": "allow", "reason": "allowed-by-rule", "policy": "shop/to-orders", "rule": 0,
                "source.principal": scene.welcome.id, "destination.principal": scene.orders.spiffe_id(),
                "destination.port": target, "http.version": version, "http.status": 200, "tls.version": "TLSv1.3", "tls.group": "X25519MLKEM768",
            }),
        );
        assert!(
            record["hop"].is_string() && record["source.serial"].is_string(),
            "{record:#}"
        );
    }
}

#[tokio::test]
async fn envoy_as_client_is_denied_by_principal() {
    let scene = scene(LabOptions::default()).await;
    let _envoy = scene
        .envoy(&[
            (9001, &scene.unwelcome, 8080, false),
            (9002, &scene.unwelcome, 8081, true),
        ])
        .await;
    for (port, path, version) in [(9001, "/one", "1.1"), (9002, "/two", "2")] {
        let reply = scene.get(port, path).await;
        assert_eq!(
            (reply.status, reply.header("x-kith-reason")),
            (403, Some("no-allow-policy-matches")),
            "{}",
            reply.text()
        );
        expect::fields(
            &scene.record(path).await,
            &json!({
                "decision": "deny", "reason": "no-allow-policy-matches", "policy": null,
                "nearest.policy": "shop/to-orders", "source.principal": scene.unwelcome.id,
                "http.version": version, "http.status": 403,
            }),
        );
    }
}

#[tokio::test]
async fn envoy_passes_bodies_of_many_megabytes_both_ways() {
    let scene = scene(LabOptions::default()).await;
    let _envoy = scene
        .envoy(&[
            (9001, &scene.welcome, 8080, false),
            (9002, &scene.welcome, 8081, true),
        ])
        .await;
    let body = "0123456789abcdef".repeat(512 * 1024);
    for port in [9001, 9002] {
        let mut call = Call::get(format!("http://127.0.0.1:{port}/echo").parse().unwrap());
        call.method = Some("POST".to_owned());
        call.data = Some(body.clone());
        let reply = scene.partner.call(call).await.unwrap();
        assert_eq!(
            (reply.status, reply.text().len()),
            (200, body.len()),
            "through port {port}"
        );
        assert!(
            reply.text() == body,
            "through port {port} the body came back changed"
        );
    }
}

#[tokio::test]
async fn envoy_carries_opaque_tcp_to_a_kith_inbound() {
    let scene = scene(LabOptions::default()).await;
    let tls = client_tls(&scene.welcome, &scene.orders.spiffe_id(), &[]);
    let orders = cluster(
        "orders",
        &scene.orders.addresses.v4.to_string(),
        7000,
        Some(tls),
        false,
    );
    let _envoy = start(
        &scene.partner,
        vec![tcp_listener("127.0.0.1", 9007, "orders", None)],
        vec![orders],
    )
    .await;
    let kith = kith::lab::privileges::kith_binary().unwrap();
    let held = [
        kith.to_str().unwrap(),
        "__app",
        "hold",
        "127.0.0.1:9007",
        "--say",
        "ping",
        "--seconds",
        "0.5",
    ];
    let output = scene.partner.exec(&held).await.unwrap();
    assert!(output.stdout.contains("\"opened\":1"), "{output:?}");
    let record = scene
        .orders
        .wait_record(|record| record["record"] == "connection" && record["bytes.in"] != 0)
        .await
        .unwrap();
    expect::fields(
        &record,
        &json!({"decision": "allow", "source.principal": scene.welcome.id, "destination.port": 7000, "reason": "allowed-by-rule"}),
    );
}

/// Envoy can't renew a lease: Kith ends its connections in good order, and nothing may be lost over that.
#[tokio::test]
async fn no_request_of_envoys_fails_when_its_connections_run_out_of_lease() {
    let ttl = std::time::Duration::from_secs(4);
    let scene = scene(LabOptions {
        svid_ttl: ttl,
        ..LabOptions::default()
    })
    .await;
    let _envoy = scene
        .envoy(&[
            (9001, &scene.welcome, 8080, false),
            (9002, &scene.welcome, 8081, true),
        ])
        .await;
    let load = |port: u16| {
        let url = format!("http://127.0.0.1:{port}/load");
        let partner = scene.partner.clone();
        async move {
            let kith = kith::lab::privileges::kith_binary().unwrap();
            let load = [
                kith.to_str().unwrap(),
                "__app",
                "load",
                &url,
                "--seconds",
                "12",
                "--rate",
                "100",
                "--connections",
                "4",
                "--json",
            ];
            partner.exec(&load).await.unwrap()
        }
    };
    let (one, two) = tokio::join!(load(9001), load(9002));
    for output in [one, two] {
        let report = output.json();
        assert_eq!(report["failed"], 0, "{output:?}");
        assert!(report["ok"].as_u64() > Some(1_000), "{output:?}");
    }
    // At least three generations of connections, each by the exporter id before the request's ordinal.
    for version in ["1.1", "2"] {
        let hops: std::collections::BTreeSet<String> = scene
            .orders
            .records()
            .iter()
            .filter(|record| record["http.version"] == version)
            .filter_map(|record| Some(record["hop"].as_str()?.split_once('-')?.0.to_owned()))
            .collect();
        assert!(hops.len() >= 3, "HTTP/{version}: connections {hops:?}");
    }
}

#[tokio::test]
async fn a_policy_edit_ends_what_envoy_may_do_at_once() {
    let scene = scene(LabOptions::default()).await;
    let _envoy = scene
        .envoy(&[
            (9001, &scene.welcome, 8080, false),
            (9002, &scene.welcome, 8081, true),
        ])
        .await;
    for port in [9001, 9002] {
        assert_eq!(scene.get(port, "/before").await.status, 200);
    }
    scene
        .lab
        .apply(
            "orders",
            &allow("orders", &["spiffe://example.org/ns/shop/sa/nobody"]),
        )
        .await
        .unwrap();
    for port in [9001, 9002] {
        let reply = scene.get(port, "/after").await;
        assert_eq!(
            (reply.status, reply.header("x-kith-reason")),
            (403, Some("no-allow-policy-matches")),
            "port {port}"
        );
    }
}
