//! A live connection is always backed by a valid SVID: what cannot be renewed ends, at expiry plus grace.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith::lab::{LabOptions, Workload, WorkloadSpec};
use kith_tests::caller::Caller;
use kith_tests::firewall::{lose_nothing, no_new_connections};
use kith_tests::lasting::{How, Lasting, Outcome, talk_bytes};
use kith_tests::shop::Shop;
use kith_tests::time::time;
use kith_tests::wait::wait_for;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Everybody in the trust domain may do anything with `orders` and `ledger`.
const ANYBODY: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: anybody}
spec:
  rules:
  - from: [{source: {principals: [example.org/*]}}]
";

const TTL: Duration = Duration::from_secs(6);

/// What ends by the clock ends this close to its time: sidecars look at it every quarter of a second, certificates
/// count whole seconds, and the machine may be busy.
const SOONER: Duration = Duration::from_millis(1_100);
const LATER: Duration = Duration::from_millis(1_500);

fn options(environment: &[(&str, &str)]) -> LabOptions {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    LabOptions {
        svid_ttl: TTL,
        environment,
        ..LabOptions::default()
    }
}

async fn servers(workload: &Workload) -> Vec<kith::lab::Process> {
    vec![
        workload
            .app(&["http", "--listen", "[::]:9090"])
            .await
            .unwrap(),
        workload
            .app(&["tcp", "--listen", "[::]:7000"])
            .await
            .unwrap(),
    ]
}

/// The inbound connections to a port, as the sidecar describes them.
async fn inbound(workload: &Workload, port: u16) -> Vec<Value> {
    let all = workload.admin("/connections").await.unwrap().json();
    let to_port = |connection: &&Value| {
        connection["direction"] == "inbound"
            && connection["destination"]
                .as_str()
                .is_some_and(|it| it.ends_with(&format!(":{port}")))
    };
    all.as_array()
        .unwrap()
        .iter()
        .filter(to_port)
        .cloned()
        .collect()
}

#[track_caller]
fn assert_ended_at(what: &str, outcome: &Outcome, expected: SystemTime) {
    let off = match outcome.at.duration_since(expected) {
        Ok(late) => late.as_secs_f64(),
        Err(early) => -early.duration().as_secs_f64(),
    };
    println!(
        "{what}: {:?} after {} rounds, {off:+.2} s",
        outcome.how, outcome.rounds
    );
    assert!(
        -SOONER.as_secs_f64() < off && off < LATER.as_secs_f64(),
        "{what} ended {off:+.2} s off its time: {outcome:?}"
    );
}

#[tokio::test]
async fn with_renewal_cut_off_streams_and_connections_end_at_expiry_plus_grace() {
    const GRACE: Duration = Duration::from_secs(3);
    let shop = Shop::with(
        options(&[("KITH_EXPIRY_GRACE", "3s")]),
        &[(9090, "GRPC"), (7000, "TCP")],
        ANYBODY,
    )
    .await;
    let (web, orders) = (&shop.web, &shop.orders);
    let _servers = servers(orders).await;
    let stream = Lasting::grpc(web, shop.service(9090)).await;
    let feed = Lasting::opaque(web, shop.service(7000)).await;
    // They live on renewals first, so that it is the loss of these that ends them.
    wait_for("renewals", TTL * 2, || async {
        let both = [inbound(orders, 7000).await, inbound(orders, 9090).await].concat();
        (both.len() == 2 && both.iter().all(|it| it["lease_renewed"].as_u64() > Some(0)))
            .then_some(())
    })
    .await;
    no_new_connections(web, orders).await;
    // A renewal that had begun is over.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let lease = |connections: Vec<Value>| time(&connections[0]["lease_until"]);
    let (stream_until, feed_until) = (
        lease(inbound(orders, 9090).await),
        lease(inbound(orders, 7000).await),
    );
    let (stream, feed) = tokio::join!(stream.ended(), feed.ended());
    assert_ended_at("gRPC stream", &stream, stream_until + GRACE);
    assert_ended_at("opaque connection", &feed, feed_until + GRACE);
    assert_eq!((&stream.how, &feed.how), (&How::Reset, &How::Reset));
    for (workload, direction) in [(web, "outbound"), (orders, "inbound")] {
        for (port, kind) in [(9090, "request"), (7000, "connection")] {
            let wanted = |record: &Value| {
                record["direction"] == direction
                    && record["destination.port"] == port
                    && record["record"] == kind
            };
            let record = workload.wait_record(wanted).await.unwrap();
            let end = (&record["closed_by"], &record["reason"]);
            assert_eq!(end, (&"expiry".into(), &"svid-expired".into()), "{record}");
            assert!(record["lease.renewed"].as_u64() > Some(0), "{record}");
        }
    }
    // Once the server can be reached, everything is as before.
    lose_nothing(web).await;
    let again = Lasting::opaque(web, shop.service(7000)).await;
    assert_eq!(again.stop().await.how, How::Stopped);
}

#[tokio::test]
async fn from_the_start_on_and_with_every_rotation_the_control_plane_is_reached_without_a_warning()
{
    const ROTATIONS: usize = 3;
    let shop = Shop::with(options(&[]), &[(7000, "TCP")], ANYBODY).await;
    let all = [&shop.web, &shop.orders];
    let count = |log: &str, text: &str| log.matches(text).count();
    for workload in all {
        wait_for("rotations", TTL * 4, || async {
            let log = workload.sidecar().stderr();
            (count(&log, "the SVID was rotated") >= ROTATIONS).then_some(())
        })
        .await;
        let certs = workload.admin("/certs").await.unwrap().json();
        wait_for("the way of today", Duration::from_secs(2), || async {
            let log = workload.sidecar().stderr();
            let connected = count(&log, "connected to the control plane");
            (connected > count(&log, "the SVID was rotated")).then_some(())
        })
        .await;
        let log = workload.sidecar().stderr();
        assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
        let status = shop.lab.control().status().await.unwrap();
        let sidecars = status["sidecars"].as_array().unwrap();
        let known = sidecars
            .iter()
            .find(|it| it["node"] == workload.spec.id().as_str());
        let svid = &known.unwrap()["svid"]["serial"];
        assert_eq!(*svid, certs["svids"][0]["serial"], "{status}");
    }
}

/// A SPIFFE client that is not Kith, on one opaque connection.
async fn foreign_feed(from: &Arc<Workload>, caller: &Caller, server: &Workload) -> Lasting {
    let (caller, to) = (caller.clone(), (server.addresses.v4, 7000).into());
    Lasting::start(from, move |opened, stopped| async move {
        let mut stream = caller.connect(to, &[]).await?;
        talk_bytes(&mut stream, opened, stopped).await
    })
    .await
}

#[tokio::test]
async fn peers_that_cannot_renew_go_on_for_the_grace_that_is_theirs() {
    let environment = [
        ("KITH_EXPIRY_GRACE", "1s"),
        ("KITH_EXPIRY_GRACE_FOREIGN", "5s"),
    ];
    let shop = Shop::with(options(&environment), &[(7000, "TCP")], ANYBODY).await;
    let ledger = WorkloadSpec::new("shop", "ledger")
        .port(7000, "TCP")
        .env("KITH_EXPIRY_GRACE_FOREIGN", "0");
    let ledger = shop.lab.workload(ledger).await.unwrap();
    let stranger = shop.stranger().await;
    let _apps = [servers(&shop.orders).await, servers(&ledger).await];
    let caller = Caller::new(&shop.lab, "spiffe://example.org/batch").await;
    let generous = foreign_feed(&stranger, &caller, &shop.orders).await;
    let strict = foreign_feed(&stranger, &caller, &ledger).await;
    let generous_until = time(&inbound(&shop.orders, 7000).await[0]["lease_until"]);
    let strict_until = time(&inbound(&ledger, 7000).await[0]["lease_until"]);
    let (generous, strict) = tokio::join!(generous.ended(), strict.ended());
    assert_ended_at("with a grace of none", &strict, strict_until);
    assert_ended_at(
        "with a grace of 5 s",
        &generous,
        generous_until + Duration::from_secs(5),
    );
    for workload in [&shop.orders, &ledger] {
        let record = workload
            .wait_record(|record| record["destination.port"] == 7000)
            .await
            .unwrap();
        let end = (&record["closed_by"], &record["reason"]);
        assert_eq!(end, (&"expiry".into(), &"svid-expired".into()), "{record}");
        assert_eq!(record["source.principal"], "spiffe://example.org/batch");
    }
}

/// A client that speaks Kith's own protocol names, played by the test.
struct Impostor {
    caller: Caller,
    stranger: Arc<Workload>,
    server: std::net::SocketAddr,
}

impl Impostor {
    /// What comes back on a renewal connection: `None` when it ends without an answer.
    async fn renew(&self, request: Vec<u8>) -> Option<Vec<u8>> {
        let (caller, server) = (self.caller.clone(), self.server);
        let exchange = move || async move {
            let mut stream = caller.connect(server, &[b"kith-renew"]).await.unwrap();
            stream.write_all(&request).await.ok()?;
            stream.flush().await.ok()?;
            let mut answer = Vec::new();
            // A request that is cut short is only known to be when its end is heard.
            stream.shutdown().await.ok()?;
            stream.read_to_end(&mut answer).await.ok()?;
            (!answer.is_empty()).then_some(answer)
        };
        self.stranger.enter(exchange).await.unwrap()
    }
}

fn renewal(version: u8, hops: &[[u8; 16]]) -> Vec<u8> {
    let count = u16::try_from(hops.len()).unwrap().to_be_bytes();
    [&[version][..], &count, hops.as_flattened()].concat()
}

#[tokio::test]
async fn only_who_opened_a_connection_can_renew_it() {
    let shop = Shop::with(LabOptions::default(), &[(7000, "TCP")], ANYBODY).await;
    let (orders, stranger) = (&shop.orders, shop.stranger().await);
    let _servers = servers(orders).await;
    let server = (orders.addresses.v4, 7000).into();
    let owner = Caller::new(&shop.lab, "spiffe://example.org/owner").await;
    let other = Caller::new(&shop.lab, "spiffe://example.org/other").await;
    let caller = owner.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    let feed = Lasting::start(&stranger, move |opened, stopped| async move {
        let mut stream = caller.connect(server, &[b"kith-tcp"]).await?;
        let mut hop = [0; 16];
        stream
            .get_ref()
            .1
            .export_keying_material(&mut hop, b"EXPORTER-kith-hop", Some(b""))
            .unwrap();
        let _ = tell.send(hop);
        talk_bytes(&mut stream, opened, stopped).await
    })
    .await;
    let hop = told.await.unwrap();
    let renewed = || async {
        inbound(orders, 7000)
            .await
            .iter()
            .filter_map(|it| it["lease_renewed"].as_u64())
            .max()
    };
    assert_eq!(renewed().await, Some(0));

    let nothing = Some(vec![0, 0]);
    let other = Impostor {
        caller: other,
        stranger: stranger.clone(),
        server,
    };
    let owner = Impostor {
        caller: owner,
        stranger: stranger.clone(),
        server,
    };
    assert_eq!(
        other.renew(renewal(1, &[hop])).await,
        nothing,
        "another principal knows the id"
    );
    assert_eq!(
        owner.renew(renewal(1, &[[7; 16]])).await,
        nothing,
        "an id that nobody has"
    );
    assert_eq!(owner.renew(renewal(1, &[])).await, nothing, "no id at all");
    for (what, bytes) in [
        ("an unknown version", renewal(2, &[hop])),
        ("more ids than allowed", renewal(1, &[[7; 16]; 4097])),
        (
            "fewer ids than announced",
            [&renewal(1, &[hop, hop])[..20]].concat(),
        ),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n".to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(owner.renew(bytes).await, None, "{what}");
        let refused = |record: &Value| record["reason"] == "request-malformed";
        orders.wait_record(refused).await.unwrap();
    }
    let records = orders
        .wait_records(5, |record| record["reason"] == "request-malformed")
        .await
        .unwrap();
    assert!(
        records
            .iter()
            .all(|record| record["source.principal"] == "spiffe://example.org/owner"),
        "{records:?}"
    );
    assert_eq!(
        renewed().await,
        Some(0),
        "nothing of this extended anything"
    );

    let answer = renewal(1, &[hop])[1..].to_vec();
    assert_eq!(
        owner.renew(renewal(1, &[hop])).await,
        Some(answer),
        "the one who may"
    );
    assert_eq!(renewed().await, Some(1));
    assert_eq!(feed.stop().await.how, How::Stopped);
}
