//! Live connections and requests stay subject to policy and trust: what an edit forbids is closed before the edit is
//! acknowledged, and nothing else is touched.

mod thousand;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use kith::lab::LabOptions;
use kith_tests::caller::Caller;
use kith_tests::foreign::Foreign;
use kith_tests::lasting::{How, Lasting, talk_bytes};
use kith_tests::metrics::Metrics;
use kith_tests::shop::Shop;
use kith_tests::time::end;
use kith_tests::wait::wait_for;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};

use thousand::{Event, IDLE, OPAQUE, REQUESTS, hold};

/// Everything that stays is on ports 7000, 8080 and 9090, everything that goes on 7001, 8081 and 9091; the callers
/// without sidecar are `keeps` and `loses`.
const BEFORE: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {ports: ['7000', '8080', '9090']}}]
  - from: [{source: {principals: [example.org/keeps]}}]
    to: [{operation: {ports: ['8080'], methods: [GET]}}]
";
const UNTIL: &str = "
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {ports: ['7001', '8081', '9091']}}]
  - from: [{source: {principals: [example.org/loses]}}]
    to: [{operation: {ports: ['8080'], methods: [GET]}}]
";

/// Beside the thousand, because they share a connection between the sidecars.
const STREAMS: usize = 10;

/// When the control plane heard that `node` enforces something newer than `before`.
async fn acknowledged(shop: &Shop, node: &str, before: &Value) -> SystemTime {
    wait_for("the acknowledgement", Duration::from_secs(10), || async {
        let last = last_acknowledgement(shop, node).await;
        (last["revision"] != before["revision"]).then(|| {
            SystemTime::UNIX_EPOCH + Duration::from_micros(last["unix_us"].as_u64().unwrap())
        })
    })
    .await
}

async fn last_acknowledgement(shop: &Shop, node: &str) -> Value {
    let status = shop.lab.control().status().await.unwrap();
    let sidecars = status["sidecars"].as_array().unwrap();
    let sidecar = sidecars
        .iter()
        .find(|sidecar| sidecar["node"] == node)
        .unwrap();
    sidecar["acknowledgements"]
        .as_array()
        .and_then(|all| all.last())
        .cloned()
        .unwrap()
}

#[tokio::test]
async fn row_25_of_a_thousand_connections_the_five_hundred_that_an_edit_forbids_are_closed_before_it_is_acknowledged()
 {
    let policies = format!("{BEFORE}{}", &UNTIL[1..]);
    let ports = [
        (7000, "TCP"),
        (7001, "TCP"),
        (8080, "HTTP"),
        (8081, "HTTP"),
        (9090, "GRPC"),
        (9091, "GRPC"),
    ];
    let shop = Shop::open(&ports, &policies).await;
    let mut servers = Vec::new();
    for (port, protocol) in ports {
        let kind = if protocol == "TCP" { "tcp" } else { "http" };
        servers.push(
            shop.orders
                .app(&[kind, "--listen", &format!("[::]:{port}")])
                .await
                .unwrap(),
        );
    }
    let stranger = shop.stranger().await;
    let callers = [
        Caller::new(&shop.lab, "spiffe://example.org/keeps").await,
        Caller::new(&shop.lab, "spiffe://example.org/loses").await,
    ];

    let (rounds, each_round) = watch::channel(0);
    let (events, mut inbox) = mpsc::unbounded_channel();
    let by_sidecar = tokio::spawn(hold(
        shop.web.clone(),
        None,
        shop.service(0),
        each_round.clone(),
        events.clone(),
    ));
    let by_caller = tokio::spawn(hold(
        stranger,
        Some(callers),
        shop.pod(0),
        each_round,
        events,
    ));
    let all = 2 * (OPAQUE + REQUESTS + IDLE);
    assert_eq!(all, 1000);
    for _ in 0..all {
        let event = tokio::time::timeout(Duration::from_secs(30), inbox.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(event, Event::Open), "{event:?}");
    }
    let mut streams = Vec::new();
    for port in [9090, 9091].repeat(STREAMS) {
        streams.push((
            port == 9091,
            Lasting::grpc(&shop.web, shop.service(port)).await,
        ));
    }

    let before = last_acknowledgement(&shop, "shop/orders").await;
    let edited = SystemTime::now();
    shop.lab.control().write("policies", BEFORE).unwrap();
    let ack = acknowledged(&shop, "shop/orders", &before).await;

    // What the callers saw.
    let mut last = edited;
    for number in 0..all / 2 {
        let event = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await;
        let event = event
            .unwrap_or_else(|_| panic!("only {number} were closed"))
            .unwrap();
        let Event::Closed {
            kind,
            goes,
            how,
            at,
        } = event
        else {
            panic!("{event:?}")
        };
        assert!(goes, "one that may stay was closed: {kind} {how:?}");
        let reset = how
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(reset, "{kind} ended by {how:?}");
        last = last.max(at);
    }
    for (goes, stream) in &streams {
        wait_for("the stream's end", Duration::from_secs(5), || async {
            (!goes || !stream.is_open()).then_some(())
        })
        .await;
        assert!(*goes || stream.is_open());
    }
    let after = |time: SystemTime| time.duration_since(edited).unwrap().as_secs_f64() * 1000.0;
    println!(
        "acknowledged {:.1} ms after the edit; the last client saw its end after {:.1} ms",
        after(ack),
        after(last)
    );

    // What the server's sidecar did, by its own clock: everything was closed before the acknowledgement.
    let opaque = |record: &Value| record["destination.port"] == 7001;
    let requests =
        |record: &Value| record["destination.port"] == 8081 && record["record"] == "request";
    let chats =
        |record: &Value| record["destination.port"] == 9091 && record["record"] == "request";
    for (count, wanted) in [
        (OPAQUE, &opaque as &dyn Fn(&Value) -> bool),
        (REQUESTS, &requests),
        (STREAMS, &chats),
    ] {
        let records = shop
            .orders
            .wait_records(count, |record| {
                record["direction"] == "inbound" && wanted(record)
            })
            .await
            .unwrap();
        assert_eq!(records.len(), count);
        for record in records {
            let last = (&record["closed_by"], &record["reason"], &record["decision"]);
            assert_eq!(
                last,
                (&"policy".into(), &"policy-changed".into(), &"deny".into()),
                "{record}"
            );
            let ended = end(&record);
            // The start is in whole milliseconds.
            assert!(
                ended < ack + Duration::from_millis(2),
                "closed {:.1} ms, acknowledged {:.1} ms: {record}",
                after(ended),
                after(ack)
            );
        }
    }
    let metrics = Metrics::of(&shop.orders).await;
    // The streams' own connection is one more, counted when a part of it is closed.
    let closed = metrics.sum(
        "kith_policy_closed_connections_total",
        &["reason=\"policy-changed\""],
    );
    assert!((500.0..=501.0).contains(&closed), "{closed}");

    // The others work on, and not a byte was lost.
    for round in 1..=2 {
        rounds.send(round).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(inbox.try_recv().is_err(), "one of the others was closed");
    }
    drop(rounds);
    for _ in 0..all / 2 {
        let event = tokio::time::timeout(Duration::from_secs(10), inbox.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(
            matches!(
                event,
                Event::Closed {
                    goes: false,
                    how: Ok(()),
                    ..
                }
            ),
            "{event:?}"
        );
    }
    by_sidecar.await.unwrap();
    by_caller.await.unwrap();
    for (goes, stream) in streams {
        let outcome = stream.stop().await;
        assert_eq!(outcome.how == How::Stopped, !goes, "{outcome:?}");
    }
    let lost = |record: &Value| {
        record["closed_by"] == "policy"
            && [7000, 8080, 9090]
                .map(Value::from)
                .contains(&record["destination.port"])
    };
    // The idle connections of the caller that may no longer do anything there.
    let idle = |record: &Value| {
        record["source.principal"] == "spiffe://example.org/loses"
            && record["record"] == "connection"
            && record["decision"] == "deny"
    };
    let records = shop.orders.records();
    let lost: Vec<&Value> = records.iter().filter(|record| lost(record)).collect();
    assert!(lost.iter().all(|record| idle(record)), "{lost:#?}");
    assert_eq!(lost.len(), IDLE);
}

const PARTNERS: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web, partner.test/batch, other.test/batch]}}]
";

#[tokio::test]
async fn rows_13_25_when_a_trust_domains_bundle_goes_its_connections_go_and_no_others() {
    let shop = Shop::with(LabOptions::default(), &[(7000, "TCP")], PARTNERS).await;
    let _app = shop
        .orders
        .app(&["tcp", "--listen", "[::]:7000"])
        .await
        .unwrap();
    let stranger = shop.stranger().await;
    let (partner, other) = (
        Foreign::federated(&shop.lab, "partner.test").await,
        Foreign::federated(&shop.lab, "other.test").await,
    );
    let to: SocketAddr = (shop.orders.addresses.v4, 7000).into();
    let feed = |caller: Caller| {
        Lasting::start(&stranger, move |opened, stopped| async move {
            let mut stream = caller.connect(to, &[]).await?;
            talk_bytes(&mut stream, opened, stopped).await
        })
    };
    let (partners, others) = (partner.caller("/batch").await, other.caller("/batch").await);
    let has_bundles = || async {
        let domains = shop.orders.admin("/certs").await.unwrap().json()["trust_domains"].clone();
        (domains.as_array().unwrap().len() == 3).then_some(())
    };
    wait_for("the bundles", Duration::from_secs(5), has_bundles).await;
    let (goes, stays) = (feed(partners.clone()).await, feed(others).await);
    let own = Lasting::opaque(&shop.web, shop.service(7000)).await;

    let start = std::time::Instant::now();
    let unfederate = serde_json::json!({"command": "unfederate", "trust_domain": "partner.test"});
    shop.lab.authority().command(&unfederate).await.unwrap();
    let outcome = goes.ended().await;
    println!(
        "closed {:?} after the bundle went: {:?}",
        start.elapsed(),
        outcome.how
    );
    assert_eq!(outcome.how, How::Reset);
    let record = shop
        .orders
        .wait_record(|record| record["source.principal"] == "spiffe://partner.test/batch")
        .await
        .unwrap();
    let last = (&record["closed_by"], &record["reason"], &record["decision"]);
    assert_eq!(
        last,
        (
            &"policy".into(),
            &"trust-domain-unknown".into(),
            &"deny".into()
        ),
        "{record}"
    );
    // Nor is there a new one.
    let refused = stranger.enter(move || async move {
        let mut stream = partners.connect(to, &[]).await?;
        stream.read_u8().await
    });
    assert!(refused.await.unwrap().is_err());
    shop.orders
        .wait_record(|record| {
            record["reason"] == "trust-domain-unknown" && record.get("tls.error").is_some()
        })
        .await
        .unwrap();
    for stays in [stays, own] {
        assert!(stays.is_open());
        assert_eq!(stays.stop().await.how, How::Stopped);
    }
}
