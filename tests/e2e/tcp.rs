//! Opaque bytes: whatever two ends say to each other, as if no proxy were between them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use kith::lab::Workload;
use kith_tests::app::App;
use kith_tests::caller::Caller;
use kith_tests::expect::{self, hop};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::{self, End, Heard, listen, raw, say, until};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PORTS: &[(u16, &str)] = &[(7000, "TCP"), (7001, ""), (8080, "HTTP")];

fn on(port: u16) -> impl Fn(&Value) -> bool {
    move |record| record["destination.port"] == port
}

fn check(actual: &str, expected: &Expect) {
    expected.assert_eq(actual);
}

#[tokio::test]
async fn bytes_pass_both_ways_and_either_side_may_end_its_half_first() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let echo = shop
        .orders
        .app(&["tcp", "--listen", "[::]:7000"])
        .await
        .unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let expected = bytes.clone();
    let address = shop.service(7000);
    let heard = shop
        .web
        .enter(move || async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            let send = tokio::task::spawn_local(async move {
                writer.write_all(&bytes).await.unwrap();
                writer.shutdown().await.unwrap();
                writer
            });
            let heard = listen(&mut reader, Duration::from_secs(5)).await;
            drop(send.await.unwrap());
            heard
        })
        .await
        .unwrap();
    assert!(
        heard.bytes == expected && heard.end == End::Closed,
        "{} bytes, {:?}",
        heard.bytes.len(),
        heard.end
    );
    check(
        &hop(&shop.web, &shop.orders, on(7000)).await,
        &expect![[r#"
        both    bytes.in 1000000
        both    bytes.out 1000000
        both    closed_by client
        both    decision allow
        both    destination.address 10.75.0.4:7000
        both    destination.port 7000
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-0
        server  policy shop/orders
        client  reason allowed-by-default
        server  reason allowed-by-rule
        both    record connection
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    upstream_ms <ms>
    "#]],
    );
    drop(echo);

    // The server ends first, and still hears what the client says afterwards.
    let app = App::hearing(&shop.orders, 7000, |mut stream, log| async move {
        stream.write_all(b"that is all from me").await.unwrap();
        stream.shutdown().await.unwrap();
        log.push(&listen(&mut stream, Duration::from_secs(5)).await.bytes);
        log.push(b"<end>");
    })
    .await;
    shop.web
        .enter(move || async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let heard = listen(&mut stream, Duration::from_secs(5)).await;
            assert_eq!(
                (heard.text().as_str(), heard.end),
                ("that is all from me", End::Closed)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(b"but not from me").await.unwrap();
        })
        .await
        .unwrap();
    app.wait_heard(|heard| heard == ["but not from me<end>"])
        .await;
    let ended =
        |record: &Value| record["destination.port"] == 7000 && record["closed_by"] == "server";
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, ended).await;
    for record in [outbound, inbound] {
        assert_eq!(
            (
                &record["bytes.in"],
                &record["bytes.out"],
                &record["closed_by"]
            ),
            (&15.into(), &19.into(), &"server".into()),
            "{record}"
        );
    }
}

#[tokio::test]
async fn a_reset_at_one_end_is_a_reset_at_the_other() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let app = App::hearing(&shop.orders, 7000, |mut stream, log| async move {
        let heard = listen(&mut stream, Duration::from_secs(5)).await;
        log.push(format!("{} {:?}", heard.text(), heard.end).as_bytes());
    })
    .await;
    let address = shop.service(7000);
    shop.web
        .enter(move || async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"half").await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            wire::reset_on_close(&stream);
        })
        .await
        .unwrap();
    app.wait_heard(|heard| heard == ["half Reset"]).await;
    check(
        &hop(&shop.web, &shop.orders, on(7000)).await,
        &expect![[r#"
        both    bytes.in 4
        both    bytes.out 0
        both    closed_by client
        both    decision allow
        both    destination.address 10.75.0.4:7000
        both    destination.port 7000
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-0
        server  policy shop/orders
        client  reason allowed-by-default
        server  reason allowed-by-rule
        both    record connection
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        both    upstream_ms <ms>
    "#]],
    );
    drop(app);

    let _app = App::listen(&shop.orders, 7000, |mut stream, _| async move {
        until(&mut stream, "ready").await.unwrap();
        wire::reset_on_close(&stream);
    })
    .await;
    let heard = raw(&shop.web, address, "ready").await.unwrap();
    assert_eq!((heard.text().as_str(), heard.end), ("", End::Reset));
    let ended = |record: &Value| record["closed_by"] == "server";
    let (outbound, inbound) = expect::ends(&shop.web, &shop.orders, ended).await;
    assert_eq!(
        (
            &outbound["closed_by"],
            &outbound["bytes.in"],
            &inbound["bytes.in"]
        ),
        (&"server".into(), &5.into(), &5.into())
    );
}

/// How long until the greeting is there: the shortest of five, because other tests run beside this one; a look for HTTP
/// would make each of them longer.
async fn quickest_greeting(web: &Workload, address: std::net::SocketAddr) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        shortest = shortest.min(greeting(web, address).await);
    }
    shortest
}

/// How long until the greeting is there.
async fn greeting(web: &Workload, address: std::net::SocketAddr) -> Duration {
    web.enter(move || async move {
        let start = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(
            until(&mut stream, "\r\n").await.unwrap(),
            "220 orders ESMTP\r\n"
        );
        start.elapsed()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_without_delay_on_a_declared_port_and_soon_on_another()
{
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _declared = shop
        .orders
        .app(&[
            "tcp",
            "--listen",
            "[::]:7000",
            "--greeting",
            "220 orders ESMTP",
        ])
        .await
        .unwrap();
    let _undeclared = shop
        .orders
        .app(&[
            "tcp",
            "--listen",
            "[::]:7001",
            "--greeting",
            "220 orders ESMTP",
        ])
        .await
        .unwrap();
    let declared = quickest_greeting(&shop.web, shop.service(7000)).await;
    assert!(declared < Duration::from_millis(50), "{declared:?}");
    let undeclared = quickest_greeting(&shop.web, shop.service(7001)).await;
    assert!(undeclared < Duration::from_millis(800), "{undeclared:?}");
    let _smtp = shop
        .orders
        .app(&[
            "tcp",
            "--listen",
            "[::]:25",
            "--greeting",
            "220 orders ESMTP",
        ])
        .await
        .unwrap();
    let time = quickest_greeting(&shop.web, shop.pod(25)).await;
    assert!(
        time < Duration::from_millis(250),
        "a port whose protocol is known to start with the server: {time:?}"
    );
}

/// A client's TLS to the application itself, with a server name.
async fn own_tls(
    caller: &Caller,
    from: &Workload,
    to: std::net::SocketAddr,
    name: &'static str,
) -> std::io::Result<String> {
    let mut config = (*caller.client_config(&[b"own"])).clone();
    config.enable_sni = true;
    from.enter(move || async move {
        let tcp = TcpStream::connect(to).await?;
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(name).unwrap(), tcp)
            .await?;
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
    .await?
}

const BY_NAME: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - to: [{operation: {ports: [\"7443\"]}}]
    when: [{key: connection.sni, values: [orders.example]}]
";

const PERMISSIVE: &str = "
---
apiVersion: kith.dev/v1alpha1
kind: PeerAuthentication
metadata: {namespace: shop, name: default}
spec: {mtls: {mode: PERMISSIVE}}
";

#[tokio::test]
async fn the_applications_own_tls_is_passed_through_where_the_port_is_declared_so() {
    let shop = Shop::open(&[(7443, "TLS")], &format!("{BY_NAME}{PERMISSIVE}")).await;
    // Any certificate will do: nobody between the two looks at it.
    let caller = Caller::new(&shop.lab, "spiffe://example.org/ns/outside/sa/anybody").await;
    let acceptor = caller.acceptor(&[b"own"]);
    let app = App::hearing(&shop.orders, 7443, move |stream, log| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let name = stream
                .get_ref()
                .1
                .server_name()
                .unwrap_or_default()
                .to_owned();
            let mut ping = [0; 4];
            stream.read_exact(&mut ping).await.unwrap();
            log.push(format!("{name} {}", String::from_utf8_lossy(&ping)).as_bytes());
            stream.write_all(b"pong").await.unwrap();
            // The client ends it.
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let stranger = shop.stranger().await;
    assert_eq!(
        own_tls(&caller, &stranger, shop.pod(7443), "orders.example")
            .await
            .unwrap(),
        "pong"
    );
    assert_eq!(app.heard(), ["orders.example ping"]);
    let allowed = shop.orders.wait_record(on(7443)).await.unwrap();
    check(
        &without_sizes(&allowed),
        &expect![[r#"
        closed_by client
        decision allow
        destination.address 10.75.0.4:7443
        destination.port 7443
        direction inbound
        duration_ms <ms>
        policy shop/orders
        reason allowed-by-rule
        record connection
        revision <revision>
        rule 0
        source.address 10.75.0.5:*
        time <time>
        upstream_ms <ms>
    "#]],
    );
    own_tls(&caller, &stranger, shop.pod(7443), "other.example")
        .await
        .unwrap_err();
    let denied = shop
        .orders
        .wait_record(|record| record["decision"] == "deny")
        .await
        .unwrap();
    check(
        &expect::record(&denied),
        &expect![[r#"
        bytes.in 0
        bytes.out 0
        decision deny
        destination.address 10.75.0.4:7443
        destination.port 7443
        direction inbound
        duration_ms <ms>
        nearest.clause when[connection.sni]
        nearest.policy shop/orders
        reason no-allow-policy-matches
        record connection
        revision <revision>
        source.address 10.75.0.5:*
        time <time>
    "#]],
    );

    // Inside the mesh's TLS as well: the application's is carried in it, whatever it says.
    shop.lab.apply("policies", WEB_MAY_ALL).await.unwrap();
    assert_eq!(
        own_tls(&caller, &shop.web, shop.service(7443), "any.example")
            .await
            .unwrap(),
        "pong"
    );
    let (outbound, inbound) =
        expect::ends(&shop.web, &shop.orders, |record| record["hop"].is_string()).await;
    assert_eq!(
        (
            &outbound["decision"],
            &outbound["closed_by"],
            &inbound["policy"]
        ),
        (&"allow".into(), &"client".into(), &"shop/orders".into())
    );
    check(
        &without_sizes(&inbound),
        &expect![[r#"
        closed_by client
        decision allow
        destination.address 10.75.0.4:7443
        destination.port 7443
        destination.principal spiffe://example.org/ns/shop/sa/orders
        direction inbound
        duration_ms <ms>
        hop <hop>-0
        policy shop/orders
        reason allowed-by-rule
        record connection
        revision <revision>
        rule 0
        source.address 10.75.0.3:*
        source.expires <time>
        source.principal spiffe://example.org/ns/shop/sa/web
        source.serial <serial>
        time <time>
        tls.cipher TLS13_AES_128_GCM_SHA256
        tls.group X25519MLKEM768
        tls.version TLSv1.3
        upstream_ms <ms>
    "#]],
    );
}

fn policy(action: &str, rule: &str) -> String {
    format!(
        "---\napiVersion: kith.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: {}}}\n\
         spec:\n  action: {action}\n  rules: [{rule}]\n",
        action.to_lowercase()
    )
}

#[tokio::test]
async fn row_14_opaque_bytes_are_decided_under_rules_for_connections() {
    let shop = Shop::open(PORTS, "").await;
    let _opaque = shop
        .orders
        .app(&["tcp", "--listen", "[::]:7000"])
        .await
        .unwrap();
    let caller = Caller::new(&shop.lab, "spiffe://example.org/ns/shop/sa/web").await;
    let stranger = shop.stranger().await;
    let http = App::answering(
        &shop.orders,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let from_web = "from: [{source: {principals: [example.org/ns/shop/sa/web]}}]";
    let anything = policy("ALLOW", &format!("{{{from_web}}}"));
    for (policies, allowed, reason, names) in [
        (anything.clone(), true, "allowed-by-rule", "shop/allow"),
        (
            policy(
                "ALLOW",
                &format!("{{{from_web}, to: [{{operation: {{ports: [\"7000\", \"8080\"]}}}}]}}"),
            ),
            true,
            "allowed-by-rule",
            "shop/allow",
        ),
        // An ALLOW that needs to see a request never matches.
        (
            policy(
                "ALLOW",
                &format!("{{{from_web}, to: [{{operation: {{methods: [\"*\"]}}}}]}}"),
            ),
            false,
            "no-allow-policy-matches",
            "",
        ),
        (
            policy(
                "ALLOW",
                &format!("{{{from_web}, to: [{{operation: {{notPaths: [/admin]}}}}]}}"),
            ),
            false,
            "no-allow-policy-matches",
            "",
        ),
        (
            policy(
                "ALLOW",
                &format!("{{{from_web}, when: [{{key: \"request.headers[x]\", notValues: [y]}}]}}"),
            ),
            false,
            "no-allow-policy-matches",
            "",
        ),
        // A DENY that would have to see one gets wider.
        (
            anything.clone() + &policy("DENY", "{to: [{operation: {paths: [/admin]}}]}"),
            false,
            "denied-by-rule",
            "shop/deny",
        ),
        (
            anything.clone()
                + &policy(
                    "DENY",
                    "{to: [{operation: {methods: [DELETE], ports: [\"7001\"]}}]}",
                ),
            true,
            "allowed-by-rule",
            "shop/allow",
        ),
    ] {
        shop.lab.apply("policies", &policies).await.unwrap();
        let before = shop.orders.records().len();
        let address = shop.service(7000);
        let heard = shop
            .web
            .enter(move || async move {
                let mut stream = match TcpStream::connect(address).await {
                    // Refused before this end knew that it was open.
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                        return Heard {
                            bytes: Vec::new(),
                            end: End::Reset,
                        };
                    }
                    connected => connected.unwrap(),
                };
                let mut heard = say(&mut stream, b"hello", Duration::from_millis(300)).await;
                if heard.end == End::Open {
                    stream.shutdown().await.unwrap();
                    heard.end = listen(&mut stream, Duration::from_secs(2)).await.end;
                }
                heard
            })
            .await
            .unwrap();
        let expected = if allowed {
            ("hello".to_owned(), End::Closed)
        } else {
            (String::new(), End::Reset)
        };
        assert_eq!((heard.text(), heard.end), expected, "{policies}");
        let record = shop
            .orders
            .wait_records(before + 1, |_| true)
            .await
            .unwrap()
            .pop()
            .unwrap();
        let seen = (
            record["record"].as_str().unwrap(),
            record["reason"].as_str().unwrap(),
            record["policy"].as_str().unwrap_or_default(),
        );
        assert_eq!(seen, ("connection", reason, names), "{policies}: {record}");

        // HTTP that calls itself opaque gets no more than opaque bytes do, whatever its port is declared to be.
        let heard_before = http.heard().len();
        let request = "GET /public HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n";
        let heard = caller
            .raw(&stranger, shop.pod(8080), b"kith-tcp", request)
            .await;
        let answered = heard
            .as_ref()
            .is_ok_and(|heard| heard.text().starts_with("HTTP/1.1 200"));
        assert_eq!(
            (answered, http.heard().len() > heard_before),
            (allowed, allowed),
            "{policies}: {heard:?}"
        );
    }
}

#[tokio::test]
async fn an_undeclared_port_is_http_where_it_surely_is_and_opaque_where_it_is_not() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let app = App::answering(
        &shop.orders,
        7001,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    for (bytes, record) in [
        (
            "GET /sniffed HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n",
            "request",
        ),
        ("GET nothing of that kind\r\n\r\n", "connection"),
        ("\u{16}\u{3}\u{1}not quite TLS\r\n\r\n", "connection"),
        ("HELO orders\r\n\r\n", "connection"),
    ] {
        let before = shop.orders.records().len();
        let address = shop.service(7001);
        shop.web
            .enter(move || async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                // In two pieces, as hostile clients send them.
                stream.set_nodelay(true).unwrap();
                let (first, rest) = bytes.split_at(2);
                stream.write_all(first.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.write_all(rest.as_bytes()).await.unwrap();
                let heard = until(&mut stream, "ok").await.unwrap();
                assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
            })
            .await
            .unwrap();
        let written = shop
            .orders
            .wait_records(before + 1, |_| true)
            .await
            .unwrap()
            .pop()
            .unwrap();
        assert_eq!(
            (&written["record"], &written["decision"]),
            (&record.into(), &"allow".into()),
            "{bytes:?}: {written}"
        );
    }
    assert_eq!(app.heard().len(), 4);
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_a_reset() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let heard = raw(&shop.web, shop.service(7000), "hello").await.unwrap();
    assert_eq!((heard.text().as_str(), heard.end), ("", End::Reset));
    check(
        &hop(&shop.web, &shop.orders, on(7000)).await,
        &expect![[r#"
        client  bytes.in 5
        server  bytes.in 0
        both    bytes.out 0
        both    closed_by server
        both    decision allow
        both    destination.address 10.75.0.4:7000
        both    destination.port 7000
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-0
        server  policy shop/orders
        client  reason allowed-by-default
        server  reason server-unreachable
        both    record connection
        both    revision <revision>
        server  rule 0
        both    source.address 10.75.0.3:*
        both    source.expires <time>
        both    source.principal spiffe://example.org/ns/shop/sa/web
        both    source.serial <serial>
        both    time <time>
        both    tls.cipher TLS13_AES_128_GCM_SHA256
        both    tls.group X25519MLKEM768
        both    tls.version TLSv1.3
        client  upstream_ms <ms>
    "#]],
    );
}

/// Signatures differ in length, and with them the size of a handshake.
fn without_sizes(record: &Value) -> String {
    let mut record = record.clone();
    for key in ["bytes.in", "bytes.out"] {
        assert!(
            record
                .as_object_mut()
                .unwrap()
                .remove(key)
                .unwrap()
                .as_u64()
                > Some(1000),
            "{record}"
        );
    }
    expect::record(&record)
}
