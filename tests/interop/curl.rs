//! curl with an SVID, straight to a Kith inbound.

use std::sync::Arc;

use kith::lab::{Lab, LabOptions, Output, Process, Workload, WorkloadSpec};
use serde_json::{Value, json};

use crate::expect;
use crate::partner::{Svid, allow};
use crate::programs;

struct Scene {
    _lab: Lab,
    orders: Arc<Workload>,
    partner: Arc<Workload>,
    welcome: Svid,
    unwelcome: Svid,
    _applications: Vec<Process>,
}

async fn scene() -> Scene {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "orders")
            .port(8080, "HTTP")
            .port(8081, "HTTP2"),
        WorkloadSpec::new("partners", "curl")
            .without_sidecar()
            .unannounced(),
    ];
    let [orders, partner] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    let welcome = Svid::issue(&lab, &partner, "ns/partners/sa/welcome").await;
    let unwelcome = Svid::issue(&lab, &partner, "ns/partners/sa/unwelcome").await;
    lab.apply("orders", &allow("orders", &[&welcome.id]))
        .await
        .unwrap();
    let mut applications = Vec::new();
    for port in ["8080", "8081"] {
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
    Scene {
        _lab: lab,
        orders,
        partner,
        welcome,
        unwelcome,
        _applications: applications,
    }
}

impl Scene {
    async fn curl(&self, port: u16, path: &str, arguments: &[&str]) -> Output {
        let url = format!("https://orders.shop.pod:{port}{path}");
        let command = [
            programs::system("curl"),
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            &url,
        ];
        self.partner
            .exec(&[&command[..], arguments].concat())
            .await
            .unwrap()
    }

    /// With an SVID, and without a check of the server's *name*. curl checks names in DNS SANs, which an X.509-SVID
    /// doesn't have, and has no option to check only the chain: see
    /// [`curl_verifies_the_chain_and_objects_to_nothing_but_the_host_name`].
    async fn curl_with(&self, svid: &Svid, port: u16, path: &str, arguments: &[&str]) -> Output {
        let own = [
            "--insecure",
            "--cert",
            &svid.certificate,
            "--key",
            &svid.key,
        ];
        self.curl(port, path, &[&own[..], arguments].concat()).await
    }

    async fn record(&self, path: &str) -> Value {
        self.orders
            .wait_record(|record| record["http.path"] == path)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn curl_with_an_svid_is_allowed_over_http1_and_http2() {
    let scene = scene().await;
    for (port, option, version) in [(8080, "--http1.1", "1.1"), (8081, "--http2", "2")] {
        let path = format!("/by-curl/{port}");
        let output = scene
            .curl_with(
                &scene.welcome,
                port,
                &path,
                &[option, "--write-out", "\n%{http_code} %{http_version}"],
            )
            .await;
        expect::success(&output);
        let (body, outcome) = output.stdout.rsplit_once('\n').unwrap();
        assert_eq!(outcome, format!("200 {version}"), "{output:?}");
        let body: Value = serde_json::from_str(body).unwrap();
        let told = body["headers"]["x-forwarded-client-cert"]
            .as_str()
            .unwrap_or_default();
        assert!(
            told.contains(&format!("URI={}", scene.welcome.id)),
            "what the application was told: {told:?}"
        );
        expect::fields(
            &scene.record(&path).await,
            &json!({
                "decision": "allow", "reason": "allowed-by-rule", "policy": "shop/to-orders", "http.version": version,
                "source.principal": scene.welcome.id, "destination.principal": scene.orders.spiffe_id(),
                "tls.version": "TLSv1.3", "http.authority": format!("orders.shop.pod:{port}"),
            }),
        );
    }
}

#[tokio::test]
async fn curl_with_an_svid_that_no_policy_names_is_denied() {
    let scene = scene().await;
    for (port, option) in [(8080, "--http1.1"), (8081, "--http2")] {
        let path = format!("/by-curl/{port}");
        let output = scene
            .curl_with(&scene.unwelcome, port, &path, &[option, "--include"])
            .await;
        expect::success(&output);
        assert!(
            output
                .stdout
                .contains("x-kith-reason: no-allow-policy-matches"),
            "{output:?}"
        );
        assert!(
            output
                .stdout
                .contains("content-type: application/problem+json"),
            "{output:?}"
        );
        expect::fields(
            &scene.record(&path).await,
            &json!({"decision": "deny", "source.principal": scene.unwelcome.id, "http.status": 403}),
        );
    }
}

#[tokio::test]
async fn curl_without_an_svid_is_refused_in_the_handshake() {
    let scene = scene().await;
    let output = scene.curl(8080, "/anonymous", &["--insecure"]).await;
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stderr.contains("certificate required"), "{output:?}");
    let record = scene
        .orders
        .wait_record(|record| record["record"] == "connection")
        .await
        .unwrap();
    expect::fields(
        &record,
        &json!({"decision": "deny", "reason": "peer-unauthenticated", "source.principal": null, "http.path": null}),
    );
}

#[tokio::test]
async fn curl_verifies_the_chain_and_objects_to_nothing_but_the_host_name() {
    let scene = scene().await;
    let Svid {
        certificate,
        key,
        bundle,
        ..
    } = &scene.welcome;
    let output = scene
        .curl(
            8080,
            "/",
            &["--cert", certificate, "--key", key, "--cacert", bundle],
        )
        .await;
    assert_eq!(output.status.code(), Some(60), "{output:?}");
    assert!(
        ["common name", "subject name"]
            .iter()
            .any(|words| output.stderr.contains(words)),
        "{output:?}"
    );
    // Against other roots, the chain is the objection.
    let output = scene
        .curl(8080, "/", &["--cert", certificate, "--key", key])
        .await;
    assert_eq!(output.status.code(), Some(60), "{output:?}");
    assert!(
        output.stderr.contains("local issuer") || output.stderr.contains("self-signed"),
        "{output:?}"
    );
}

/// Only by HTTP/1.1: over HTTP/2 curl would wait for an interim answer that the application's own server never sends.
#[tokio::test]
async fn curl_gets_its_100_continue_from_the_application() {
    let scene = scene().await;
    let file = scene.partner.directory().join("file");
    let body = "0123456789abcdef".repeat(64 * 1024);
    std::fs::write(&file, &body).unwrap();
    let data = format!("@{}", file.display());
    // Without it, the time would be up before the body is sent.
    let upload = [
        "--http1.1",
        "--data-binary",
        &data,
        "--header",
        "Expect: 100-continue",
        "--expect100-timeout",
        "60",
    ];
    let output = scene
        .curl_with(&scene.welcome, 8080, "/upload", &upload)
        .await;
    expect::success(&output);
    assert!(
        output.json()["body"] == body,
        "what arrived is another: {}",
        output.stderr
    );
}
