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
