//! The control plane and the API server go away and come back: nobody's request fails, and nothing that changed meanwhile is
//! missed.

use std::time::Duration;

use kith_tests::kube::node::Pod;
use kith_tests::kube::{Cluster, PATIENCE};
use kith_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::Value;

use crate::shop::{ALLOW_WEB, ORDERS, Shop};

#[test]
fn the_data_path_outlives_its_control() {
    Cluster::run(async |cluster| {
        let shop = Shop::open(cluster, &[], 2).await;
        let cluster = &shop.cluster;
        let policy = "authorizationpolicy.kith.dev/orders";
        shop.enforce(ALLOW_WEB, policy).await;

        // The replica that writes status is killed; the other takes over.
        let load = shop.load(false).await;
        let leader = leader(cluster).await;
        let killed = cluster.pod("kith-system", &leader);
        cluster
            .must(&[
                "delete",
                "pod",
                "-n",
                "kith-system",
                &leader,
                "--grace-period=0",
                "--force",
            ])
            .await;
        wait_for("the replica to be gone", PATIENCE, async || {
            killed.container("kith-control").process().ended().map(drop)
        })
        .await;
        let edited = ALLOW_WEB.replace("sa/web]", "sa/web, example.org/ns/shop/sa/guest]");
        let took = shop.enforce(&edited, policy).await;
        println!("from an edit to enforced, with the status writer killed: {took:?}");
        assert_eq!(shop.guest.get(ORDERS).await.unwrap().status, 200);
        let now = self::leader(cluster).await;
        assert_ne!(now, leader, "the lease moved");
        cluster.control_plane(2).await;

        // All replicas, one after the other.
        cluster
            .must(&[
                "rollout",
                "restart",
                "-n",
                "kith-system",
                "deployment/kith-control",
            ])
            .await;
        let arguments = [
            "rollout",
            "status",
            "-n",
            "kith-system",
            "deployment/kith-control",
            "--timeout=55s",
        ];
        cluster.must(&arguments).await;
        cluster.control_plane(2).await;
        shop.enforce(ALLOW_WEB, policy).await;
        assert_eq!(shop.guest.get(ORDERS).await.unwrap().status, 403);
        load.unharmed("a replica killed, then all restarted").await;

        api_server(&shop).await;
    });
}

/// Changes that the control plane could not see, by watches that cannot go on where they were.
async fn api_server(shop: &Shop) {
    let cluster = &shop.cluster;
    let load = shop.load(true).await;
    let replicas = cluster.control_plane(2).await;
    let processes: Vec<_> = replicas
        .iter()
        .map(|pod| pod.container("kith-control").process())
        .collect();
    for replica in &replicas {
        assert!(!expired(replica).await, "{} too early", replica.id());
    }
    // Held while the change is made: they find out after the restart, when the API server knows no earlier version.
    // Only for a moment: their probes go on.
    for process in &processes {
        process.signal(Signal::STOP).unwrap();
    }
    let edited = ALLOW_WEB.replace("sa/web]", "sa/web, example.org/ns/shop/sa/guest]");
    // The webhook is held as well; that documents are taken without it is what failurePolicy says.
    cluster
        .must(&["delete", "validatingwebhookconfiguration/kith-validate"])
        .await;
    cluster.apply(&edited).await;
    cluster.api.compact().await;
    cluster.api.server.kill();
    for process in &processes {
        process.signal(Signal::CONT).unwrap();
    }
    cluster.api.restart().await;
    shop.until(&shop.guest, ORDERS, 200).await;
    cluster.apply_chart(&[]).await;
    shop.enforced("authorizationpolicy.kith.dev/orders").await;
    // It was not luck: each was told that what it had seen last is no more.
    for replica in &replicas {
        let what = format!("{} to hear that its watch has expired", replica.id());
        wait_for(&what, PATIENCE, async || {
            expired(replica).await.then_some(())
        })
        .await;
    }
    // Pods that come now are known as well.
    cluster
        .must(&["scale", "-n", "shop", "deployment/orders", "--replicas=3"])
        .await;
    for pod in cluster.ready_pods("shop", "orders", 3).await {
        pod.wait_record(|record| record["direction"] == "inbound" && record["http.status"] == 200)
            .await;
    }
    load.unharmed("the API server restarted, watches expired")
        .await;
}

/// Whether a replica went on watching policies from a version that the API server did not have any more (410).
async fn expired(replica: &Pod) -> bool {
    let page = replica.get("http://127.0.0.1:15021/metrics").await;
    let page = page.map(|reply| reply.text()).unwrap_or_default();
    let found = page.lines().find(|line| {
        line.starts_with("kith_control_watch_failures_total{")
            && line.contains("kind=\"authorizationpolicies.kith.dev\"")
            && line.contains("reason=\"expired\"")
    });
    found.is_some_and(|line| !line.ends_with(" 0"))
}

/// The pod that holds the lease of the status writer.
async fn leader(cluster: &Cluster) -> String {
    wait_for(
        "a replica that writes status",
        Duration::from_secs(60),
        async || {
            let get = [
                "get",
                "lease",
                "-n",
                "kith-system",
                "kith-control",
                "-o",
                "json",
            ];
            let output = cluster.kubectl(&get).await;
            let lease: Value = serde_json::from_str(&output.stdout).ok()?;
            let holder = lease["spec"]["holderIdentity"]
                .as_str()
                .filter(|holder| !holder.is_empty())?;
            Some(holder.split('/').next_back().unwrap_or_default().to_owned())
        },
    )
    .await
}
