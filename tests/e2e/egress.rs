//! Where the application's connections go: to whom, how many, and to whom never.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use http::{HeaderMap, Method};
use kith::app::body::full;
use kith::app::client::{Call, Connection, Url};
use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};
use kith_tests::app::App;
use kith_tests::caller::Caller;
use kith_tests::expect::{self, hop};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::{self, End, until};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const HTTP: &[(u16, &str)] = &[(8080, "HTTP"), (7000, "TCP")];

fn check(actual: &str, expected: &Expect) {
    expected.assert_eq(actual);
}

fn path(wanted: &str) -> impl Fn(&Value) -> bool {
    move |record| record["http.path"] == wanted
}

/// A service `orders` with endpoints `one`, `two` and `three`.
struct Three {
    web: Arc<Workload>,
    endpoints: Vec<Arc<Workload>>,
    apps: Vec<Process>,
    _lab: Lab,
}

impl Three {
    async fn open() -> Self {
        let lab = Lab::new(LabOptions::default()).await.unwrap();
        lab.control().write("policies", WEB_MAY_ALL).unwrap();
        let endpoint = |name: &str| {
            WorkloadSpec::new("shop", name)
                .service_account("orders")
                .label("app", "orders")
                .port(8080, "HTTP")
                .port(7000, "TCP")
                .without_service()
        };
        let specs = [
            WorkloadSpec::new("shop", "web"),
            endpoint("one"),
            endpoint("two"),
            endpoint("three"),
        ];
        let mut started = lab.workloads(specs).await.unwrap();
        let web = started.remove(0);
        let service = json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "Service", "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {"addresses": ["10.96.50.1"], "selector": {"app": "orders"},
                     "ports": [{"port": 80, "targetPort": 8080, "protocol": "HTTP"}, {"port": 7000, "protocol": "TCP"}]},
        });
        lab.apply("service", &service.to_string()).await.unwrap();
        let mut apps = Vec::new();
        for workload in &started {
            apps.push(
                workload
                    .app(&["http", "--name", &workload.spec.name])
                    .await
                    .unwrap(),
            );
        }
        Self {
            web,
            endpoints: started,
            apps,
            _lab: lab,
        }
    }

    /// Who answers `count` requests that are under way at the same time.
    async fn at_once(&self, count: usize, path: &'static str) -> BTreeMap<String, usize> {
        let answers = self.web.enter(move || async move {
            let calls = (0..count).map(|_| {
                tokio::task::spawn_local(async move {
                    let url: Url = format!("http://10.96.50.1:80{path}").parse().unwrap();
                    Call::get(url).run().await.unwrap()
                })
            });
            let mut answers = Vec::new();
            for call in calls.collect::<Vec<_>>() {
                answers.push(call.await.unwrap());
            }
            answers
        });
        let mut by = BTreeMap::new();
        for reply in answers.await.unwrap() {
            assert_eq!(reply.status, 200, "{reply:?}");
            *by.entry(reply.json()["app"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        by
    }
}

#[tokio::test]
async fn requests_are_spread_over_the_endpoints_of_a_service_by_their_load() {
    let three = Three::open().await;
    // All at once and slow, so that each sees the load of the others.
    let by = three.at_once(30, "/slow?ms=300").await;
    assert_eq!(by.len(), 3, "{by:?}");
    assert!(by.values().all(|count| (6..=14).contains(count)), "{by:?}");
    let records = three
        .web
        .wait_records(30, |record| record["direction"] == "outbound")
        .await
        .unwrap();
    assert!(
        records
            .iter()
            .all(|record| record["destination.service"] == "shop/orders"
                && record["destination.port"] == 80),
        "{}",
        records[0]
    );
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_given_up_for_another_and_the_record_counts_attempts() {
    let three = Three::open().await;
    // Nothing accepts its connections any more.
    three.endpoints[1].sidecar().kill();
    for _ in 0..4 {
        let by = three.at_once(5, "/who").await;
        assert!(!by.contains_key("two"), "{by:?}");
    }
    let tried_twice = |record: &Value| record["attempts"] == 2;
    let outbound = three.web.wait_record(tried_twice).await.unwrap();
    let same_hop = |record: &Value| record["hop"] == outbound["hop"];
    let server = match outbound["destination.address"].as_str().unwrap() {
        address if address == format!("{}:8080", three.endpoints[0].addresses.v4) => {
            &three.endpoints[0]
        }
        _ => &three.endpoints[2],
    };
    let inbound = server.wait_record(same_hop).await.unwrap();
    assert_eq!(
        (&outbound["decision"], &inbound["decision"]),
        (&"allow".into(), &"allow".into())
    );
    // All of them.
    for endpoint in &three.endpoints {
        endpoint.sidecar().kill();
    }
    let reply = three.web.get("http://10.96.50.1:80/nobody").await.unwrap();
    assert_eq!(
        (reply.status, reply.header("x-kith-reason")),
        (503, Some("server-unreachable")),
        "{reply:?}"
    );
    let record = three.web.wait_record(path("/nobody")).await.unwrap();
    check(
        &expect::record(&record),
        &expect![[r#"
        attempts 3
        bytes.in 0
        bytes.out 82
        decision deny
        destination.address 10.96.50.1:80
        destination.port 80
        destination.service shop/orders
        direction outbound
        duration_ms <ms>
        http.authority 10.96.50.1:80
        http.method GET
        http.path /nobody
        http.status 503
        http.version 1.1
        reason server-unreachable
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        span.id <span>
        time <time>
        trace.id <trace>
    "#]],
    );
    assert_eq!(three.apps.len(), 3);
}

#[tokio::test]
async fn a_service_without_endpoints_and_a_port_that_none_offers_are_refused() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let empty = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "Service", "metadata": {"namespace": "shop", "name": "empty"},
        "spec": {"addresses": ["10.96.60.1"], "selector": {"app": "nobody"}, "ports": [{"port": 8080, "protocol": "HTTP"}, {"port": 7000, "protocol": "TCP"}]},
    });
    shop.lab.apply("empty", &empty.to_string()).await.unwrap();
    let reply = shop.web.get("http://10.96.60.1:8080/empty").await.unwrap();
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
    check(
        &expect::record(&shop.web.wait_record(path("/empty")).await.unwrap()),
        &expect![[r#"
        bytes.in 0
        bytes.out 82
        decision deny
        destination.address 10.96.60.1:8080
        destination.port 8080
        destination.service shop/empty
        direction outbound
        duration_ms <ms>
        http.authority 10.96.60.1:8080
        http.method GET
        http.path /empty
        http.status 503
        http.version 1.1
        reason server-unreachable
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        span.id <span>
        time <time>
        trace.id <trace>
    "#]],
    );
    let heard = wire::raw(&shop.web, "10.96.60.1:7000".parse().unwrap(), "hello")
        .await
        .unwrap();
    assert_eq!((heard.text().as_str(), heard.end), ("", End::Reset));
    let reply = shop.web.get("http://orders.shop:9999/port").await.unwrap();
    assert_eq!(
        (reply.status, reply.header("x-kith-reason")),
        (503, Some("no-route")),
        "{reply:?}"
    );
}

/// A lab in which `orders` is what a test plays: announced as a part of the mesh, without a sidecar.
async fn impostor() -> (Arc<Workload>, Arc<Workload>, Lab) {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "web"),
        WorkloadSpec::new("shop", "orders")
            .without_sidecar()
            .unannounced(),
    ];
    let [web, orders] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    let mut document = orders_document();
    document["spec"]["addresses"] = json!(orders.addresses.both());
    lab.apply("orders", &document.to_string()).await.unwrap();
    (web, orders, lab)
}

fn orders_document() -> Value {
    json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
        "metadata": {"namespace": "shop", "name": "orders", "labels": {"app": "orders"}},
        "spec": {"serviceAccount": "orders", "ports": [{"port": 8080, "protocol": "HTTP"}, {"port": 7000, "protocol": "TCP"}, {"port": 9090, "protocol": "GRPC"}]},
    })
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused_before_anything_is_sent() {
    let (web, orders, lab) = impostor().await;
    // It has an SVID of the same trust domain, only not the one that is expected.
    let accounting = Caller::new(&lab, "spiffe://example.org/ns/shop/sa/accounting").await;
    let serve = |alpn: &'static [u8]| {
        let acceptor = accounting.acceptor(&[alpn]);
        move |stream, log: kith_tests::app::Log| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                log.push(b"shook hands;");
                let heard = wire::listen(&mut stream, Duration::from_secs(2)).await;
                log.push(&heard.bytes);
                log.push(b"end");
            }
        }
    };
    let app = App::hearing(&orders, 8080, serve(b"kith-h1")).await;
    let grpc = App::hearing(&orders, 9090, serve(b"kith-h2")).await;
    let opaque = App::hearing(&orders, 7000, serve(b"kith-tcp")).await;
    let mut call = Call::get(
        format!("http://{}:8080/secret", orders.addresses.v4)
            .parse()
            .unwrap(),
    );
    call.data = Some("secret".to_owned());
    let reply = web.call(call).await.unwrap();
    check(
        &expect::reply(&reply),
        &expect![[r#"
        503
        connection: close
        content-length: 88
        content-type: application/problem+json
        server: kith
        x-kith-reason: server-identity-mismatch

        {"reason":"server-identity-mismatch","requestId":"<uuid>"}
    "#]],
    );
    check(
        &expect::record(&web.wait_record(path("/secret")).await.unwrap()),
        &expect![[r#"
        bytes.in 0
        bytes.out 88
        decision deny
        destination.address 10.75.0.4:8080
        destination.port 8080
        direction outbound
        duration_ms <ms>
        http.authority 10.75.0.4:8080
        http.method POST
        http.path /secret
        http.status 503
        http.version 1.1
        reason server-identity-mismatch
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        span.id <span>
        time <time>
        tls.error the server is spiffe://example.org/ns/shop/sa/accounting, expected spiffe://example.org/ns/shop/sa/orders
        trace.id <trace>
    "#]],
    );
    let mut call = Call::get(
        format!("http://{}:9090/secret2", orders.addresses.v4)
            .parse()
            .unwrap(),
    );
    call.http2 = true;
    let reply = web.call(call).await.unwrap();
    assert_eq!(
        (reply.status, reply.header("x-kith-reason")),
        (503, Some("server-identity-mismatch")),
        "{reply:?}"
    );
    let heard = wire::raw(
        &web,
        format!("{}:7000", orders.addresses.v4).parse().unwrap(),
        "secret",
    )
    .await
    .unwrap();
    assert_eq!((heard.text().as_str(), heard.end), ("", End::Reset));
    check(
        &expect::record(
            &web.wait_record(|record| record["record"] == "connection")
                .await
                .unwrap(),
        ),
        &expect![[r#"
        bytes.in 0
        bytes.out 0
        decision deny
        destination.address 10.75.0.4:7000
        destination.port 7000
        direction outbound
        duration_ms <ms>
        reason server-identity-mismatch
        record connection
        revision <revision>
        source.address 10.75.0.3:*
        time <time>
        tls.error the server is spiffe://example.org/ns/shop/sa/accounting, expected spiffe://example.org/ns/shop/sa/orders
    "#]],
    );
    for app in [app, grpc, opaque] {
        app.wait_heard(|heard| heard == ["shook hands;end"]).await;
    }
}

#[tokio::test]
async fn a_destination_of_the_mesh_never_gets_plaintext() {
    let (web, orders, _lab) = impostor().await;
    let app = App::hearing(&orders, 8080, |mut stream, log| async move {
        let heard = wire::listen(&mut stream, Duration::from_millis(300)).await;
        log.push(&heard.bytes);
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
    })
    .await;
    let opaque = App::answering(&orders, 7000, "").await;
    let reply = web
        .get(&format!("http://{}:8080/very-secret", orders.addresses.v4))
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.header("x-kith-reason")),
        (503, Some("server-unauthenticated")),
        "{reply:?}"
    );
    let _ = wire::raw(
        &web,
        format!("{}:7000", orders.addresses.v4).parse().unwrap(),
        "very-secret",
    )
    .await;
    let heard = app.heard().concat() + &opaque.heard().concat();
    assert!(
        !app.heard().is_empty() && !heard.contains("secret") && !heard.contains("GET"),
        "{heard:?}"
    );
    check(
        &expect::record(&web.wait_record(path("/very-secret")).await.unwrap()),
        &expect![[r#"
        bytes.in 0
        bytes.out 86
        decision deny
        destination.address 10.75.0.4:8080
        destination.port 8080
        direction outbound
        duration_ms <ms>
        http.authority 10.75.0.4:8080
        http.method GET
        http.path /very-secret
        http.status 503
        http.version 1.1
        reason server-unauthenticated
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        span.id <span>
        time <time>
        tls.error received corrupt message of type InvalidContentType
        trace.id <trace>
    "#]],
    );
}

#[tokio::test]
async fn a_machine_outside_of_the_mesh_is_spoken_to_in_plaintext_when_it_is_announced_as_such() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "web"),
        WorkloadSpec::new("shop", "legacy")
            .without_sidecar()
            .port(8080, "HTTP"),
    ];
    let started = lab.workloads(specs).await.unwrap();
    let [web, legacy] = &started[..] else {
        panic!()
    };
    let app = App::answering(
        legacy,
        8080,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-kith-reason: forged\r\n\r\nok",
    )
    .await;
    let mut call = Call::get("http://legacy.shop:8080/plain".parse().unwrap());
    call.headers = vec![
        "x-forwarded-client-cert: forged".to_owned(),
        "x-kith-a: forged".to_owned(),
    ];
    let reply = web.call(call).await.unwrap();
    check(
        &expect::reply(&reply),
        &expect![[r#"
        200
        content-length: 2

        ok
    "#]],
    );
    assert!(
        app.heard()[0].starts_with("GET /plain HTTP/1.1\r\n") && !app.heard()[0].contains("forged"),
        "{:?}",
        app.heard()
    );
    check(
        &expect::record(&web.wait_record(path("/plain")).await.unwrap()),
        &expect![[r#"
        bytes.in 0
        bytes.out 2
        decision allow
        destination.address 10.75.0.4:8080
        destination.port 8080
        destination.service shop/legacy
        direction outbound
        duration_ms <ms>
        http.authority legacy.shop:8080
        http.method GET
        http.path /plain
        http.status 200
        http.version 1.1
        reason allowed-by-default
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        span.id <span>
        time <time>
        trace.id <trace>
        upstream_ms <ms>
    "#]],
    );
}

#[tokio::test]
async fn unknown_addresses_are_refused_unless_egress_is_allowed() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let stranger = shop.stranger().await;
    let _http = stranger.app(&["http"]).await.unwrap();
    let _tcp = stranger
        .app(&["tcp", "--listen", "[::]:7000", "--greeting", "hello"])
        .await
        .unwrap();
    let url = format!("http://{}:8080/outside", stranger.addresses.v4);
    let reply = shop.web.get(&url).await.unwrap();
    check(
        &expect::reply(&reply),
        &expect![[r#"
        503
        content-length: 72
        content-type: application/problem+json
        server: kith
        x-kith-reason: no-route

        {"reason":"no-route","requestId":"<uuid>"}
    "#]],
    );
    check(
        &expect::record(&shop.web.wait_record(path("/outside")).await.unwrap()),
        &expect![[r#"
        bytes.in 0
        bytes.out 72
        decision deny
        destination.address 10.75.0.5:8080
        destination.port 8080
        direction outbound
        duration_ms <ms>
        http.authority 10.75.0.5:8080
        http.method GET
        http.path /outside
        http.status 503
        http.version 1.1
        reason no-route
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        span.id <span>
        time <time>
        trace.id <trace>
    "#]],
    );
    let tcp = std::net::SocketAddr::new(stranger.addresses.v4.into(), 7000);
    let heard = wire::raw(&shop.web, tcp, "hello").await.unwrap();
    assert_eq!((heard.text().as_str(), heard.end), ("", End::Reset));

    let options = LabOptions {
        mesh: json!({"egress": "ALLOW"}),
        ..LabOptions::default()
    };
    let shop = Shop::with(options, HTTP, WEB_MAY_ALL).await;
    let stranger = shop.stranger().await;
    let _http = stranger.app(&["http", "--name", "outside"]).await.unwrap();
    let _tcp = stranger
        .app(&["tcp", "--listen", "[::]:7000", "--greeting", "hello"])
        .await
        .unwrap();
    let reply = shop.web.get(&url).await.unwrap();
    assert_eq!(
        (reply.status, &reply.json()["app"]),
        (200, &"outside".into()),
        "{reply:?}"
    );
    check(
        &expect::record(&shop.web.wait_record(path("/outside")).await.unwrap()),
        &expect![[r#"
        bytes.in 0
        bytes.out 334
        decision allow
        destination.address 10.75.0.5:8080
        destination.port 8080
        direction outbound
        duration_ms <ms>
        http.authority 10.75.0.5:8080
        http.method GET
        http.path /outside
        http.status 200
        http.version 1.1
        reason allowed-by-default
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.3:*
        span.id <span>
        time <time>
        trace.id <trace>
        upstream_ms <ms>
    "#]],
    );
    let greeting = shop
        .web
        .enter(move || async move {
            until(
                &mut tokio::net::TcpStream::connect(tcp).await.unwrap(),
                "hello\r\n",
            )
            .await
        })
        .await
        .unwrap();
    assert!(greeting.is_ok(), "{greeting:?}");
}

#[tokio::test]
async fn connections_of_the_application_share_those_of_the_pool() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    for number in 1..=3 {
        shop.get(&format!("/pooled/{number}"), &[]).await;
    }
    let mut hops = Vec::new();
    for number in 1..=3 {
        let (outbound, _) =
            expect::ends(&shop.web, &shop.orders, path(&format!("/pooled/{number}"))).await;
        hops.push(outbound["hop"].as_str().unwrap().to_owned());
    }
    let (id, _) = hops[0].rsplit_once('-').unwrap();
    assert_eq!(
        hops,
        [format!("{id}-1"), format!("{id}-2"), format!("{id}-3")]
    );
    check(
        &hop(&shop.web, &shop.orders, path("/pooled/3")).await,
        &expect![[r#"
        both    bytes.in 0
        both    bytes.out 513
        both    decision allow
        both    destination.address 10.75.0.4:8080
        both    destination.port 8080
        both    destination.principal spiffe://example.org/ns/shop/sa/orders
        client  destination.service shop/orders
        client  direction outbound
        server  direction inbound
        both    duration_ms <ms>
        both    hop <hop>-3
        both    http.authority orders.shop:8080
        both    http.method GET
        both    http.path /pooled/3
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
async fn an_idle_connection_that_its_server_has_ended_is_not_used() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let app = shop.orders.app(&["http"]).await.unwrap();
    assert_eq!(shop.get("/before", &[]).await.status, 200);
    // The server's sidecar.
    shop.orders.sidecar().restart().unwrap();
    shop.orders.ready(Duration::from_secs(10)).await.unwrap();
    assert_eq!(shop.get("/after-the-sidecar", &[]).await.status, 200);
    // The application behind it, on one and the same connection of the client.
    let address = shop.service(8080);
    let request = |connection: &Connection, path: &str| {
        connection
            .request(
                Method::GET,
                &format!("http://orders.shop:8080{path}").parse().unwrap(),
                &HeaderMap::new(),
                full(""),
            )
            .unwrap()
    };
    let (next, restarted) = (
        tokio::sync::oneshot::channel::<()>(),
        tokio::sync::oneshot::channel::<()>(),
    );
    let (first_done, wait_first) = next;
    let (go_on, wait_restart) = restarted;
    let client = shop.web.enter(move || async move {
        let mut connection = Connection::open(address, false).await.unwrap();
        let first = connection
            .call(request(&connection, "/kept/1"))
            .await
            .unwrap();
        first_done.send(()).unwrap();
        wait_restart.await.unwrap();
        let second = connection
            .call(request(&connection, "/kept/2"))
            .await
            .unwrap();
        (first.status, second.status)
    });
    let restart = async {
        wait_first.await.unwrap();
        app.restart().unwrap();
        shop.orders.listening(8080).await.unwrap();
        go_on.send(()).unwrap();
    };
    let (statuses, ()) = tokio::join!(client, restart);
    assert_eq!(statuses.unwrap(), (200, 200));
    // A server outside of the mesh that ends connections after each answer, without saying so.
    drop(app);
    let _app = App::listen(&shop.orders, 8080, |mut stream, _| async move {
        until(&mut stream, "\r\n\r\n").await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
    })
    .await;
    for number in 0..10 {
        let reply = shop.get("/again", &[]).await;
        assert_eq!(reply.status, 200, "the {number}th: {reply:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_workload_that_is_withdrawn_is_known_no_more() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let pod = format!("http://{}:8080/", shop.orders.addresses.v4);
    let service = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "Service", "metadata": {"namespace": "shop", "name": "again"},
        "spec": {"addresses": ["10.96.70.1"], "selector": {"app": "orders"}, "ports": [{"port": 8080, "protocol": "HTTP"}]},
    });
    shop.lab.apply("again", &service.to_string()).await.unwrap();
    for url in [pod.as_str(), "http://10.96.70.1:8080/"] {
        assert_eq!(shop.web.get(url).await.unwrap().status, 200, "{url}");
    }
    shop.lab.control().remove("workload-shop-orders").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while shop.web.get(&pod).await.unwrap().status == 200 {
        assert!(Instant::now() < deadline, "still known after 5 s");
    }
    for (url, reason) in [
        (pod.as_str(), "no-route"),
        ("http://10.96.70.1:8080/", "server-unreachable"),
    ] {
        let reply = shop.web.get(url).await.unwrap();
        assert_eq!(
            (reply.status, reply.header("x-kith-reason")),
            (503, Some(reason)),
            "{url}: {reply:?}"
        );
    }
}
