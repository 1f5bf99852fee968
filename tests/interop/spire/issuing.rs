//! What SPIRE gives is used, what it takes away is not.

use std::time::{Duration, Instant};

use kith::lab::{Workload, WorkloadSpec};
use kith_tests::lasting::How;
use kith_tests::metrics::Metrics;
use kith_tests::wait::wait_for;
use serde_json::{Value, json};

use super::{DOMAIN, Entry, ORDERS, Shop, WEB};
use crate::expect;
use crate::partner::allow;

const STOCK: &str = "/ns/shop/sa/stock";

#[tokio::test]
async fn with_its_first_svid_from_spire_a_sidecar_is_ready_and_records_name_both_principals() {
    let shop = Shop::open(0).await;
    let ids = [shop.spire.id(WEB), shop.spire.id(ORDERS)];
    for (workload, id) in [&shop.web, &shop.orders].into_iter().zip(&ids) {
        let ready = workload.health("/ready").await.unwrap();
        assert!(ready.text().contains(id.as_str()), "{}", ready.text());
        let certs = workload.admin("/certs").await.unwrap().json();
        assert_eq!(
            (
                &certs["svids"][0]["id"],
                certs["svids"].as_array().map(Vec::len)
            ),
            (&json!(id), Some(1))
        );
        assert_eq!(
            (&certs["trust_domains"], &certs["refused_bundles"]),
            (&json!([DOMAIN]), &json!([])),
            "{certs:#}"
        );
        // SPIRE has a key for tokens in its bundle from the start.
        assert_eq!(certs["refused_jwt_bundles"], json!([]), "{certs:#}");
    }
    let reply = shop.get("/first").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for (workload, direction) in [(&shop.web, "outbound"), (&shop.orders, "inbound")] {
        let record = workload
            .wait_record(|record| record["http.path"] == "/first")
            .await
            .unwrap();
        expect::fields(
            &record,
            &json!({
                "direction": direction, "decision": "allow", "source.principal": ids[0],
                "destination.principal": ids[1], "tls.version": "TLSv1.3",
            }),
        );
    }
}

/// SPIRE says PermissionDenied to a workload that no entry is for (SPIFFE_Workload_Endpoint, appendix A); what it said
/// before counts for 30 seconds more (identity.md). `orders` is a server, and a client of `stock`.
#[tokio::test]
async fn a_deleted_entry_ends_the_svids_use_after_the_grace_and_a_new_entry_brings_it_back() {
    let shop = Shop::open(0).await;
    let orders = &shop.orders;
    let stock = Entry {
        path: STOCK,
        ..Entry::default()
    };
    let (stock, _) = shop.spire.sidecar(stock).await;
    let stock = WorkloadSpec::new("shop", "stock")
        .port(8080, "HTTP")
        .attested(stock);
    let stock = shop.lab.workload(stock).await.unwrap();
    let _app = stock.app(&["http", "--name", "stock"]).await.unwrap();
    let policy = allow("stock", &[&shop.spire.id(ORDERS)]);
    shop.lab.apply("stock", &policy).await.unwrap();
    let both = async |path: &str| {
        let url = format!("http://stock.shop:8080{path}");
        [
            shop.get(path).await.status,
            orders.get(&url).await.unwrap().status,
        ]
    };
    assert_eq!(both("/before").await, [200, 200]);
    let lasting = shop.lasting().await;

    shop.spire
        .server(&["entry", "delete", "-entryID", &shop.entry])
        .await;
    let limit = Duration::from_secs(10);
    let denied = wait_for("PermissionDenied to show", limit, || async {
        let ready = orders.health("/ready").await.unwrap();
        ready.text().contains("PermissionDenied").then_some(ready)
    })
    .await;
    let start = Instant::now();
    assert_eq!(denied.status, 200, "still in its grace: {}", denied.text());
    assert_eq!(both("/grace").await, [200, 200]);
    assert!(expiry(orders).await > 0.0);

    // Connections are kept warm to the end: they don't outlive the SVID's use either.
    let why = wait_for("the end of the grace", Duration::from_secs(40), || async {
        both("/warm").await;
        let ready = orders.health("/ready").await.unwrap();
        (ready.status != 200).then(|| ready.text())
    })
    .await;
    let grace = start.elapsed();
    assert!((25.0..40.0).contains(&grace.as_secs_f64()), "{grace:?}");
    assert!(
        why.contains("withdrawn") && why.contains("PermissionDenied"),
        "{why}"
    );
    wait_for("requests to be refused", limit, || async {
        (!both("/after").await.contains(&200)).then_some(())
    })
    .await;
    for (client, reason) in [
        (&shop.web, "server-unauthenticated"),
        // As before its first SVID.
        (orders, "no-configuration"),
    ] {
        let refused = |record: &Value| {
            record["http.path"] == "/after"
                && record["direction"] == "outbound"
                && record["decision"] == "deny"
        };
        let record = client.wait_record(refused).await.unwrap();
        expect::fields(&record, &json!({"reason": reason}));
    }
    let ended = tokio::time::timeout(limit, lasting.ended()).await.unwrap();
    assert_ne!(ended.how, How::Stopped, "{ended:?}");
    let opaque =
        |record: &Value| record["record"] == "connection" && record["destination.port"] == 7000;
    let record = orders.wait_record(opaque).await.unwrap();
    expect::fields(
        &record,
        &json!({"closed_by": "expiry", "reason": "svid-expired"}),
    );
    assert_eq!(expiry(orders).await, 0.0);

    let attested = orders.spec.attested.as_ref().unwrap();
    let program = attested.kith.to_str().unwrap();
    let entry = Entry {
        path: ORDERS,
        program,
        ..Entry::default()
    };
    shop.spire.register(entry).await;
    let start = Instant::now();
    orders.ready(Duration::from_secs(40)).await.unwrap();
    assert_eq!(both("/again").await, [200, 200]);
    println!("registered again: ready after {:?}", start.elapsed());
}

async fn expiry(workload: &Workload) -> f64 {
    Metrics::of(workload)
        .await
        .sum("kith_svid_expiry_timestamp_seconds", &[])
}
