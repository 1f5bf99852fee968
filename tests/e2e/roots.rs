//! A root is replaced in a hurry, and its predecessor revoked: who has a fresh SVID loses nothing, whoever has not is cut
//! off a moment later.

use std::time::{Duration, Instant};

use kith::lab::{LabOptions, Workload};
use kith_tests::caller::Caller;
use kith_tests::firewall::{lose_nothing, no_new_connections};
use kith_tests::lasting::{How, Lasting, talk_bytes};
use kith_tests::shop::Shop;
use kith_tests::wait::wait_for;
use serde_json::{Value, json};

/// Everybody in the trust domain may do anything with `orders`.
const ANYBODY: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: anybody}
spec:
  rules:
  - from: [{source: {principals: [example.org/*]}}]
";

const BATCH: &str = "spiffe://example.org/batch";

/// What a peer without authority is given to show another SVID, and as much as that is looked at late.
const DOUBT: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_millis(1500);

async fn open() -> (Shop, Vec<kith::lab::Process>) {
    let options = LabOptions {
        authority: json!({"overlap_milliseconds": 300}),
        ..LabOptions::default()
    };
    let shop = Shop::with(options, &[(9090, "GRPC"), (7000, "TCP")], ANYBODY).await;
    let mut servers = Vec::new();
    for arguments in [["http", "[::]:9090"], ["tcp", "[::]:7000"]] {
        let [kind, listen] = arguments;
        let server = shop.orders.app(&[kind, "--listen", listen]).await;
        servers.push(server.unwrap());
    }
    (shop, servers)
}

async fn certs(workload: &Workload) -> Value {
    workload.admin("/certs").await.unwrap().json()
}

async fn command(shop: &Shop, name: &str) {
    let command = json!({"command": name});
    let answer = shop.lab.authority().command(&command).await.unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
}

/// A new root signs, and every sidecar has an SVID of it.
async fn replace_root(shop: &Shop) {
    let serial = |certs: &Value| certs["svids"][0]["serial"].clone();
    let all = [&shop.web, &shop.orders];
    let mut before = Vec::new();
    for workload in all {
        before.push(serial(&certs(workload).await));
    }
    command(shop, "rotate-root").await;
    for (workload, before) in all.into_iter().zip(before) {
        wait_for("a fresh SVID", Duration::from_secs(5), || async {
            (serial(&certs(workload).await) != before).then_some(())
        })
        .await;
    }
}

/// Nobody trusts the root of before any more.
async fn revoke_old_root(shop: &Shop) {
    command(shop, "revoke-old-roots").await;
    for workload in [&shop.web, &shop.orders] {
        wait_for("the old root's end", Duration::from_secs(5), || async {
            (certs(workload).await["bundles"][0]["authorities"] == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn row_25_whoever_has_a_fresh_svid_keeps_its_connections_when_the_old_root_is_revoked() {
    let (shop, _servers) = open().await;
    let (web, orders) = (&shop.web, &shop.orders);
    let chat = Lasting::grpc(web, shop.service(9090)).await;
    let feed = Lasting::opaque(web, shop.service(7000)).await;
    for cut_off in [false, false, true] {
        // Neither end can tell the other of its fresh SVID before the old root is gone.
        if cut_off {
            no_new_connections(web, orders).await;
        }
        replace_root(&shop).await;
        if cut_off {
            lose_nothing(web).await;
        }
        revoke_old_root(&shop).await;
        tokio::time::sleep(DOUBT + LATER).await;
        assert!(feed.is_open(), "cut off: {cut_off}, {feed:?}");
        assert!(chat.is_open(), "cut off: {cut_off}, {chat:?}");
    }
    let new = Lasting::grpc(web, shop.service(9090)).await;
    for lasting in [chat, feed, new] {
        assert_eq!(lasting.stop().await.how, How::Stopped);
    }
    for (workload, direction) in [(web, "outbound"), (orders, "inbound")] {
        let record = workload
            .wait_record(|record| {
                record["destination.port"] == 7000 && record["direction"] == direction
            })
            .await
            .unwrap();
        assert!(record["lease.renewed"].as_u64() >= Some(3), "{record}");
    }
    // The way to the control plane is renewed as quietly.
    for workload in [web, orders] {
        let log = workload.sidecar().stderr();
        assert!(!log.contains("no stream to the control plane"), "{log}");
    }
}

#[tokio::test]
async fn row_25_who_has_only_an_svid_of_a_revoked_root_is_cut_off_in_a_moment() {
    let (shop, _servers) = open().await;
    let (web, orders) = (&shop.web, &shop.orders);
    let stranger = shop.stranger().await;
    let caller = Caller::new(&shop.lab, BATCH).await;
    let to = (orders.addresses.v4, 7000).into();
    let connection = |alpn: &'static [&'static [u8]]| {
        let caller = caller.clone();
        Lasting::start(&stranger, move |opened, stopped| async move {
            let mut stream = caller.connect(to, alpn).await?;
            talk_bytes(&mut stream, opened, stopped).await
        })
    };
    // One says that it could renew, and never does.
    let (foreign, lazy) = (connection(&[]).await, connection(&[b"kith-tcp"]).await);
    let feed = Lasting::opaque(web, shop.service(7000)).await;
    no_new_connections(web, orders).await;
    replace_root(&shop).await;
    let revoked = Instant::now();
    command(&shop, "revoke-old-roots").await;

    for (what, lasting, least, most) in [
        (
            "no Kith",
            foreign,
            Duration::ZERO,
            DOUBT - Duration::from_millis(500),
        ),
        ("lazy", lazy, DOUBT, DOUBT + LATER),
        ("cut off", feed, DOUBT, DOUBT + LATER),
    ] {
        let outcome = tokio::time::timeout(Duration::from_secs(10), lasting.ended());
        let outcome = outcome.await.unwrap_or_else(|_| panic!("{what} is open"));
        let after = revoked.elapsed();
        println!("{what}: {:?} after {after:?}", outcome.how);
        assert_eq!(outcome.how, How::Reset, "{what}");
        assert!((least..most).contains(&after), "{what}: {after:?}");
    }
    let lost = |record: &Value| {
        record["reason"] == "svid-untrusted"
            && record["closed_by"] == "policy"
            && record["decision"] == "deny"
    };
    let records = orders.wait_records(2, |record| {
        lost(record) && record["source.principal"] == BATCH
    });
    assert_eq!(records.await.unwrap().len(), 2);
    // Whichever end was first.
    wait_for("a record", Duration::from_secs(2), || async {
        let records = [web.records(), orders.records()].concat();
        let feed = |record: &&Value| {
            lost(record) && record["source.principal"] == "spiffe://example.org/ns/shop/sa/web"
        };
        records.iter().find(feed).map(drop)
    })
    .await;
}
