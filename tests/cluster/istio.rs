//! Policies written for Istio, in a cluster that has Istio's CRDs: they count when the control plane is told so.

use kith_tests::kube::Cluster;

use crate::shop::{ORDERS, Shop};

fn crd(kind: &str, plural: &str) -> String {
    format!(
        "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.security.istio.io}}
spec:
  group: security.istio.io
  scope: Namespaced
  names: {{kind: {kind}, plural: {plural}, singular: {}}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {{status: {{}}}}
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---",
        kind.to_lowercase()
    )
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET]}}]
";

#[test]
fn istio_policies_count_when_they_are_accepted() {
    Cluster::run(async |cluster| {
        let kinds = [
            ("AuthorizationPolicy", "authorizationpolicies"),
            ("PeerAuthentication", "peerauthentications"),
            ("RequestAuthentication", "requestauthentications"),
        ];
        let crds: String = kinds.map(|(kind, plural)| crd(kind, plural)).concat();
        cluster.apply(&crds).await;
        let established = [
            "wait",
            "crd",
            "--for=condition=Established",
            "--timeout=30s",
            "--all",
        ];
        cluster.must(&established).await;
        let shop = Shop::open(
            cluster,
            &["control.replicas=1", "control.acceptIstio=true"],
            1,
        )
        .await;
        assert_eq!(shop.web.get(ORDERS).await.unwrap().status, 403);
        shop.cluster.apply(POLICY).await;
        shop.until(&shop.web, ORDERS, 200).await;
        assert_eq!(shop.guest.get(ORDERS).await.unwrap().status, 403);
        let record = shop.orders[0]
            .wait_record(|record| record["decision"] == "allow" && record["direction"] == "inbound")
            .await;
        assert!(
            record["policy"].to_string().contains("shop/orders"),
            "{record}"
        );
        // One that cannot be honoured denies what it is about, here too.
        let beyond = POLICY.replace("action: ALLOW", "action: CUSTOM");
        shop.cluster.apply(&beyond).await;
        shop.until(&shop.web, ORDERS, 403).await;
    });
}
