//! The smallest mesh that has a client and a server: `web` calls `orders`, `stranger` has no sidecar.

use std::net::SocketAddr;
use std::sync::Arc;

use kith::app::client::{Call, Reply};
use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};

use crate::wire::{self, Heard};

/// `web` may do anything with `orders`.
pub const WEB_MAY_ALL: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
";

/// A mesh with a client and a server.
#[derive(Debug)]
pub struct Shop {
    /// The client.
    pub web: Arc<Workload>,
    /// The server.
    pub orders: Arc<Workload>,
    /// Dropped last.
    pub lab: Lab,
}

impl Shop {
    /// Opens with these ports of `orders` and these policies.
    pub async fn open(ports: &[(u16, &str)], policies: &str) -> Self {
        Self::with(LabOptions::default(), ports, policies).await
    }

    /// As [`Shop::open`], in a lab of one's own wishes.
    pub async fn with(options: LabOptions, ports: &[(u16, &str)], policies: &str) -> Self {
        let lab = Lab::new(options).await.unwrap();
        lab.control().write("policies", policies).unwrap();
        let mut orders = WorkloadSpec::new("shop", "orders");
        for (number, protocol) in ports {
            orders = orders.port(*number, protocol);
        }
        let started = lab
            .workloads([WorkloadSpec::new("shop", "web"), orders])
            .await
            .unwrap();
        let [web, orders] = <[_; 2]>::try_from(started).unwrap();
        Self { web, orders, lab }
    }

    /// A workload without a sidecar, not known to the mesh.
    pub async fn stranger(&self) -> Arc<Workload> {
        self.lab
            .workload(
                WorkloadSpec::new("shop", "stranger")
                    .without_sidecar()
                    .unannounced(),
            )
            .await
            .unwrap()
    }

    /// The address of a port of `orders`: of its service.
    #[must_use]
    pub fn service(&self, port: u16) -> SocketAddr {
        self.web.resolve(&format!("orders.shop:{port}")).unwrap()
    }

    /// The address of a port of `orders`: its own.
    #[must_use]
    pub fn pod(&self, port: u16) -> SocketAddr {
        self.web
            .resolve(&format!("orders.shop.pod:{port}"))
            .unwrap()
    }

    /// A request of `web` to port 8080 of `orders`, with headers.
    pub async fn get(&self, path: &str, headers: &[&str]) -> Reply {
        let mut call = Call::get(format!("http://orders.shop:8080{path}").parse().unwrap());
        call.headers = headers.iter().map(|&header| header.to_owned()).collect();
        self.web.call(call).await.unwrap()
    }

    /// Bytes of `web` to port 8080 of `orders`.
    pub async fn say(&self, bytes: impl Into<Vec<u8>>) -> Heard {
        wire::raw(&self.web, self.service(8080), bytes)
            .await
            .unwrap()
    }
}
