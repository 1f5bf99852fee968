//! Pods come and go under load: no request fails.

use std::time::Duration;

use kith::lab::Workload;
use kith_tests::kube::Cluster;
use kith_tests::kube::node::container::State;

use crate::shop::{ALLOW_WEB, ORDERS, Shop};

#[test]
fn scaling_and_rollouts_fail_no_request() {
    Cluster::run(async |cluster| {
        let shop = Shop::open(cluster, &[], 2).await;
        let cluster = &shop.cluster;
        shop.enforce(ALLOW_WEB, "authorizationpolicy.kith.dev/orders")
            .await;

        let load = shop.load(false).await;
        for replicas in [4, 1, 3] {
            let wanted = format!("--replicas={replicas}");
            cluster
                .must(&["scale", "-n", "shop", "deployment/orders", &wanted])
                .await;
            let pods = cluster.ready_pods("shop", "orders", replicas).await;
            // Every one of them is used.
            for pod in pods {
                pod.wait_record(|record| {
                    record["direction"] == "inbound" && record["http.status"] == 200
                })
                .await;
            }
        }
        load.unharmed("scaled to 4, 1 and 3 under load").await;

        for http2 in [false, true] {
            let before: Vec<String> = cluster
                .pods("shop", "orders")
                .iter()
                .map(|pod| pod.id())
                .collect();
            let load = shop.load(http2).await;
            cluster
                .must(&["rollout", "restart", "-n", "shop", "deployment/orders"])
                .await;
            let arguments = [
                "rollout",
                "status",
                "-n",
                "shop",
                "deployment/orders",
                "--timeout=55s",
            ];
            cluster.must(&arguments).await;
            let after = cluster.ready_pods("shop", "orders", 3).await;
            assert!(after.iter().all(|pod| !before.contains(&pod.id())));
            load.unharmed(if http2 {
                "rollout, HTTP/2"
            } else {
                "rollout, HTTP/1.1"
            })
            .await;
        }

        drained(&shop).await;
    });
}

/// A pod that is deleted finishes what it has begun, and its sidecar ends last.
async fn drained(shop: &Shop) {
    let cluster = &shop.cluster;
    cluster
        .must(&["scale", "-n", "shop", "deployment/orders", "--replicas=1"])
        .await;
    let orders = cluster.ready_pod("shop", "orders").await;
    let web = shop.web.clone();
    let slow = tokio::task::spawn_local(async move {
        let workload: &Workload = &web.workload;
        workload.get(&format!("{ORDERS}slow?ms=4000")).await
    });
    // It has arrived, before anybody deletes the pod. Idle connections, of the load before, say nothing.
    kith_tests::wait::wait_for("the slow request", Duration::from_secs(4), async || {
        let reply = orders.get("http://127.0.0.1:15000/connections").await;
        let connections = reply.ok()?.json();
        let mut connections = connections.as_array()?.iter();
        connections
            .any(|it| {
                it["direction"] == "inbound"
                    && it["in_use"] == true
                    && it["peer"] == shop.web.spiffe_id()
            })
            .then_some(())
    })
    .await;
    let name = orders.name().to_owned();
    cluster
        .must(&["delete", "pod", "-n", "shop", &name, "--wait=false"])
        .await;
    let reply = slow.await.unwrap().unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    kith_tests::wait::wait_for("the pod to end", kith_tests::kube::PATIENCE, async || {
        cluster.node.pod("shop", &name).is_none().then_some(())
    })
    .await;
    let end = |container: &str| match orders.container(container).state() {
        State::Ended(code, _, at) => (code, at),
        other => panic!("{container}: {other:?}"),
    };
    let (application, sidecar) = (end("orders"), end("kith-proxy"));
    assert!(application.1 <= sidecar.1, "{application:?} {sidecar:?}");
    assert_eq!(sidecar.0, 0, "ended by itself, not killed");
    cluster.ready_pod("shop", "orders").await;
}
