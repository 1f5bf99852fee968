//! Documents that cannot be honoured: refused when they are applied, in the engine's words; and what got in anyway stays
//! denied.

use kith_tests::kube::Cluster;
use serde_json::{Value, json};

use crate::shop::{ALLOW_WEB, ORDERS, Shop};

/// Each with words that its refusal must contain.
const REFUSED: [(&str, &str); 5] = [
    (
        "{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: bad}, \
          spec: {action: ALLOW, rules: [{from: [{source: {principals: ['example.org/*/sa/web']}}]}]}}",
        "principals",
    ),
    (
        "{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: bad}, \
          spec: {action: PERMIT}}",
        "action",
    ),
    (
        "{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: bad}, \
          spec: {rules: [{to: [{operation: {methods: [GET], methodes: [GET]}}]}]}}",
        "methodes",
    ),
    (
        "{apiVersion: kith.dev/v1alpha1, kind: PeerAuthentication, metadata: {namespace: shop, name: bad}, \
          spec: {mtls: {mode: SOMETIMES}}}",
        "mode",
    ),
    (
        "{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {namespace: shop, name: bad}, \
          spec: {serviceAccount: web, addresses: [10.0.0.300]}}",
        "10.0.0.300",
    ),
];

/// A policy that denies some, if it could be understood whom.
const BEYOND: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: beyond}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{from: [{source: {principals: [example.org/ns/shop/sa/guest], moods: [bad]}}]}]
";

#[test]
fn what_cannot_be_honoured_is_refused_and_denied() {
    Cluster::run(async |cluster| {
        let shop = Shop::open(cluster, &[], 1).await;
        let cluster = &shop.cluster;
        for (yaml, words) in REFUSED {
            let output = cluster.try_apply(yaml).await;
            assert!(!output.status.success(), "taken: {yaml}");
            assert!(output.stderr.contains(words), "{words}: {}", output.stderr);
            println!("{}", output.stderr.trim());
        }
        shop.enforce(ALLOW_WEB, "authorizationpolicy.kith.dev/orders")
            .await;
        assert_eq!(shop.web.get(ORDERS).await.unwrap().status, 200);

        // An older schema let it in. The webhook is not asked, as when no control plane answered.
        let name = "authorizationpolicies.kith.dev";
        let get = ["get", "crd", name, "-o", "json"];
        let strict: Value = serde_json::from_str(&cluster.must(&get).await).unwrap();
        let mut lax = strict.clone();
        lax["metadata"] = json!({"name": name});
        lax.as_object_mut().unwrap().remove("status");
        for version in lax["spec"]["versions"].as_array_mut().unwrap() {
            version["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        }
        let validating = "validatingwebhookconfiguration/kith-validate";
        cluster.must(&["delete", validating]).await;
        cluster.apply(&lax.to_string()).await;
        kith_tests::wait::wait_for("the older schema", kith_tests::kube::PATIENCE, async || {
            let output = cluster.try_apply(BEYOND).await;
            output.status.success().then_some(())
        })
        .await;
        // The schema of today again, and the webhook.
        cluster.install_crds().await;
        cluster.apply_chart(&[]).await;

        let arguments = [
            "wait",
            "-n",
            "shop",
            "authorizationpolicy.kith.dev/beyond",
            "--for=condition=Accepted=False",
            "--timeout=30s",
        ];
        cluster.must(&arguments).await;
        let object = shop.object("authorizationpolicy.kith.dev/beyond").await;
        let text = object["status"]["conditions"].to_string();
        assert!(text.contains("moods") && text.contains("Invalid"), "{text}");
        // What it meant to restrict is denied to everybody, until somebody says what was meant.
        shop.until(&shop.web, ORDERS, 403).await;
        assert_eq!(shop.guest.get(ORDERS).await.unwrap().status, 403);
        cluster
            .must(&[
                "delete",
                "-n",
                "shop",
                "authorizationpolicy.kith.dev/beyond",
            ])
            .await;
        shop.until(&shop.web, ORDERS, 200).await;
    });
}
