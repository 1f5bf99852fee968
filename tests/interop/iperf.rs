//! iperf3 through opaque TCP.

use std::sync::Arc;

use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};
use serde_json::{Value, json};

use crate::expect;
use crate::partner::allow;
use crate::programs;

const PORT: u16 = 5201;
const MIB: u64 = 1024 * 1024;

struct Scene {
    _lab: Lab,
    web: Arc<Workload>,
    feed: Arc<Workload>,
    server: Process,
}

async fn scene() -> Scene {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [WorkloadSpec::new("shop", "web"), WorkloadSpec::new("shop", "feed").port(PORT, "TCP")];
    let [web, feed] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    lab.apply("feed", &allow("feed", &[&web.spiffe_id()])).await.unwrap();
    // For one test: ends by itself, with a report.
    let server = feed.spawn(&[programs::system("iperf3"), "--server", "--one-off", "--json"]).unwrap();
    feed.listening(PORT).await.unwrap();
    Scene { _lab: lab, web, feed, server }
}

/// Runs it, and compares what both ends of it report with what both sidecars wrote down.
async fn check(arguments: &[&str], connections: usize, to_server: u64, to_client: u64) {
    let scene = scene().await;
    let client = [programs::system("iperf3"), "--client", "feed.shop", "--json"];
    let output = scene.web.exec(&[&client[..], arguments].concat()).await.unwrap();
    expect::success(&output);
    let report = output.json();
    assert_eq!(report["error"], Value::Null, "{}", output.stdout);
    let status = scene.server.wait(std::time::Duration::from_secs(5)).await.unwrap();
    assert!(status.success(), "the server: {status} {}", scene.server.stdout());

    // One connection for control, and one for each stream.
    let wanted = |record: &Value| record["destination.port"] == PORT;
    let client = scene.web.wait_records(connections + 1, wanted).await.unwrap();
    let server = scene.feed.wait_records(connections + 1, wanted).await.unwrap();
    assert_eq!((client.len(), server.len()), (connections + 1, connections + 1));
    for record in &client {
        let other = server.iter().find(|other| other["hop"] == record["hop"]).unwrap_or_else(|| panic!("no other end: {record}"));
        let same = json!({
            "record": "connection", "decision": "allow", "source.principal": scene.web.spiffe_id(),
            "destination.principal": scene.feed.spiffe_id(), "bytes.in": record["bytes.in"], "bytes.out": record["bytes.out"],
        });
        expect::fields(record, &same);
        expect::fields(other, &same);
        expect::fields(other, &json!({"reason": "allowed-by-rule", "policy": "shop/to-feed", "rule": 0}));
        assert_ne!(record["closed_by"], "policy", "{record}");
    }
    let sum = |key: &str| client.iter().filter_map(|record| record[key].as_u64()).sum::<u64>();
    assert!(sum("bytes.in") >= to_server, "bytes.in {} of at least {to_server}", sum("bytes.in"));
    assert!(sum("bytes.out") >= to_client, "bytes.out {} of at least {to_client}", sum("bytes.out"));
}

#[tokio::test]
async fn one_stream_to_the_server() {
    check(&["--bytes", "64M"], 1, 64 * MIB, 0).await;
}

#[tokio::test]
async fn one_stream_from_the_server() {
    check(&["--bytes", "64M", "--reverse"], 1, 0, 64 * MIB).await;
}

#[tokio::test]
async fn four_streams_side_by_side() {
    check(&["--bytes", "64M", "--parallel", "4"], 4, 64 * MIB, 0).await;
}

#[tokio::test]
async fn streams_both_ways_at_the_same_time() {
    check(&["--time", "2", "--bidir", "--parallel", "2"], 4, MIB, MIB).await;
}

/// A socket that is told where to stop must not be held up by a proxy that buffers without end.
#[tokio::test]
async fn a_stream_with_a_limited_rate_arrives_at_that_rate() {
    let scene = scene().await;
    let client = [programs::system("iperf3"), "--client", "feed.shop", "--json", "--time", "2", "--bitrate", "80M"];
    let output = scene.web.exec(&client).await.unwrap();
    expect::success(&output);
    let rate = output.json()["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
    assert!((60e6..100e6).contains(&rate), "{rate} bit/s received");
}
