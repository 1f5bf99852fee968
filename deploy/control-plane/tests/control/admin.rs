//! Orders over the admin socket: revoke, lift, and who has confirmed.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use kith_xds_client::Kind;
use kith_xds_client::api::envoy::config::core::v3::Node;
use kith_xds_client::api::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use kith_xds_client::api::mesh::RevocationList;
use prost::Message;
use prost_types::{Struct, Value, value};
use serde_json::json;

use crate::harness::{MESH, Mesh, Sidecar};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

fn order(principal: &str, wait_ms: u64) -> serde_json::Value {
    json!({
        "what": {"principal": principal},
        "until": "2099-01-01T00:00:00Z",
        "reason": "its key was stolen",
        "wait_ms": wait_ms,
    })
}

/// Subscribed to the revocation list, and up to date.
async fn listening(mesh: &Mesh, account: &str, node: &str) -> Sidecar {
    let mut sidecar = mesh.sidecar(account, node).await;
    sidecar.subscribe(Kind::RevocationList, &["mesh"]).await;
    assert_eq!(sidecar.take().await, "RevocationList +mesh");
    sidecar
}

/// Takes the next list and confirms it as a sidecar does that closed this many connections for it.
async fn enforce(sidecar: &mut Sidecar, closed: f64) -> RevocationList {
    enforce_in(Duration::ZERO, sidecar, closed).await
}

/// As a sidecar does that has that much to do first.
async fn enforce_in(time: Duration, sidecar: &mut Sidecar, closed: f64) -> RevocationList {
    let response = sidecar.next().await.unwrap().unwrap();
    tokio::time::sleep(time).await;
    let any = response.resources[0].resource.clone().unwrap();
    let of = |fields: Vec<(&str, value::Kind)>| Struct {
        fields: (fields.into_iter())
            .map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) }))
            .collect(),
    };
    let facts = of(vec![
        ("closed", value::Kind::NumberValue(closed)),
        ("enforced_ms", value::Kind::NumberValue(1.5)),
    ]);
    let metadata = of(vec![("kith", value::Kind::StructValue(facts))]);
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            metadata: Some(metadata),
            ..Default::default()
        }),
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    };
    sidecar.send(request).await;
    RevocationList::decode(&*any.value).unwrap()
}

#[tokio::test]
async fn revoking_returns_when_every_connected_sidecar_has_confirmed() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut web = listening(&mesh, "web", "shop/web-1").await;
    let mut orders = listening(&mesh, "orders", "shop/orders-1").await;

    let (answered, web_list, orders_list) = tokio::join!(
        mesh.order("/revoke", order(WEB, 10_000)),
        enforce(&mut web, 0.0),
        enforce_in(Duration::from_millis(100), &mut orders, 7.0)
    );
    let (status, done) = answered;
    assert_eq!(status, 200, "{done:#}");
    assert_eq!(web_list, orders_list);
    let [revocation] = &*orders_list.revocations else {
        panic!("{orders_list:?}")
    };
    assert_eq!(revocation.reason, "its key was stolen");
    let confirmed = done["confirmed"].as_array().unwrap();
    let told: Vec<_> = confirmed
        .iter()
        .map(|it| (it["node"].as_str().unwrap(), it["closed"].as_u64().unwrap()))
        .collect();
    assert_eq!(told, [("shop/orders-1", 7), ("shop/web-1", 0)]);
    let waited = confirmed[0]["ms"].as_f64().unwrap();
    assert!((100.0..5_000.0).contains(&waited), "{waited}");
    assert_eq!(done["not_confirmed"], json!([]));

    // It is a document like any other, and there once however often it is ordered.
    let files = || {
        std::fs::read_dir(mesh.files().join("revocations"))
            .unwrap()
            .count()
    };
    assert_eq!(files(), 1);
    let (status, again) = mesh.order("/revoke", order(WEB, 10_000)).await;
    assert_eq!((status, files()), (200, 1), "{again:#}");
    assert_eq!(again["confirmed"][0]["closed"], 0, "nothing new to close");

    let (_, listed) = mesh.get_admin("/revocations").await;
    assert_eq!(listed["revocations"][0]["principal"], WEB);

    let (lifted, web_list, _) = tokio::join!(
        mesh.order(
            "/lift",
            json!({"what": {"principal": WEB}, "wait_ms": 10_000})
        ),
        enforce(&mut web, 0.0),
        enforce(&mut orders, 0.0),
    );
    assert_eq!(lifted.0, 200, "{:#}", lifted.1);
    assert_eq!(web_list, RevocationList::default());
    assert_eq!(files(), 0);
}

#[tokio::test]
async fn who_is_not_connected_or_does_not_answer_has_not_confirmed() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let _silent = listening(&mesh, "web", "shop/web-1").await;
    let (status, done) = mesh.order("/revoke", order(WEB, 300)).await;
    assert_eq!(status, 200, "{done:#}");
    assert_eq!(done["confirmed"], json!([]));
    let missing = done["not_confirmed"].as_array().unwrap();
    let why = |at: usize| missing[at]["why"].as_str().unwrap();
    assert_eq!(missing[0]["node"], "shop/orders-1");
    assert!(why(0).starts_with("is not connected"), "{}", why(0));
    assert_eq!(missing[1]["node"], "shop/web-1");
    assert!(why(1).starts_with("did not answer in time"), "{}", why(1));
}

#[tokio::test]
async fn a_folder_with_problems_does_not_stop_a_revocation() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut web = listening(&mesh, "web", "shop/web-1").await;
    mesh.write("broken.yaml", "kind: [");
    mesh.status_when(|status| status["load"]["problems"] != json!([]))
        .await;
    let (answered, list) = tokio::join!(
        mesh.order("/revoke", order(WEB, 1_000)),
        enforce(&mut web, 3.0)
    );
    assert_eq!(answered.0, 200, "{:#}", answered.1);
    assert_eq!(list.revocations.len(), 1);
    // And what was revoked before the folder went bad stays revoked.
    let orders = "spiffe://example.org/ns/shop/sa/orders";
    let (answered, list) = tokio::join!(
        mesh.order("/revoke", order(orders, 1_000)),
        enforce(&mut web, 0.0)
    );
    assert_eq!(answered.0, 200, "{:#}", answered.1);
    assert_eq!(list.revocations.len(), 2);
}

#[tokio::test]
async fn a_bad_order_is_refused_by_field_and_leaves_nothing_behind() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let check = async |body: serde_json::Value, expected: &str| {
        let (status, answer) = mesh.order("/revoke", body).await;
        assert_eq!(status, 400, "{answer:#}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(!mesh.files().join("revocations").exists());
    };
    check(order("web", 0), "principal").await;
    let mut late = order(WEB, 0);
    late["until"] = "tomorrow".into();
    check(late, "until").await;
    let mut silent = order(WEB, 0);
    silent["reason"] = "".into();
    check(silent, "reason").await;
    check(
        json!({"what": {}, "until": "", "reason": "r"}),
        "exactly one",
    )
    .await;
    check(
        json!({"what": {"principle": WEB}, "until": "", "reason": "r"}),
        "principle",
    )
    .await;
    let (status, answer) = mesh
        .order("/lift", json!({"what": {"principal": WEB}}))
        .await;
    assert_eq!(status, 404, "{answer:#}");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone_and_another_server_keeps_it() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let path = mesh.socket("admin");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    mesh.status_when(|status| status["ready"] == true).await;
    let (status, report) = mesh.get_admin("/status").await;
    assert_eq!((status, &report["ready"]), (200, &json!(true)));
    let config = kith_control::serve::Config {
        source: kith_control::serve::Source::Files(mesh.files()),
        listen: "127.0.0.1:0".parse().unwrap(),
        status_listen: "127.0.0.1:0".parse().unwrap(),
        admin_socket: Some(path.clone()),
        web: kith_control::jwks::Web::new(None).unwrap(),
        workload_api: kith_certs::Endpoint::unix(mesh.socket("control")),
    };
    let Err(errors) = kith_control::serve::Server::bind(config).await else {
        panic!("two servers on one socket")
    };
    assert!(
        errors[0]
            .to_string()
            .contains("another program listens there"),
        "{}",
        errors[0]
    );
    assert_eq!(
        mesh.get_admin("/ready").await.0,
        200,
        "still the first one's"
    );
}

/// Revoked, lifted and revoked again is the same list as before: what a sidecar confirmed then says nothing of now,
/// when it may be putting the lift in force.
#[tokio::test]
async fn what_was_confirmed_before_a_lift_confirms_nothing_after_it() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut web = listening(&mesh, "web", "shop/web-1").await;
    let (first, _) = tokio::join!(
        mesh.order("/revoke", order(WEB, 10_000)),
        enforce(&mut web, 1.0)
    );
    assert_eq!(first.1["confirmed"][0]["node"], "shop/web-1");
    let (status, lifted) = mesh
        .order("/lift", json!({"what": {"principal": WEB}}))
        .await;
    assert_eq!(status, 200, "{lifted:#}");
    let lift = web.next().await.unwrap().unwrap();

    // The lift is not answered: perhaps it is in force.
    let (_, again) = mesh.order("/revoke", order(WEB, 300)).await;
    assert_eq!(again["confirmed"], json!([]), "{again:#}");
    web.answer(&lift, None).await;
    let (answered, _) = tokio::join!(
        mesh.order("/revoke", order(WEB, 10_000)),
        enforce(&mut web, 2.0)
    );
    let confirmed = &answered.1["confirmed"][0];
    assert_eq!(confirmed["node"], "shop/web-1", "{:#}", answered.1);
}

#[tokio::test]
async fn an_order_without_effect_is_refused() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut past = order(WEB, 0);
    past["until"] = "2020-01-01T00:00:00Z".into();
    let (status, refused) = mesh.order("/revoke", past).await;
    assert_eq!(status, 400, "{refused:#}");
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("until") && error.contains("over"), "{error}");
    let mut misspelt = order(WEB, 0);
    misspelt["waitMs"] = 10.into();
    let (status, refused) = mesh.order("/revoke", misspelt).await;
    assert_eq!(status, 400, "{refused:#}");
    assert!(!mesh.files().join("revocations").exists());
}

#[tokio::test]
async fn what_is_still_revoked_elsewhere_is_not_said_to_be_lifted() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let certificate =
        |serial: &str| json!({"certificate": {"trustDomain": "example.org", "serial": serial}});
    let revoke = |serial: &str| json!({"what": certificate(serial), "until": "2099-01-01T00:00:00Z", "reason": "stolen"});
    // One thing, however it is written.
    assert_eq!(mesh.order("/revoke", revoke("4B:C3:7B")).await.0, 200);
    assert_eq!(mesh.order("/revoke", revoke("004bc37b")).await.0, 200);
    let (status, lifted) = mesh
        .order("/lift", json!({"what": certificate("4bc37b")}))
        .await;
    assert_eq!(status, 200, "{lifted:#}");
    let (_, listed) = mesh.get_admin("/revocations").await;
    assert_eq!(listed["revocations"], json!([]));

    assert_eq!(mesh.order("/revoke", revoke("4bc37b")).await.0, 200);
    mesh.write(
        "people.yaml",
        "{apiVersion: kith.dev/v1alpha1, kind: Revocation, metadata: {name: r},
          spec: {certificate: {trustDomain: example.org, serial: 4BC37B}, until: 2090-01-01T00:00:00Z, reason: x}}",
    );
    mesh.status_when(|status| status["serving"]["revocations"] == 2)
        .await;
    let (status, refused) = mesh
        .order("/lift", json!({"what": certificate("4bc37b")}))
        .await;
    assert_eq!(status, 409, "{refused:#}");
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("another document"), "{error}");
}

/// What a sidecar says ends up on an operator's terminal.
#[tokio::test]
async fn what_a_sidecar_says_cannot_write_over_what_is_said_of_it() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut web = mesh.sidecar("web", "shop/web-1").await;
    web.subscribe(Kind::RevocationList, &["mesh"]).await;
    let list = web.next().await.unwrap().unwrap();
    let message = format!("no\u{1b}[2J\r\n20 of 20 enforce it{}", "x".repeat(100_000));
    web.answer(&list, Some(&message)).await;
    let status = mesh
        .status_when(|status| status["sidecars"][0]["last_nack"] != json!(null))
        .await;
    let said = status["sidecars"][0]["last_nack"]["message"]
        .as_str()
        .unwrap();
    assert!(said.starts_with("no\\u{1b}[2J\\r\\n20 of 20 enforce itxxx"));
    assert!(said.len() < 3_000, "{}", said.len());
}
