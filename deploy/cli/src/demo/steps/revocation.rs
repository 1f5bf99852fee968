//! A principal that is no longer to be trusted is cut off everywhere, and that is confirmed.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Scene, Seen, describe, expect};
use crate::demo::mesh::{EVENTS, Mesh};
use crate::demo::screen::Step;
use crate::operate;

/// What gateway may do beside calling for customers.
const GATEWAY: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: gateway}
spec:
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/gateway]}}]
    to: [{operation: {ports: [\"7000\"]}}]
  - from: [{source: {principals: [example.org/ns/shop/sa/gateway]}}]
    to: [{operation: {ports: [\"8080\"], paths: [/charges/*]}}]
";

const FEEDS: u64 = 50;

pub(crate) const REVOKED: Step = Step {
    name: "principal-revoked",
    title: "gateway is revoked while it has 50 feeds of orders open (kith revoke --wait)",
    expected: "every sidecar confirms; the 50 are closed, nothing else is; payments refuses gateway too; lifted, it works again",
};

pub(crate) async fn revoked(scene: &mut Scene) -> Seen {
    let Scene {
        mesh,
        screen,
        lasting,
    } = scene;
    let Mesh {
        gateway,
        payments,
        lab,
        ..
    } = &*mesh;
    lab.apply("gateway", GATEWAY).await?;
    let charge = "http://payments.shop:8080/charges/3";
    let before = gateway.get(charge).await?;
    expect(before.status == 200, || describe(&before))?;
    let target = format!("orders.shop:{EVENTS}");
    let count = FEEDS.to_string();
    let feeds = gateway
        .app(&["hold", &target, "--count", &count, "--say", "hello"])
        .await?;
    feeds.says(&format!("\"open\":{FEEDS}")).await?;

    screen.progress("revoked; sidecars confirm");
    let what = json!({"principal": gateway.spiffe_id().to_string()});
    let socket = lab.control().admin_socket();
    let order = json!({
        "what": what, "until": "2099-01-01T00:00:00Z", "reason": "the demo says so", "wait_ms": 10_000,
    });
    let began = Instant::now();
    let done = operate::order(socket, "/revoke", &order).await?;
    let took = began.elapsed();
    let confirmed = done["confirmed"].as_array().cloned().unwrap_or_default();
    expect(
        confirmed.len() == mesh.sidecars().len() && done["not_confirmed"] == json!([]),
        || format!("{done:#}"),
    )?;
    // The feeds, and what gateway's sidecar kept open to be used again.
    let closed: u64 = confirmed
        .iter()
        .filter_map(|sidecar| sidecar["closed"].as_u64())
        .sum();
    expect(closed >= FEEDS, || format!("{done:#}"))?;
    feeds.wait(Duration::from_secs(5)).await?;
    lasting
        .as_mut()
        .map_or(Ok(()), |lasting| lasting.check_alive())?;

    let after = gateway.get(charge).await?;
    expect(
        after.header("x-kith-reason") == Some("principal-revoked"),
        || describe(&after),
    )?;
    payments
        .wait_record(|record| record["reason"] == "principal-revoked")
        .await?;
    let lift = json!({"what": what, "wait_ms": 10_000});
    operate::order(socket, "/lift", &lift).await?;
    let again = gateway.get(charge).await?;
    expect(again.status == 200, || describe(&again))?;
    Ok(format!(
        "{} sidecars confirmed within {} ms, {closed} connections closed (the feeds, and what its sidecar kept for reuse), others go on; payments: {}; lifted: 200",
        confirmed.len(),
        took.as_millis(),
        describe(&after)
            .split(' ')
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    ))
}
