//! A sidecar gets configuration only for a pod that runs under the service account in its SVID.

use std::time::Duration;

use kith_tests::kube::Cluster;
use kith_tests::wait::wait_for;

use crate::shop::{ALLOW_WEB, ORDERS, Shop};

/// A pod that nobody injects, with a sidecar that says which pod it is.
fn impostor(name: &str, account: &str, claimed: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{namespace: shop, name: {name}, labels: {{app: {name}, kith.dev/inject: 'false'}}}}
spec:
  serviceAccountName: {account}
  containers:
  - {{name: app, image: kith, args: [__app, http]}}
  initContainers:
  - name: kith-proxy
    image: kith-proxy
    args: [run]
    restartPolicy: Always
    env:
    - {{name: SPIFFE_ENDPOINT_SOCKET, value: 'unix:///run/kith/workload-api/spire-agent.sock'}}
    - {{name: KITH_XDS_ADDRESS, value: 'https://kith-control.kith-system.svc:15010'}}
    - {{name: KITH_XDS_SPIFFE_ID, value: 'spiffe://example.org/ns/kith-system/sa/kith-control'}}
    - {{name: KITH_NODE_ID, value: {claimed}}}
    volumeMounts: [{{name: workload-api, mountPath: /run/kith/workload-api, readOnly: true}}]
  volumes: [{{name: workload-api, csi: {{driver: csi.spiffe.io, readOnly: true}}}}]
"
    )
}

#[test]
fn a_pod_that_claims_another_identity_is_refused_by_name() {
    Cluster::run(async |cluster| {
        let shop = Shop::open(cluster, &["control.replicas=1"], 1).await;
        let cluster = &shop.cluster;
        shop.enforce(ALLOW_WEB, "authorizationpolicy.kith.dev/orders")
            .await;
        let web = shop.web.id();
        // Another service account than the pod's, the account of the pod but no such pod, and an account elsewhere.
        for (name, account, claimed) in [
            ("thief", "guest", web.clone()),
            ("ghost", "web", "shop/nobody".to_owned()),
            ("wanderer", "web", "elsewhere/web".to_owned()),
        ] {
            cluster.apply(&impostor(name, account, &claimed)).await;
            let pod = cluster.ready_pod("shop", name).await;
            let said = wait_for(name, Duration::from_secs(40), async || {
                let log = pod.container("kith-proxy").process().stderr();
                let mut lines = log.lines();
                let refused =
                    lines.find(|line| line.contains("PermissionDenied") && line.contains(&claimed));
                refused.map(str::to_owned)
            })
            .await;
            println!("{name}: {said}");
            let reply = pod
                .workload
                .get("http://127.0.0.1:15021/ready")
                .await
                .unwrap();
            assert_eq!(reply.status, 503, "{name} is ready: {}", reply.text());
        }
        // It is for what they say of themselves: a pod like them that tells the truth is served.
        cluster
            .apply(&impostor("honest", "guest", "shop/honest"))
            .await;
        let honest = cluster.ready_pod("shop", "honest").await;
        shop.until(&honest, "http://127.0.0.1:15021/ready", 200)
            .await;
        // Whom they claimed to be is not disturbed.
        assert_eq!(shop.web.get(ORDERS).await.unwrap().status, 200);
    });
}
