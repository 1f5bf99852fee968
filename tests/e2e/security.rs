//! Rows of security.md that are about all ways in at once.

use std::time::Duration;

use kith::app::client::Call;
use kith_tests::caller::Caller;
use kith_tests::shop::Shop;
use kith_tests::wire::{self, End};
use serde_json::Value;
use tokio::net::TcpStream;

const OPEN_BUT_ITS_SECRET: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: open}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {namespaces: [shop]}}]
    to: [{operation: {methods: [GET], paths: ['/open*']}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: secret}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules:
  - to: [{operation: {paths: ['/open/secret*']}}]
    when: [{key: 'request.headers[x-key]', notValues: ['let me in']}]
";

/// Method, path, value of x-key; what is decided and by which policy.
const REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("GET", "/open", "", "allowed-by-rule shop/open"),
    ("GET", "/open/secret", "", "denied-by-rule shop/secret"),
    ("GET", "/open/%73ecret", "", "denied-by-rule shop/secret"),
    (
        "GET",
        "/x/..//open/./secret",
        "",
        "denied-by-rule shop/secret",
    ),
    (
        "GET",
        "/open/secret",
        "let me in",
        "allowed-by-rule shop/open",
    ),
    ("POST", "/open", "", "no-allow-policy-matches"),
    ("GET", "/closed", "", "no-allow-policy-matches"),
];

/// What the server's sidecar recorded of the request with this id.
async fn decided(shop: &Shop, id: &str) -> String {
    let record = shop
        .orders
        .wait_record(|record| record["request.id"] == id)
        .await
        .unwrap();
    let policy = record["policy"].as_str().unwrap_or_default();
    format!("{} {policy}", record["reason"].as_str().unwrap())
        .trim_end()
        .to_owned()
}

fn id(number: usize) -> String {
    format!("01a20000-0000-7000-8000-{number:012}")
}

#[tokio::test]
async fn row_24_every_protocol_and_way_in_is_decided_alike() {
    let ports = [(8080, "HTTP"), (8081, "HTTP2"), (8083, ""), (7000, "TCP")];
    let shop = Shop::open(&ports, OPEN_BUT_ITS_SECRET).await;
    let mut applications = Vec::new();
    for port in [8080, 8081, 8083] {
        let listen = format!("[::]:{port}");
        applications.push(
            shop.orders
                .app(&["http", "--listen", &listen])
                .await
                .unwrap(),
        );
    }
    let echo = ["tcp", "--listen", "[::]:7000", "--greeting", "hello"];
    applications.push(shop.orders.app(&echo).await.unwrap());
    let mut number = 0;

    // Through the client's sidecar: HTTP/1.1, HTTP/2, and what gRPC looks like; declared or found out.
    for (port, http2, content) in [
        (8080, false, "text/plain"),
        (8083, false, "text/plain"),
        (8081, true, "text/plain"),
        (8083, true, "text/plain"),
        (8081, true, "application/grpc"),
    ] {
        for (method, path, key, expected) in REQUESTS {
            number += 1;
            let mut call = Call::get(format!("http://orders.shop:{port}{path}").parse().unwrap());
            call.http2 = http2;
            call.method = Some((*method).to_owned());
            call.headers = vec![
                format!("x-request-id: {}", id(number)),
                format!("x-key: {key}"),
                format!("content-type: {content}"),
            ];
            shop.web.call(call).await.unwrap();
            let way = format!("{method} {path} of {content}, port {port}, HTTP/2 {http2}");
            assert_eq!(decided(&shop, &id(number)).await, *expected, "{way}");
        }
    }

    // From a SPIFFE client without a sidecar.
    let caller = Caller::new(&shop.lab, "spiffe://example.org/ns/shop/sa/partner").await;
    let stranger = shop.stranger().await;
    for (port, alpn) in [
        (8080, &b"http/1.1"[..]),
        (8080, b"kith-h1"),
        (8083, b"http/1.1"),
        (8083, b"kith-h1"),
    ] {
        for (method, path, key, expected) in REQUESTS {
            number += 1;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: orders.shop\r\nx-request-id: {}\r\nx-key: {key}\r\n\
                 content-length: 0\r\nconnection: close\r\n\r\n",
                id(number)
            );
            caller
                .raw(&stranger, shop.pod(port), alpn, request)
                .await
                .unwrap();
            let way = format!(
                "{method} {path}, port {port}, {}",
                String::from_utf8_lossy(alpn)
            );
            assert_eq!(decided(&shop, &id(number)).await, *expected, "{way}");
        }
        // The same bytes declared opaque, or on the port that is: no ALLOW that asks for a path can match.
        let heard = caller
            .raw(
                &stranger,
                shop.pod(port),
                b"kith-tcp",
                "GET /open HTTP/1.1\r\nhost: a\r\n\r\n",
            )
            .await;
        assert!(heard.is_err() || heard.unwrap().bytes.is_empty());
    }
    let address = shop.service(7000);
    let opaque = shop.web.enter(move || async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        wire::say(
            &mut stream,
            b"GET /open HTTP/1.1\r\n\r\n",
            Duration::from_secs(2),
        )
        .await
    });
    let heard = opaque.await.unwrap();
    assert_eq!((heard.bytes.len(), heard.end), (0, End::Reset), "{heard:?}");
    let denied = |record: &Value| {
        record["record"] == "connection"
            && record["decision"] == "deny"
            && record["reason"] == "denied-by-rule"
            && record["policy"] == "shop/secret"
    };
    shop.orders.wait_records(5, denied).await.unwrap();
}
