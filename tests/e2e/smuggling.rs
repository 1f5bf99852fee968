//! Requests that two parsers might read differently: refused by whichever sidecar meets them first, in bytes
//! as an attacker sends them (security.md, rows 6 and 8).

use std::sync::Arc;
use std::time::Duration;

use expect_test::expect;
use kith::lab::Workload;
use kith_tests::app::App;
use kith_tests::caller::Caller;
use kith_tests::expect;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::{self, End, Heard, until};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: orders.shop\r\n\r\n";

/// Fields, and what follows the head.
const ROW_8: &[(&str, &str)] = &[
    (
        "content-length: 4\r\ntransfer-encoding: chunked",
        "0\r\n\r\n",
    ),
    (
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "0\r\n\r\n",
    ),
    ("content-length: 0\r\ntransfer-encoding: identity", ""),
    (
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "0\r\n\r\n",
    ),
    (
        "transfer-encoding: chunked\r\ntransfer-encoding: x",
        "0\r\n\r\n",
    ),
    ("transfer-encoding: xchunked", "0\r\n\r\n"),
    ("transfer-encoding: chunked, identity", "0\r\n\r\n"),
    ("transfer-encoding: identity, chunked", "0\r\n\r\n"),
    ("transfer-encoding: gzip, chunked", "0\r\n\r\n"),
    ("transfer-encoding: chunked;q=1", "0\r\n\r\n"),
    ("transfer-encoding: \"chunked\"", "0\r\n\r\n"),
    ("transfer-encoding: \u{b}chunked", "0\r\n\r\n"),
    ("transfer-encoding: chunked\u{c}", "0\r\n\r\n"),
    ("transfer-encoding:\r\n chunked", "0\r\n\r\n"),
    ("transfer-encoding : chunked", "0\r\n\r\n"),
    (
        "transfer_encoding: chunked\r\ncontent-length: 5",
        "0\r\n\r\n",
    ),
    ("transfer-encoding: ", "0\r\n\r\n"),
    (
        "connection: transfer-encoding\r\ntransfer-encoding: chunked",
        "0\r\n\r\n",
    ),
    ("content-length: 4\r\ncontent-length: 4", "body"),
    ("content-length: 4\r\ncontent-length: 0", "body"),
    ("content-length: 4, 4", "body"),
    ("content-length: +4", "body"),
    ("content-length: -4", "body"),
    ("content-length: 0x4", "body"),
    ("content-length: 4 4", "body"),
    ("content-length: ", "body"),
    ("content-length: 18446744073709551617", "body"),
    ("content-length : 4", "body"),
    ("content-length:\r\n 4", "body"),
    ("content_length: 4\r\ncontent-length: 0", "body"),
    ("x-a: b\r\n obs-fold", ""),
    ("x-a: b\nx-c: d", ""),
    ("x-a: b\rx-c: d", ""),
    ("x-a: b\r\n\rx-c: d", ""),
    ("x-a: b\0c", ""),
    // In the body.
    ("transfer-encoding: chunked", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked", "-1\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked", "5 \r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked", "5\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked", "5\r\nhello0\r\n\r\n"),
    ("transfer-encoding: chunked", "5\r\nhelloXX0\r\n\r\n"),
    (
        "transfer-encoding: chunked",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
    ),
    ("transfer-encoding: chunked", "0\r\nx-a: b\r\n fold\r\n\r\n"),
    ("transfer-encoding: chunked", "0\r\nx a: b\r\n\r\n"),
];

const ROW_6: &[&str] = &[
    "x-a : b",
    " x-a: b",
    "\tx-a: b",
    "x a: b",
    "x-a\t: b",
    "x-a\u{b}: b",
    "x-\u{e9}: b",
    "x(a): b",
    ": b",
    "no colon at all",
    "x-a: b\u{7f}",
    "x-a: \u{1}",
];

/// Lines of the request that are no request line.
const REQUEST_LINES: &[&str] = &[
    "POST  / HTTP/1.1",
    "POST / HTTP/1.1 ",
    " POST / HTTP/1.1",
    "POST\t/\tHTTP/1.1",
    "POST / /x HTTP/1.1",
    "POST / HTTP/1.2x",
    "POST / HTTP/0.9",
    "POST / http/1.1",
    "POST /",
    "PO(ST / HTTP/1.1",
    "POST / HTTP/1.1\rX: y",
];

fn payloads() -> Vec<String> {
    let request = |line: &str, fields: &str, body: &str| {
        format!("{line}\r\nhost: orders.shop\r\n{fields}{body}{SMUGGLED}")
    };
    let post = "POST / HTTP/1.1";
    let mut all: Vec<String> = ROW_8
        .iter()
        .map(|(fields, body)| request(post, &format!("{fields}\r\n\r\n"), body))
        .collect();
    all.extend(
        ROW_6
            .iter()
            .map(|field| request(post, &format!("{field}\r\n\r\n"), "")),
    );
    all.extend(
        REQUEST_LINES
            .iter()
            .map(|line| request(line, "content-length: 0\r\n\r\n", "")),
    );
    all
}

/// The one answer is a refusal of the proxy, then the connection ends; nothing that stood behind it was served.
fn check(payload: &str, heard: &Heard, app: &App) {
    let text = heard.text();
    // 501 for a transfer coding that nobody knows (RFC 9112 section 6.1), 505 for a version.
    assert!(
        matches!(heard.statuses()[..], [400 | 501 | 505]),
        "{payload:?} got {text:?}"
    );
    assert_eq!(heard.end, End::Closed, "{payload:?} got {text:?}");
    assert!(
        text.contains("\r\nserver: kith\r\n")
            && text.contains("\r\nx-kith-reason: request-malformed\r\n"),
        "{payload:?} got {text:?}"
    );
    assert!(
        text.contains("\r\nconnection: close\r\n"),
        "{payload:?} got {text:?}"
    );
    let seen = app.heard().concat();
    assert!(
        !seen.contains("/smuggled"),
        "{payload:?} let through {seen:?}"
    );
}

fn malformed(record: &Value) -> bool {
    record["reason"] == "request-malformed"
}

/// One record for each payload. A request whose head was well-formed and allowed has reached the server when its body
/// turns out malformed: it stays allowed in the record, and everything else is denied.
fn check_records(records: &[Value]) {
    assert_eq!(records.len(), payloads().len(), "one record for each");
    let in_body = |(fields, _): &&(&str, &str)| *fields == "transfer-encoding: chunked";
    let allowed = |record: &&Value| record["decision"] == "allow";
    assert_eq!(
        records.iter().filter(allowed).count(),
        ROW_8.iter().filter(in_body).count()
    );
}

/// What such a record says, without what only some of them know: nothing of a head that was not understood.
fn essence(record: &Value) -> String {
    let mut record = record.clone();
    let object = record.as_object_mut().unwrap();
    for key in [
        "bytes.out",
        "http.authority",
        "http.method",
        "http.path",
        "http.version",
        "parent.id",
        "span.id",
        "trace.id",
        "upstream_ms",
        "bytes.in",
    ] {
        object.remove(key);
    }
    expect::record(&record)
}

#[tokio::test]
async fn rows_06_08_the_clients_sidecar_refuses_what_is_not_surely_one_request() {
    let shop = Shop::open(&[(8080, "HTTP")], WEB_MAY_ALL).await;
    let app = App::answering(&shop.orders, 8080, OK).await;
    let payloads = payloads();
    for payload in &payloads {
        let heard = shop.say(payload.as_str()).await;
        check(payload, &heard, &app);
    }
    let records = shop
        .web
        .wait_records(payloads.len(), malformed)
        .await
        .unwrap();
    check_records(&records);
    let expected = expect![[r#"
        decision deny
        destination.address 10.96.0.1:8080
        destination.port 8080
        direction outbound
        duration_ms <ms>
        http.status 400
        reason request-malformed
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        time <time>
    "#]];
    expected.assert_eq(&essence(&records[0]));
}

#[tokio::test]
async fn rows_06_08_the_servers_sidecar_refuses_them_from_a_client_that_has_none() {
    let shop = Shop::open(&[(8080, "HTTP")], WEB_MAY_ALL).await;
    let app = App::answering(&shop.orders, 8080, OK).await;
    let caller = Caller::new(&shop.lab, "spiffe://example.org/ns/shop/sa/web").await;
    let stranger: Arc<Workload> = shop.stranger().await;
    let payloads = payloads();
    for payload in &payloads {
        let heard = caller
            .raw(&stranger, shop.pod(8080), b"http/1.1", payload.as_str())
            .await
            .unwrap();
        check(payload, &heard, &app);
    }
    let records = shop
        .orders
        .wait_records(payloads.len(), malformed)
        .await
        .unwrap();
    check_records(&records);
    let expected = expect![[r#"
        decision deny
        destination.address 10.75.0.4:8080
        destination.port 8080
        destination.principal spiffe://example.org/ns/shop/sa/orders
        direction inbound
        duration_ms <ms>
        hop <hop>-1
        http.status 400
        reason request-malformed
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.5:*
        source.expires <time>
        source.principal spiffe://example.org/ns/shop/sa/web
        source.serial <serial>
        time <time>
        tls.cipher TLS13_AES_128_GCM_SHA256
        tls.group X25519MLKEM768
        tls.version TLSv1.3
    "#]];
    expected.assert_eq(&essence(&records[0]));
}

#[tokio::test]
async fn row_08_what_came_before_a_malformed_request_is_answered_and_what_comes_after_is_not() {
    let shop = Shop::open(&[(8080, "HTTP")], WEB_MAY_ALL).await;
    let app = App::answering(&shop.orders, 8080, OK).await;
    let good = "GET /good HTTP/1.1\r\nhost: orders.shop\r\n\r\n";
    let bad = "POST /bad HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let heard = shop.say(format!("{good}{bad}{SMUGGLED}")).await;
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![200, 400], End::Closed),
        "{}",
        heard.text()
    );
    assert!(!app.heard().concat().contains("/smuggled"));
}

#[tokio::test]
async fn row_08_a_response_that_can_be_read_in_two_ways_is_not_passed_on() {
    let shop = Shop::open(&[(8080, "HTTP")], WEB_MAY_ALL).await;
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx-a: b\r\n fold\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\nx-a: b\n\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        let app = App::answering(&shop.orders, 8080, answer).await;
        let heard = wire::raw(
            &shop.web,
            shop.service(8080),
            "GET / HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n",
        )
        .await
        .unwrap();
        assert_eq!(
            (heard.statuses(), heard.end),
            (vec![503], End::Closed),
            "{answer:?}: {}",
            heard.text()
        );
        assert!(
            heard
                .text()
                .contains("\r\nx-kith-reason: server-closed\r\n"),
            "{answer:?}: {}",
            heard.text()
        );
        drop(app);
    }
    // A body that turns out to be none is cut, so that nobody takes it for whole.
    let app = App::listen(&shop.orders, 8080, |mut stream, _| async move {
        until(&mut stream, "\r\n\r\n").await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"XYZ\r\n").await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let heard = wire::raw(
        &shop.web,
        shop.service(8080),
        "GET / HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    assert_eq!(heard.end, End::Reset, "{}", heard.text());
    // More than was announced is not the next answer of anybody.
    drop(app);
    let app = App::answering(&shop.orders, 8080, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
    let request = "GET / HTTP/1.1\r\nhost: orders.shop\r\n\r\n";
    let last = request.replace("host", "connection: close\r\nhost");
    let heard = wire::raw(&shop.web, shop.service(8080), format!("{request}{last}"))
        .await
        .unwrap();
    assert!(!heard.text().contains("evil"), "{}", heard.text());
    assert_eq!(heard.statuses(), [200, 200], "{}", heard.text());
    drop(app);
}
