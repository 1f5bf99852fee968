//! Who may come without mTLS: STRICT, PERMISSIVE and DISABLE, by port, over IPv4 and IPv6; and what is no traffic of
//! the workload at all.

use std::net::SocketAddr;
use std::sync::Arc;

use expect_test::expect;
use kith::app::client::Call;
use kith::lab::{Process, Workload};
use kith_tests::expect;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::{self, End};
use serde_json::Value;

/// Allows everybody on these ports, and asks nobody who they are.
const ANYBODY: &str = "
---
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: anybody}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - to: [{operation: {ports: [\"8080\", \"8081\", \"8082\", \"7000\"]}}]
";

fn modes(spec: &str) -> String {
    format!(
        "---\napiVersion: kith.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{namespace: shop, name: modes}}\n\
         spec: {{selector: {{matchLabels: {{app: orders}}}}, {spec}}}\n"
    )
}

const PORTS: &[(u16, &str)] = &[
    (8080, "HTTP"),
    (8081, "HTTP"),
    (8082, "HTTP"),
    (7000, "TCP"),
];

struct Scene {
    shop: Shop,
    stranger: Arc<Workload>,
    _apps: Vec<Process>,
}

impl Scene {
    async fn new(policies: &str) -> Self {
        let shop = Shop::open(PORTS, policies).await;
        let mut apps = Vec::new();
        for port in [8080, 8081, 8082] {
            apps.push(
                shop.orders
                    .app(&["http", "--listen", &format!("[::]:{port}")])
                    .await
                    .unwrap(),
            );
        }
        apps.push(
            shop.orders
                .app(&["tcp", "--listen", "[::]:7000"])
                .await
                .unwrap(),
        );
        let stranger = shop.stranger().await;
        Self {
            shop,
            stranger,
            _apps: apps,
        }
    }

    /// Both addresses of a port of `orders`.
    fn both(&self, port: u16) -> [SocketAddr; 2] {
        self.shop
            .orders
            .addresses
            .both()
            .map(|address| SocketAddr::new(address, port))
    }

    /// Status and reason that `from` gets from a port, the same over both families.
    async fn http(&self, from: &Workload, port: u16) -> (u16, Option<String>) {
        let mut seen = Vec::new();
        for address in self.both(port) {
            let reply = from
                .call(Call::get(format!("http://{address}/").parse().unwrap()))
                .await
                .unwrap();
            seen.push((
                reply.status,
                reply.header("x-kith-reason").map(str::to_owned),
            ));
        }
        assert_eq!(seen[0], seen[1], "IPv4 and IPv6");
        seen.remove(0)
    }

    /// What `from` hears from the echo on port 7000, the same over both families.
    async fn tcp(&self, from: &Workload) -> (String, End) {
        let mut seen = Vec::new();
        for address in self.both(7000) {
            let heard = wire::raw(from, address, "hello").await.unwrap();
            seen.push((heard.text(), heard.end));
        }
        assert_eq!(seen[0], seen[1], "IPv4 and IPv6");
        seen.remove(0)
    }

    /// The last record of a port over IPv4 that has no hop.
    async fn plain_record(&self, port: u16) -> Value {
        let wanted = |record: &Value| {
            let v4 = record["source.address"]
                .as_str()
                .unwrap_or_default()
                .starts_with("10.");
            record["destination.port"] == port && record["hop"].is_null() && v4
        };
        self.shop
            .orders
            .wait_records(1, wanted)
            .await
            .unwrap()
            .pop()
            .unwrap()
    }
}

fn refused(reason: &str) -> (u16, Option<String>) {
    (403, Some(reason.to_owned()))
}

const SERVED: (u16, Option<String>) = (200, None);

fn reset() -> (String, End) {
    (String::new(), End::Reset)
}

fn echoed() -> (String, End) {
    ("hello".to_owned(), End::Open)
}

#[tokio::test]
async fn strict_is_the_default_and_refuses_plaintext() {
    let scene = Scene::new(ANYBODY).await;
    assert_eq!(
        scene.http(&scene.stranger, 8080).await,
        refused("peer-unauthenticated")
    );
    assert_eq!(scene.tcp(&scene.stranger).await, reset());
    assert_eq!(scene.http(&scene.shop.web, 8080).await, SERVED);
    assert_eq!(scene.tcp(&scene.shop.web).await, echoed());
    let expected = expect![[r#"
        bytes.in 0
        bytes.out 84
        decision deny
        destination.address 10.75.0.4:8080
        destination.port 8080
        direction inbound
        duration_ms <ms>
        http.authority 10.75.0.4:8080
        http.method GET
        http.path /
        http.status 403
        http.version 1.1
        reason peer-unauthenticated
        record request
        request.id <uuid>
        revision <revision>
        source.address 10.75.0.5:*
        span.id <span>
        time <time>
        trace.id <trace>
    "#]];
    expected.assert_eq(&expect::record(&scene.plain_record(8080).await));
    let expected = expect![[r#"
        bytes.in 0
        bytes.out 0
        decision deny
        destination.address 10.75.0.4:7000
        destination.port 7000
        direction inbound
        duration_ms <ms>
        reason peer-unauthenticated
        record connection
        revision <revision>
        source.address 10.75.0.5:*
        time <time>
    "#]];
    expected.assert_eq(&expect::record(&scene.plain_record(7000).await));
}

#[tokio::test]
async fn permissive_accepts_plaintext_and_mtls_where_nobodys_name_matters() {
    let scene = Scene::new(&format!("{ANYBODY}{}", modes("mtls: {mode: PERMISSIVE}"))).await;
    assert_eq!(scene.http(&scene.stranger, 8080).await, SERVED);
    assert_eq!(scene.tcp(&scene.stranger).await, echoed());
    assert_eq!(scene.http(&scene.shop.web, 8080).await, SERVED);
    assert_eq!(scene.tcp(&scene.shop.web).await, echoed());
    let expected = expect![[r#"
        bytes.in 0
        bytes.out 323
        decision allow
        destination.address 10.75.0.4:8080
        destination.port 8080
        direction inbound
        duration_ms <ms>
        http.authority 10.75.0.4:8080
        http.method GET
        http.path /
        http.status 200
        http.version 1.1
        policy shop/anybody
        reason allowed-by-rule
        record request
        request.id <uuid>
        revision <revision>
        rule 0
        source.address 10.75.0.5:*
        span.id <span>
        time <time>
        trace.id <trace>
        upstream_ms <ms>
    "#]];
    expected.assert_eq(&expect::record(&scene.plain_record(8080).await));
    // The mesh never comes in plaintext, even where it might.
    let from_web =
        |record: &Value| record["source.principal"] == "spiffe://example.org/ns/shop/sa/web";
    scene.shop.orders.wait_records(2, from_web).await.unwrap();
}

#[tokio::test]
async fn row_15_denies_plaintext_when_any_policy_of_the_port_uses_identity() {
    let deny_evil = "
---
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: not-evil}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/evil]}}]
    to: [{operation: {ports: [\"8080\", \"7000\"]}}]
";
    let scene = Scene::new(&format!(
        "{ANYBODY}{deny_evil}{}",
        modes("mtls: {mode: PERMISSIVE}")
    ))
    .await;
    assert_eq!(
        scene.http(&scene.stranger, 8080).await,
        refused("peer-unauthenticated")
    );
    assert_eq!(scene.tcp(&scene.stranger).await, reset());
    assert_eq!(scene.http(&scene.stranger, 8081).await, SERVED);
    assert_eq!(scene.http(&scene.shop.web, 8080).await, SERVED);
}

#[tokio::test]
async fn modes_are_set_port_by_port() {
    let scene = Scene::new(&format!(
        "{ANYBODY}{}",
        modes(
            "mtls: {mode: STRICT}, portLevelMtls: {8081: {mode: PERMISSIVE}, 8082: {mode: DISABLE}}"
        )
    ))
    .await;
    let Scene { stranger, shop, .. } = &scene;
    assert_eq!(
        scene.http(stranger, 8080).await,
        refused("peer-unauthenticated")
    );
    assert_eq!(scene.http(stranger, 8081).await, SERVED);
    assert_eq!(scene.http(stranger, 8082).await, SERVED);
    assert_eq!(scene.tcp(stranger).await, reset());
    assert_eq!(scene.http(&shop.web, 8080).await, SERVED);
    assert_eq!(scene.http(&shop.web, 8081).await, SERVED);
    // Nobody terminates mTLS there, and the mesh never falls back to plaintext.
    let (status, reason) = scene.http(&shop.web, 8082).await;
    assert_eq!(
        (status, reason.as_deref()),
        (503, Some("server-unauthenticated"))
    );
}

#[tokio::test]
async fn disable_takes_whatever_comes_as_it_is() {
    let scene = Scene::new(&format!("{ANYBODY}{}", modes("mtls: {mode: DISABLE}"))).await;
    assert_eq!(scene.http(&scene.stranger, 8080).await, SERVED);
    assert_eq!(scene.tcp(&scene.stranger).await, echoed());
    let record = scene.plain_record(8080).await;
    assert_eq!(
        (
            &record["decision"],
            &record["reason"],
            &record["source.principal"]
        ),
        (&"allow".into(), &"allowed-by-rule".into(), &Value::Null)
    );
    // A policy that asks for a name finds none.
    scene
        .shop
        .lab
        .apply(
            "policies",
            &format!("{WEB_MAY_ALL}{}", modes("mtls: {mode: DISABLE}")),
        )
        .await
        .unwrap();
    assert_eq!(
        scene.http(&scene.stranger, 8080).await,
        refused("peer-unauthenticated")
    );
}

#[tokio::test]
async fn row_18_addresses_are_the_same_in_either_notation() {
    // Only over IPv4 does the stranger come from this address; the listener is dual-stack and sees it mapped into IPv6.
    let policy = ANYBODY.replace(
        "  - to:",
        "  - from: [{source: {ipBlocks: [\"10.75.0.0/16\"]}}]\n    to:",
    );
    let shop = Shop::open(
        PORTS,
        &format!("{policy}{}", modes("mtls: {mode: PERMISSIVE}")),
    )
    .await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let stranger = shop.stranger().await;
    let [v4, v6] = shop
        .orders
        .addresses
        .both()
        .map(|address| SocketAddr::new(address, 8080));
    for (address, status) in [(v4, 200), (v6, 403)] {
        let reply = stranger
            .call(Call::get(format!("http://{address}/").parse().unwrap()))
            .await
            .unwrap();
        assert_eq!(reply.status, status, "{address}: {reply:?}");
    }
}

#[tokio::test]
async fn row_20_only_what_was_sent_to_the_workload_is_served() {
    let scene = Scene::new(&ANYBODY.replace(
        "to: [{operation: {ports: [\"8080\", \"8081\", \"8082\", \"7000\"]}}]",
        "{}",
    ))
    .await;
    let Scene { shop, stranger, .. } = &scene;
    let [v4, v6] = shop.orders.addresses.both();
    let request = "GET /own HTTP/1.1\r\nhost: orders.shop\r\n\r\n";

    // The listeners of the proxy itself, from outside, from the mesh and from the application beside it.
    for port in [15006, 15001, 15000] {
        for address in [v4, v6] {
            for from in [stranger, &shop.web, &shop.orders] {
                let heard = wire::raw(from, SocketAddr::new(address, port), request).await;
                let answered = heard
                    .as_ref()
                    .is_ok_and(|heard| heard.statuses().contains(&200));
                assert!(
                    !answered,
                    "{port} of {address} from {}: {heard:?}",
                    from.spec.id()
                );
            }
        }
        for own in ["127.0.0.1", "::1"] {
            if port != 15000 {
                let address = SocketAddr::new(own.parse().unwrap(), port);
                let heard = wire::raw(&shop.orders, address, request).await;
                assert!(
                    !heard
                        .as_ref()
                        .is_ok_and(|heard| heard.statuses().contains(&200)),
                    "{address}: {heard:?}"
                );
            }
        }
    }
    // What kubelet and scrapers ask for is served as it is, and three paths only.
    for (path, status) in [
        ("/ready", 200),
        ("/live", 200),
        ("/metrics", 200),
        ("/config", 404),
        ("/certs", 404),
    ] {
        let reply = stranger
            .call(Call::get(
                format!("http://{v4}:15021{path}").parse().unwrap(),
            ))
            .await
            .unwrap();
        assert_eq!(reply.status, status, "{path}");
    }

    // An address that is not this workload's, although the packets got here.
    let added = shop
        .orders
        .exec(&["ip", "addr", "add", "10.75.77.77/16", "dev", "eth0"])
        .await
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    let heard = wire::raw(stranger, "10.75.77.77:8080".parse().unwrap(), request).await;
    assert!(
        heard
            .as_ref()
            .is_ok_and(|heard| (heard.text().as_str(), heard.end) == ("", End::Reset)),
        "{heard:?}"
    );
    let record = shop
        .orders
        .wait_record(|record| record["destination.address"] == "10.75.77.77:8080")
        .await
        .unwrap();
    let expected = expect![[r#"
        bytes.in 0
        bytes.out 0
        decision deny
        destination.address 10.75.77.77:8080
        destination.port 8080
        direction inbound
        duration_ms <ms>
        reason no-route
        record connection
        revision <revision>
        source.address 10.75.0.5:*
        time <time>
    "#]];
    expected.assert_eq(&expect::record(&record));
}
