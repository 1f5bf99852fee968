//! Python's grpcio as client and as server, each behind a sidecar.

use kith::lab::{Lab, LabOptions, WorkloadSpec};
use serde_json::json;

use crate::expect;
use crate::programs;

const POLICY: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {paths: [/interop.Orders/*], notPaths: [/interop.Orders/Forbidden]}}]
";

/// The cases are in `python/grpc_client.py`, by name.
#[tokio::test]
async fn grpcio_sees_what_it_would_see_without_sidecars() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "web"),
        WorkloadSpec::new("shop", "orders").port(50051, "GRPC"),
    ];
    let [web, orders] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    lab.apply("orders", POLICY).await.unwrap();
    let python = programs::python();
    let server = orders
        .spawn(&[&python, &programs::script("grpc_server.py"), "50051"])
        .unwrap();
    server.says("listening").await.unwrap();

    let output = web
        .exec(&[
            &python,
            &programs::script("grpc_client.py"),
            "orders.shop:50051",
        ])
        .await
        .unwrap();
    expect::success(&output);
    assert!(output.stderr.contains("\nOK"), "{output:?}");

    for (method, status, decision, reason) in [
        ("Unary", 0, "allow", "allowed-by-rule"),
        ("Count", 0, "allow", "allowed-by-rule"),
        ("Chat", 0, "allow", "allowed-by-rule"),
        ("Fail", 9, "allow", "allowed-by-rule"),
        ("Forbidden", 7, "deny", "no-allow-policy-matches"),
    ] {
        let path = format!("/interop.Orders/{method}");
        let (client, server) = kith_tests::expect::ends(&web, &orders, |record| {
            record["http.path"] == path.as_str() && record["grpc.status"] == status
        })
        .await;
        let both = json!({
            "record": "request", "grpc.status": status, "http.status": 200, "http.version": "2", "http.method": "POST",
            "http.authority": "orders.shop:50051",
        });
        expect::fields(&client, &both);
        expect::fields(&server, &both);
        expect::fields(&server, &json!({"decision": decision, "reason": reason}));
    }
}

#[tokio::test]
async fn grpcio_comes_back_after_its_server_was_away() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "web"),
        WorkloadSpec::new("shop", "orders").port(50051, "GRPC"),
    ];
    let [web, orders] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    lab.apply("orders", POLICY).await.unwrap();
    let python = programs::python();
    let server = orders
        .spawn(&[&python, &programs::script("grpc_server.py"), "50051"])
        .unwrap();
    server.says("listening").await.unwrap();
    // One channel throughout: it says how each step went, and waits for a file before the next.
    let client = web
        .spawn(&[
            &python,
            &programs::script("grpc_return.py"),
            "orders.shop:50051",
        ])
        .unwrap();
    client.says("1 OK\n").await.unwrap();
    server.kill();
    client.says("UNAVAILABLE\n").await.unwrap();
    server.restart().unwrap();
    client.says("again OK\n").await.unwrap();
    assert!(
        client
            .wait(std::time::Duration::from_secs(5))
            .await
            .unwrap()
            .success(),
        "{}",
        client.stderr()
    );
}
