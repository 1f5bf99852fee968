//! Who may call whom, with policies that kubectl applies: from apply to enforced.

use kith_tests::kube::{Cluster, PATIENCE};
use kith_tests::wait::wait_for;
use serde_json::Value;

use crate::shop::{ALLOW_WEB, ORDERS, Shop};

#[test]
fn policies_by_kubectl_decide_who_may_call() {
    Cluster::run(async |cluster| {
        let shop = Shop::open(cluster, &[], 2).await;
        let Shop {
            web,
            guest,
            orders,
            cluster,
        } = &shop;

        // Nothing is allowed that no policy allows; the kubelet's probes still pass, or nobody here would be ready.
        assert_eq!(web.get(ORDERS).await.unwrap().status, 403);
        let took = shop
            .enforce(ALLOW_WEB, "authorizationpolicy.kith.dev/orders")
            .await;
        println!("from kubectl apply to enforced by 2 of 2 sidecars: {took:?}");
        let reply = web.get(ORDERS).await.unwrap();
        assert_eq!(
            (reply.status, reply.json()["app"].as_str()),
            (200, Some("orders"))
        );
        assert_eq!(guest.get(ORDERS).await.unwrap().status, 403);

        // Both ends name both principals.
        let sent = web
            .wait_record(|record| record["direction"] == "outbound" && record["http.status"] == 200)
            .await;
        let (received, denied) = records(orders, &sent["hop"], &guest.spiffe_id()).await;
        for record in [&sent, &received] {
            assert_eq!(record["source.principal"], web.spiffe_id(), "{record}");
            assert_eq!(
                record["destination.principal"],
                orders[0].spiffe_id(),
                "{record}"
            );
            assert_eq!(record["decision"], "allow", "{record}");
        }
        assert_eq!(denied["decision"], "deny", "{denied}");

        // What the object says of itself.
        let object = shop.object("authorizationpolicy.kith.dev/orders").await;
        let status = &object["status"];
        assert_eq!(
            status["observedGeneration"], object["metadata"]["generation"],
            "{status}"
        );
        assert_eq!(status["sidecars"]["selected"], 2, "{status}");
        assert_eq!(status["sidecars"]["enforced"], 2, "{status}");
        let accepted = condition(status, "Accepted");
        assert_eq!(
            (&accepted["status"], &accepted["reason"]),
            (&"True".into(), &"Valid".into())
        );
        let enforced = condition(status, "Enforced");
        assert_eq!(enforced["reason"], "AllSidecars", "{enforced}");
        assert_eq!(
            enforced["message"], "2 of 2 sidecars enforce generation 1",
            "{enforced}"
        );

        // Edited: the decision changes with it.
        let edited = ALLOW_WEB.replace("sa/web", "sa/guest");
        let took = shop
            .enforce(&edited, "authorizationpolicy.kith.dev/orders")
            .await;
        println!("from an edit to enforced: {took:?}");
        assert_eq!(web.get(ORDERS).await.unwrap().status, 403);
        assert_eq!(guest.get(ORDERS).await.unwrap().status, 200);
        let object = shop.object("authorizationpolicy.kith.dev/orders").await;
        assert_eq!(object["status"]["observedGeneration"], 2);

        // Deleted: nothing is allowed again.
        cluster
            .must(&[
                "delete",
                "-n",
                "shop",
                "authorizationpolicy.kith.dev/orders",
            ])
            .await;
        shop.until(guest, ORDERS, 403).await;

        plaintext(&shop).await;
        job(&shop).await;
    });
}

/// The record of a hop, and one of a denied caller, whichever pod of `orders` it came to.
async fn records(
    orders: &[std::rc::Rc<kith_tests::kube::node::Pod>],
    hop: &Value,
    denied: &str,
) -> (Value, Value) {
    let find = async |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        wait_for(what, PATIENCE, async || {
            let all = orders.iter().flat_map(|pod| pod.records());
            all.into_iter()
                .find(|record| record["direction"] == "inbound" && wanted(record))
        })
        .await
    };
    let allowed = find("the other end of a hop", &|record| record["hop"] == *hop).await;
    let denied = find("a denied call", &|record| {
        record["source.principal"] == denied && record["decision"] == "deny"
    })
    .await;
    (allowed, denied)
}

fn condition<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let found = conditions.find(|condition| condition["type"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {status}"))
}

/// Who comes without an identity is refused, by every address that the pod has, whatever policies say.
async fn plaintext(shop: &Shop) {
    let cluster = &shop.cluster;
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: outside}}";
    cluster.apply(namespace).await;
    cluster.service_account("outside", "default").await;
    let everybody = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: everybody}
spec: {selector: {matchLabels: {app: orders}}, action: ALLOW, rules: [{}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: outside, name: stranger, labels: {app: stranger}}
spec: {containers: [{name: stranger, image: kith, args: [__app, http]}]}
---
apiVersion: kith.dev/v1alpha1
kind: PeerAuthentication
metadata: {namespace: shop, name: strict}
spec: {mtls: {mode: STRICT}}
";
    shop.enforce(everybody, "authorizationpolicy.kith.dev/everybody")
        .await;
    shop.enforced("peerauthentication.kith.dev/strict").await;
    assert_eq!(shop.guest.get(ORDERS).await.unwrap().status, 200);
    let stranger = cluster.ready_pod("outside", "stranger").await;
    assert_eq!(stranger.containers.len(), 1, "nobody asked for a sidecar");
    for address in shop.orders[0].workload.addresses.both() {
        let url = match address {
            std::net::IpAddr::V4(address) => format!("http://{address}:8080/"),
            std::net::IpAddr::V6(address) => format!("http://[{address}]:8080/"),
        };
        let reply = stranger.get(&url).await;
        assert!(
            !reply.as_ref().is_ok_and(|reply| reply.status == 200),
            "{url}: {reply:?}"
        );
    }
    let record = shop.orders[0]
        .wait_record(|record| {
            record["direction"] == "inbound" && record["source.principal"].is_null()
        })
        .await;
    assert_eq!(record["decision"], "deny", "{record}");
}

/// A Job with a sidecar ends when its own container has.
async fn job(shop: &Shop) {
    let cluster = &shop.cluster;
    let job = "
apiVersion: batch/v1
kind: Job
metadata: {namespace: shop, name: report}
spec:
  template:
    metadata: {labels: {app: report}}
    spec:
      restartPolicy: Never
      serviceAccountName: web
      containers:
      - {name: report, image: kith, args: [__app, get, 'http://orders.shop:80/']}
";
    cluster.apply(job).await;
    let arguments = [
        "wait",
        "-n",
        "shop",
        "job/report",
        "--for=condition=complete",
        "--timeout=60s",
    ];
    cluster.must(&arguments).await;
    let pods = cluster
        .must(&[
            "get",
            "pods",
            "-n",
            "shop",
            "-l",
            "app=report",
            "-o",
            "json",
        ])
        .await;
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let statuses = &pods["items"][0]["status"]["initContainerStatuses"];
    let sidecar = statuses
        .as_array()
        .unwrap()
        .iter()
        .find(|status| status["name"] == "kith-proxy");
    assert_eq!(
        sidecar.unwrap()["state"]["terminated"]["exitCode"],
        0,
        "{statuses}"
    );
}
