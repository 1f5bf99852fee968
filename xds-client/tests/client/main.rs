//! The client against a real gRPC control plane on a Unix socket, which each test plays by hand.

#![allow(clippy::unwrap_used)]

mod answers;
mod control_plane;
mod disk;
mod on_demand;
mod reconnect;
mod subscriptions;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kith_xds_client::{AsyncIo, Backoff, Client, Config, Connector, Delivery};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

const NODE: &str = "shop/web";

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn config(socket: &Path) -> Config {
    let socket = socket.to_owned();
    let connector: Connector = Arc::new(move || {
        let connecting = UnixStream::connect(socket.clone());
        Box::pin(async move { Ok(Box::new(connecting.await?) as Box<dyn AsyncIo>) })
    });
    Config {
        authority: "control.test:15010".to_owned(),
        node_id: NODE.to_owned(),
        user_agent_version: "0.0.0-test".to_owned(),
        state_dir: None,
        connector,
        identity: None,
        backoff: Backoff {
            min: Duration::from_millis(5),
            max: Duration::from_millis(50),
        },
    }
}

/// Runs a test with a folder that stays until the runtime is gone: what a client is writing when a test lets go of it is
/// written to the end, and a folder that is being written to cannot be removed.
fn with_folder(test: impl AsyncFnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = Builder::new_current_thread();
    runtime
        .enable_all()
        .build()
        .unwrap()
        .block_on(test(dir.path()));
    // Not by drop, which would keep quiet about what it leaves behind.
    dir.close().unwrap();
}

fn start(socket: &Path) -> (Client, mpsc::Receiver<Delivery>) {
    Client::start(config(socket))
}

async fn next(deliveries: &mut mpsc::Receiver<Delivery>) -> Delivery {
    patient("a delivery", deliveries.recv()).await.unwrap()
}

async fn patient<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

async fn disconnected(client: &Client) {
    patient(
        "the end of the stream",
        client.status().wait_for(|status| !status.connected),
    )
    .await
    .unwrap();
}
