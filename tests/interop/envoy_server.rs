//! Envoy as mTLS server of a Kith outbound.

use std::sync::Arc;

use kith::app::client::{Call, Reply};
use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};
use serde_json::json;

use crate::envoy::{cluster, listener, server_tls, start, tcp_listener};
use crate::expect;
use crate::partner::Svid;

const LEDGER: &str = "ns/partners/sa/ledger";

/// HTTP/1.1, HTTP/2 and bytes; and a port that takes only a client who isn't there.
const PORTS: [(u16, &str); 4] = [
    (8080, "HTTP"),
    (8081, "HTTP2"),
    (7000, "TCP"),
    (8088, "HTTP"),
];

struct Scene {
    lab: Lab,
    web: Arc<Workload>,
    ledger: Arc<Workload>,
    svid: Svid,
    _processes: Vec<Process>,
}

/// `web` with a sidecar; `ledger`, part of the mesh, whose proxy is Envoy.
async fn scene(options: LabOptions) -> Scene {
    let lab = Lab::new(options).await.unwrap();
    let mut spec = WorkloadSpec::new("partners", "ledger").without_sidecar();
    spec.announced = false;
    let spec = PORTS
        .iter()
        .fold(spec, |spec, (port, protocol)| spec.port(*port, protocol));
    let [web, ledger] = <[_; 2]>::try_from(
        lab.workloads([WorkloadSpec::new("shop", "web"), spec])
            .await
            .unwrap(),
    )
    .unwrap();
    let svid = Svid::issue(&lab, &ledger, LEDGER).await;

    let who = json!({
        "match": {"path": "/who"},
        "direct_response": {"status": 200, "body": {"inline_string": "envoy"}},
        "response_headers_to_add": [
            {"header": {"key": "x-client", "value": "%DOWNSTREAM_PEER_URI_SAN%"}},
            {"header": {"key": "x-tls", "value": "%DOWNSTREAM_TLS_VERSION%"}},
            {"header": {"key": "x-protocol", "value": "%PROTOCOL%"}},
        ],
    });
    let routes = json!([who, {"match": {"prefix": "/"}, "route": {"cluster": "app"}}]);
    let tls = |expected: &str| Some(server_tls(&svid, expected, &["h2", "http/1.1"]));
    let listeners = vec![
        listener("0.0.0.0", 8080, &routes, tls(&web.spiffe_id())),
        listener("0.0.0.0", 8081, &routes, tls(&web.spiffe_id())),
        tcp_listener("0.0.0.0", 7000, "echo", tls(&web.spiffe_id())),
        listener(
            "0.0.0.0",
            8088,
            &routes,
            tls("spiffe://example.org/ns/shop/sa/somebody-else"),
        ),
    ];
    let clusters = vec![
        cluster("app", "127.0.0.1", 9000, None, false),
        cluster("echo", "127.0.0.1", 9001, None, false),
    ];
    let processes = vec![
        ledger
            .app(&["http", "--name", "ledger", "--listen", "127.0.0.1:9000"])
            .await
            .unwrap(),
        ledger
            .app(&["tcp", "--listen", "127.0.0.1:9001", "--greeting", "hello"])
            .await
            .unwrap(),
        start(&ledger, listeners, clusters).await,
    ];
    let scene = Scene {
        lab,
        web,
        ledger,
        svid,
        _processes: processes,
    };
    scene.announce(&scene.svid.id).await;
    scene
}

impl Scene {
    /// Tells the mesh what `ledger` has to prove.
    async fn announce(&self, id: &str) {
        let workload = json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
            "metadata": {"namespace": "partners", "name": "ledger", "labels": {"app": "ledger"}},
            "spec": {
                "serviceAccount": "ledger", "spiffeId": id, "addresses": self.ledger.addresses.both(), "mesh": true,
                "ports": PORTS.map(|(port, protocol)| json!({"port": port, "protocol": protocol})),
            },
        });
        self.lab
            .apply("ledger", &format!("{workload:#}\n"))
            .await
            .unwrap();
    }

    async fn get(&self, port: u16, path: &str) -> Reply {
        let mut call = Call::get(
            format!("http://ledger.partners:{port}{path}")
                .parse()
                .unwrap(),
        );
        call.http2 = port == 8081;
        self.web.call(call).await.unwrap()
    }
}

#[tokio::test]
async fn envoy_as_server_is_authenticated_and_sees_who_calls() {
    let scene = scene(LabOptions::default()).await;
    for (port, version, protocol) in [(8080, "1.1", "HTTP/1.1"), (8081, "2", "HTTP/2")] {
        let reply = scene.get(port, "/who").await;
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "envoy"),
            "port {port}"
        );
        let saw = ["x-client", "x-tls", "x-protocol"]
            .map(|name| reply.header(name).unwrap_or_default().to_owned());
        assert_eq!(
            saw,
            [
                scene.web.spiffe_id(),
                "TLSv1.3".to_owned(),
                protocol.to_owned()
            ]
        );
        let record = scene
            .web
            .wait_record(|record| record["destination.port"] == port)
            .await
            .unwrap();
        expect::fields(
            &record,
            &json!({
                "record": "request", "direction": "outbound", "decision": "allow", "http.version": version,
                "http.status": 200, "http.path": "/who", "destination.service": "partners/ledger",
                "source.principal": scene.web.spiffe_id(), "destination.principal": scene.svid.id,
                "tls.version": "TLSv1.3", "tls.group": "X25519MLKEM768",
            }),
        );
        assert!(record["hop"].is_string(), "{record:#}");
    }
}

#[tokio::test]
async fn envoy_as_server_gets_and_sends_bodies_of_many_megabytes() {
    let scene = scene(LabOptions::default()).await;
    let body = "0123456789abcdef".repeat(512 * 1024);
    for port in [8080, 8081] {
        let mut call = Call::get(
            format!("http://ledger.partners:{port}/echo")
                .parse()
                .unwrap(),
        );
        (call.http2, call.method, call.data) =
            (port == 8081, Some("POST".to_owned()), Some(body.clone()));
        let reply = scene.web.call(call).await.unwrap();
        assert_eq!(
            (reply.status, reply.text().len()),
            (200, body.len()),
            "port {port}"
        );
        assert!(
            reply.text() == body,
            "through port {port} the body came back changed"
        );
    }
}

#[tokio::test]
async fn envoy_with_another_principal_than_expected_is_refused() {
    let scene = scene(LabOptions::default()).await;
    let refused = async |path: &str| {
        for (port, version) in [(8080, "1.1"), (8081, "2")] {
            let reply = scene.get(port, path).await;
            assert_eq!(
                (reply.status, reply.header("x-kith-reason")),
                (503, Some("server-identity-mismatch")),
                "port {port}"
            );
            let wanted = |record: &serde_json::Value| {
                record["http.path"] == path && record["http.version"] == version
            };
            expect::fields(
                &scene.web.wait_record(wanted).await.unwrap(),
                &json!({
                    "direction": "outbound", "decision": "deny", "reason": "server-identity-mismatch", "http.status": 503,
                    "destination.service": "partners/ledger",
                }),
            );
        }
    };
    scene
        .announce("spiffe://example.org/ns/partners/sa/somebody-else")
        .await;
    refused("/wrong").await;
    scene.announce(&scene.svid.id).await;
    for port in [8080, 8081] {
        assert_eq!(scene.get(port, "/who").await.status, 200, "port {port}");
    }
    // Connections to it are open now, and no longer good enough.
    scene
        .announce("spiffe://example.org/ns/partners/sa/somebody-else")
        .await;
    refused("/wrong-again").await;
}

#[tokio::test]
async fn envoy_that_refuses_our_principal_makes_a_clear_failure() {
    let scene = scene(LabOptions::default()).await;
    let reply = scene.get(8088, "/who").await;
    assert_eq!(
        reply.header("server"),
        Some("kith"),
        "{} {}",
        reply.status,
        reply.text()
    );
    assert_eq!(
        (reply.status, reply.header("x-kith-reason")),
        (503, Some("server-closed"))
    );
    let record = scene
        .web
        .wait_record(|record| record["destination.port"] == 8088)
        .await
        .unwrap();
    expect::fields(
        &record,
        &json!({"reason": "server-closed", "destination.principal": scene.svid.id, "http.status": 503, "closed_by": "server"}),
    );
}

#[tokio::test]
async fn opaque_bytes_reach_envoy_over_mtls() {
    let scene = scene(LabOptions::default()).await;
    let kith = kith::lab::privileges::kith_binary().unwrap();
    let hold = [
        kith.to_str().unwrap(),
        "__app",
        "hold",
        "ledger.partners:7000",
        "--say",
        "ping",
        "--seconds",
        "0.5",
    ];
    let output = scene.web.exec(&hold).await.unwrap();
    assert!(output.stdout.contains("\"opened\":1"), "{output:?}");
    let record = scene
        .web
        .wait_record(|record| record["destination.port"] == 7000)
        .await
        .unwrap();
    expect::fields(
        &record,
        &json!({"record": "connection", "decision": "allow", "destination.principal": scene.svid.id}),
    );
    assert!(record["bytes.out"].as_u64() > Some(0), "{record:#}");
}

/// Connections to a server that can't renew leases are replaced before they run out.
#[tokio::test]
async fn no_request_to_envoy_fails_while_svids_rotate() {
    let ttl = std::time::Duration::from_secs(4);
    let scene = scene(LabOptions {
        svid_ttl: ttl,
        ..LabOptions::default()
    })
    .await;
    let kith = kith::lab::privileges::kith_binary().unwrap();
    let load = |port: u16, more: &'static [&'static str]| {
        let url = format!("http://ledger.partners:{port}/load");
        let (web, kith) = (scene.web.clone(), kith.clone());
        async move {
            let load = [
                kith.to_str().unwrap(),
                "__app",
                "load",
                &url,
                "--seconds",
                "12",
                "--rate",
                "100",
                "--json",
            ];
            web.exec(&[&load[..], more].concat()).await.unwrap()
        }
    };
    let (one, two) = tokio::join!(
        load(8080, &["--connections", "4"]),
        load(8081, &["--http2"])
    );
    for output in [one, two] {
        let report = output.json();
        assert_eq!(report["failed"], 0, "{output:?}");
        assert!(report["ok"].as_u64() > Some(1_000), "{output:?}");
    }
}
