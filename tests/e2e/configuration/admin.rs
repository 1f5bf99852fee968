//! What a sidecar tells people and machines about itself, and whom.

use std::time::Duration;

use kith::app::client::Call;
use kith_tests::caller::Caller;
use kith_tests::metrics::Metrics;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wait::wait_for;
use kith_tests::wire;

const HTTP: &[(u16, &str)] = &[(8080, "HTTP")];

#[tokio::test]
async fn row_21_admin_and_health_answer_whom_they_should_and_nothing_else() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let stranger = shop.stranger().await;
    assert_eq!(shop.get("/", &[]).await.status, 200);
    let orders = &shop.orders;
    let call = |method: &'static str,
                path: &'static str,
                host: &'static str,
                data: Option<&'static str>| async move {
        let mut call = Call::get(format!("http://127.0.0.1:15000{path}").parse().unwrap());
        call.method = Some(method.to_owned());
        call.headers = vec![format!("host: {host}")];
        call.data = data.map(str::to_owned);
        orders.call(call).await.unwrap()
    };
    let status = |method, path, host| async move { call(method, path, host, None).await.status };

    // What it tells.
    let config = call("GET", "/config", "localhost:15000", None).await.json();
    assert_eq!(
        config["in_force"]["policies"],
        serde_json::json!(["shop/orders"]),
        "{config}"
    );
    let certs = call("GET", "/certs", "127.0.0.1", None).await;
    assert_eq!(
        certs.json()["svids"][0]["id"],
        orders.spiffe_id(),
        "{}",
        certs.text()
    );
    assert!(!certs.text().contains("PRIVATE KEY"));
    let connections = call("GET", "/connections", "[::1]:15000", None)
        .await
        .json();
    assert_eq!(
        connections[0]["peer"],
        shop.web.spiffe_id(),
        "{connections}"
    );
    assert_eq!(
        call(
            "PUT",
            "/logging",
            "localhost",
            Some("warn,kith_proxy=debug")
        )
        .await
        .status,
        200
    );
    assert_eq!(
        call("GET", "/logging", "localhost", None)
            .await
            .text()
            .trim(),
        "warn,kith_proxy=debug"
    );
    assert_eq!(
        call("PUT", "/logging", "localhost", Some("=nonsense="))
            .await
            .status,
        400
    );

    // To whom and how: a web page of another host is nobody.
    assert_eq!(status("GET", "/config", "evil.example").await, 403);
    assert_eq!(status("POST", "/config", "localhost").await, 405);
    assert_eq!(status("GET", "/drain", "localhost").await, 405);
    assert_eq!(status("GET", "/quitquitquit", "localhost").await, 404);

    // From where: not from other machines, not through the proxy, neither by its own ports nor by redirected ones.
    let get = |port: u16| {
        format!("GET /config HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n")
    };
    for port in [15000, 15001, 15006, 15021] {
        for from in [&stranger, &shop.web] {
            let heard = wire::raw(from, (orders.addresses.v4, port).into(), get(port)).await;
            let nothing = heard
                .as_ref()
                .map_or(true, |heard| !heard.text().contains("in_force"));
            assert!(nothing, "port {port} from {}: {heard:?}", from.spec.name);
            if port != 15021 {
                let refused = heard.as_ref().map_or(true, |heard| {
                    heard.bytes.is_empty() || heard.statuses() == [503]
                });
                assert!(refused, "port {port} from {}: {heard:?}", from.spec.name);
            }
        }
    }
    // Health is for everybody who may reach the pod, and knows three paths.
    let health = |path: &'static str| async move { orders.health(path).await.unwrap() };
    assert_eq!(health("/ready").await.status, 200);
    assert_eq!(health("/live").await.text().trim(), "live");
    for path in ["/config", "/", "/ready/", "/drain"] {
        assert_eq!(health(path).await.status, 404, "{path}");
    }
    // One caller without identity, so that failures have something to count.
    wire::raw(
        &stranger,
        (orders.addresses.v4, 8080).into(),
        "GET / HTTP/1.1\r\nhost: orders\r\n\r\n",
    )
    .await
    .unwrap();
    orders
        .wait_record(|record| record["decision"] == "deny" && record["destination.port"] == 8080)
        .await
        .unwrap();
    let metrics = health("/metrics").await.text();
    let both = format!(
        "{metrics}{}",
        shop.web.health("/metrics").await.unwrap().text()
    );
    for name in [
        "kith_requests_total",
        "kith_request_duration_seconds",
        "kith_connections_open",
        "kith_connections_total",
        "kith_bytes_total",
        "kith_handshake_seconds",
        "kith_handshake_failures_total",
        "kith_svid_expiry_timestamp_seconds",
        "kith_svid_rotations_total",
        "kith_bundle_trust_domains",
        "kith_xds_connected",
        "kith_xds_last_update_timestamp_seconds",
        "kith_xds_updates_total",
        "kith_config_revision_info",
        "kith_detect_total",
        "kith_records_dropped_total",
        "kith_build_info",
    ] {
        assert!(
            both.contains(&format!("# TYPE {name} ")),
            "{name} in\n{both}"
        );
    }
    let labelled = format!(
        "source=\"{}\",destination=\"{}\"",
        shop.web.spiffe_id(),
        orders.spiffe_id()
    );
    assert!(metrics.contains(&labelled), "{labelled} in\n{metrics}");

    // It can be asked to stop.
    assert_eq!(call("POST", "/drain", "localhost", None).await.status, 202);
    assert_eq!(
        orders
            .sidecar()
            .wait(Duration::from_secs(10))
            .await
            .unwrap()
            .code(),
        Some(0)
    );
}

#[tokio::test]
async fn row_27_callers_by_the_hundred_do_not_make_metrics_by_the_hundred() {
    const CALLERS: usize = 510;
    let shop = Shop::open(
        HTTP,
        &WEB_MAY_ALL.replace("example.org/ns/shop/sa/web", "example.org/*"),
    )
    .await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let stranger = shop.stranger().await;
    let to = (shop.orders.addresses.v4, 8080).into();
    let mut callers = tokio::task::JoinSet::new();
    // One after the other on the wire, as the authority gives out one SVID for each.
    for number in 0..CALLERS {
        let caller = Caller::new(&shop.lab, &format!("spiffe://example.org/caller/{number}")).await;
        let stranger = stranger.clone();
        callers.spawn(async move {
            let heard = caller
                .raw(
                    &stranger,
                    to,
                    b"http/1.1",
                    "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
                )
                .await
                .unwrap();
            assert_eq!(heard.statuses(), [200]);
        });
        if callers.len() > 16 {
            callers.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    // An answer is on its way a moment before it is counted.
    let metrics = wait_for("all to be counted", Duration::from_secs(5), || async {
        let metrics = Metrics::of(&shop.orders).await;
        (metrics.sum("kith_requests_total", &[]) == CALLERS as f64).then_some(metrics)
    })
    .await;
    let series = metrics
        .text()
        .lines()
        .filter(|line| line.starts_with("kith_requests_total{") && line.contains("/caller/"))
        .count();
    assert_eq!(series, 500, "as many pairs as get series of their own");
    assert_eq!(
        metrics.sum("kith_requests_total", &["source=\"other\""]),
        (CALLERS - 500) as f64
    );
    assert!(metrics.sum("kith_principal_pairs_capped_total", &[]) >= (CALLERS - 500) as f64);
}
