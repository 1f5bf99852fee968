//! Policies that don't decide: what they say is in the records and in a metric, and nothing else changes.

use kith_tests::lasting::{How, Lasting};
use kith_tests::metrics::Metrics;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use serde_json::{Value, json};

const SHADOWS: &str = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: next, annotations: {istio.io/dry-run: 'true'}}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/secret]}}]
  - to: [{operation: {ports: ['7000']}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: watch}
spec:
  action: AUDIT
  rules:
  - to: [{operation: {methods: [POST]}}]
";

/// The record of a request or connection at the server, by its port and path.
async fn at(shop: &Shop, port: u16, path: Option<&str>) -> Value {
    let wanted = |record: &Value| {
        record["direction"] == "inbound"
            && record["destination.port"] == port
            && record["http.path"].as_str() == path
    };
    shop.orders.wait_record(wanted).await.unwrap()
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_in_records_and_a_metric_and_does_nothing() {
    let policies = format!("{}{SHADOWS}", WEB_MAY_ALL.trim_end());
    let shop = Shop::open(&[(7000, "TCP"), (8080, "HTTP")], &policies).await;
    let _apps = [
        shop.orders.app(&["http"]).await.unwrap(),
        shop.orders
            .app(&["tcp", "--listen", "[::]:7000"])
            .await
            .unwrap(),
    ];
    for path in ["/", "/secret"] {
        assert_eq!(shop.get(path, &[]).await.status, 200, "{path}");
    }
    let connection = Lasting::opaque(&shop.web, shop.service(7000)).await;
    assert_eq!(connection.stop().await.how, How::Stopped);

    let says = |decision: &str| json!([{"policy": "shop/next", "decision": decision}]);
    for (port, path, shadow, whole) in [
        (8080, Some("/"), Value::Null, "allow"),
        (8080, Some("/secret"), says("deny"), "deny"),
        // Of an AUDIT policy HTTP attributes are ignored here, so that it matches.
        (
            7000,
            None,
            json!([
                {"policy": "shop/watch", "decision": "audit"},
                {"policy": "shop/next", "decision": "deny"},
            ]),
            "deny",
        ),
    ] {
        let record = at(&shop, port, path).await;
        assert_eq!(record["decision"], "allow", "{record}");
        assert_eq!(record["policy"], "shop/orders", "{record}");
        let sorted = |value: &Value| {
            let mut said = value.as_array().cloned().unwrap_or_default();
            said.sort_by_key(ToString::to_string);
            said
        };
        assert_eq!(sorted(&record["shadow"]), sorted(&shadow), "{record}");
        assert_eq!(record["shadow.decision"], whole, "{record}");
    }
    let metrics = Metrics::of(&shop.orders).await;
    for (decision, count) in [("allow", 1.0), ("deny", 2.0)] {
        let label = format!("decision=\"{decision}\"");
        let labels = ["direction=\"inbound\"", label.as_str()];
        let sum = metrics.sum("kith_shadow_decisions_total", &labels);
        assert_eq!(sum, count, "{decision}");
    }
    // The caller's own record is about no policy.
    let own = shop
        .web
        .wait_record(|record| record["http.path"] == "/secret")
        .await
        .unwrap();
    assert!(own.get("shadow.decision").is_none(), "{own}");
}
