//! Two trust domains, each with a SPIRE of its own, that have exchanged bundles; and a policy across them.

use kith::lab::{Lab, LabOptions, WorkloadSpec};
use serde_json::json;

use super::{DOMAIN, Entry, ORDERS, Spire, get};
use crate::expect;
use crate::partner::allow;

const PARTNER: &str = "partner.test";

#[tokio::test]
async fn a_policy_names_principals_of_a_federated_trust_domain_and_no_others_get_in() {
    let mut lab = Lab::bare(LabOptions::default()).unwrap();
    let (home, partner) = tokio::join!(Spire::start(&lab, DOMAIN), Spire::start(&lab, PARTNER));
    home.federate(&partner).await;
    home.open_mesh(&mut lab, 0, Some(PARTNER)).await;

    let entry = |path, federates_with| Entry {
        path,
        federates_with,
        ..Entry::default()
    };
    let (orders, _) = home.sidecar(entry(ORDERS, Some(PARTNER))).await;
    let (buyer, _) = partner.sidecar(entry("/buyer", Some(DOMAIN))).await;
    let (seller, _) = partner.sidecar(entry("/seller", Some(DOMAIN))).await;
    // Of the mesh's own domain, but it has not been given the other one's bundle.
    let (web, _) = home.sidecar(entry("/ns/shop/sa/web", None)).await;
    let foreign = |name: &str| {
        let id = partner.id(&format!("/{name}"));
        WorkloadSpec::new("partners", name)
            .without_service()
            .spiffe_id(&id)
    };
    lab.control()
        .write("policies", &allow("orders", &[&partner.id("/buyer")]))
        .unwrap();
    let started = lab.workloads([
        WorkloadSpec::new("shop", "orders")
            .port(8080, "HTTP")
            .attested(orders),
        foreign("buyer").attested(buyer),
        foreign("seller").attested(seller).port(8080, "HTTP"),
        WorkloadSpec::new("shop", "web").attested(web),
    ]);
    let [orders, buyer, seller, web] = <[_; 4]>::try_from(started.await.unwrap()).unwrap();
    let _app = orders.app(&["http", "--name", "orders"]).await.unwrap();
    let certs = orders.admin("/certs").await.unwrap().json();
    assert_eq!(
        certs["trust_domains"],
        json!([DOMAIN, PARTNER]),
        "{certs:#}"
    );

    for (from, path, status, decision) in [
        (&buyer, "/buyer", 200, "allow"),
        (&seller, "/seller", 403, "deny"),
        (&web, "/web", 403, "deny"),
    ] {
        let reply = get(from, path).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let record = orders
            .wait_record(|record| record["http.path"] == path)
            .await
            .unwrap();
        let expected = json!({
            "decision": decision, "source.principal": from.spiffe_id(), "destination.principal": home.id(ORDERS),
        });
        expect::fields(&record, &expected);
        let record = from
            .wait_record(|record| record["http.path"] == path)
            .await
            .unwrap();
        expect::fields(&record, &json!({"destination.principal": home.id(ORDERS)}));
    }

    // The other way, to a server whose trust domain the client knows nothing of.
    let _app = seller.app(&["http", "--name", "seller"]).await.unwrap();
    let url = format!("http://{}:8080/unknown", seller.addresses.v4);
    let reply = web.get(&url).await.unwrap();
    assert_eq!(
        reply.header("x-kith-reason"),
        Some("trust-domain-unknown"),
        "{}",
        reply.text()
    );
    let record = web
        .wait_record(|record| record["http.path"] == "/unknown")
        .await
        .unwrap();
    expect::fields(
        &record,
        &json!({"decision": "deny", "reason": "trust-domain-unknown"}),
    );
}
