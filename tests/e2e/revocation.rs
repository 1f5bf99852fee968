//! What is revoked is refused and, where it is live, closed before the control plane hears that it is; nobody else
//! notices anything.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith::app::grpc::client::get;
use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};
use kith_tests::caller::Caller;
use kith_tests::expect::ends;
use kith_tests::firewall::{lose_nothing, no_new_connections};
use kith_tests::lasting::{How, Lasting, Opened, talk_bytes};
use kith_tests::metrics::Metrics;
use kith_tests::shop::Shop;
use kith_tests::time::{end, time};
use kith_tests::wait::wait_for;
use kith_tests::wire::{End, until};
use kith_tests::xds::{self, Xds};
use kith_xds_client::Kind;
use kith_xds_client::api::mesh;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Everybody in the trust domain may do anything.
const ANYBODY: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: anybody}
spec:
  rules:
  - from: [{source: {principals: [example.org/*]}}]
";

const PORTS: &[(u16, &str)] = &[(7000, "TCP"), (8080, "HTTP"), (9090, "GRPC")];

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";

const BATCH: &str = "spiffe://example.org/batch";

/// Requests at the same time.
const TOGETHER: usize = 20;

const LONG: &str = "2099-01-01T00:00:00Z";

fn revocation(name: &str, what: &str, until: &str) -> String {
    format!(
        "
apiVersion: kith.dev/v1alpha1
kind: Revocation
metadata: {{name: {name}}}
spec: {{{what}, until: '{until}', reason: stolen}}
---"
    )
}

fn principal(id: &str) -> String {
    format!("principal: '{id}'")
}

fn serial(serial: &str) -> String {
    format!("certificate: {{trustDomain: example.org, serial: '{serial}'}}")
}

async fn servers(workload: &Workload) -> Vec<kith::lab::Process> {
    let mut servers = Vec::new();
    for (port, protocol) in PORTS {
        let kind = if *protocol == "TCP" { "tcp" } else { "http" };
        let listen = format!("[::]:{port}");
        servers.push(workload.app(&[kind, "--listen", &listen]).await.unwrap());
    }
    servers
}

async fn service(shop: &Shop, name: &str) -> Arc<Workload> {
    let mut spec = WorkloadSpec::new("shop", name);
    for (number, protocol) in PORTS {
        spec = spec.port(*number, protocol);
    }
    shop.lab.workload(spec).await.unwrap()
}

/// The live connections with a peer, as the sidecar describes them.
async fn live(workload: &Workload, direction: &str, peer: &str) -> Vec<Value> {
    let all = workload.admin("/connections").await.unwrap().json();
    let with_peer = |it: &&Value| it["direction"] == direction && it["peer"] == peer;
    all.as_array()
        .unwrap()
        .iter()
        .filter(with_peer)
        .cloned()
        .collect()
}

/// What the control plane knows of a sidecar.
async fn known(shop: &Shop, node: &str) -> Value {
    let sidecars = sidecars(shop).await;
    let sidecar = sidecars.iter().find(|it| it["node"] == node);
    sidecar
        .unwrap_or_else(|| panic!("{node} is not connected: {sidecars:?}"))
        .clone()
}

/// Gives everybody a new SVID. Sidecars open their streams anew with it, and while they do nobody tells them anything.
async fn rotate(shop: &Shop) {
    // A stream comes from an address of its own; the serial of its sidecar's SVID may become another on the same stream.
    let streams = || async {
        let streams = sidecars(shop).await.into_iter();
        let streams = streams.map(|it| it["address"].to_string());
        streams.collect::<BTreeSet<_>>()
    };
    let before = streams().await;
    let rotate = json!({"command": "rotate-leaf"});
    shop.lab.authority().command(&rotate).await.unwrap();
    let limit = Duration::from_secs(15);
    wait_for("streams with new SVIDs", limit, || async {
        let now = streams().await;
        (now.len() == before.len() && now.is_disjoint(&before)).then_some(())
    })
    .await;
}

/// Those that are connected at this moment.
async fn sidecars(shop: &Shop) -> Vec<Value> {
    let status = shop.lab.control().status().await.unwrap();
    status["sidecars"].as_array().unwrap().clone()
}

async fn answer(client: &Workload, url: &str) -> (u16, String) {
    let reply = client.get(url).await.unwrap();
    let reason = reply.header("x-kith-reason").unwrap_or_default();
    (reply.status, reason.to_owned())
}

fn how(error: &io::Error) -> How {
    match error.kind() {
        io::ErrorKind::ConnectionReset => How::Reset,
        io::ErrorKind::UnexpectedEof => How::Ended,
        _ => How::Failed(error.to_string()),
    }
}

/// One answered request, then silence.
async fn keep_alive<S>(
    mut stream: S,
    opened: Opened,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<(u64, How)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream
        .write_all(b"GET /bytes?n=5 HTTP/1.1\r\nhost: orders.shop\r\n\r\n")
        .await?;
    stream.flush().await?;
    until(&mut stream, "\r\n\r\nkkkkk").await?;
    let _ = opened.send(());
    let how = tokio::select! {
        _ = stopped.changed() => How::Stopped,
        end = stream.read_u8() => match end {
            Ok(byte) => How::Failed(format!("{byte} came unasked")),
            Err(error) => how(&error),
        },
    };
    Ok((1, how))
}

/// A request whose answer takes forever.
async fn endless(
    to: SocketAddr,
    opened: Opened,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<(u64, How)> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(b"GET /stream?ticks=0&ms=50 HTTP/1.1\r\nhost: orders.shop\r\n\r\n")
        .await?;
    until(&mut stream, "tick 1\n").await?;
    let _ = opened.send(());
    let mut piece = [0; 4096];
    let (mut rounds, mut heard) = (0, 1);
    while heard > 0 {
        tokio::select! {
            _ = stopped.changed() => return Ok((rounds, How::Stopped)),
            read = stream.read(&mut piece) => match read {
                Ok(count) => heard = count,
                Err(error) => return Ok((rounds, how(&error))),
            },
        }
        rounds += 1;
    }
    Ok((rounds, How::Ended))
}

/// One connection or stream of every kind, from a workload with a sidecar.
async fn every_kind(from: &Arc<Workload>, server: &str) -> Vec<(&'static str, Lasting)> {
    let to = |port: u16| from.resolve(&format!("{server}.shop:{port}")).unwrap();
    let http = to(8080);
    let all = vec![
        ("opaque", Lasting::opaque(from, to(7000)).await),
        (
            "HTTP/1.1",
            Lasting::start(from, move |opened, stopped| endless(http, opened, stopped)).await,
        ),
        ("gRPC", Lasting::grpc(from, to(9090)).await),
    ];
    // Leaves an idle connection between the sidecars.
    let url = format!("http://{server}.shop:8080/");
    assert_eq!(answer(from, &url).await.0, 200);
    all
}

/// The same from a SPIFFE client without one.
async fn foreign_kinds(
    from: &Arc<Workload>,
    caller: &Caller,
    server: &Workload,
) -> Vec<(&'static str, Lasting)> {
    let at = |port| SocketAddr::new(server.addresses.v4.into(), port);
    let (bytes, http, streams) = (at(7000), at(8080), at(9090));
    let opaque = caller.clone();
    let opaque = Lasting::start(from, move |opened, stopped| async move {
        let mut stream = opaque.connect(bytes, &[b"kith-tcp"]).await?;
        talk_bytes(&mut stream, opened, stopped).await
    });
    let kept = caller.clone();
    let kept = Lasting::start(from, move |opened, stopped| async move {
        let stream = kept.connect(http, &[b"http/1.1"]).await?;
        keep_alive(stream, opened, stopped).await
    });
    let stream = caller.clone();
    let stream = Lasting::start(from, move |opened, stopped| async move {
        let tls = stream.connect(streams, &[b"h2"]).await?;
        http2_stream(tls, opened, stopped)
            .await
            .map_err(io::Error::other)
    });
    vec![
        ("opaque", opaque.await),
        ("keep-alive", kept.await),
        ("HTTP/2", stream.await),
    ]
}

/// A request whose answer takes forever, directly on HTTP/2: it is to end with GOAWAY and a reset of the stream.
async fn http2_stream<S>(
    tls: S,
    opened: Opened,
    mut stopped: watch::Receiver<bool>,
) -> Result<(u64, How), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (client, connection) = h2::client::handshake(tls).await?;
    let connection = tokio::task::spawn_local(connection);
    let mut client = client.ready().await?;
    let request = http::Request::get("https://orders.shop:9090/stream?ticks=0&ms=50");
    let request = request.body(()).unwrap();
    let mut body = client.send_request(request, true)?.0.await?.into_body();
    let mut opened = Some(opened);
    let mut rounds = 0;
    let reset = loop {
        tokio::select! {
            _ = stopped.changed() => return Ok((rounds, How::Stopped)),
            data = body.data() => match data {
                Some(Ok(data)) => {
                    body.flow_control().release_capacity(data.len())?;
                    rounds += 1;
                    if let Some(opened) = opened.take() {
                        let _ = opened.send(());
                    }
                }
                None => return Ok((rounds, How::Ended)),
                Some(Err(error)) => break error,
            },
        }
    };
    let last = connection.await.unwrap();
    let how = if reset.reason().is_some() && last.is_ok() {
        How::Reset
    } else {
        How::Failed(format!("stream: {reset:?}; connection: {last:?}"))
    };
    Ok((rounds, how))
}

async fn all_stop(of: &str, lasting: Vec<(&'static str, Lasting)>) {
    for (kind, lasting) in lasting {
        assert!(lasting.is_open(), "{kind} of {of} was closed");
        let outcome = lasting.stop().await;
        assert_eq!(outcome.how, How::Stopped, "{kind} of {of}");
    }
}

async fn all_reset(of: &str, lasting: Vec<(&'static str, Lasting)>) {
    for (kind, lasting) in lasting {
        let ended = tokio::time::timeout(Duration::from_secs(5), lasting.ended());
        let outcome = ended
            .await
            .unwrap_or_else(|_| panic!("{kind} of {of} is open"));
        assert_eq!(outcome.how, How::Reset, "{kind} of {of}");
    }
}

fn of_reason(reason: &str) -> impl Fn(&Value) -> bool {
    move |record| record["reason"] == reason && record["closed_by"] == "policy"
}

#[tokio::test]
async fn row_25_a_revoked_principal_is_cut_off_before_the_acknowledgement_and_nobody_else_is() {
    let shop = Shop::open(PORTS, ANYBODY).await;
    let _servers = servers(&shop.orders).await;
    let other = service(&shop, "other").await;
    let stranger = shop.stranger().await;
    let keeps = Caller::new(&shop.lab, "spiffe://example.org/keeps").await;
    let loses = Caller::new(&shop.lab, "spiffe://example.org/loses").await;

    let mut goes = every_kind(&shop.web, "orders").await;
    goes.extend(foreign_kinds(&stranger, &loses, &shop.orders).await);
    let mut stays = every_kind(&other, "orders").await;
    stays.extend(foreign_kinds(&stranger, &keeps, &shop.orders).await);
    let revoked = [WEB, "spiffe://example.org/loses"];
    let mut expected = 0;
    for peer in revoked {
        expected += live(&shop.orders, "inbound", peer).await.len();
    }
    assert_eq!(expected, 7);

    let documents: String = revoked
        .iter()
        .enumerate()
        .map(|(number, id)| revocation(&format!("number-{number}"), &principal(id), LONG))
        .collect();
    let edited = SystemTime::now();
    shop.lab.apply("revoked", &documents).await.unwrap();
    for peer in revoked {
        let left = live(&shop.orders, "inbound", peer).await;
        assert!(left.is_empty(), "acknowledged, and {left:?}");
    }

    // What the server's sidecar says it did, and what it wrote down about it.
    let enforced = known(&shop, "shop/orders").await["revocations"].clone();
    assert_eq!(enforced["closed"], expected, "{enforced}");
    let heard = time(&enforced["time"]);
    println!(
        "{expected} connections closed in {} ms; acknowledged {:.1} ms after the edit",
        enforced["enforced_ms"],
        heard.duration_since(edited).unwrap().as_secs_f64() * 1000.0
    );
    let cut = of_reason("principal-revoked");
    // Two opaque connections, a request, two streams; and the connections that carried requests: two idle, two HTTP/2.
    let records = shop.orders.wait_records(9, &cut).await.unwrap();
    assert_eq!(records.len(), 9, "{records:#?}");
    for record in &records {
        assert_eq!(record["decision"], "deny", "{record}");
        let principal = record["source.principal"].as_str().unwrap();
        assert!(revoked.contains(&principal), "{record}");
        // Both times are in whole milliseconds.
        assert!(end(record) < heard + Duration::from_millis(3), "{record}");
    }
    let metrics = Metrics::of(&shop.orders).await;
    let closed = metrics.sum(
        "kith_policy_closed_connections_total",
        &["reason=\"principal-revoked\""],
    );
    assert_eq!(closed, expected as f64);
    all_reset("the revoked", goes).await;

    // Nor may they come again: the same words at both ends.
    let refused = (403, "principal-revoked".to_owned());
    for _ in 0..2 {
        let new = answer(&shop.web, "http://orders.shop:8080/new").await;
        assert_eq!(new, refused);
    }
    let (outbound, inbound) = ends(&shop.web, &shop.orders, |record| {
        record["http.path"] == "/new"
    })
    .await;
    for record in [outbound, inbound] {
        let verdict = (&record["decision"], &record["reason"]);
        let expected = (&"deny".into(), &"principal-revoked".into());
        assert_eq!(verdict, expected, "{record}");
        assert_eq!(record["source.principal"], WEB);
    }
    let to = shop.service(9090);
    let status = shop.web.enter(move || get_one(to)).await.unwrap();
    assert_eq!(status.code, 7, "{status:?}");
    let opaque = Lasting::try_opaque(&shop.web, shop.service(7000)).await;
    assert!(opaque.is_err(), "{opaque:?}");
    // A connection on which nothing will be allowed is not kept.
    let again = loses.raw(
        &stranger,
        (shop.orders.addresses.v4, 8080).into(),
        b"http/1.1",
        "GET / HTTP/1.1\r\nhost: orders\r\n\r\n".repeat(2),
    );
    let again = again.await.unwrap();
    assert_eq!((again.statuses(), again.end), (vec![403], End::Closed));
    assert!(again.text().contains("connection: close"), "{again:?}");
    let (caller, to) = (loses.clone(), (shop.orders.addresses.v4, 9090).into());
    let ended = stranger.enter(move || async move {
        let tls = caller.connect(to, &[b"h2"]).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(3), refused_http2(tls));
        ended.await.expect("it is open")
    });
    assert_eq!(ended.await.unwrap().unwrap(), 403);

    assert_eq!(answer(&other, "http://orders.shop:8080/").await.0, 200);
    all_stop("the others", stays).await;

    shop.lab.withdraw("revoked").await.unwrap();
    assert_eq!(answer(&shop.web, "http://orders.shop:8080/").await.0, 200);
    all_stop("the forgiven", every_kind(&shop.web, "orders").await).await;
}

/// One request, and then nothing: the status of its answer, once the server has ended the connection.
async fn refused_http2<S>(tls: S) -> Result<u16, h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut client, connection) = h2::client::handshake(tls).await?;
    let connection = tokio::task::spawn_local(connection);
    let request = http::Request::get("https://orders.shop:9090/");
    let (answer, _) = client.send_request(request.body(()).unwrap(), true)?;
    let status = answer.await?.status().as_u16();
    connection.await.unwrap()?;
    drop(client);
    Ok(status)
}

async fn get_one(to: SocketAddr) -> kith::app::grpc::client::Status {
    get(to, "orders.shop:9090", "1").await.unwrap().1
}

#[tokio::test]
async fn a_revoked_certificate_is_cut_off_and_another_of_the_same_principal_is_not() {
    let shop = Shop::open(PORTS, ANYBODY).await;
    let _servers = servers(&shop.orders).await;
    let stranger = shop.stranger().await;
    let caller = Caller::new(&shop.lab, BATCH).await;
    let ask = || async {
        let to = (shop.orders.addresses.v4, 8080).into();
        let request = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
        let heard = caller.raw(&stranger, to, b"http/1.1", request).await;
        heard.unwrap().text()
    };
    let serials = || async {
        let mut serials = BTreeSet::new();
        for record in shop.orders.records() {
            if record["source.principal"] == BATCH {
                serials.insert(record["source.serial"].as_str().unwrap().to_owned());
            }
        }
        serials
    };
    let stolen = foreign_kinds(&stranger, &caller, &shop.orders).await;
    let first = |record: &Value| record["source.principal"] == BATCH;
    let record = shop.orders.wait_record(first).await.unwrap();
    let first = record["source.serial"].as_str().unwrap().to_owned();
    rotate(&shop).await;
    let second = wait_for("another certificate", Duration::from_secs(5), || async {
        assert!(ask().await.starts_with("HTTP/1.1 200"));
        serials().await.into_iter().find(|serial| *serial != first)
    })
    .await;
    let fresh = foreign_kinds(&stranger, &caller, &shop.orders).await;

    let document = revocation("first", &serial(&first), LONG);
    shop.lab.apply("first", &document).await.unwrap();
    all_reset("the first", stolen).await;
    let cut = shop.orders.wait_record(of_reason("svid-revoked")).await;
    assert_eq!(cut.unwrap()["source.serial"], first.as_str());
    let enforced = known(&shop, "shop/orders").await["revocations"].clone();
    assert_eq!(enforced["closed"], 3, "{enforced}");
    assert!(ask().await.starts_with("HTTP/1.1 200"));
    assert!(fresh.iter().all(|(_, lasting)| lasting.is_open()));

    // As a tool would print it.
    let document = revocation("second", &serial(&second.to_uppercase()), LONG);
    shop.lab.apply("second", &document).await.unwrap();
    all_reset("the second", fresh).await;
    let refused = ask().await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("x-kith-reason: svid-revoked"), "{refused}");
    // Nor does it renew anything.
    let (caller, to) = (caller.clone(), (shop.orders.addresses.v4, 7000).into());
    let renewal = stranger.enter(move || async move {
        let mut stream = caller.connect(to, &[b"kith-renew"]).await?;
        stream.write_all(&[1, 0, 0]).await?;
        stream.flush().await?;
        stream.read_u16().await
    });
    assert!(renewal.await.unwrap().is_err());
}

#[tokio::test]
async fn a_revoked_server_is_left_at_once_and_refused_and_other_servers_are_not() {
    let shop = Shop::open(PORTS, ANYBODY).await;
    let _servers = servers(&shop.orders).await;
    let stock = service(&shop, "stock").await;
    let _more = servers(&stock).await;
    let own_serial = shop.orders.admin("/certs").await.unwrap().json();
    let own_serial = own_serial["svids"][0]["serial"]
        .as_str()
        .unwrap()
        .to_owned();

    for (what, reason) in [
        (principal(ORDERS), "principal-revoked"),
        (serial(&own_serial), "svid-revoked"),
    ] {
        let goes = every_kind(&shop.web, "orders").await;
        let stays = every_kind(&shop.web, "stock").await;
        let pooled = live(&shop.web, "outbound", ORDERS).await.len();
        assert_eq!(pooled, 4);
        shop.lab
            .apply("server", &revocation("server", &what, LONG))
            .await
            .unwrap();
        let left = live(&shop.web, "outbound", ORDERS).await;
        assert!(left.is_empty(), "acknowledged, and {left:?}");
        let enforced = known(&shop, "shop/web").await["revocations"].clone();
        assert_eq!(enforced["closed"], pooled, "{enforced}");
        println!(
            "{pooled} connections left in {} ms",
            enforced["enforced_ms"]
        );
        all_reset(reason, goes).await;
        let records = shop.web.wait_records(3, of_reason(reason)).await.unwrap();
        for record in &records {
            assert_eq!(record["destination.principal"], ORDERS, "{record}");
        }

        let path = format!("/{reason}");
        let refused = (503, reason.to_owned());
        let url = format!("http://orders.shop:8080{path}");
        assert_eq!(answer(&shop.web, &url).await, refused);
        let record = shop
            .web
            .wait_record(|record| record["http.path"] == path.as_str())
            .await
            .unwrap();
        for (key, value) in [
            ("decision", "deny"),
            ("reason", reason),
            ("destination.principal", ORDERS),
            ("destination.service", "shop/orders"),
        ] {
            assert_eq!(record[key], value, "{key}: {record}");
        }
        let to = shop.service(9090);
        let status = shop.web.enter(move || get_one(to)).await.unwrap();
        assert_eq!(status.code, 14, "{status:?}");
        let opaque = Lasting::try_opaque(&shop.web, shop.service(7000)).await;
        assert!(opaque.is_err(), "{opaque:?}");
        // Requests that wait for one connection all hear why there is none.
        let together = shop.web.enter(move || async move {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..TOGETHER {
                calls.spawn_local(get_one(to));
            }
            calls.join_all().await
        });
        let together = together.await.unwrap();
        assert_eq!(together.len(), TOGETHER);
        for status in together {
            let verdict = (status.code, status.metadata["x-kith-reason"].as_str());
            assert_eq!(verdict, (14, reason), "{status:?}");
        }
        let calls = |record: &Value| {
            record["destination.port"] == 9090
                && record["status"] == 200
                && record["grpc.status"] == 14
        };
        for record in shop.web.records().iter().filter(|it| calls(it)) {
            assert_ne!(record["reason"], "server-unreachable", "{record}");
        }
        all_stop("the other server", stays).await;

        shop.lab.withdraw("server").await.unwrap();
        assert_eq!(answer(&shop.web, "http://orders.shop:8080/").await.0, 200);
    }
}

#[tokio::test]
async fn a_client_renews_nothing_with_a_revoked_server() {
    let shop = Shop::open(PORTS, ANYBODY).await;
    let (web, orders) = (&shop.web, &shop.orders);
    let _servers = servers(orders).await;
    let feed = Lasting::opaque(web, shop.service(7000)).await;
    let serial_of = |certs: Value| certs["svids"][0]["serial"].as_str().unwrap().to_owned();
    let first = serial_of(orders.admin("/certs").await.unwrap().json());
    no_new_connections(web, orders).await;
    rotate(&shop).await;
    let second = wait_for("another SVID", Duration::from_secs(5), || async {
        let serial = serial_of(orders.admin("/certs").await.unwrap().json());
        (serial != first).then_some(serial)
    })
    .await;
    // What it has shown so far is good; what it would show now is not.
    let document = revocation("second", &serial(&second), LONG);
    shop.lab.apply("second", &document).await.unwrap();
    lose_nothing(web).await;
    let said = format!("the server's SVID, serial {second}: svid-revoked");
    wait_for("a refusal", Duration::from_secs(20), || async {
        web.sidecar().stderr().contains(&said).then_some(())
    })
    .await;
    let backed = live(web, "outbound", ORDERS).await;
    assert_eq!(backed.len(), 1, "{backed:?}");
    assert_eq!(backed[0]["lease_renewed"], 0, "{backed:?}");
    let backed = live(orders, "inbound", WEB).await;
    assert_eq!(backed[0]["lease_renewed"], 0, "{backed:?}");

    // It is tried again, until there is nothing against it.
    shop.lab.withdraw("second").await.unwrap();
    wait_for("a renewal", Duration::from_secs(20), || async {
        let backed = live(web, "outbound", ORDERS).await;
        (backed[0]["lease_renewed"].as_u64() > Some(0)).then_some(())
    })
    .await;
    assert_eq!(feed.stop().await.how, How::Stopped);
}

#[tokio::test]
async fn a_revocation_has_no_effect_any_more_once_its_time_has_come() {
    let shop = Shop::open(PORTS, ANYBODY).await;
    let _servers = servers(&shop.orders).await;
    let until = SystemTime::now() + Duration::from_secs(4);
    let text = prost_types::Timestamp::from(until).to_string();
    shop.lab
        .apply("short", &revocation("short", &principal(WEB), &text))
        .await
        .unwrap();
    let (mut refused, url) = (0, "http://orders.shop:8080/");
    wait_for("the end of it", Duration::from_secs(10), || async {
        let (status, _) = answer(&shop.web, url).await;
        (status == 200).then_some(())
    })
    .await;
    assert!(SystemTime::now() >= until, "trusted again too early");
    refused += shop
        .orders
        .records()
        .iter()
        .filter(|record| record["reason"] == "principal-revoked")
        .count();
    assert!(refused > 0, "never refused");
    all_stop("the forgiven", every_kind(&shop.web, "orders").await).await;
}

#[tokio::test]
async fn a_restarted_sidecar_remembers_what_is_revoked_without_a_control_plane() {
    let shop = Shop::open(PORTS, ANYBODY).await;
    let _servers = servers(&shop.orders).await;
    assert_eq!(answer(&shop.web, "http://orders.shop:8080/").await.0, 200);
    shop.lab
        .apply("web", &revocation("web", &principal(WEB), LONG))
        .await
        .unwrap();
    // What is held is written down once a second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    shop.lab.control().kill();
    shop.orders.sidecar().kill();
    shop.orders.sidecar().restart().unwrap();
    shop.orders.ready(Duration::from_secs(10)).await.unwrap();
    let refused = (403, "principal-revoked".to_owned());
    assert_eq!(answer(&shop.web, "http://orders.shop:8080/").await, refused);
}

#[tokio::test]
async fn plaintext_that_a_sidecar_accepts_is_seen_at_the_control_plane() {
    let options = LabOptions {
        mesh: json!({"defaultAction": "ALLOW"}),
        ..LabOptions::default()
    };
    let permissive = "
apiVersion: kith.dev/v1alpha1
kind: PeerAuthentication
metadata: {namespace: kith-system, name: default}
spec: {mtls: {mode: PERMISSIVE}}
";
    let shop = Shop::with(options, PORTS, permissive).await;
    let _servers = servers(&shop.orders).await;
    let stranger = shop.stranger().await;
    let url = format!("http://{}:8080/", shop.orders.addresses.v4);
    for _ in 0..2 {
        assert_eq!(answer(&stranger, &url).await.0, 200);
    }
    let sidecar = wait_for("the fact", Duration::from_secs(15), || async {
        let sidecar = known(&shop, "shop/orders").await;
        (sidecar["plaintext"] == 2).then_some(sidecar)
    })
    .await;
    let certs = shop.orders.admin("/certs").await.unwrap().json();
    assert_eq!(sidecar["svid"]["serial"], certs["svids"][0]["serial"]);
    let counted = Metrics::of(&shop.orders).await;
    assert_eq!(counted.sum("kith_plaintext_connections_total", &[]), 2.0);
}

/// What the authority itself takes back, by a CRL that comes with the SVIDs.
async fn by_crl(shop: &Shop, command: &str, serial: &str) {
    let command = json!({"command": command, "serial": serial});
    let answer = shop.lab.authority().command(&command).await.unwrap();
    assert_eq!(answer["changed"], true, "{answer}");
}

#[tokio::test]
async fn what_the_authority_revokes_by_crl_is_closed_in_both_directions_and_refused() {
    let shop = Shop::open(PORTS, ANYBODY).await;
    let _servers = servers(&shop.orders).await;
    let other = service(&shop, "other").await;
    let stranger = shop.stranger().await;
    let caller = Caller::new(&shop.lab, BATCH).await;

    // A client.
    let goes = foreign_kinds(&stranger, &caller, &shop.orders).await;
    let stays = every_kind(&other, "orders").await;
    let first = |record: &Value| record["source.principal"] == BATCH;
    let record = shop.orders.wait_record(first).await.unwrap();
    let client = record["source.serial"].as_str().unwrap();
    let revoked = Instant::now();
    by_crl(&shop, "revoke", client).await;
    all_reset("the client", goes).await;
    // It is not waited for another SVID.
    assert!(revoked.elapsed() < Duration::from_millis(1500));
    let certs = shop.orders.admin("/certs").await.unwrap().json();
    let crl = &certs["crls"][0];
    assert_eq!(crl["trust_domains"], json!(["example.org"]), "{certs}");
    assert_eq!((&crl["entries"], &crl["stale"]), (&json!(1), &json!(false)));
    assert!(time(&crl["next_update"]) > SystemTime::now(), "{crl}");
    assert_eq!(
        (&certs["revoked"], &certs["refused_crls"]),
        (&json!(false), &json!([]))
    );
    let cut = shop.orders.wait_record(of_reason("svid-revoked")).await;
    assert_eq!(cut.unwrap()["source.principal"], BATCH);
    let to = (shop.orders.addresses.v4, 8080).into();
    let request = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    let again = caller.raw(&stranger, to, b"http/1.1", request).await;
    assert!(again.is_err() || again.unwrap().statuses().is_empty());
    shop.orders
        .wait_record(|record| {
            record["reason"] == "svid-revoked" && record.get("tls.error").is_some()
        })
        .await
        .unwrap();

    // A server.
    let certs = shop.orders.admin("/certs").await.unwrap().json();
    let server = certs["svids"][0]["serial"].as_str().unwrap();
    by_crl(&shop, "revoke", server).await;
    all_reset("the server's clients", stays).await;
    let certs = shop.orders.admin("/certs").await.unwrap().json();
    assert_eq!(certs["revoked"], true, "{certs}");
    wait_for("nothing left", Duration::from_secs(2), || async {
        let left = live(&other, "outbound", ORDERS).await;
        left.is_empty().then_some(())
    })
    .await;
    let cut = other.wait_records(3, of_reason("svid-revoked")).await;
    for record in cut.unwrap() {
        assert_eq!(record["destination.principal"], ORDERS, "{record}");
    }
    let url = "http://orders.shop:8080/";
    assert_eq!(answer(&other, url).await, (503, "svid-revoked".to_owned()));

    by_crl(&shop, "unrevoke", server).await;
    wait_for("trust", Duration::from_secs(5), || async {
        (answer(&other, url).await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_list_that_cannot_be_honoured_or_is_taken_back_leaves_the_one_before_in_force() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let stage = WorkloadSpec::new("shop", "stage").without_sidecar();
    let stage = lab.workload(stage.unannounced()).await.unwrap();
    let raw = Caller::new(&lab, "spiffe://example.org/raw-control").await;
    let caller = Caller::new(&lab, BATCH).await;
    let mut control = Xds::listen(&stage, raw).await;
    let at = format!("https://{}:{}", stage.addresses.v4, xds::PORT);
    let orders = WorkloadSpec::new("shop", "orders")
        .port(8080, "HTTP")
        .env("KITH_XDS_ADDRESS", &at)
        .env("KITH_XDS_SPIFFE_ID", "spiffe://example.org/raw-control");
    let orders = lab.start_workload(orders).await.unwrap();
    let _app = orders.app(&["http"]).await.unwrap();
    let ask = || async {
        let to = (orders.addresses.v4, 8080).into();
        let request = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
        let heard = caller.raw(&stage, to, b"http/1.1", request).await;
        heard.map_or_else(|_| Vec::new(), |heard| heard.statuses())
    };
    let configuration = mesh::WorkloadConfig {
        revision: "1".to_owned(),
        namespace: "shop".to_owned(),
        name: "orders".to_owned(),
        trust_domain: "example.org".to_owned(),
        addresses: vec![orders.addresses.v4.to_string()],
        default_mtls_mode: mesh::MtlsMode::Strict.into(),
        default_action: mesh::DefaultAction::Allow.into(),
        egress_mode: mesh::EgressMode::Refuse.into(),
        ..mesh::WorkloadConfig::default()
    };
    control.subscription(Kind::RevocationList).await;
    control.subscription(Kind::WorkloadConfig).await;
    // Before the configuration: it is in the first snapshot all the same.
    let list = |what: &[&str]| {
        let entry = |id: &&str| mesh::Revocation {
            what: Some(mesh::revocation::What::Principal((*id).to_owned())),
            until: Some(prost_types::Timestamp {
                seconds: 4_000_000_000,
                nanos: 0,
            }),
            reason: String::new(),
        };
        let revocations = what.iter().map(entry).collect();
        mesh::RevocationList { revocations }.encode_to_vec()
    };
    let kind = Kind::RevocationList;
    // There is none yet, so that taking it back takes nothing.
    assert_eq!(control.take_back(kind, "mesh").await, None);
    assert_eq!(control.send(kind, &[("mesh", list(&[BATCH]))]).await, None);
    let configuration = [("shop/orders", configuration.encode_to_vec())];
    let sent = control.send(Kind::WorkloadConfig, &configuration);
    assert_eq!(sent.await, None);
    orders.ready(Duration::from_secs(10)).await.unwrap();
    assert_eq!(ask().await, [403]);

    let bad = [("mesh", list(&["spiffe://example.org"]))];
    let refused = control.send(kind, &bad);
    let why = refused.await.unwrap();
    assert!(why.starts_with("mesh: revocations[0].principal: "), "{why}");
    assert_eq!(ask().await, [403]);
    let why = control.take_back(kind, "mesh").await.unwrap();
    assert!(why.contains("send an empty list"), "{why}");
    assert_eq!(ask().await, [403]);
    assert_eq!(control.send(kind, &[("mesh", list(&[]))]).await, None);
    assert_eq!(ask().await, [200]);
    assert_eq!(control.take_back(kind, "mesh").await, None);
    assert_eq!(ask().await, [200]);
}
