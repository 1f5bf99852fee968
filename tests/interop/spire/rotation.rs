//! SPIRE replaces SVIDs and roots under traffic, and nobody notices.

use std::time::Duration;

use kith_tests::lasting::How;
use kith_tests::metrics::Metrics;
use kith_tests::wait::wait_for;
use serde_json::Value;
use tokio::time::sleep;

use super::{Shop, rotations};

/// Seconds: the shortest that SPIRE still renews at its own pace.
const SHORT: u32 = 14;

impl Shop {
    /// Nothing that was allowed before failed in any way.
    async fn is_unharmed(&self) {
        for workload in [&self.web, &self.orders] {
            let metrics = Metrics::of(workload).await;
            assert_eq!(
                metrics.sum("kith_handshake_failures_total", &[]),
                0.0,
                "{}",
                metrics.text()
            );
            for record in workload.records() {
                assert!(
                    record["decision"] == "allow" && record.get("tls.error").is_none(),
                    "{record:#}"
                );
            }
        }
    }

    /// The fingerprints under which SPIRE knows its signing authorities.
    async fn authority(&self, command: &[&str]) -> Value {
        self.spire
            .server_json(&[&["localauthority", "x509"], command].concat())
            .await
    }
}

#[tokio::test]
async fn no_request_or_connection_fails_while_spire_renews_svids() {
    let shop = Shop::open(SHORT).await;
    let load = shop.load().await;
    let lasting = shop.lasting().await;
    sleep(Duration::from_secs(u64::from(SHORT) + 4)).await;
    println!("{} requests, 0 failed", load.stop().await);
    let outcome = lasting.stop().await;
    assert_eq!(outcome.how, How::Stopped, "{outcome:?}");
    for workload in [&shop.web, &shop.orders] {
        let rotations = rotations(workload).await;
        println!("{}: {rotations} rotations", workload.spec.name);
        assert!(
            rotations >= 4.0,
            "{rotations} rotations of {}",
            workload.spec.name
        );
        let opaque =
            |record: &Value| record["record"] == "connection" && record["destination.port"] == 7000;
        let record = workload.wait_record(opaque).await.unwrap();
        assert!(
            record["lease.renewed"].as_u64() >= Some(1),
            "it outlived its SVIDs: {record:#}"
        );
    }
    shop.is_unharmed().await;
}

/// As an operator replaces a root: a new one beside it, then in its place; the old one is tainted, for which the agent
/// renews every SVID at once, and revoked when the last SVID that it signed has run out. By then every lease is backed
/// by the new root, on both ends.
#[tokio::test]
async fn no_request_or_connection_fails_while_spire_replaces_its_root() {
    let shop = Shop::open(SHORT).await;
    let load = shop.load().await;
    let lasting = shop.lasting().await;
    let everywhere = async |count: u64| {
        let what = format!("{count} roots everywhere");
        wait_for(&what, Duration::from_secs(20), || async {
            (shop.roots().await == [count, count]).then_some(())
        })
        .await;
    };
    everywhere(1).await;
    let old = shop.authority(&["show"]).await["active"]["authority_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let new = shop.authority(&["prepare"]).await["prepared_authority"]["authority_id"]
        .as_str()
        .unwrap()
        .to_owned();
    everywhere(2).await;
    let before = [rotations(&shop.web).await, rotations(&shop.orders).await];
    shop.authority(&["activate", "-authorityID", &new]).await;
    shop.authority(&["taint", "-authorityID", &old]).await;
    wait_for("SVIDs of the new root", Duration::from_secs(20), || async {
        let now = [rotations(&shop.web).await, rotations(&shop.orders).await];
        (now[0] > before[0] && now[1] > before[1]).then_some(())
    })
    .await;
    sleep(Duration::from_secs(u64::from(SHORT))).await;
    shop.authority(&["revoke", "-authorityID", &old]).await;
    everywhere(1).await;
    // What still relied on the old root would be cut off now.
    sleep(Duration::from_secs(2)).await;
    println!("{} requests, 0 failed", load.stop().await);
    let outcome = lasting.stop().await;
    assert_eq!(outcome.how, How::Stopped, "{outcome:?}");
    assert_eq!(shop.get("/new").await.status, 200);
    shop.is_unharmed().await;
}
