//! OpenSSL's own client against a Kith inbound: what it is told in the handshake, word by word.

use std::sync::Arc;

use kith::lab::{Lab, LabOptions, Output, Process, Workload, WorkloadSpec};
use serde_json::json;

use crate::expect;
use crate::partner::{Svid, allow};
use crate::programs;

struct Scene {
    _lab: Lab,
    orders: Arc<Workload>,
    partner: Arc<Workload>,
    svid: Svid,
    _application: Process,
}

async fn scene() -> Scene {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "orders").port(8080, "HTTP"),
        WorkloadSpec::new("partners", "openssl")
            .without_sidecar()
            .unannounced(),
    ];
    let [orders, partner] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    let svid = Svid::issue(&lab, &partner, "ns/partners/sa/openssl").await;
    lab.apply("orders", &allow("orders", &[&svid.id]))
        .await
        .unwrap();
    let application = orders.app(&["http", "--name", "orders"]).await.unwrap();
    Scene {
        _lab: lab,
        orders,
        partner,
        svid,
        _application: application,
    }
}

impl Scene {
    /// Sends one request after the handshake, and prints what it sees of both.
    async fn s_client(&self, arguments: &str) -> Output {
        let Svid {
            certificate,
            key,
            bundle,
            ..
        } = &self.svid;
        let client = format!(
            "{openssl} s_client -connect orders.shop.pod:8080 -noservername -CAfile {bundle} -verify_return_error {arguments}",
            openssl = programs::system("openssl"),
        );
        let client = client.replace("SVID", &format!("-cert {certificate} -key {key}"));
        // -ign_eof: goes on until the server closes, so that tickets that come after the handshake are seen too.
        let request =
            "GET /by-openssl HTTP/1.1\\r\\nHost: orders\\r\\nConnection: close\\r\\n\\r\\n";
        let command = format!("printf '{request}' | timeout 10 {client} -ign_eof");
        self.partner.exec(&["sh", "-c", &command]).await.unwrap()
    }
}

#[tokio::test]
async fn openssl_verifies_the_servers_chain_and_gets_an_answer() {
    let scene = scene().await;
    let output = scene.s_client("SVID -alpn http/1.1").await;
    expect::success(&output);
    for line in [
        "Verify return code: 0 (ok)",
        "New, TLSv1.3",
        "ALPN protocol: http/1.1",
        "HTTP/1.1 200 OK",
    ] {
        assert!(
            output.stdout.contains(line),
            "{line:?} in {}\n{}",
            output.stdout,
            output.stderr
        );
    }
    let record = scene
        .orders
        .wait_record(|record| record["http.path"] == "/by-openssl")
        .await
        .unwrap();
    expect::fields(
        &record,
        &json!({"decision": "allow", "source.principal": scene.svid.id, "tls.version": "TLSv1.3"}),
    );
}

/// A session that could be resumed would outlive a change of trust (security.md, row 13).
#[tokio::test]
async fn openssl_is_offered_no_session_ticket() {
    let scene = scene().await;
    let output = scene.s_client("SVID").await;
    expect::success(&output);
    assert!(
        !output
            .stdout
            .contains("Post-Handshake New Session Ticket arrived"),
        "{}",
        output.stdout
    );
    assert!(
        output.stdout.contains("HTTP/1.1 200 OK"),
        "{}",
        output.stdout
    );
}

#[tokio::test]
async fn openssl_gets_no_further_with_tls_1_2() {
    let scene = scene().await;
    let output = scene.s_client("SVID -tls1_2").await;
    assert!(!output.status.success(), "{}", output.stdout);
    assert!(
        output.stderr.contains("alert protocol version"),
        "{}",
        output.stderr
    );
    expect::fields(
        &scene
            .orders
            .wait_record(|record| record["record"] == "connection")
            .await
            .unwrap(),
        &json!({"decision": "deny", "reason": "peer-unauthenticated", "source.principal": null}),
    );
}

#[tokio::test]
async fn openssl_without_a_certificate_is_refused() {
    let scene = scene().await;
    let output = scene.s_client("").await;
    assert!(!output.status.success(), "{}", output.stdout);
    assert!(
        output.stderr.contains("alert certificate required"),
        "{}",
        output.stderr
    );
}

#[tokio::test]
async fn openssl_agrees_on_a_group_or_on_none() {
    let scene = scene().await;
    for (group, named, recorded) in [
        ("X25519", "X25519", "X25519"),
        ("P-256", "prime256v1", "P-256"),
    ] {
        let output = scene.s_client(&format!("SVID -groups {group}")).await;
        expect::success(&output);
        let key = output
            .stdout
            .lines()
            .find(|line| line.contains("Temp Key") || line.contains("Negotiated TLS1.3 group"));
        assert!(
            key.is_some_and(|line| line.contains(named) || line.contains("secp256r1")),
            "{group}: {}",
            output.stdout
        );
        scene
            .orders
            .wait_record(|record| record["tls.group"] == recorded)
            .await
            .unwrap();
    }
    // Its first guess isn't ours: a second ClientHello, and all is well (RFC 8446 section 4.1.4).
    let output = scene.s_client("SVID -groups P-384:P-521:P-256").await;
    expect::success(&output);
    let output = scene.s_client("SVID -groups P-521").await;
    assert!(!output.status.success(), "{}", output.stdout);
    assert!(
        output.stderr.contains("alert handshake failure"),
        "{}",
        output.stderr
    );
}
