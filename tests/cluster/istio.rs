//! Policies written for Istio, in a cluster that has Istio's CRDs: they count when the control plane is told so.

use kith::app::client::Call;
use kith_tests::kube::{Cluster, PATIENCE};
use kith_tests::wait::wait_for;

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
        // One that cannot be honoured denies what it is about, whatever the other still allows.
        let beyond = POLICY.replace("name: orders}", "name: beyond}");
        let beyond = beyond.replace("action: ALLOW", "action: CUSTOM");
        shop.cluster.apply(&beyond).await;
        shop.until(&shop.web, ORDERS, 403).await;
        shop.orders[0]
            .wait_record(|record| {
                record["policy"] == "shop/beyond" && record["reason"] == "denied-by-rule"
            })
            .await;
        shop.cluster
            .must(&[
                "delete",
                "-n",
                "shop",
                "authorizationpolicy.security.istio.io/beyond",
            ])
            .await;
        shop.until(&shop.web, ORDERS, 200).await;

        tokens(&shop).await;
        plaintext(&shop).await;
    });
}

/// A RequestAuthentication: who brings a token brings a good one.
async fn tokens(shop: &Shop) {
    let bearing = async || {
        let mut call = Call::get(ORDERS.parse().unwrap());
        call.headers.push("authorization: Bearer a.b.c".to_owned());
        shop.web.call(call).await.unwrap().status
    };
    assert_eq!(bearing().await, 200, "nobody reads tokens yet");
    // The public key of RFC 7515, appendix A.3.
    let authentication = "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  jwtRules:
  - issuer: https://issuer.example
    jwks: |
      {\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \"alg\": \"ES256\", \"kid\": \"one\",
        \"x\": \"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\", \"y\": \"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}
";
    shop.cluster.apply(authentication).await;
    wait_for("tokens to be read", PATIENCE, async || {
        (bearing().await == 401).then_some(())
    })
    .await;
    assert_eq!(shop.web.get(ORDERS).await.unwrap().status, 200);
}

/// A PeerAuthentication: STRICT unless it says otherwise.
async fn plaintext(shop: &Shop) {
    let cluster = &shop.cluster;
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: outside}}";
    cluster.apply(namespace).await;
    cluster.service_account("outside", "default").await;
    let stranger = "
apiVersion: v1
kind: Pod
metadata: {namespace: outside, name: stranger, labels: {app: stranger}}
spec: {containers: [{name: stranger, image: kith, args: [__app, http]}]}
";
    cluster.apply(stranger).await;
    let stranger = cluster.ready_pod("outside", "stranger").await;
    // A policy that asks for no identity: where one does, plaintext is denied in any mode.
    let everybody = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec: {selector: {matchLabels: {app: orders}}, action: ALLOW, rules: [{}]}
";
    cluster.apply(everybody).await;
    shop.until(&shop.guest, ORDERS, 200).await;
    let url = format!("http://{}:8080/", shop.orders[0].workload.addresses.v4);
    let refused = stranger.get(&url).await;
    assert!(
        !refused.as_ref().is_ok_and(|reply| reply.status == 200),
        "{refused:?}"
    );
    let permissive = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {namespace: shop, name: orders}
spec: {selector: {matchLabels: {app: orders}}, mtls: {mode: PERMISSIVE}}
";
    cluster.apply(permissive).await;
    shop.until(&stranger, &url, 200).await;
}
