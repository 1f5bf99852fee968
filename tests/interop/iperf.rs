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
    let specs = [
        WorkloadSpec::new("shop", "web"),
        WorkloadSpec::new("shop", "feed").port(PORT, "TCP"),
    ];
    let [web, feed] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    lab.apply("feed", &allow("feed", &[&web.spiffe_id()]))
        .await
        .unwrap();
    // For one test: ends by itself, with a report.
    let server = feed
        .spawn(&[
            programs::system("iperf3"),
            "--server",
            "--one-off",
            "--json",
        ])
        .unwrap();
    feed.listening(PORT).await.unwrap();
    Scene {
        _lab: lab,
        web,
        feed,
        server,
    }
}

/// Runs it, and compares what its server reports with what both sidecars wrote down. Each end of iperf3 stops when it
/// has enough and closes on what is still under way, so that what was sent is more than what was received.
async fn check(arguments: &[&str], streams: usize) {
    let scene = scene().await;
    let client = [
        programs::system("iperf3"),
        "--client",
        "feed.shop",
        "--json",
    ];
    let output = scene
        .web
        .exec(&[&client[..], arguments].concat())
        .await
        .unwrap();
    expect::success(&output);
    let report = output.json();
    assert_eq!(report["error"], Value::Null, "{}", output.stdout);
    let status = scene
        .server
        .wait(std::time::Duration::from_secs(5))
        .await
        .unwrap();
    assert!(
        status.success(),
        "the server: {status} {}",
        scene.server.stdout()
    );

    // One connection for control, and one for each stream.
    let wanted = |record: &Value| record["destination.port"] == PORT;
    let client = scene.web.wait_records(streams + 1, wanted).await.unwrap();
    let server = scene.feed.wait_records(streams + 1, wanted).await.unwrap();
    assert_eq!((client.len(), server.len()), (streams + 1, streams + 1));
    let bytes = |record: &Value, key: &str| record[key].as_u64().unwrap();
    let [mut to_server, mut to_client] = [0, 0];
    for record in &client {
        let other = server.iter().find(|other| other["hop"] == record["hop"]);
        let other = other.unwrap_or_else(|| panic!("no other end: {record}"));
        let same = json!({
            "record": "connection", "decision": "allow", "source.principal": scene.web.spiffe_id(),
            "destination.principal": scene.feed.spiffe_id(),
        });
        expect::fields(record, &same);
        expect::fields(other, &same);
        expect::fields(
            other,
            &json!({"reason": "allowed-by-rule", "policy": "shop/to-feed", "rule": 0}),
        );
        assert!(
            bytes(other, "bytes.in") <= bytes(record, "bytes.in"),
            "more arrived than was sent:\n{record}\n{other}"
        );
        assert!(
            bytes(other, "bytes.out") >= bytes(record, "bytes.out"),
            "more arrived than was sent:\n{record}\n{other}"
        );
        to_server += bytes(other, "bytes.in");
        to_client += bytes(record, "bytes.out");
    }
    let (received_by_server, received_by_client) = received(&report["end"]["streams"]);
    assert!(
        received_by_server + received_by_client >= MIB,
        "{}",
        output.stdout
    );
    assert!(
        to_server >= received_by_server,
        "the records say {to_server}, iperf3 says {received_by_server}"
    );
    assert!(
        to_client >= received_by_client,
        "the records say {to_client}, iperf3 says {received_by_client}"
    );
    // Beside that: what was under way on each stream at its end, and the control connection.
    let slack = (streams as u64 + 1) * 8 * MIB;
    assert!(
        to_server <= received_by_server + slack && to_client <= received_by_client + slack,
        "the records say {to_server} and {to_client}, iperf3 says {received_by_server} and {received_by_client}"
    );
}

/// What the streams carried, to the server and to the client.
fn received(streams: &Value) -> (u64, u64) {
    let (mut to_server, mut to_client) = (0, 0);
    for stream in streams.as_array().unwrap() {
        let bytes = stream["receiver"]["bytes"].as_u64().unwrap();
        // "sender": whether the one who reports sent it.
        *(if stream["sender"]["sender"] == true {
            &mut to_server
        } else {
            &mut to_client
        }) += bytes;
    }
    (to_server, to_client)
}

#[tokio::test]
async fn one_stream_to_the_server() {
    check(&["--bytes", "64M"], 1).await;
}

#[tokio::test]
async fn one_stream_from_the_server() {
    check(&["--bytes", "64M", "--reverse"], 1).await;
}

#[tokio::test]
async fn four_streams_side_by_side() {
    check(&["--bytes", "64M", "--parallel", "4"], 4).await;
}

#[tokio::test]
async fn streams_both_ways_at_the_same_time() {
    check(&["--time", "2", "--bidir", "--parallel", "2"], 4).await;
}

/// A socket that is told where to stop must not be held up by a proxy that buffers without end.
#[tokio::test]
async fn a_stream_with_a_limited_rate_arrives_at_that_rate() {
    let scene = scene().await;
    let client = [
        programs::system("iperf3"),
        "--client",
        "feed.shop",
        "--json",
        "--time",
        "2",
        "--bitrate",
        "80M",
    ];
    let output = scene.web.exec(&client).await.unwrap();
    expect::success(&output);
    let rate = output.json()["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .unwrap();
    assert!((60e6..100e6).contains(&rate), "{rate} bit/s received");
}
