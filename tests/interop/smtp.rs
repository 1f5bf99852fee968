//! A server that speaks first: SMTP. Sniffing would wait for a client that waits for the server.

use std::sync::Arc;

use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};
use serde_json::{Value, json};

use crate::expect;
use crate::partner::allow;
use crate::programs;

struct Scene {
    _lab: Lab,
    web: Arc<Workload>,
    mail: Arc<Workload>,
    _server: Process,
}

/// 2525 is declared TCP; 25 is not declared, but well known; 2526 is neither.
async fn scene() -> Scene {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "web"),
        WorkloadSpec::new("shop", "mail")
            .port(2525, "TCP")
            .port(25, "")
            .port(2526, ""),
    ];
    let [web, mail] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    lab.apply("mail", &allow("mail", &[&web.spiffe_id()]))
        .await
        .unwrap();
    let server = mail
        .spawn(&[
            &programs::python(),
            &programs::script("smtp_server.py"),
            "25",
            "2525",
            "2526",
        ])
        .unwrap();
    server.says("listening").await.unwrap();
    Scene {
        _lab: lab,
        web,
        mail,
        _server: server,
    }
}

impl Scene {
    /// Connects a few times, then sends a mail of a megabyte.
    async fn mail(&self, host: &str, port: u16) -> Value {
        let command = [
            programs::python(),
            programs::script("smtp_client.py"),
            host.to_owned(),
            port.to_string(),
        ];
        let output = self
            .web
            .exec(&command.each_ref().map(String::as_str))
            .await
            .unwrap();
        expect::success(&output);
        let report = output.json();
        let greeting = report["greeting"].as_str().unwrap_or_default();
        assert!(greeting.contains("Kith interop"), "{output:?}");
        assert_eq!(report["accepted"], true, "{output:?}");
        report
    }

    async fn recorded(&self, port: u16) {
        let (client, server) = kith_tests::expect::ends(&self.web, &self.mail, |record| {
            record["destination.port"] == port && record["bytes.in"].as_u64() > Some(1_000_000)
        })
        .await;
        for record in [&client, &server] {
            expect::fields(
                record,
                &json!({"record": "connection", "decision": "allow", "destination.port": port}),
            );
        }
    }
}

/// Well below the time that detection would wait for a client's first bytes, and which a machine under load could
/// otherwise take: the fastest of a few.
#[track_caller]
fn without_delay(report: &Value) {
    let fastest = report["greeting_ms"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_f64)
        .fold(f64::MAX, f64::min);
    assert!(fastest < 150.0, "{report}");
}

#[tokio::test]
async fn smtp_greets_without_delay_on_a_port_declared_tcp() {
    let scene = scene().await;
    without_delay(&scene.mail("mail.shop", 2525).await);
    scene.recorded(2525).await;
}

#[tokio::test]
async fn smtp_greets_without_delay_on_its_well_known_port() {
    let scene = scene().await;
    without_delay(&scene.mail("mail.shop", 25).await);
    without_delay(&scene.mail("v6.mail.shop", 25).await);
    scene.recorded(25).await;
}

#[tokio::test]
async fn smtp_greets_after_a_short_look_on_a_port_that_nobody_declared() {
    let scene = scene().await;
    let report = scene.mail("mail.shop", 2526).await;
    let slowest = report["greeting_ms"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_f64)
        .fold(0.0, f64::max);
    assert!(slowest < 5_000.0, "{report}");
    scene.recorded(2526).await;
}
