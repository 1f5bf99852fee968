//! SVIDs and roots are replaced under traffic, and nobody notices.

use std::time::{Duration, Instant};

use kith::lab::{Lab, LabOptions};
use kith_tests::lasting::{How, Lasting};
use kith_tests::metrics::Metrics;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use serde_json::{Value, json};

/// How much of it: `KITH_SOAK=full` is what the promise says, for release builds on a machine of one's own; otherwise
/// the same in little.
struct Plan {
    seconds: u64,
    rate: u64,
    ttl: u64,
}

impl Plan {
    fn of_environment() -> Self {
        let full = std::env::var("KITH_SOAK").is_ok_and(|how| how == "full");
        let (seconds, rate, ttl) = if full { (60, 2000, 16) } else { (20, 300, 6) };
        Self { seconds, rate, ttl }
    }
}

#[tokio::test]
async fn no_request_handshake_stream_or_connection_fails_while_svids_and_roots_are_replaced() {
    let plan = Plan::of_environment();
    let options = LabOptions {
        svid_ttl: Duration::from_secs(plan.ttl),
        ..LabOptions::default()
    };
    let shop = Shop::with(
        options,
        &[
            (8080, "HTTP"),
            (8081, "HTTP2"),
            (9090, "GRPC"),
            (7000, "TCP"),
        ],
        WEB_MAY_ALL,
    )
    .await;
    let (web, orders) = (&shop.web, &shop.orders);
    let mut servers = Vec::new();
    for port in ["8080", "8081", "9090"] {
        servers.push(
            orders
                .app(&["http", "--listen", &format!("[::]:{port}")])
                .await
                .unwrap(),
        );
    }
    servers.push(orders.app(&["tcp", "--listen", "[::]:7000"]).await.unwrap());
    let before = [Metrics::of(web).await, Metrics::of(orders).await];
    let first_root = signer(&shop.lab).await;

    let stream = Lasting::grpc(web, shop.service(9090)).await;
    let feed = Lasting::opaque(web, shop.service(7000)).await;
    let (half, seconds) = ((plan.rate / 2).to_string(), plan.seconds.to_string());
    let load = |port: &str| {
        let url = format!("http://orders.shop:{port}/load");
        [
            &[
                "load",
                &url,
                "--rate",
                &half,
                "--connections",
                "8",
                "--seconds",
                &seconds,
                "--json",
            ],
            &["--http2"][..],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>()
    };
    let start = Instant::now();
    let http2 = load("8081");
    let http1 = load("8080");
    let http2 = web
        .app(&http2.iter().map(String::as_str).collect::<Vec<_>>())
        .await
        .unwrap();
    let http1 = web
        .app(
            &http1[..http1.len() - 1]
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
        .await
        .unwrap();
    let mut roots = vec![first_root];
    for third in 1..=2 {
        tokio::time::sleep_until((start + Duration::from_secs(plan.seconds) * third / 3).into())
            .await;
        shop.lab
            .authority()
            .command(&json!({"command": "rotate-root"}))
            .await
            .unwrap();
    }
    let limit = Duration::from_secs(plan.seconds) * 3;
    let mut reports = Vec::new();
    for load in [&http1, &http2] {
        load.wait(limit).await.unwrap();
        let report: Value = serde_json::from_str(&load.stdout()).unwrap();
        println!("{report}");
        reports.push(report);
    }
    roots.push(signer(&shop.lab).await);

    assert!(stream.is_open() && feed.is_open(), "{stream:?}, {feed:?}");
    let (stream, feed) = (stream.stop().await, feed.stop().await);
    assert_eq!(
        (&stream.how, &feed.how),
        (&How::Stopped, &How::Stopped),
        "every answer was right to the end"
    );
    for report in &reports {
        assert_eq!(report["failed"], 0, "{report}");
        let requests = report["requests"].as_u64().unwrap();
        assert!(
            requests * 100 >= plan.rate / 2 * plan.seconds * 99,
            "{report}"
        );
    }
    assert_ne!(roots[0], roots[1]);
    for (workload, before) in [web, orders].into_iter().zip(before) {
        let after = Metrics::of(workload).await;
        let rotations = after.sum("kith_svid_rotations_total", &[])
            - before.sum("kith_svid_rotations_total", &[]);
        let handshakes = after.sum("kith_handshake_seconds_count", &[]);
        println!(
            "{}: {rotations} rotations, {handshakes} handshakes",
            workload.spec.name
        );
        assert!(
            rotations >= 6.0,
            "{rotations} rotations of {}",
            workload.spec.name
        );
        assert_eq!(
            after.sum("kith_handshake_failures_total", &[]),
            0.0,
            "{}",
            after.text()
        );
        for record in workload.records() {
            assert!(
                record["decision"] == "allow" && record.get("tls.error").is_none(),
                "{record}"
            );
        }
    }
    // One renewal for each SVID that ended meanwhile is the least that could have kept them open.
    let least = plan.seconds / plan.ttl;
    for (workload, direction) in [(web, "outbound"), (orders, "inbound")] {
        for (what, last_words) in [
            ("record", "connection"),
            ("http.path", "/kith.demo.Orders/Chat"),
        ] {
            let wanted = |record: &Value| {
                let port = if what == "record" { 7000 } else { 9090 };
                record["direction"] == direction
                    && record[what] == last_words
                    && record["destination.port"] == port
            };
            let record = workload.wait_record(wanted).await.unwrap();
            let renewed = record["lease.renewed"].as_u64().unwrap_or_default();
            println!(
                "{direction} {last_words}: renewed {renewed} times, {} rounds",
                if what == "record" {
                    feed.rounds
                } else {
                    stream.rounds
                }
            );
            assert!(renewed >= least, "{record}");
            assert!(
                record["duration_ms"].as_f64().unwrap() >= plan.seconds as f64 * 1000.0,
                "{record}"
            );
        }
    }
}

/// The root that signs.
async fn signer(lab: &Lab) -> Value {
    let status = lab
        .authority()
        .command(&json!({"command": "status"}))
        .await
        .unwrap();
    let roots = status["roots"].as_array().unwrap();
    roots.iter().find(|root| root["signs"] == true).unwrap()["name"].clone()
}
