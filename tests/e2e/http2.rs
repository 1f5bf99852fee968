//! HTTP/2 and gRPC as clients and applications see them through two sidecars.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use expect_test::{Expect, expect};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use kith::app::body::{channel, full};
use kith::app::client::{Call, Connection, Url};
use kith::app::grpc::client::{Stream, get};
use kith::app::grpc::{GetOrder, Note, Order, WatchOrders};
use kith_tests::app::App;
use kith_tests::caller::Caller;
use kith_tests::expect::{self, hop, scrub};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::{self, End, say};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Declared and not.
const PORTS: &[(u16, &str)] = &[(9090, "GRPC"), (9091, "")];

fn path(wanted: &str) -> impl Fn(&Value) -> bool {
    move |record| record["http.path"] == wanted
}

fn check(actual: &str, expected: &Expect) {
    expected.assert_eq(actual);
}

fn url(path: &str) -> Url {
    format!("http://orders.shop:9090{path}").parse().unwrap()
}

fn http2(path: &str, headers: &[&str]) -> Call {
    let mut call = Call::get(url(path));
    call.http2 = true;
    call.headers = headers.iter().map(|&header| header.to_owned()).collect();
    call
}

#[tokio::test]
async fn grpc_calls_of_every_kind_pass_on_declared_and_undeclared_ports() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _declared = shop
        .orders
        .app(&["http", "--name", "orders", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let _undeclared = shop
        .orders
        .app(&["http", "--name", "orders", "--listen", "[::]:9091"])
        .await
        .unwrap();
    for port in [9090, 9091] {
        let address = shop.service(port);
        let authority = format!("orders.shop:{port}");
        let (unary, missing, watched, chatted) = shop
            .web
            .enter(move || async move {
                let (order, status) = get(address, &authority, "42").await.unwrap();
                let unary = (order.unwrap().id, status.code);
                let (_, missing) = get(address, &authority, "missing").await.unwrap();
                let mut stream = Stream::open(
                    address,
                    &authority,
                    "Watch",
                    &WatchOrders {
                        count: 3,
                        interval_ms: 5,
                    },
                )
                .await
                .unwrap();
                let mut watched = Vec::new();
                while let Some(Order { sequence, .. }) = stream.next().await.unwrap() {
                    watched.push(sequence);
                }
                let mut chat = Stream::open(
                    address,
                    &authority,
                    "Chat",
                    &Note {
                        text: "0".to_owned(),
                    },
                )
                .await
                .unwrap();
                let mut chatted = Vec::new();
                while let Some(Note { text }) = chat.next().await.unwrap() {
                    if text == "2" {
                        chat.finish();
                    } else {
                        chat.send(&Note {
                            text: (text.parse::<u32>().unwrap() + 1).to_string(),
                        })
                        .await;
                    }
                    chatted.push(text);
                }
                (
                    unary,
                    (missing.code, missing.message),
                    (watched, stream.status().code),
                    (chatted, chat.status().code),
                )
            })
            .await
            .unwrap();
        assert_eq!(unary, ("42".to_owned(), 0), "port {port}");
        assert_eq!(missing, (5, "no such order".to_owned()), "port {port}");
        assert_eq!(watched, (vec![0, 1, 2], 0), "port {port}");
        assert_eq!(
            chatted,
            (vec!["0".to_owned(), "1".to_owned(), "2".to_owned()], 0),
            "port {port}"
        );
        // One connection on the wire, whatever the application opens.
        let records = shop
            .web
            .wait_records(4, |record| record["destination.port"] == port)
            .await
            .unwrap();
        let ids: BTreeSet<_> = records
            .iter()
            .map(|record| record["hop"].as_str().unwrap().rsplit_once('-').unwrap().0)
            .collect();
        assert_eq!(ids.len(), 1, "{records:?}");
        let statuses: Vec<_> = records
            .iter()
            .map(|record| record["grpc.status"].as_u64().unwrap())
            .collect();
        assert_eq!(statuses, [0, 5, 0, 0], "port {port}");
    }
    let watch = |record: &Value| {
        record["http.path"] == "/kith.demo.Orders/Watch" && record["destination.port"] == 9090
    };
    check(
        &hop(&shop.web, &shop.orders, watch).await,
        &expect![[r#"
        both    bytes.in 9
        both    bytes.out 67
        both    decision allow
        both    destination.address 10.75.0.4:9090
        both    destination.port 9090
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    grpc.status 0
        both    hop <hop>-5
        both    http.authority orders.shop:9090
        both    http.method POST
        both    http.path /kith.demo.Orders/Watch
        both    http.status 200
        both    http.version 2
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
async fn plain_http2_passes_with_bodies_trailers_and_identity() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let app = shop
        .orders
        .app(&["http", "--name", "orders", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let call = http2(
        "/plain?secret=x",
        &[
            "x-forwarded-client-cert: forged",
            "x_forwarded_client_cert: forged",
            "x-kith-a: forged",
            "x-own: kept",
        ],
    );
    let reply = shop.web.call(call).await.unwrap();
    check(
        &expect::reply(&reply),
        &expect![[r#"
        200
        content-length: 522
        content-type: application/json

        {"app":"orders","authority":"orders.shop:9090","body":"","bytes":0,"headers":{"traceparent":"00-<trace>-<span>-00","x-forwarded-client-cert":"By=spiffe://example.org/ns/shop/sa/orders;Hash=<sha256>;URI=spiffe://example.org/ns/shop/sa/web","x-own":"kept","x-request-id":"<uuid>"},"method":"GET","path":"/plain","peer":"<peer>","query":"secret=x","trailers":null,"version":"HTTP/2.0"}
    "#]],
    );
    check(
        &hop(&shop.web, &shop.orders, path("/plain")).await,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 522
        both    decision allow
        both    destination.address 10.75.0.4:9090
        both    destination.port 9090
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop:9090
        both    http.method GET
        both    http.path /plain
        both    http.status 200
        both    http.version 2
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

    let reply = shop
        .web
        .call(http2("/stream?ticks=2&ms=1", &[]))
        .await
        .unwrap();
    assert_eq!(
        (reply.text().as_str(), &reply.trailers["x-ticks"]),
        ("tick 0\ntick 1\n", &"2".parse().unwrap())
    );

    let address = shop.service(9090);
    let reply = shop
        .web
        .enter(move || async move {
            let mut connection = Connection::open(address, true).await.unwrap();
            let (frames, body) = channel();
            frames.data("hello").await;
            frames
                .trailers(HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-sum"),
                    5.into(),
                )]))
                .await;
            drop(frames);
            let request = connection
                .request(Method::POST, &url("/sum"), &HeaderMap::new(), body)
                .unwrap();
            connection.call(request).await.unwrap().json()
        })
        .await
        .unwrap();
    assert_eq!(
        (&reply["body"], &reply["trailers"]["x-sum"]),
        (&"hello".into(), &"5".into())
    );
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, path("/sum")).await;
    assert_eq!(
        (&outbound["bytes.in"], &inbound["bytes.in"]),
        (&5.into(), &5.into())
    );

    drop(app);
    let _app = h2_app(&shop, |_, mut respond, _| async move {
        let response = Response::builder()
            .header("content-length", 1000)
            .body(())
            .unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await;
    let mut head = http2("/head", &[]);
    head.method = Some("HEAD".to_owned());
    let reply = shop.web.call(head).await.unwrap();
    assert_eq!(
        (
            reply.status,
            reply.body.len(),
            reply.header("content-length")
        ),
        (200, 0, Some("1000")),
        "{reply:?}"
    );
}

#[tokio::test]
async fn many_streams_share_one_connection_on_the_wire() {
    const STREAMS: usize = 200;
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let address = shop.service(9090);
    // Until the server has said how many streams it takes, a client assumes few (RFC 9113 section 5.1.2) and would connect again.
    shop.web.call(http2("/first", &[])).await.unwrap();
    shop.web
        .enter(move || async move {
            // Over two connections of the application, at the same time.
            let mut calls = Vec::new();
            for _ in 0..2 {
                let mut connection = Connection::open(address, true).await.unwrap();
                for _ in 0..STREAMS / 2 {
                    let request = connection
                        .request(
                            Method::GET,
                            &url("/slow?ms=100"),
                            &HeaderMap::new(),
                            full(""),
                        )
                        .unwrap();
                    let Connection::Http2(sender) = &mut connection else {
                        panic!()
                    };
                    let response = sender.send_request(request);
                    calls.push(tokio::task::spawn_local(async move {
                        response.await.unwrap().into_body().collect().await.unwrap()
                    }));
                }
                calls.push(tokio::task::spawn_local(async move {
                    let request = connection
                        .request(Method::GET, &url("/last"), &HeaderMap::new(), full(""))
                        .unwrap();
                    connection
                        .send(request)
                        .await
                        .unwrap()
                        .into_body()
                        .collect()
                        .await
                        .unwrap()
                }));
            }
            for call in calls {
                call.await.unwrap();
            }
        })
        .await
        .unwrap();
    let hops = |records: Vec<Value>| -> BTreeSet<String> {
        records
            .iter()
            .map(|record| record["hop"].as_str().unwrap().to_owned())
            .collect()
    };
    let outbound = hops(
        shop.web
            .wait_records(STREAMS + 3, |record| record["http.status"] == 200)
            .await
            .unwrap(),
    );
    let inbound = hops(
        shop.orders
            .wait_records(STREAMS + 3, |record| record["http.status"] == 200)
            .await
            .unwrap(),
    );
    assert_eq!(outbound, inbound);
    assert_eq!(
        outbound.len(),
        STREAMS + 3,
        "each stream has a hop of its own"
    );
    let ids: BTreeSet<_> = outbound
        .iter()
        .map(|hop| hop.rsplit_once('-').unwrap())
        .collect();
    assert_eq!(
        ids.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len(),
        1,
        "one connection: {ids:?}"
    );
    assert!(
        ids.iter()
            .all(|(_, stream)| stream.parse::<u32>().unwrap() % 2 == 1),
        "stream ids of a client: {ids:?}"
    );
}

#[tokio::test]
async fn a_slow_reader_slows_the_writer_down_and_fills_no_memory() {
    const SIZE: usize = 64 * 1024 * 1024;
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let address = shop.service(9090);
    let peaks =
        || [&shop.web, &shop.orders].map(|workload| wire::peak_memory(workload.sidecar().pid()));
    // Warm, so that only what is buffered counts.
    shop.web.call(http2("/bytes?n=100000", &[])).await.unwrap();
    let before = peaks();
    let (paused, go_on) = (
        tokio::sync::oneshot::channel::<()>(),
        tokio::sync::oneshot::channel::<()>(),
    );
    let reading = shop.web.enter(move || async move {
        let mut connection = Connection::open(address, true).await.unwrap();
        let request = connection
            .request(
                Method::GET,
                &url(&format!("/bytes?n={SIZE}")),
                &HeaderMap::new(),
                full(""),
            )
            .unwrap();
        let mut body = connection.send(request).await.unwrap().into_body();
        // On the same connection, others are not held up.
        let other = connection
            .request(Method::GET, &url("/other"), &HeaderMap::new(), full(""))
            .unwrap();
        let other = tokio::time::timeout(Duration::from_secs(5), connection.call(other))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(other.status, 200);
        tokio::time::sleep(Duration::from_millis(700)).await;
        paused.0.send(()).unwrap();
        go_on.1.await.unwrap();
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            count += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        count
    });
    let watching = async {
        paused.1.await.unwrap();
        let grown: Vec<u64> = peaks()
            .iter()
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before))
            .collect();
        go_on.0.send(()).unwrap();
        grown
    };
    let (count, grown) = tokio::join!(reading, watching);
    assert_eq!(count.unwrap(), SIZE);
    assert!(
        grown.iter().all(|kib| *kib < 8 * 1024),
        "the sidecars grew by {grown:?} KiB while nobody read"
    );

    // The other way: an application that does not read.
    let before = peaks();
    let sent = shop
        .web
        .enter(move || async move {
            let mut connection = Connection::open(address, true).await.unwrap();
            let (frames, body) = channel();
            let request = connection
                .request(Method::POST, &url("/slow?ms=700"), &HeaderMap::new(), body)
                .unwrap();
            let upload = tokio::task::spawn_local(async move {
                for _ in 0..256 {
                    assert!(frames.data(vec![b'x'; 128 * 1024]).await);
                }
            });
            let reply = connection.call(request).await.unwrap();
            upload.await.unwrap();
            reply.json()["bytes"].as_u64().unwrap()
        })
        .await
        .unwrap();
    assert_eq!(sent, 256 * 128 * 1024);
    let grown: Vec<u64> = peaks()
        .iter()
        .zip(before)
        .map(|(now, before)| now.saturating_sub(before))
        .collect();
    assert!(
        grown.iter().all(|kib| *kib < 8 * 1024),
        "the sidecars grew by {grown:?} KiB while nobody read"
    );
}

/// An application that answers HTTP/2 as `serve` says for each request, and notes down how request streams ended.
async fn h2_app<F, R>(shop: &Shop, serve: F) -> App
where
    F: Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>, kith_tests::app::Log) -> R
        + Send
        + Clone
        + 'static,
    R: Future<Output = ()> + 'static,
{
    App::hearing(&shop.orders, 9090, move |stream, log| {
        let serve = serve.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(serve(request, respond, log.clone()));
            }
        }
    })
    .await
}

async fn h2_client(address: std::net::SocketAddr) -> h2::client::SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap())
        .await
        .unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

fn h2_request(path: &str) -> Request<()> {
    Request::post(format!("http://orders.shop:9090{path}"))
        .body(())
        .unwrap()
}

#[tokio::test]
async fn a_stream_reset_at_one_end_is_reset_at_the_other_and_nothing_else_is() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let app = h2_app(&shop, |request, mut respond, log| async move {
        match request.uri().path() {
            "/refuse" => respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM),
            "/break" => {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data("some".into(), false).unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                body.send_reset(h2::Reason::INTERNAL_ERROR);
            }
            "/hold" => {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data("held".into(), false).unwrap();
                let reason = std::future::poll_fn(|context| body.poll_reset(context)).await;
                log.push(format!("reset: {};", reason.unwrap().description()).as_bytes());
            }
            _ => drop(respond.send_response(Response::new(()), true)),
        }
    })
    .await;
    let address = shop.service(9090);
    let seen = shop
        .web
        .enter(move || async move {
            let mut client = h2_client(address).await;
            let (held, held_body) = client.send_request(h2_request("/hold"), false).unwrap();
            let mut held = held.await.unwrap().into_body();
            assert_eq!(held.data().await.unwrap().unwrap(), "held");
            let (refused, _body) = client.send_request(h2_request("/refuse"), true).unwrap();
            let refused = match refused.await {
                Ok(response) => format!(
                    "{} {}",
                    response.status(),
                    response.headers()["x-kith-reason"].to_str().unwrap()
                ),
                Err(error) => error.to_string(),
            };
            let (broken, _body) = client.send_request(h2_request("/break"), true).unwrap();
            let mut broken = broken.await.unwrap().into_body();
            assert_eq!(broken.data().await.unwrap().unwrap(), "some");
            let broken = broken.data().await.unwrap().unwrap_err().reason();
            // The client loses interest.
            let mut held_body = held_body;
            held_body.send_reset(h2::Reason::CANCEL);
            drop(held);
            // And the connection goes on.
            let (fine, _body) = client.send_request(h2_request("/fine"), true).unwrap();
            (refused, broken, fine.await.unwrap().status())
        })
        .await
        .unwrap();
    assert_eq!(
        seen,
        (
            "503 Service Unavailable server-closed".to_owned(),
            Some(h2::Reason::INTERNAL_ERROR),
            http::StatusCode::OK
        )
    );
    let heard = app
        .wait_heard(|heard| heard.concat().contains("reset"))
        .await;
    assert_eq!(
        heard,
        ["reset: stream no longer needed;"],
        "one connection to the application"
    );
    check(
        &hop(&shop.web, &shop.orders, path("/hold")).await,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 4
        both    closed_by client
        both    decision allow
        both    destination.address 10.75.0.4:9090
        both    destination.port 9090
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-1
        both    http.authority orders.shop:9090
        both    http.method POST
        both    http.path /hold
        both    http.status 200
        both    http.version 2
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
        both    upstream_ms <ms>
    "#]],
    );
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, path("/break")).await;
    for record in [outbound, inbound] {
        assert_eq!(
            (
                &record["reason"],
                &record["closed_by"],
                &record["bytes.out"]
            ),
            (&"server-closed".into(), &"server".into(), &4.into()),
            "{record}"
        );
    }
}

const ONLY_GET: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {paths: [/kith.demo.Orders/Get, /public/*]}}]
";

#[tokio::test]
async fn a_denied_call_gets_its_answer_in_its_own_protocol() {
    let shop = Shop::open(PORTS, ONLY_GET).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let address = shop.service(9090);
    let (allowed, denied, metadata) = shop
        .web
        .enter(move || async move {
            let (_, allowed) = get(address, "orders.shop:9090", "1").await.unwrap();
            let first = GetOrder { id: "1".to_owned() };
            let mut stream = Stream::open(address, "orders.shop:9090", "Chat", &first)
                .await
                .unwrap();
            assert_eq!(stream.next::<Note>().await.unwrap(), None);
            let status = stream.status();
            (allowed.code, (status.code, status.message), status.metadata)
        })
        .await
        .unwrap();
    assert_eq!(allowed, 0);
    let record = shop
        .orders
        .wait_record(path("/kith.demo.Orders/Chat"))
        .await
        .unwrap();
    assert_eq!(
        denied,
        (
            7,
            format!(
                "no-allow-policy-matches requestId={}",
                record["request.id"].as_str().unwrap()
            )
        )
    );
    let metadata: String = metadata
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    check(
        &scrub(&metadata),
        &expect![[r#"
        content-type: application/grpc
        grpc-message: no-allow-policy-matches requestId=<uuid>
        grpc-status: 7
        server: kith
        x-kith-reason: no-allow-policy-matches
    "#]],
    );
    let (mut outbound, inbound) =
        expect::ends(&shop.web, &shop.orders, path("/kith.demo.Orders/Chat")).await;
    // How much of the request the client's sidecar had passed on when the refusal came.
    assert!(outbound["bytes.in"].as_u64() <= Some(8), "{outbound}");
    outbound["bytes.in"] = 0.into();
    check(
        &expect::side_by_side(&outbound, &inbound),
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 0
        both    decision deny
        both    destination.address 10.75.0.4:9090
        both    destination.port 9090
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    grpc.status 7
        both    hop <hop>-3
        both    http.authority orders.shop:9090
        both    http.method POST
        both    http.path /kith.demo.Orders/Chat
        both    http.status 200
        both    http.version 2
        server  nearest.clause to.paths
        server  nearest.policy shop/orders
        server  parent.id <span>
        both    reason no-allow-policy-matches
        both    record request
        both    request.id <uuid>
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

    let reply = shop
        .web
        .call(http2("/private", &["x-request-id: given-1"]))
        .await
        .unwrap();
    check(
        &expect::reply(&reply),
        &expect![[r#"
        403
        content-length: 58
        content-type: application/problem+json
        server: kith
        x-kith-reason: no-allow-policy-matches

        {"reason":"no-allow-policy-matches","requestId":"given-1"}
    "#]],
    );
    check(
        &hop(&shop.web, &shop.orders, path("/private")).await,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 58
        both    decision deny
        both    destination.address 10.75.0.4:9090
        both    destination.port 9090
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-5
        both    http.authority orders.shop:9090
        both    http.method GET
        both    http.path /private
        both    http.status 403
        both    http.version 2
        server  nearest.clause to.paths
        server  nearest.policy shop/orders
        server  parent.id <span>
        both    reason no-allow-policy-matches
        both    record request
        both    request.id given-1
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

    // Rows 1 to 3: the same normalisation as for HTTP/1.1.
    for (target, status, seen) in [
        ("/public/../private", 403, None),
        ("/public/%2e%2e/private", 403, None),
        ("//public/./%61", 200, Some("/public/a")),
        ("/public/%2fa", 400, None),
        ("/public/%00", 400, None),
    ] {
        let reply = shop.web.call(http2(target, &[])).await.unwrap();
        assert_eq!(
            (reply.status, reply.json()["path"].as_str()),
            (status, seen),
            "{target}: {reply:?}"
        );
    }
}

#[tokio::test]
async fn row_04_authority_and_host_must_agree() {
    let shop = Shop::open(
        PORTS,
        &ONLY_GET.replace(
            "paths: [/kith.demo.Orders/Get, /public/*]",
            "hosts: [orders.shop]",
        ),
    )
    .await;
    let app = h2_app(&shop, |request, mut respond, log| async move {
        log.push(
            format!(
                "{:?} {:?};",
                request.uri().authority(),
                request.headers().get("host")
            )
            .as_bytes(),
        );
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let address = shop.service(9090);
    let statuses = shop
        .web
        .enter(move || async move {
            let mut client = h2_client(address).await;
            let mut statuses = Vec::new();
            for (authority, hosts) in [
                ("orders.shop:9090", vec![]),
                ("ORDERS.shop.", vec![]),
                ("orders.shop", vec!["orders.shop"]),
                ("orders.shop", vec!["other.shop"]),
                ("other.shop", vec!["orders.shop"]),
                ("orders.shop", vec!["orders.shop", "orders.shop"]),
                ("user@orders.shop", vec![]),
                ("other.shop", vec![]),
            ] {
                let mut request = Request::get(format!("http://{authority}/"))
                    .body(())
                    .unwrap();
                for host in hosts {
                    request.headers_mut().append("host", host.parse().unwrap());
                }
                let (response, _) = client.send_request(request, true).unwrap();
                statuses.push(
                    response
                        .await
                        .map(|response| response.status().as_u16())
                        .map_err(|error| error.reason()),
                );
            }
            statuses
        })
        .await
        .unwrap();
    assert_eq!(
        statuses,
        [
            Ok(200),
            Ok(200),
            Ok(200),
            Ok(400),
            Ok(400),
            Ok(400),
            Ok(400),
            Ok(403)
        ]
    );
    let heard = app.heard().concat();
    assert_eq!(heard.matches(';').count(), 3, "{heard}");
    assert!(!heard.contains("other"), "{heard}");
    let refused = |record: &Value| record["reason"] == "request-malformed";
    assert_eq!(shop.web.wait_records(4, refused).await.unwrap().len(), 4);
}

#[tokio::test]
async fn an_application_that_restarts_is_connected_to_anew() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let address = shop.service(9090);
    let (first_done, wait_first) = tokio::sync::oneshot::channel::<()>();
    let (go_on, wait_restart) = tokio::sync::oneshot::channel::<()>();
    let client = shop.web.enter(move || async move {
        let mut connection = Connection::open(address, true).await.unwrap();
        let mut statuses = Vec::new();
        let request = connection
            .request(Method::GET, &url("/1"), &HeaderMap::new(), full(""))
            .unwrap();
        statuses.push(connection.call(request).await.unwrap().status);
        first_done.send(()).unwrap();
        wait_restart.await.unwrap();
        for _ in 0..5 {
            let request = connection
                .request(Method::GET, &url("/2"), &HeaderMap::new(), full(""))
                .unwrap();
            statuses.push(connection.call(request).await.unwrap().status);
        }
        statuses
    });
    let restart = async {
        wait_first.await.unwrap();
        app.restart().unwrap();
        shop.orders.listening(9090).await.unwrap();
        go_on.send(()).unwrap();
    };
    let (statuses, ()) = tokio::join!(client, restart);
    assert_eq!(statuses.unwrap(), [200; 6]);
    // A GOAWAY of the application in the middle of the connection: what it has not taken is tried elsewhere or said to be refused.
    drop(app);
    let _app = App::hearing(&shop.orders, 9090, move |stream, log| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            log.push(b"request;");
            respond.send_response(Response::new(()), true).unwrap();
            connection.graceful_shutdown();
        }
    })
    .await;
    for number in 0..5 {
        let reply = shop.web.call(http2("/goaway", &[])).await.unwrap();
        assert_eq!(reply.status, 200, "the {number}th: {reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_header_list_is_capped() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let many: Vec<String> = (0..12)
        .map(|number| format!("x-{number}: {}", "v".repeat(1000)))
        .collect();
    let headers: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        shop.web
            .call(http2("/fits", &headers))
            .await
            .unwrap()
            .status,
        200
    );
    let many: Vec<String> = (0..100)
        .map(|number| format!("x-{number}: {}", "v".repeat(1000)))
        .collect();
    let headers: Vec<&str> = many.iter().map(String::as_str).collect();
    match shop.web.call(http2("/too-big", &headers)).await {
        Ok(reply) => assert_eq!(reply.status, 431, "{reply:?}"),
        // The client's own library keeps to the limit it was told.
        Err(error) => assert!(
            kith::app::client::root_cause(&error).contains("header"),
            "{error}"
        ),
    }
    assert_eq!(
        shop.web.call(http2("/after", &[])).await.unwrap().status,
        200
    );
}

/// RFC 9113 section 3.4, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `:method GET`, `:scheme http`, `:path /`, `:authority orders.shop` (RFC 7541 section 6).
fn head() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x41, 11];
    block.extend(b"orders.shop");
    block
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn floods() -> Vec<(&'static str, Vec<u8>)> {
    let rapid_reset = (0..20_000).flat_map(|number: u32| {
        let stream = 2 * number + 1;
        [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &head()),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ]
        .concat()
    });
    let continuation = std::iter::once(frame(HEADERS, END_STREAM, 1, &head()))
        .chain((0..50_000).map(|number| {
            // A new literal field each, never the last frame.
            let name = format!("x-{number:07}");
            let mut block = vec![0, u8::try_from(name.len()).unwrap()];
            block.extend(name.as_bytes());
            block.extend([1, b'v']);
            frame(CONTINUATION, 0, 1, &block)
        }))
        .flatten();
    let empty = std::iter::once(frame(HEADERS, END_STREAM, 1, &head()))
        .chain((0..200_000).map(|_| frame(CONTINUATION, 0, 1, &[])))
        .flatten();
    let ping = (0..300_000).flat_map(|_| frame(PING, 0, 0, &[0; 8]));
    let settings = (0..300_000).flat_map(|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
    let with = |frames: Vec<u8>| [PREFACE, &frames[..]].concat();
    vec![
        ("rapid reset", with(rapid_reset.collect())),
        ("continuation", with(continuation.collect())),
        ("empty continuation", with(empty.collect())),
        ("ping", with(ping.collect())),
        ("settings", with(settings.collect())),
    ]
}

#[tokio::test]
async fn row_26_floods_are_cut_short_and_cost_nothing() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let caller = Caller::new(&shop.lab, "spiffe://example.org/ns/shop/sa/web").await;
    let stranger = shop.stranger().await;
    shop.web.call(http2("/warm", &[])).await.unwrap();
    let address = shop.pod(9090);
    for (name, flood) in floods() {
        let before = wire::peak_memory(shop.orders.sidecar().pid());
        let records = shop.orders.records().len();
        let caller = caller.clone();
        let flood = Arc::new(flood);
        let end = stranger
            .enter(move || async move {
                let stream = caller.connect(address, &[b"h2"]).await.unwrap();
                let (mut reader, mut writer) = tokio::io::split(stream);
                // The attacker never reads while it writes.
                let _ =
                    tokio::time::timeout(Duration::from_secs(2), writer.write_all(&flood)).await;
                wire::listen(&mut reader, Duration::from_millis(500))
                    .await
                    .end
            })
            .await
            .unwrap();
        let grown = wire::peak_memory(shop.orders.sidecar().pid()).saturating_sub(before);
        assert!(grown < 16 * 1024, "{name}: grew by {grown} KiB; {end:?}");
        // Others are served, and all that the flood has left in the log is a line that says what it was.
        let others = format!("/others-than/{}", name.replace(' ', "-"));
        let reply = shop.web.call(http2(&others, &[])).await.unwrap();
        assert_eq!(reply.status, 200, "{name}: {reply:?}");
        shop.orders.wait_record(path(&others)).await.unwrap();
        let written = shop.orders.records().split_off(records);
        let overload: Vec<_> = written
            .iter()
            .filter(|record| record["reason"] == "overload")
            .collect();
        assert!(written.len() < 2_000, "{name}: {} records", written.len());
        if matches!(name, "rapid reset" | "continuation" | "empty continuation") {
            assert_ne!(end, End::Open, "{name}");
            assert!(overload.len() == 1, "{name}: {written:?}");
        }
    }
}

#[tokio::test]
async fn http2_that_is_none_is_refused() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let app = h2_app(&shop, |_, mut respond, log| async move {
        log.push(b"request;");
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let address = shop.service(9090);
    let upper = {
        let mut block = head();
        block.extend([0, 3]);
        block.extend(b"X-A");
        block.extend([1, b'v']);
        block
    };
    let with = |extra: &[(&str, &str)]| {
        let mut block = head();
        for (name, value) in extra {
            block.extend([0, u8::try_from(name.len()).unwrap()]);
            block.extend(name.as_bytes());
            block.push(u8::try_from(value.len()).unwrap());
            block.extend(value.as_bytes());
        }
        block
    };
    for block in [
        upper,
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("te", "gzip")]),
        with(&[("x-a", "b\r\nx-c: d")]),
        with(&[("x-a", "b\0")]),
        with(&[("x a", "b")]),
        with(&[(":path", "/second")]),
        with(&[("x-a", "b"), (":authority", "late")]),
    ] {
        let bytes = [
            PREFACE,
            &frame(HEADERS, END_STREAM | END_HEADERS, 1, &block),
        ]
        .concat();
        let heard = shop
            .web
            .enter(move || async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                say(&mut stream, &bytes, Duration::from_millis(200)).await
            })
            .await
            .unwrap();
        let seen = app.heard().concat();
        assert_eq!(seen, "", "{:?}: {heard:?}", String::from_utf8_lossy(&block));
    }
}

#[tokio::test]
async fn row_09_connect_over_http2_is_refused() {
    let shop = Shop::open(
        PORTS,
        &ONLY_GET.replace(
            "paths: [/kith.demo.Orders/Get, /public/*]",
            "methods: [CONNECT], hosts: [allowed.example]",
        ),
    )
    .await;
    let app = h2_app(&shop, |request, mut respond, log| async move {
        log.push(format!("{} {};", request.method(), request.uri()).as_bytes());
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let address = shop.service(9090);
    let statuses = shop
        .web
        .enter(move || async move {
            let mut client = h2_client(address).await;
            let mut statuses = Vec::new();
            for authority in ["allowed.example:443", "denied.example:443"] {
                let request = Request::builder()
                    .method(Method::CONNECT)
                    .uri(authority)
                    .body(())
                    .unwrap();
                let (response, _) = client.send_request(request, false).unwrap();
                statuses.push(
                    response
                        .await
                        .map(|response| response.status().as_u16())
                        .map_err(|error| error.to_string()),
                );
            }
            statuses
        })
        .await
        .unwrap();
    assert_eq!(
        (statuses, app.heard()),
        (vec![Ok(400), Ok(400)], Vec::new())
    );
}

/// A request with trailers, sent only when the application has answered. What of its answer arrived: trailers, or how it broke.
async fn with_trailers(
    shop: &Shop,
    path: &'static str,
    trailer: &'static str,
) -> Result<Vec<String>, Option<h2::Reason>> {
    let address = shop.service(9090);
    let talk = move || async move {
        let mut client = h2_client(address).await;
        let (response, mut body) = client.send_request(h2_request(path), false).unwrap();
        let mut answer = response.await.unwrap().into_body();
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", trailer] {
            trailers.insert(name, "root".parse().unwrap());
        }
        body.send_trailers(trailers).unwrap();
        while let Some(data) = answer.data().await {
            data.map_err(|error| error.reason())?;
        }
        let trailers = answer.trailers().await.map_err(|error| error.reason())?;
        let names = trailers.iter().flat_map(HeaderMap::keys);
        Ok(names.map(|name| name.as_str().to_owned()).collect())
    };
    shop.web.enter(talk).await.unwrap()
}

#[tokio::test]
async fn row_07_trailers_stand_for_nothing_that_the_proxy_says() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let app = h2_app(&shop, |request, mut respond, log| async move {
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data("begun".into(), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.data().await {}
        match body.trailers().await {
            Ok(trailers) => {
                let names = trailers.iter().flat_map(HeaderMap::keys);
                let names: Vec<_> = names.map(http::HeaderName::as_str).collect();
                log.push(names.join(" ").as_bytes());
            }
            Err(error) => return log.push(format!("{:?}", error.reason()).as_bytes()),
        }
        let mut trailers = HeaderMap::new();
        for name in ["grpc-status", "x-kith-reason", "x_kith_reason", "server"] {
            trailers.insert(name, "0".parse().unwrap());
        }
        answer.send_trailers(trailers).unwrap();
    })
    .await;
    let passed = with_trailers(&shop, "/fine", "x-other").await;
    assert_eq!(passed, Ok(vec!["grpc-status".to_owned()]));
    assert_eq!(
        app.wait_heard(|heard| !heard.is_empty()).await,
        ["x-sum x-other"]
    );
    for (path, name) in [
        ("/1", "x-forwarded-client-cert"),
        ("/2", "x_forwarded_client_cert"),
        ("/3", "x-kith-a"),
        ("/4", "authorization"),
        ("/5", "host"),
        ("/6", "content-length"),
    ] {
        let passed = with_trailers(&shop, path, name).await;
        assert_eq!(passed, Err(Some(h2::Reason::PROTOCOL_ERROR)), "{name}");
    }
    // The client's sidecar knows them all; a client that has none meets the same at the server's.
    let web = shop.web.spiffe_id();
    let caller = Caller::new(&shop.lab, &web).await;
    let pod = shop.pod(9090);
    let talk = move || async move {
        let tls = caller.connect(pod, &[b"h2"]).await.unwrap();
        let (client, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut client = client.ready().await.unwrap();
        let (response, mut body) = client.send_request(h2_request("/direct"), false).unwrap();
        let mut answer = response.await.unwrap().into_body();
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-forwarded-client-cert"),
            "URI=spiffe://example.org/root".parse().unwrap(),
        )]);
        body.send_trailers(trailers).unwrap();
        loop {
            match answer.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason(),
                None => return None,
            }
        }
    };
    let stranger = shop.stranger().await;
    let reason = stranger.enter(talk).await.unwrap();
    assert_eq!(reason, Some(h2::Reason::PROTOCOL_ERROR));
    let record = shop.orders.wait_record(path("/direct")).await.unwrap();
    assert_eq!(record["reason"], "request-malformed", "{record}");
    for heard in app.heard().concat().split("x-sum x-other") {
        assert!(!heard.contains("x-sum"), "{heard}");
    }
}

#[tokio::test]
async fn row_06_white_space_around_a_value_is_refused() {
    let policies = format!(
        "{WEB_MAY_ALL}---
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{namespace: shop, name: no-admin}}
spec:
  action: DENY
  rules:
  - when: [{{key: 'request.headers[x-role]', values: [admin]}}]
"
    );
    let shop = Shop::open(PORTS, &policies).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let address = shop.service(9090);
    let statuses = shop
        .web
        .enter(move || async move {
            let mut client = h2_client(address).await;
            let mut statuses = Vec::new();
            for role in ["other", "admin", "admin ", " admin", "admin\t", " "] {
                let mut request = h2_request("/role");
                request
                    .headers_mut()
                    .insert("x-role", role.parse().unwrap());
                let (response, _body) = client.send_request(request, true).unwrap();
                statuses.push(response.await.unwrap().status().as_u16());
            }
            statuses
        })
        .await
        .unwrap();
    assert_eq!(statuses, [200, 403, 400, 400, 400, 400]);
}

#[tokio::test]
async fn of_two_request_ids_neither_is_taken() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:9090"])
        .await
        .unwrap();
    let reply = shop
        .web
        .call(http2("/ids", &["x-request-id: one", "x-request-id: two"]))
        .await
        .unwrap();
    let inbound = shop.orders.wait_record(path("/ids")).await.unwrap();
    let id = &inbound["request.id"];
    assert_eq!(id.as_str().map(str::len), Some(36), "{inbound}");
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(&body["headers"]["x-request-id"], id, "{body}");
}
