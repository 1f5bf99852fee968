//! py-spiffe, an independent SPIFFE client, against the dev authority's Workload API.

use std::time::Duration;

use kith::lab::{Lab, LabOptions, WorkloadSpec};
use serde_json::{Value, json};

use crate::expect;
use crate::programs;

const ID: &str = "spiffe://example.org/ns/partners/sa/python";

#[tokio::test]
async fn py_spiffe_fetches_svids_bundles_and_tokens() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let partner = lab
        .workload(
            WorkloadSpec::new("partners", "python")
                .without_sidecar()
                .unannounced(),
        )
        .await
        .unwrap();
    let socket = partner.directory().join("workload-api.sock");
    lab.authority().add_entry(ID, &socket).await.unwrap();
    let command = [
        programs::python(),
        programs::script("spiffe_client.py"),
        format!("unix://{}", socket.display()),
        ID.to_owned(),
    ];
    let output = partner
        .exec(&command.each_ref().map(String::as_str))
        .await
        .unwrap();
    expect::success(&output);
    assert!(output.stderr.contains("\nOK"), "{output:?}");
}

#[tokio::test]
async fn py_spiffe_is_told_of_every_rotation() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let partner = lab
        .workload(
            WorkloadSpec::new("partners", "python")
                .without_sidecar()
                .unannounced(),
        )
        .await
        .unwrap();
    let socket = partner.directory().join("workload-api.sock");
    lab.authority().add_entry(ID, &socket).await.unwrap();
    let watch = [
        programs::python(),
        programs::script("spiffe_watch.py"),
        format!("unix://{}", socket.display()),
    ];
    let watch = partner
        .spawn(&watch.each_ref().map(String::as_str))
        .unwrap();

    let last = || {
        watch
            .stdout()
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or(Value::Null)
    };
    let changed = async |from: &Value, what: &str| {
        for _ in 0..1_000 {
            let now = last();
            if now[what] != from[what] {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{what} stayed as in {from}: {}{}",
            watch.stdout(),
            watch.stderr()
        );
    };
    let first = changed(&Value::Null, "serial").await;
    assert_eq!(
        (&first["id"], &first["roots"]),
        (&json!(ID), &json!(1)),
        "{first}"
    );

    lab.authority()
        .command(&json!({"command": "rotate-leaf"}))
        .await
        .unwrap();
    let second = changed(&first, "serial").await;
    assert_eq!(
        (&second["id"], &second["roots"]),
        (&json!(ID), &json!(1)),
        "{second}"
    );

    // The new root is published beside the old one before anything is signed with it.
    lab.authority()
        .command(&json!({"command": "rotate-root"}))
        .await
        .unwrap();
    let third = changed(&second, "roots").await;
    assert_eq!(
        (&third["roots"], &third["serial"]),
        (&json!(2), &second["serial"]),
        "{third}"
    );
    let fourth = changed(&third, "serial").await;
    assert_eq!(fourth["id"], ID, "{fourth}");
    assert_ne!(fourth["signer"], third["signer"], "{fourth}");
    assert_eq!(
        watch.stderr(),
        "",
        "py-spiffe had something to complain about"
    );
}
