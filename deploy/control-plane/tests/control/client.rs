//! The sidecar's own xDS client against the control plane.

use std::collections::BTreeSet;
use std::sync::Arc;

use kith_certs::tls::{client_config, server_name};
use kith_xds_client::{AsyncIo, Backoff, Client, Config, Delivery, Kind, Resource};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::harness::{DEADLINE, MESH, Mesh, policy};

async fn start(mesh: &Mesh, account: &str, node: &str) -> (Client, mpsc::Receiver<Delivery>) {
    let tls = TlsConnector::from(client_config(&mesh.identity(account).await, &[b"h2"]));
    let xds = mesh.xds;
    let connector = move || {
        let tls = tls.clone();
        let connecting = async move {
            let stream = TcpStream::connect(xds).await?;
            let stream: Box<dyn AsyncIo> = Box::new(tls.connect(server_name(), stream).await?);
            Ok(stream)
        };
        Box::pin(connecting) as kith_xds_client::BoxFuture<_>
    };
    Client::start(Config {
        authority: xds.to_string(),
        node_id: node.into(),
        user_agent_version: "test".into(),
        state_dir: None,
        connector: Arc::new(connector),
        identity: None,
        backoff: Backoff::default(),
    })
}

/// Puts everything in force at once, and follows the configuration's policies.
async fn apply_until(
    client: &Client,
    deliveries: &mut mpsc::Receiver<Delivery>,
    mut enough: impl FnMut(&Delivery) -> bool,
) {
    loop {
        let delivery = tokio::time::timeout(DEADLINE, deliveries.recv())
            .await
            .unwrap()
            .unwrap();
        for changed in &delivery.changed {
            if let Resource::WorkloadConfig(config) = &changed.resource {
                let names: BTreeSet<String> = config.policies.iter().cloned().collect();
                client.set_subscription(Kind::AuthorizationPolicy, names);
            }
        }
        let done = enough(&delivery);
        delivery.finish(Vec::new());
        if done {
            return;
        }
    }
}

#[tokio::test]
async fn the_sidecars_client_follows_edits_and_survives_a_restart_of_the_control_plane() {
    let mut mesh = Mesh::start(&[("mesh.yaml", MESH), ("policy.yaml", &policy("a", "GET"))]).await;
    let (client, mut deliveries) = start(&mesh, "orders", "shop/orders-1").await;
    apply_until(&client, &mut deliveries, |delivery| {
        delivery.kind == Kind::AuthorizationPolicy
    })
    .await;
    let current = |s: &serde_json::Value| {
        let sidecar = &s["sidecars"][0];
        sidecar["revision_acknowledged"].is_string()
            && sidecar["revision_acknowledged"] == sidecar["revision_wanted"]
            && sidecar["behind_ms"] == 0
    };
    mesh.status_when(current).await;

    // A new policy: the configuration names it, the client asks for it.
    mesh.write("more.yaml", &policy("b", "GET"));
    apply_until(&client, &mut deliveries, |delivery| {
        delivery.changed.iter().any(|c| c.name == "shop/b")
    })
    .await;
    let status = mesh.status_when(current).await;

    client.subscribe(
        Kind::Address,
        ["10.9.0.1".to_owned(), "10.9.9.9".to_owned()],
    );
    apply_until(&client, &mut deliveries, |delivery| {
        delivery.kind == Kind::Address
            && delivery.removed == ["10.9.9.9"]
            && delivery.changed.len() == 1
    })
    .await;

    // After a restart it says what it holds, and nothing is sent again but what there is not.
    mesh.stop_server().await;
    mesh.start_server().await;
    let mut heard = Vec::new();
    apply_until(&client, &mut deliveries, |delivery| {
        heard.extend(delivery.changed.iter().map(|changed| changed.name.clone()));
        delivery.removed == ["10.9.9.9"]
    })
    .await;
    let again = mesh.status_when(current).await;
    assert_eq!(
        again["sidecars"][0]["revision_acknowledged"],
        status["sidecars"][0]["revision_acknowledged"]
    );
    assert!(heard.is_empty(), "sent again: {heard:?}");
    mesh.write("policy.yaml", &policy("a", "PUT"));
    apply_until(&client, &mut deliveries, |delivery| {
        delivery.changed.iter().any(|c| c.name == "shop/a")
    })
    .await;
    apply_until(&client, &mut deliveries, |delivery| {
        delivery.kind == Kind::WorkloadConfig
    })
    .await;
    mesh.status_when(current).await;
}

/// Revoked, lifted, revoked again: the stream ends while the lift is being enforced, and the list of now is the one
/// that the client held before it. What it puts in force last must be that one all the same.
#[tokio::test]
async fn what_was_under_way_when_a_stream_ended_is_not_taken_for_what_is_held() {
    let revoked = "{apiVersion: kith.dev/v1alpha1, kind: Revocation, metadata: {name: r}, spec: {token: {jti: a}, until: 2099-01-01T00:00:00Z, reason: x}}";
    let mut mesh = Mesh::start(&[("mesh.yaml", MESH), ("r.yaml", revoked)]).await;
    let (client, mut deliveries) = start(&mesh, "orders", "shop/orders-1").await;
    let entries = |delivery: &Delivery| match delivery.changed.first().map(|it| &it.resource) {
        Some(Resource::RevocationList(list)) => Some(list.revocations.len()),
        _ => None,
    };
    let mut seen = (false, false);
    apply_until(&client, &mut deliveries, |it| {
        seen.0 |= entries(it) == Some(1);
        seen.1 |= it.kind == Kind::WorkloadConfig;
        seen == (true, true)
    })
    .await;
    mesh.write("r.yaml", "# lifted\n");
    let lift = tokio::time::timeout(DEADLINE, deliveries.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(entries(&lift), Some(0));
    mesh.stop_server().await;
    mesh.write("r.yaml", revoked);
    mesh.start_server().await;
    mesh.status_when(|status| status["sidecars"][0]["subscriptions"]["RevocationList"] == 1)
        .await;
    // In force only now.
    lift.finish(Vec::new());
    tokio::time::timeout(
        std::time::Duration::from_secs(3),
        apply_until(&client, &mut deliveries, |it| entries(it) == Some(1)),
    )
    .await
    .expect("the control plane takes the list of before for the one in force");
}

/// A configuration that can't be put in force (it names a policy that is refused, say) stays unanswered. What is
/// revoked meanwhile, and acknowledged, must outlive a restart all the same.
#[tokio::test]
async fn what_is_revoked_is_kept_on_disk_while_a_configuration_is_incomplete() {
    let revoked = "{apiVersion: kith.dev/v1alpha1, kind: Revocation, metadata: {name: r}, spec: {token: {jti: a}, until: 2099-01-01T00:00:00Z, reason: x}}";
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let dir = mesh.dir.path().join("state");
    let tls = TlsConnector::from(client_config(&mesh.identity("orders").await, &[b"h2"]));
    let xds = mesh.xds;
    let config = |reachable: bool| {
        let tls = tls.clone();
        let connector = move || {
            let tls = tls.clone();
            let connecting = async move {
                if !reachable {
                    std::future::pending::<()>().await;
                }
                let stream = TcpStream::connect(xds).await?;
                let stream: Box<dyn AsyncIo> = Box::new(tls.connect(server_name(), stream).await?);
                Ok(stream)
            };
            Box::pin(connecting) as kith_xds_client::BoxFuture<_>
        };
        Config {
            authority: xds.to_string(),
            node_id: "shop/orders-1".into(),
            user_agent_version: "test".into(),
            state_dir: Some(dir.clone()),
            connector: Arc::new(connector),
            identity: None,
            backoff: Backoff::default(),
        }
    };
    let entries = |delivery: &Delivery| match delivery.changed.first().map(|it| &it.resource) {
        Some(Resource::RevocationList(list)) => Some(list.revocations.len()),
        _ => None,
    };
    let (client, mut deliveries) = Client::start(config(true));
    apply_until(&client, &mut deliveries, |it| entries(it) == Some(0)).await;
    mesh.write("more.yaml", &policy("a", "GET"));
    let stuck = tokio::time::timeout(DEADLINE, deliveries.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stuck.kind, Kind::WorkloadConfig);
    mesh.write("r.yaml", revoked);
    apply_until(&client, &mut deliveries, |it| entries(it) == Some(1)).await;
    mesh.status_when(|status| {
        status["sidecars"][0]["revocations"]["version"] == status["revocations"]
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let (again, mut remembered) = Client::start(config(false));
    tokio::time::timeout(
        std::time::Duration::from_secs(3),
        apply_until(&again, &mut remembered, |it| entries(it) == Some(1)),
    )
    .await
    .expect("forgotten");
    drop(stuck);
}
