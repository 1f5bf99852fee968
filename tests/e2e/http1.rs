//! HTTP/1.1 as clients and applications see it through two sidecars.

use std::rc::Rc;
use std::time::Duration;

use expect_test::{Expect, expect};
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use kith::app::body::{channel, full};
use kith::app::client::{Call, Connection, Reply, Url};
use kith::lab::WorkloadSpec;
use kith_tests::app::App;
use kith_tests::expect::{self, hop, scrub};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::{self, End, say, until};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const HTTP: &[(u16, &str)] = &[(8080, "HTTP")];

fn path(wanted: &str) -> impl Fn(&Value) -> bool {
    move |record| record["http.path"] == wanted
}

fn url(path: &str) -> Url {
    format!("http://orders.shop:8080{path}").parse().unwrap()
}

fn check(actual: &str, expected: &Expect) {
    expected.assert_eq(actual);
}

#[tokio::test]
async fn an_allowed_request_arrives_with_the_callers_name_and_both_ends_write_it_down() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--name", "orders"])
        .await
        .unwrap();
    let reply = shop
        .get("/orders/1?secret=never-logged", &["x-own: kept"])
        .await;
    check(
        &expect::reply(&reply),
        &expect![[r#"
        200
        content-length: 548
        content-type: application/json

        {"app":"orders","authority":null,"body":"","bytes":0,"headers":{"host":"orders.shop:8080","traceparent":"00-<trace>-<span>-00","x-forwarded-client-cert":"By=spiffe://example.org/ns/shop/sa/orders;Hash=<sha256>;URI=spiffe://example.org/ns/shop/sa/web","x-own":"kept","x-request-id":"<uuid>"},"method":"GET","path":"/orders/1","peer":"<peer>","query":"secret=never-logged","trailers":null,"version":"HTTP/1.1"}
    "#]],
    );
    let text = hop(&shop.web, &shop.orders, path("/orders/1")).await;
    check(
        &text,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 548
        both    decision allow
        both    destination.address 10.75.0.4:8080
        both    destination.port 8080
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop:8080
        both    http.method GET
        both    http.path /orders/1
        both    http.status 200
        both    http.version 1.1
        server  parent.id <span>
        server  policy shop/orders
        client  reason allowed-by-default
        server  reason allowed-by-rule
        both    record request
        both    request.id <uuid>
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    span.id <span>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    trace.id <trace>
        both    upstream_ms <ms>
    "#]],
    );
}

#[tokio::test]
async fn requests_of_one_connection_share_one_connection_on_the_wire_and_are_counted_on_it() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let address = shop.service(8080);
    let peers = shop
        .web
        .enter(move || async move {
            let mut connection = Connection::open(address, false).await.unwrap();
            let mut peers = Vec::new();
            for number in 1..=3 {
                let request = connection
                    .request(
                        Method::GET,
                        &url(&format!("/{number}")),
                        &HeaderMap::new(),
                        full(""),
                    )
                    .unwrap();
                peers.push(connection.call(request).await.unwrap().json()["peer"].clone());
            }
            peers
        })
        .await
        .unwrap();
    assert!(
        peers
            .iter()
            .all(|peer| peer.is_string() && *peer == peers[0]),
        "one connection to the application: {peers:?}"
    );
    let mut hops = Vec::new();
    for number in 1..=3 {
        let (outbound, _) =
            expect::ends(&shop.web, &shop.orders, path(&format!("/{number}"))).await;
        hops.push(outbound["hop"].as_str().unwrap().to_owned());
    }
    let (id, _) = hops[0].rsplit_once('-').unwrap();
    assert_eq!(
        hops,
        [format!("{id}-1"), format!("{id}-2"), format!("{id}-3")]
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let heard = shop
        .say(
            "GET /slow?ms=200 HTTP/1.1\r\nhost: orders.shop\r\n\r\n\
             POST /echo HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 5\r\n\r\nhello\
             HEAD /third HTTP/1.1\r\nhost: orders.shop\r\n\r\n\
             GET /status/404 HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![200, 200, 200, 404], End::Closed)
    );
    let text = heard.text();
    let place = |part: &str| {
        text.find(part)
            .unwrap_or_else(|| panic!("{part} in {text}"))
    };
    assert!(
        place("\"path\":\"/slow\"") < place("\r\n\r\nhello")
            && place("\r\n\r\nhello") < place("HTTP/1.1 404"),
        "{text}"
    );
    let records = shop
        .web
        .wait_records(4, |record| record["direction"] == "outbound")
        .await
        .unwrap();
    let paths: Vec<_> = records.iter().map(|record| &record["http.path"]).collect();
    assert_eq!(paths, ["/slow", "/echo", "/third", "/status/404"]);
}

#[tokio::test]
async fn bodies_and_trailers_of_any_shape_pass_both_ways() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();

    let heard = shop
        .say(
            "POST /sum HTTP/1.1\r\nhost: orders.shop\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
             connection: close\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n",
        )
        .await;
    let text = heard.text();
    assert!(
        text.contains("\"body\":\"hello world\"")
            && text.contains("\"trailers\":{\"x-sum\":\"11\"}"),
        "{text}"
    );
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, path("/sum")).await;
    for record in [outbound, inbound] {
        assert_eq!(
            record["bytes.in"], 11,
            "content without chunk headers: {record}"
        );
    }

    // Chunks back.
    let heard = shop
        .say("POST /echo HTTP/1.1\r\nhost: orders.shop\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    assert!(
        heard.text().contains("transfer-encoding: chunked")
            && heard.text().ends_with("5\r\nhello\r\n0\r\n\r\n"),
        "{heard:?}"
    );

    let reply = shop
        .get("/stream?ticks=3&ms=1", &["te: trailers", "connection: te"])
        .await;
    assert_eq!(
        (
            reply.text().as_str(),
            reply.trailers["x-ticks"].to_str().unwrap()
        ),
        ("tick 0\ntick 1\ntick 2\n", "3")
    );

    let heard = shop
        .say("HEAD /bytes?n=1000 HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n")
        .await;
    let text = heard.text();
    assert!(
        text.contains("content-length: 1000\r\n") && text.ends_with("\r\n\r\n"),
        "no body after HEAD: {text:?}"
    );

    // HTTP/1.0: no chunks for one who cannot read them, the end of the connection is the end of the body.
    let heard = shop
        .say("GET /stream?ticks=2&ms=1 HTTP/1.0\r\nhost: orders.shop\r\n\r\n")
        .await;
    let text = heard.text();
    assert!(
        !text.contains("chunked") && text.ends_with("\r\n\r\ntick 0\ntick 1\n"),
        "{text:?}"
    );
    assert_eq!(heard.end, End::Closed);
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, path("/stream")).await;
    assert_eq!(
        (&outbound["http.version"], &inbound["bytes.out"]),
        (&"1.1".into(), &21.into()),
        "the first of /stream"
    );
}

#[tokio::test]
async fn a_hundred_mebibytes_go_up_and_down_at_once_unchanged_and_in_little_memory() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 100 * 1024 * 1024 / PIECE;
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let address = shop.service(8080);
    // Different everywhere, so that nothing can be lost, doubled or swapped unseen.
    let piece = |number: usize| -> Vec<u8> {
        let mut state = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
        let mut bytes = Vec::with_capacity(PIECE);
        while bytes.len() < PIECE {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes
    };
    let before = memory(&shop);
    shop.web
        .enter(move || async move {
            let mut connection = Connection::open(address, false).await.unwrap();
            let (frames, body) = channel();
            let request = connection
                .request(Method::POST, &url("/echo"), &HeaderMap::new(), body)
                .unwrap();
            // Never so much on its way that the sockets between application and sidecar are full in both directions. An
            // application that echoes reads nothing while it can't write, and Linux 6.18 can stop there for good, in about
            // one run in 50: the application's receive buffer overflows, its window shrinks under the sidecar's segment that
            // is on its way, and from then on it drops whatever the sidecar sends as beyond the window, the ACKs of its own
            // data too (`ss -i`: the sidecar has received every byte that the application still sends again; both ends back
            // off; it stays so when the client and the sidecar's end are gone). Only the application's reading would end it.
            let ahead = Rc::new(Semaphore::new(4));
            let sent = Rc::clone(&ahead);
            let upload = tokio::task::spawn_local(async move {
                for number in 0..PIECES {
                    sent.acquire().await.unwrap().forget();
                    assert!(frames.data(piece(number)).await);
                }
            });
            let mut body = connection.send(request).await.unwrap().into_body();
            let (mut number, mut wanted, mut at) = (0, piece(0), 0);
            while let Some(frame) = body.frame().await {
                let mut bytes = frame.unwrap().into_data().unwrap();
                while !bytes.is_empty() {
                    let part = bytes.split_to(bytes.len().min(PIECE - at));
                    assert!(part[..] == wanted[at..at + part.len()], "in piece {number}");
                    at += part.len();
                    if at == PIECE {
                        (number, at) = (number + 1, 0);
                        ahead.add_permits(1);
                        wanted = piece(number);
                    }
                }
            }
            assert_eq!((number, at), (PIECES, 0));
            upload.await.unwrap();
        })
        .await
        .unwrap();
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, path("/echo")).await;
    for key in ["bytes.in", "bytes.out"] {
        assert_eq!(
            (&outbound[key], &inbound[key]),
            (&(PIECE * PIECES).into(), &(PIECE * PIECES).into()),
            "{key}"
        );
    }
    for (before, after) in before.into_iter().zip(memory(&shop)) {
        assert!(
            after < before + 16 * 1024,
            "a sidecar went from {before} to {after} KiB"
        );
    }
}

/// Greatest memory of each sidecar so far, KiB.
fn memory(shop: &Shop) -> [u64; 2] {
    [&shop.web, &shop.orders].map(|workload| wire::peak_memory(workload.sidecar().pid()))
}

#[tokio::test]
async fn expect_continue_waits_for_the_application_and_interim_answers_pass() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let address = shop.service(8080);
    {
        let _app = shop.orders.app(&["http"]).await.unwrap();
        let heard = shop
            .web
            .enter(move || async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head = "POST /continued HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                say(&mut stream, b"body", Duration::from_secs(2)).await
            })
            .await
            .unwrap();
        assert!(
            heard.text().starts_with("HTTP/1.1 200 OK\r\n")
                && heard.text().contains("\"body\":\"body\""),
            "{heard:?}"
        );
    }
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let app = App::answering(&shop.orders, 8080, hints).await;
    let heard = shop
        .say("GET /hints HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n")
        .await;
    assert_eq!(heard.statuses(), [103, 200], "{}", heard.text());
    assert!(
        heard
            .text()
            .starts_with("HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n"),
        "{}",
        heard.text()
    );
    // RFC 9110 section 15.2: a server must not send a 1xx to an HTTP/1.0 client.
    let heard = shop
        .say("GET /hints HTTP/1.0\r\nhost: orders.shop\r\n\r\n")
        .await;
    assert_eq!(heard.statuses(), [200], "{}", heard.text());
    drop(app);
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_been_read() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let early =
        "HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbig\n";
    let app = App::answering(&shop.orders, 8080, early).await;
    let mut request =
        b"POST /big HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    request.resize(100_000, b'x');
    let heard = shop.say(request).await;
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![413], End::Closed),
        "{}",
        heard.text()
    );
    assert!(heard.text().ends_with("\r\n\r\nbig\n"));
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, path("/big")).await;
    for record in [outbound, inbound] {
        assert_eq!(
            (&record["decision"], &record["http.status"]),
            (&"allow".into(), &413.into()),
            "{record}"
        );
    }
    drop(app);
}

const UPGRADE: &str = "GET /upgrade HTTP/1.1\r\nhost: orders.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

#[tokio::test]
async fn row_09_an_upgrade_is_authorized_first_and_tunnels_only_after_101() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let address = shop.service(8080);
    // Early data: the client does not wait for the 101. The application must not get it before it has agreed.
    let app = App::hearing(&shop.orders, 8080, |mut stream, log| async move {
        let head = until(&mut stream, "\r\n\r\n").await.unwrap();
        let mut early = [0; 64];
        let early = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut early)).await;
        log.push(format!("upgrade asked: {}, early: {}\n", head.contains("upgrade: websocket"), early.is_ok()).as_bytes());
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nserver first;";
        stream.write_all(switch.as_bytes()).await.unwrap();
        let heard = wire::listen(&mut stream, Duration::from_secs(2)).await;
        log.push(&heard.bytes);
        stream.write_all(b"bye").await.unwrap();
    })
    .await;
    let heard = shop
        .web
        .enter(move || async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(format!("{UPGRADE}early;").as_bytes())
                .await
                .unwrap();
            let head = until(&mut stream, "\r\n\r\n").await.unwrap();
            let first = until(&mut stream, "server first;").await.unwrap();
            stream.write_all(b"late;").await.unwrap();
            stream.shutdown().await.unwrap();
            (
                head,
                first,
                wire::listen(&mut stream, Duration::from_secs(2)).await,
            )
        })
        .await
        .unwrap();
    assert!(
        heard.0.starts_with("HTTP/1.1 101 Switching Protocols\r\n")
            && heard.0.contains("upgrade: websocket"),
        "{}",
        heard.0
    );
    assert_eq!((heard.2.text().as_str(), heard.2.end), ("bye", End::Closed));
    assert_eq!(
        app.heard(),
        ["upgrade asked: true, early: false\nearly;late;"]
    );
    let text = hop(&shop.web, &shop.orders, path("/upgrade")).await;
    check(
        &text,
        &expect![[r#"
        both    bytes.in 11
        both    bytes.out 16
        both    closed_by client
        both    decision allow
        both    destination.address 10.75.0.4:8080
        both    destination.port 8080
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop
        both    http.method GET
        both    http.path /upgrade
        both    http.status 101
        both    http.version 1.1
        server  parent.id <span>
        server  policy shop/orders
        client  reason allowed-by-default
        server  reason allowed-by-rule
        both    record request
        both    request.id <uuid>
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    span.id <span>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    trace.id <trace>
        both    upstream_ms <ms>
    "#]],
    );
}

#[tokio::test]
async fn row_09_an_upgrade_that_is_refused_by_policy_or_application_is_no_tunnel() {
    let denied = format!(
        "{WEB_MAY_ALL}---\napiVersion: kith.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{namespace: shop, name: no-upgrade}}\nspec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [/upgrade]}}}}]}}]}}\n"
    );
    let shop = Shop::open(HTTP, &denied).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno\n",
    )
    .await;
    let heard = shop
        .say(format!("{UPGRADE}raw bytes that are no HTTP\r\n\r\n"))
        .await;
    assert_eq!(heard.statuses(), [403, 400], "{}", heard.text());
    // The application answers 200: what follows is another request, not a tunnel.
    let heard = shop
        .say(UPGRADE.replace("/upgrade", "/other") + "raw bytes that are no HTTP\r\n\r\n")
        .await;
    assert_eq!(heard.statuses(), [200, 400], "{}", heard.text());
    assert!(
        app.heard()
            .iter()
            .all(|heard| !heard.contains("/upgrade") && !heard.contains("raw bytes")),
        "{:?}",
        app.heard()
    );
    // RFC 9113 section 3.1 removed the upgrade to h2c; and it would let streams pass undecided.
    let h2c = "GET / HTTP/1.1\r\nhost: orders.shop\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let before = app.heard().len();
    let heard = shop.say(h2c).await;
    let forwarded = app.heard().split_off(before).concat();
    assert!(
        !forwarded.contains("h2c") && !forwarded.to_lowercase().contains("upgrade"),
        "{forwarded:?}, {}",
        heard.text()
    );
}

#[tokio::test]
async fn row_09_connect_is_authorized_first_and_tunnels_only_after_2xx() {
    let policy = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {methods: [CONNECT], hosts: [allowed.example]}}]
";
    let shop = Shop::open(HTTP, policy).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 Connection Established\r\n\r\nhello from beyond;",
    )
    .await;
    let address = shop.service(8080);
    let heard = shop
        .web
        .enter(move || async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(
                    b"CONNECT allowed.example:443 HTTP/1.1\r\nhost: allowed.example:443\r\n\r\n",
                )
                .await
                .unwrap();
            let heard = until(&mut stream, "beyond;").await;
            stream.write_all(b"through").await.unwrap();
            stream.shutdown().await.unwrap();
            heard.map(|heard| (heard, wire::reset_on_close(&stream)))
        })
        .await
        .unwrap();
    let (heard, ()) = heard.unwrap();
    assert!(
        heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("\r\n\r\nhello from beyond;"),
        "{heard:?}"
    );
    let all = app
        .wait_heard(|heard| heard.concat().contains("through"))
        .await;
    assert!(
        all[0].starts_with("CONNECT allowed.example:443 HTTP/1.1\r\n"),
        "{all:?}"
    );

    let heard = shop
        .say("CONNECT denied.example:443 HTTP/1.1\r\nhost: denied.example:443\r\n\r\nearly")
        .await;
    assert_eq!(heard.statuses()[0], 403, "{}", heard.text());
    assert_eq!(app.heard().len(), 1, "{:?}", app.heard());
}

#[tokio::test]
async fn connections_end_when_and_only_when_somebody_wants_it() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    for (version, connection, end, says) in [
        ("1.1", "", End::Open, None),
        (
            "1.1",
            "connection: close\r\n",
            End::Closed,
            Some("connection: close"),
        ),
        ("1.0", "", End::Closed, None),
        // RFC 9112 section 9.3: a proxy keeps no HTTP/1.0 connection.
        (
            "1.0",
            "connection: keep-alive\r\n",
            End::Closed,
            Some("connection: close"),
        ),
    ] {
        let heard = shop
            .say(format!(
                "GET /status/200 HTTP/{version}\r\nhost: orders.shop\r\n{connection}\r\n"
            ))
            .await;
        assert_eq!(
            (heard.statuses(), heard.end),
            (vec![200], end),
            "{version} {connection:?}: {}",
            heard.text()
        );
        if let Some(says) = says {
            assert!(
                heard.text().contains(&format!("\r\n{says}\r\n")),
                "{version} {connection:?}: {}",
                heard.text()
            );
        }
    }
    // The application wants to end its own connection: the client's goes on.
    drop(_app);
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
    )
    .await;
    let heard = shop.say("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![200, 200], End::Closed),
        "{}",
        heard.text()
    );
    assert_eq!(
        app.heard().len(),
        2,
        "one connection for each request: {:?}",
        app.heard()
    );
}

#[tokio::test]
async fn answers_without_content_leave_the_connection_in_step() {
    for (answer, status) in [
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\netag: \"a\"\r\n\r\n",
            304,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
    ] {
        // A mesh for each: the sidecar may still hold a connection to an application that is just going.
        let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
        let app = App::answering(&shop.orders, 8080, answer).await;
        let get = "GET / HTTP/1.1\r\nhost: orders.shop\r\n\r\n";
        let last = "GET / HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n";
        let heard = shop.say(format!("{get}{get}{last}")).await;
        assert_eq!(
            (heard.statuses(), heard.end),
            (vec![status; 3], End::Closed),
            "{}",
            heard.text()
        );
        drop(app);
    }
    // HEAD is answered with the length of what GET would bring.
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
    )
    .await;
    let head = "HEAD / HTTP/1.1\r\nhost: orders.shop\r\n\r\n";
    let last = head.replace("host", "connection: close\r\nhost");
    let heard = shop.say(format!("{head}{last}")).await;
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![200, 200], End::Closed),
        "{}",
        heard.text()
    );
    drop(app);
}

#[tokio::test]
async fn a_client_that_has_said_all_it_has_still_gets_its_answer() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let address = shop.service(8080);
    let heard = shop
        .web
        .enter(move || async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET /slow?ms=200 HTTP/1.1\r\nhost: orders.shop\r\n\r\n")
                .await
                .unwrap();
            stream.shutdown().await.unwrap();
            wire::listen(&mut stream, Duration::from_secs(2)).await
        })
        .await
        .unwrap();
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![200], End::Closed),
        "{}",
        heard.text()
    );
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let app = App::answering(&shop.orders, 8080, "").await;
    let address = shop.service(8080);
    shop.web
        .enter(move || async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(
                    b"POST /half HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 100\r\n\r\nhalf",
                )
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            wire::reset_on_close(&stream);
        })
        .await
        .unwrap();
    let heard = app
        .wait_heard(|heard| heard.concat().contains("<reset>"))
        .await;
    assert!(
        heard.concat().ends_with("half<reset>"),
        "a cut is no end: {heard:?}"
    );
    let text = hop(&shop.web, &shop.orders, path("/half")).await;
    check(
        &text,
        &expect![[r#"
        both    bytes.in 4
        both    bytes.out 0
        both    closed_by client
        both    decision allow
        both    destination.address 10.75.0.4:8080
        both    destination.port 8080
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop
        both    http.method POST
        both    http.path /half
        both    http.version 1.1
        server  parent.id <span>
        server  policy shop/orders
        both    reason client-closed
        both    record request
        both    request.id <uuid>
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    span.id <span>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    trace.id <trace>
    "#]],
    );
}

#[tokio::test]
async fn an_application_that_leaves_in_the_middle_is_a_cut_and_not_an_end() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    {
        let _app = shop.orders.app(&["http"]).await.unwrap();
        let heard = shop
            .say("GET /abort HTTP/1.1\r\nhost: orders.shop\r\n\r\n")
            .await;
        assert_eq!(
            (heard.statuses(), heard.end),
            (vec![200], End::Reset),
            "{}",
            heard.text()
        );
        let text = hop(&shop.web, &shop.orders, path("/abort")).await;
        check(
            &text,
            &expect![[r#"
            both    bytes.in 0
            both    bytes.out 32
            both    closed_by server
            both    decision allow
            both    destination.address 10.75.0.4:8080
            both    destination.port 8080
            both    destination.principal spiffe://example.org/ns/shop/sa/orders
            client  destination.service shop/orders
            client  direction outbound
            server  direction inbound
            both    duration_ms <ms>
            both    hop <hop>-1
            both    http.authority orders.shop
            both    http.method GET
            both    http.path /abort
            both    http.status 200
            both    http.version 1.1
            server  parent.id <span>
            server  policy shop/orders
            both    reason server-closed
            both    record request
            both    request.id <uuid>
            both    revision <revision>
            server  rule 0
            both    source.address 10.75.0.3:*
            both    source.expires <time>
            both    source.principal spiffe://example.org/ns/shop/sa/web
            both    source.serial <serial>
            both    span.id <span>
            both    time <time>
            both    tls.cipher TLS13_AES_128_GCM_SHA256
            both    tls.group X25519MLKEM768
            both    tls.version TLSv1.3
            both    trace.id <trace>
            both    upstream_ms <ms>
        "#]],
        );
    }
    {
        // Before it has said anything.
        let _app = App::listen(&shop.orders, 8080, |mut stream, _| async move {
            until(&mut stream, "\r\n\r\n").await.unwrap();
        })
        .await;
        let reply = shop.get("/mute", &[]).await;
        check(
            &expect::reply(&reply),
            &expect![[r#"
            503
            content-length: 77
            content-type: application/problem+json
            server: kith
            x-kith-reason: server-closed

            {"reason":"server-closed","requestId":"<uuid>"}
        "#]],
        );
    }
    {
        let _app = App::answering(&shop.orders, 8080, "220 mail.example ESMTP\r\n").await;
        let reply = shop.get("/no-http", &[]).await;
        assert_eq!(
            (reply.status, reply.header("x-kith-reason")),
            (503, Some("server-closed")),
            "{reply:?}"
        );
    }
    let text = hop(&shop.web, &shop.orders, path("/mute")).await;
    check(
        &text,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 77
        server  closed_by server
        both    decision allow
        both    destination.address 10.75.0.4:8080
        both    destination.port 8080
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop:8080
        both    http.method GET
        both    http.path /mute
        both    http.status 503
        both    http.version 1.1
        server  parent.id <span>
        server  policy shop/orders
        both    reason server-closed
        both    record request
        both    request.id <uuid>
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    span.id <span>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    trace.id <trace>
        client  upstream_ms <ms>
    "#]],
    );
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_server_unreachable() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let reply = shop.get("/nobody", &[]).await;
    check(
        &expect::reply(&reply),
        &expect![[r#"
        503
        content-length: 82
        content-type: application/problem+json
        server: kith
        x-kith-reason: server-unreachable

        {"reason":"server-unreachable","requestId":"<uuid>"}
    "#]],
    );
    let text = hop(&shop.web, &shop.orders, path("/nobody")).await;
    check(
        &text,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 82
        server  closed_by server
        both    decision allow
        both    destination.address 10.75.0.4:8080
        both    destination.port 8080
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop:8080
        both    http.method GET
        both    http.path /nobody
        both    http.status 503
        both    http.version 1.1
        server  parent.id <span>
        server  policy shop/orders
        both    reason server-unreachable
        both    record request
        both    request.id <uuid>
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    span.id <span>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    trace.id <trace>
        client  upstream_ms <ms>
    "#]],
    );
    // It comes up later, and the same connection on the wire serves.
    let _app = shop.orders.app(&["http"]).await.unwrap();
    assert_eq!(shop.get("/somebody", &[]).await.status, 200);
}

const ONLY_READ: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: [/public/*]}}]
";

#[tokio::test]
async fn a_denied_request_is_told_the_reason_and_nothing_more() {
    let shop = Shop::open(HTTP, ONLY_READ).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    // Two on one connection: a refusal ends nothing.
    let heard = shop
        .say(
            "DELETE /public/1 HTTP/1.1\r\nhost: orders.shop\r\nx-request-id: my-own.1\r\n\r\n\
             GET /public/2 HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n",
        )
        .await;
    let text = heard.text();
    let (denied, allowed) = text.split_at(text.find("HTTP/1.1 200").unwrap_or(text.len()));
    check(
        &denied.replace('\r', ""),
        &expect![[r#"
        HTTP/1.1 403 Forbidden
        server: kith
        x-kith-reason: no-allow-policy-matches
        content-type: application/problem+json
        content-length: 59

        {"reason":"no-allow-policy-matches","requestId":"my-own.1"}"#]],
    );
    assert!(allowed.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert_eq!(app.heard().len(), 1, "{:?}", app.heard());
    // Whoever asks before sending is told before sending.
    let heard = shop.say("PUT /public/3 HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 1000000\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![403], End::Closed),
        "{}",
        heard.text()
    );
    let text = hop(&shop.web, &shop.orders, path("/public/1")).await;
    check(
        &text,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 59
        both    decision deny
        both    destination.address 10.75.0.4:8080
        both    destination.port 8080
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop
        both    http.method DELETE
        both    http.path /public/1
        both    http.status 403
        both    http.version 1.1
        server  nearest.clause to.methods
        server  nearest.policy shop/orders
        server  parent.id <span>
        both    reason no-allow-policy-matches
        both    record request
        both    request.id my-own.1
        both    revision <revision>
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    span.id <span>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    trace.id <trace>
        client  upstream_ms <ms>
    "#]],
    );
}

#[tokio::test]
async fn request_id_and_trace_are_kept_or_started_and_continued_over_two_hops() {
    let policies = format!(
        "{WEB_MAY_ALL}---\n{}",
        WEB_MAY_ALL
            .replace("name: orders", "name: payments")
            .replace("app: orders", "app: payments")
            .replace("sa/web", "sa/orders")
    );
    let shop = Shop::open(HTTP, &policies).await;
    let payments = shop
        .lab
        .workload(WorkloadSpec::new("shop", "payments").port(8080, "HTTP"))
        .await
        .unwrap();
    let _orders = shop.orders.app(&["http"]).await.unwrap();
    let _payments = payments.app(&["http"]).await.unwrap();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = "00f067aa0ba902b7";
    let call = "/call?url=http://payments.shop:8080/charges";
    for (given, id_kept, trace_kept) in [
        (vec![], false, false),
        (
            vec![
                "x-request-id: shop/42+a=b:c.d_e".to_owned(),
                format!("traceparent: 00-{trace}-{parent}-01"),
            ],
            true,
            true,
        ),
        (
            vec![
                "x-request-id: with space".to_owned(),
                format!("traceparent: 00-{}-{parent}-01", "0".repeat(32)),
            ],
            false,
            false,
        ),
        (
            vec![
                format!("x-request-id: {}", "x".repeat(129)),
                "traceparent: nonsense".to_owned(),
            ],
            false,
            false,
        ),
    ] {
        let before = payments.records().len();
        let headers: Vec<&str> = given.iter().map(String::as_str).collect();
        let reply = shop.get(call, &headers).await;
        let told = reply.json()["body"]["headers"].clone();
        let last = payments
            .wait_records(before + 1, |_| true)
            .await
            .unwrap()
            .pop()
            .unwrap();
        let id = last["request.id"].clone();
        assert_eq!(
            told["x-request-id"], id,
            "the application is told what the record says"
        );
        assert_eq!(id == "shop/42+a=b:c.d_e", id_kept, "{given:?}: {id}");
        assert_eq!(last["trace.id"] == trace, trace_kept, "{given:?}: {last}");
        if !id_kept {
            assert_eq!(scrub(id.as_str().unwrap()), "<uuid>", "{given:?}");
        }
        // Four spans, each the parent of the next.
        let mut chain = vec![last.clone()];
        for (workload, direction) in [
            (&shop.orders, "outbound"),
            (&shop.orders, "inbound"),
            (&shop.web, "outbound"),
        ] {
            let wanted =
                |record: &Value| record["request.id"] == id && record["direction"] == direction;
            chain.push(workload.wait_record(wanted).await.unwrap());
        }
        for pair in chain.windows(2) {
            assert_eq!(
                (&pair[0]["trace.id"], &pair[0]["parent.id"]),
                (&pair[1]["trace.id"], &pair[1]["span.id"]),
                "{given:?}"
            );
        }
        let first_parent = &chain.last().unwrap()["parent.id"];
        assert_eq!(
            *first_parent,
            if trace_kept {
                parent.into()
            } else {
                Value::Null
            },
            "{given:?}"
        );
        let flags = if trace_kept { "01" } else { "00" };
        assert_eq!(
            told["traceparent"],
            format!(
                "00-{}-{}-{flags}",
                last["trace.id"].as_str().unwrap(),
                last["span.id"].as_str().unwrap()
            )
        );
    }
}

#[tokio::test]
async fn row_17_identity_headers_are_the_proxys_alone() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-kith-reason: allowed-by-rule\r\nX_Kith_Reason: a\r\nx-kith-other: b\r\nx-other: kept\r\n\r\nok",
    )
    .await;
    let heard = shop
        .say(
            "GET /forged HTTP/1.1\r\nhost: orders.shop\r\n\
             x-forwarded-client-cert: By=spiffe://example.org/a;URI=spiffe://example.org/ns/shop/sa/admin\r\n\
             X-Forwarded-Client-Cert: second\r\nx_forwarded_client_cert: third\r\nX-Forwarded_Client-Cert: fourth\r\n\
             x-kith-principal: admin\r\nX-Kith-Reason: allowed\r\nx_kith_hop: 1\r\nx-kith: kept\r\nconnection: close\r\n\r\n",
        )
        .await;
    assert!(
        heard.text().contains("\r\nx-other: kept\r\n")
            && !heard.text().to_lowercase().contains("kith"),
        "{}",
        heard.text()
    );
    check(
        &scrub(&app.heard()[0].replace('\r', "").replace("<end>", "")),
        &expect![[r#"
        GET /forged HTTP/1.1
        host: orders.shop
        x-kith: kept
        x-request-id: <uuid>
        traceparent: 00-<trace>-<span>-00
        x-forwarded-client-cert: By=spiffe://example.org/ns/shop/sa/orders;Hash=<sha256>;URI=spiffe://example.org/ns/shop/sa/web

    "#]],
    );
    drop(app);
    // Directly, without a sidecar of the client's: the server's sidecar alone does it as well.
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let caller =
        kith_tests::caller::Caller::new(&shop.lab, "spiffe://example.org/ns/shop/sa/web").await;
    let stranger = shop.stranger().await;
    let request = "GET /direct HTTP/1.1\r\nhost: orders.shop\r\nx-forwarded-client-cert: URI=spiffe://example.org/ns/shop/sa/admin\r\n\
                   x_forwarded-client_cert: forged\r\nx-kith-principal: admin\r\nconnection: close\r\n\r\n";
    let heard = caller
        .raw(&stranger, shop.pod(8080), b"http/1.1", request)
        .await
        .unwrap();
    assert_eq!(heard.statuses(), [200], "{}", heard.text());
    check(
        &scrub(&app.heard()[0].replace('\r', "").replace("<end>", "")),
        &expect![[r#"
        GET /direct HTTP/1.1
        host: orders.shop
        x-request-id: <uuid>
        traceparent: 00-<trace>-<span>-00
        x-forwarded-client-cert: By=spiffe://example.org/ns/shop/sa/orders;Hash=<sha256>;URI=spiffe://example.org/ns/shop/sa/web

    "#]],
    );
}

#[tokio::test]
async fn rows_01_02_03_the_path_is_normalised_once_and_decided_as_it_is_forwarded() {
    let shop = Shop::open(HTTP, ONLY_READ).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    .await;
    for (target, expected) in [
        ("/public/a", Ok("/public/a")),
        ("//public///a", Ok("/public/a")),
        ("/public/./a/../b", Ok("/public/b")),
        ("/public\\a", Ok("/public/a")),
        ("/%70ublic/%61%7e", Ok("/public/a~")),
        ("/public/%e2%82%ac", Ok("/public/%E2%82%AC")),
        ("/public/a;b=c", Ok("/public/a;b=c")),
        ("/public/a?b=/../admin#not", Err((400, "path-refused"))),
        (
            "/public/a?b=/../admin&c=%2f",
            Ok("/public/a?b=/../admin&c=%2f"),
        ),
        ("/public/../admin", Err((403, "no-allow-policy-matches"))),
        ("/public/..;/admin", Err((403, "no-allow-policy-matches"))),
        (
            "/public/%2e%2e/admin",
            Err((403, "no-allow-policy-matches")),
        ),
        ("/public/..\\admin", Err((403, "no-allow-policy-matches"))),
        ("/admin?x=/public/", Err((403, "no-allow-policy-matches"))),
        ("/public%2fa", Err((400, "path-refused"))),
        ("/public/%5Ca", Err((400, "path-refused"))),
        ("/public/%00a", Err((400, "path-refused"))),
        ("/public/../../admin", Err((400, "path-refused"))),
        ("/public/a#fragment", Err((400, "path-refused"))),
    ] {
        let before = app.heard().len();
        let heard = shop
            .say(format!(
                "GET {target} HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let seen = app.heard().split_off(before);
        match expected {
            Ok(forwarded) => {
                assert_eq!(heard.statuses(), [200], "{target}: {}", heard.text());
                assert!(
                    seen.concat()
                        .starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")),
                    "{target}: {seen:?}"
                );
                let decided = forwarded.split('?').next().unwrap();
                shop.orders.wait_record(path(decided)).await.unwrap();
            }
            Err((status, reason)) => {
                assert_eq!(heard.statuses(), [status], "{target}: {}", heard.text());
                assert!(
                    heard
                        .text()
                        .contains(&format!("\r\nx-kith-reason: {reason}\r\n")),
                    "{target}: {}",
                    heard.text()
                );
                assert_eq!(seen, [""; 0], "{target}");
            }
        }
    }
    // Other forms of the target.
    for line in [
        "GET public/a HTTP/1.1",
        "GET http://other.shop/public/a HTTP/1.1",
        "GET ftp://orders.shop/public/a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET orders.shop:8080 HTTP/1.1",
    ] {
        let before = app.heard().len();
        let heard = shop
            .say(format!("{line}\r\nhost: orders.shop\r\n\r\n"))
            .await;
        assert_eq!(
            (heard.statuses(), heard.end),
            (vec![400], End::Closed),
            "{line}: {}",
            heard.text()
        );
        assert_eq!(app.heard().len(), before, "{line}");
    }
    // RFC 9112 section 3.2.2: a server takes absolute-form. It is normalised, decided and forwarded as origin-form.
    let heard = shop.say("GET http://orders.shop//public/%61 HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n").await;
    assert_eq!(heard.statuses(), [200], "{}", heard.text());
    assert!(
        app.heard()
            .pop()
            .unwrap()
            .starts_with("GET /public/a HTTP/1.1\r\nhost: orders.shop\r\n"),
        "{:?}",
        app.heard()
    );
}

#[tokio::test]
async fn row_04_hosts_are_normalised_and_never_two() {
    let policy = ONLY_READ.replace("methods: [GET], paths: [/public/*]", "hosts: [orders.shop]");
    let shop = Shop::open(HTTP, &policy).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    .await;
    for (hosts, status) in [
        ("host: orders.shop", 200),
        ("host: ORDERS.Shop:8080", 200),
        ("host: orders.shop.", 200),
        ("host: orders.shop.:8080", 200),
        ("host: orders.shopx", 403),
        ("host: x.orders.shop", 403),
        ("host: orders.shop\r\nhost: orders.shop", 400),
        ("host: orders.shop\r\nhost: other", 400),
        ("host: orders.shop, other", 400),
        ("host: orders.shop@other", 400),
        ("host: orders.shop:80:80", 400),
        ("x-none: y", 400),
    ] {
        let before = app.heard().len();
        let heard = shop
            .say(format!(
                "GET / HTTP/1.1\r\n{hosts}\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(heard.statuses(), [status], "{hosts:?}: {}", heard.text());
        assert_eq!(
            app.heard().len() - before,
            usize::from(status == 200),
            "{hosts:?}"
        );
    }
}

#[tokio::test]
async fn row_05_of_repeated_headers_allow_needs_all_and_deny_any() {
    let policies = ONLY_READ.replace(
        "    to: [{operation: {methods: [GET], paths: [/public/*]}}]",
        "    when: [{key: \"request.headers[x-team]\", values: [blue*]}]",
    ) + "---
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: not-evil}
spec:
  action: DENY
  rules: [{when: [{key: \"request.headers[x-mood]\", values: [evil]}]}]
";
    let shop = Shop::open(HTTP, &policies).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    .await;
    for (headers, status) in [
        ("x-team: blue", 200),
        ("x-team: blue\r\nX-Team: blue-green", 200),
        ("x-team: blue\r\nx-team: red", 403),
        ("x-team: red\r\nx-team: blue", 403),
        ("x-team: blue\r\nx-mood: good\r\nx-mood: evil", 403),
        ("x-team: blue\r\nX-MOOD: evil\r\nx-mood: good", 403),
        ("x-team: blue\r\nx-mood: good", 200),
    ] {
        let heard = shop
            .say(format!(
                "GET / HTTP/1.1\r\nhost: orders.shop\r\n{headers}\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(heard.statuses(), [status], "{headers:?}: {}", heard.text());
        if status == 200 {
            let seen = app.heard().pop().unwrap();
            assert!(
                headers.split("\r\n").all(|line| seen.contains(line)),
                "all of them are forwarded: {headers:?} {seen:?}"
            );
        }
    }
}

#[tokio::test]
async fn row_07_connection_cannot_name_protected_headers() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let app = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    .await;
    for name in [
        "host",
        "authorization",
        "cookie",
        "x-request-id",
        "traceparent",
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-kith-a",
        "content-length",
    ] {
        let heard = shop.say(format!("GET / HTTP/1.1\r\nhost: orders.shop\r\nauthorization: Bearer t\r\nconnection: close, {name}\r\n\r\n")).await;
        assert_eq!(heard.statuses(), [400], "{name}: {}", heard.text());
        assert_eq!(app.heard(), [""; 0], "{name}");
    }
    // What is between two neighbours only stays there.
    let heard = shop
        .say(
            "GET / HTTP/1.1\r\nhost: orders.shop\r\nauthorization: Bearer t\r\nx-hop: gone\r\nX-Kept: kept\r\nkeep-alive: timeout=5\r\n\
             proxy-connection: keep-alive\r\nte: trailers\r\nconnection: close, x-hop\r\n\r\n",
        )
        .await;
    assert_eq!(heard.statuses(), [200], "{}", heard.text());
    check(
        &scrub(&app.heard()[0].replace('\r', "").replace("<end>", "")),
        &expect![[r#"
        GET / HTTP/1.1
        host: orders.shop
        authorization: Bearer t
        X-Kept: kept
        x-request-id: <uuid>
        traceparent: 00-<trace>-<span>-00
        x-forwarded-client-cert: By=spiffe://example.org/ns/shop/sa/orders;Hash=<sha256>;URI=spiffe://example.org/ns/shop/sa/web

    "#]],
    );
}

#[tokio::test]
async fn ipv6_and_workload_addresses_work_as_well() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    for host in ["v6.orders.shop", "orders.shop.pod", "v6.orders.shop.pod"] {
        let reply: Reply = shop
            .web
            .get(&format!("http://{host}:8080/by/{host}"))
            .await
            .unwrap();
        assert_eq!(reply.status, 200, "{host}: {reply:?}");
        assert!(
            reply.json()["headers"]["x-forwarded-client-cert"]
                .as_str()
                .unwrap()
                .contains("URI=spiffe://example.org/ns/shop/sa/web")
        );
        let (_, inbound) =
            expect::ends(&shop.web, &shop.orders, path(&format!("/by/{host}"))).await;
        let family = if host.starts_with("v6") {
            "[fd00:6b69::"
        } else {
            "10.75."
        };
        for key in ["source.address", "destination.address"] {
            assert!(
                inbound[key].as_str().unwrap().starts_with(family),
                "{host}: {inbound}"
            );
        }
    }
}

#[tokio::test]
async fn a_query_is_recorded_only_where_it_was_asked_for() {
    let options = kith::lab::LabOptions {
        environment: vec![("KITH_LOG_QUERY".to_owned(), "true".to_owned())],
        ..Default::default()
    };
    let shop = Shop::with(options, HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let mut call = Call::get(url("/search?q=shoes"));
    call.headers = vec!["x-a: b".to_owned()];
    assert_eq!(
        shop.web.call(call).await.unwrap().json()["query"],
        "q=shoes"
    );
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, |_| true).await;
    assert_eq!(
        (&outbound["http.path"], &inbound["http.path"]),
        (&"/search?q=shoes".into(), &"/search?q=shoes".into())
    );
}
