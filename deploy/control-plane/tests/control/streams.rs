//! Streams: who gets what, in which order, and what an operator sees of it.

use std::time::{Duration, Instant};

use kith_certs::Endpoint;
use kith_certs::authority::{Authority, AuthorityConfig, Entry};
use kith_xds_client::Kind;
use tonic::Code;

use crate::harness::{DEADLINE, MESH, Mesh, Sidecar, identity, policy};

#[tokio::test]
async fn a_sidecar_gets_its_configuration_and_every_edit_and_an_operator_sees_how_far_it_is() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("policy.yaml", &policy("a", "GET"))]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders.subscribe(Kind::RevocationList, &["mesh"]).await;
    assert_eq!(orders.take().await, "RevocationList +mesh");
    orders.take_everything("shop/orders-1", &["shop/a"]).await;
    let status = mesh
        .status_when(|s| !s["sidecars"][0]["revision_acknowledged"].is_null())
        .await;
    let sidecar = &status["sidecars"][0];
    assert_eq!(sidecar["node"], "shop/orders-1");
    assert_eq!(
        sidecar["principal"],
        "spiffe://example.org/ns/shop/sa/orders"
    );
    assert_eq!(sidecar["revision_acknowledged"], sidecar["revision_wanted"]);
    assert_eq!(sidecar["behind_ms"], 0);
    assert_eq!(sidecar["last_nack"], serde_json::Value::Null);
    assert_eq!(
        sidecar["subscriptions"],
        serde_json::json!({"AuthorizationPolicy": 1, "RevocationList": 1, "WorkloadConfig": 1})
    );
    assert_eq!(status["not_connected"], serde_json::json!(["shop/web-1"]));
    assert_eq!(status["ready"], true);
    let before = sidecar["revision_acknowledged"].clone();

    // An edit: the policy first, then the configuration that was built with it.
    let begun = Instant::now();
    mesh.write("policy.yaml", &policy("a", "PUT"));
    assert_eq!(orders.take().await, "AuthorizationPolicy +shop/a");
    let took = begun.elapsed();
    assert!(
        took < Duration::from_millis(500),
        "an edit took {took:?} to be pushed"
    );
    let config = orders.next().await.unwrap().unwrap();
    println!("an edit was pushed after {took:?}");
    // Not acknowledged yet: the sidecar is behind, by name and by time.
    let status = mesh
        .status_when(|s| s["sidecars"][0]["behind_ms"].as_u64().unwrap() > 0)
        .await;
    assert_eq!(status["sidecars"][0]["revision_acknowledged"], before);
    assert_ne!(status["sidecars"][0]["revision_wanted"], before);
    orders.answer(&config, None).await;
    let status = mesh
        .status_when(|s| s["sidecars"][0]["behind_ms"] == 0)
        .await;
    let history = status["sidecars"][0]["acknowledgements"]
        .as_array()
        .unwrap();
    assert_eq!(history.len(), 2);
    assert_eq!(history[0]["revision"], before);
    assert!(history[0]["unix_us"].as_u64().unwrap() < history[1]["unix_us"].as_u64().unwrap());

    // A refusal is shown, and the sidecar stays behind until it is made good.
    mesh.write("policy.yaml", &policy("a", "POST"));
    let refused = orders.next().await.unwrap().unwrap();
    orders
        .answer(&refused, Some("shop/a: rules[0]: too new for me"))
        .await;
    orders.take().await;
    let status = mesh
        .status_when(|s| !s["sidecars"][0]["last_nack"].is_null())
        .await;
    let nack = &status["sidecars"][0]["last_nack"];
    assert_eq!(nack["type"], "AuthorizationPolicy");
    assert_eq!(nack["message"], "shop/a: rules[0]: too new for me");
    mesh.status_when(|s| s["sidecars"][0]["behind_ms"].as_u64().unwrap() > 0)
        .await;
    mesh.write("policy.yaml", &policy("a", "GET"));
    orders.take().await;
    orders.take().await;
    let status = mesh
        .status_when(|s| s["sidecars"][0]["behind_ms"] == 0)
        .await;
    // Equal content has an equal revision.
    assert_eq!(status["sidecars"][0]["revision_acknowledged"], before);
}

#[tokio::test]
async fn a_nodes_resources_go_to_its_own_principal_only() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("policy.yaml", &policy("a", "GET"))]).await;
    for (node, expected) in [
        (
            "shop/orders-1",
            "Workload `shop/orders-1` is spiffe://example.org/ns/shop/sa/orders, and your SVID says \
             spiffe://example.org/ns/shop/sa/web: correct KITH_NODE_ID, the Workload, or the registration entry at \
             the SPIFFE authority",
        ),
        (
            "shop/nobody",
            "no Workload `shop/nobody` with a sidecar is declared here: declare it, or correct KITH_NODE_ID",
        ),
        (
            "",
            "the first request names no node: set `node.id` to `namespace/name`",
        ),
    ] {
        let mut web = mesh.sidecar("web", node).await;
        web.subscribe(Kind::WorkloadConfig, &[node]).await;
        let refused = web.next().await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::PermissionDenied, expected)
        );
    }
    // On its own stream, others' resources do not exist.
    let mut web = mesh.sidecar("web", "shop/web-1").await;
    web.subscribe(Kind::WorkloadConfig, &["shop/orders-1"])
        .await;
    assert_eq!(web.take().await, "WorkloadConfig -shop/orders-1");
    web.subscribe(Kind::AuthorizationPolicy, &["shop/a"]).await;
    assert_eq!(web.take().await, "AuthorizationPolicy -shop/a");

    // A workload that becomes somebody else's loses its stream.
    mesh.write(
        "mesh.yaml",
        &MESH.replace("serviceAccount: web", "serviceAccount: other"),
    );
    assert_eq!(web.next().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn who_proves_no_identity_of_a_trusted_domain_gets_no_connection() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let socket = mesh.dir.path().join("stranger.sock");
    let id = "spiffe://stranger.org/ns/shop/sa/orders".parse().unwrap();
    let config = AuthorityConfig {
        entries: vec![Entry::for_socket(id, &socket)],
        ..AuthorityConfig::new("stranger.org".parse().unwrap())
    };
    let _authority = Authority::start(config).unwrap();
    let stranger = identity(Endpoint::unix(&socket)).await;
    assert!(
        Sidecar::connect(mesh.xds, &stranger, "shop/orders-1")
            .await
            .is_err()
    );
    assert!(
        mesh.get("/status").await.1["sidecars"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_stream_ends_when_its_trust_domain_is_no_longer_trusted() {
    let mesh = Mesh::start(&[(
        "mesh.yaml",
        &MESH.replace(
            "serviceAccount: web",
            "serviceAccount: web, spiffeId: 'spiffe://friend.org/web'",
        ),
    )])
    .await;
    let socket = mesh.dir.path().join("friend.sock");
    let friend_domain = "friend.org".parse().unwrap();
    let config = AuthorityConfig {
        entries: vec![Entry::for_socket(
            "spiffe://friend.org/web".parse().unwrap(),
            &socket,
        )],
        ..AuthorityConfig::new("friend.org".parse().unwrap())
    };
    let friend = Authority::start(config).unwrap();
    let own_domain = "example.org".parse().unwrap();
    friend
        .federate(&own_domain, &mesh.authority.bundle_der(), None)
        .unwrap();
    mesh.authority
        .federate(&friend_domain, &friend.bundle_der(), None)
        .unwrap();

    let identity = identity(Endpoint::unix(&socket)).await;
    // Until the control plane has heard of the federation.
    let begun = Instant::now();
    let mut web = loop {
        match Sidecar::connect(mesh.xds, &identity, "shop/web-1").await {
            Ok(web) => break web,
            Err(error) => assert!(begun.elapsed() < DEADLINE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    web.take_everything("shop/web-1", &[]).await;
    assert!(mesh.authority.unfederate(&friend_domain));
    let ended = web.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(
        ended.message().contains("no longer trusted"),
        "{}",
        ended.message()
    );
}

#[tokio::test]
async fn addresses_appear_change_and_vanish_for_those_who_asked() {
    let service = |port: u16| {
        format!(
            "apiVersion: kith.dev/v1alpha1
kind: Service
metadata: {{namespace: shop, name: orders}}
spec: {{addresses: [10.9.255.2], hosts: [orders.shop], selector: {{app: orders}}, ports: [{{port: {port}, targetPort: 8080}}]}}
"
        )
    };
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut web = mesh.sidecar("web", "shop/web-1").await;
    web.subscribe(Kind::Address, &["10.9.0.2", "orders.shop"])
        .await;
    assert_eq!(web.take().await, "Address +10.9.0.2 -orders.shop");
    mesh.write("service.yaml", &service(80));
    assert_eq!(web.take().await, "Address +orders.shop");
    mesh.write("service.yaml", &service(81));
    assert_eq!(web.take().await, "Address +orders.shop");
    std::fs::remove_file(mesh.files().join("service.yaml")).unwrap();
    assert_eq!(web.take().await, "Address -orders.shop");
    web.subscribe(Kind::Address, &["10.9.255.2"]).await;
    assert_eq!(web.take().await, "Address -10.9.255.2");
}

#[tokio::test]
async fn a_stream_ends_with_the_svid_that_opened_it() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    mesh.authority.set_ttl(Duration::from_secs(2));
    mesh.authority.rotate_leaf();
    let mut web = mesh.sidecar("web", "shop/web-1").await;
    web.take_everything("shop/web-1", &[]).await;
    let ended = web.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(
        ended.message(),
        "the SVID that opened this stream has expired: connect with the current one"
    );
    // With the current one it goes on.
    mesh.sidecar("web", "shop/web-1")
        .await
        .take_everything("shop/web-1", &[])
        .await;
}

#[tokio::test]
async fn a_stop_tells_every_sidecar_and_is_quick() {
    let mut mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut web = mesh.sidecar("web", "shop/web-1").await;
    web.take_everything("shop/web-1", &[]).await;
    let took = mesh.stop_server().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let ended = web.next().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (
            Code::Unavailable,
            "this control plane is stopping: connect again"
        )
    );
}

#[tokio::test]
async fn an_edit_reaches_many_sidecars_and_each_only_what_it_asked_for() {
    const SIDECARS: usize = 100;
    let mut text = MESH.to_owned();
    for i in 0..SIDECARS {
        text += &format!(
            "---\napiVersion: kith.dev/v1alpha1\nkind: Workload\nmetadata: {{namespace: shop, name: w{i}, labels: {{app: orders}}}}\nspec: {{serviceAccount: orders, addresses: [10.9.1.{i}]}}\n"
        );
    }
    let mesh = Mesh::start(&[("mesh.yaml", &text), ("policy.yaml", &policy("a", "GET"))]).await;
    let identity = mesh.identity("orders").await;
    let mut sidecars = Vec::new();
    for i in 0..SIDECARS {
        let node = format!("shop/w{i}");
        let mut sidecar = Sidecar::connect(mesh.xds, &identity, &node).await.unwrap();
        sidecar.take_everything(&node, &["shop/a"]).await;
        sidecars.push(sidecar);
    }
    let mut web = mesh.sidecar("web", "shop/web-1").await;
    web.take_everything("shop/web-1", &[]).await;
    let begun = Instant::now();
    mesh.write("policy.yaml", &policy("a", "PUT"));
    for (i, sidecar) in sidecars.iter_mut().enumerate() {
        assert_eq!(sidecar.take().await, "AuthorizationPolicy +shop/a");
        assert_eq!(sidecar.take().await, format!("WorkloadConfig +shop/w{i}"));
    }
    println!(
        "{SIDECARS} sidecars had the edit after {:?}",
        begun.elapsed()
    );
    let current = |s: &serde_json::Value| {
        s["sidecars"]
            .as_array()
            .unwrap()
            .iter()
            .all(|s| s["behind_ms"] == 0)
    };
    mesh.status_when(current).await;
    web.silent(Duration::from_millis(50)).await;
}
