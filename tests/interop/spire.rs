//! Real SPIRE in place of the dev authority: one server and one agent a trust domain, entries told apart by the path of
//! the program, sidecars and control plane with SVIDs that SPIRE issued.
//!
//! SPIRE dates an SVID ten seconds back and renews it when half of that longer life is left, give or take a tenth. One of
//! 14 seconds is renewed after about two; below 12 the agent would renew at every look.

mod deployment;
mod federation;
mod go;
mod issuing;
mod outage;
mod rotation;

use std::sync::Arc;
use std::time::Duration;

use kith::app::client::{Call, Reply};
use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};
use kith_tests::lasting::Lasting;
use kith_tests::metrics::Metrics;
use serde_json::Value;

use crate::partner::allow;
use deployment::{Entry, Spire};

const DOMAIN: &str = "example.org";
const WEB: &str = "/ns/shop/sa/web";
const ORDERS: &str = "/ns/shop/sa/orders";

/// `web` calls `orders`, which lets it, on HTTP and with bytes.
struct Shop {
    web: Arc<Workload>,
    orders: Arc<Workload>,
    /// The entry of `orders`.
    entry: String,
    _apps: [Process; 2],
    spire: Spire,
    // Dropped last.
    lab: Lab,
}

impl Shop {
    /// Opens with SVIDs of that many seconds, 0 for an hour.
    async fn open(ttl: u32) -> Self {
        let options = LabOptions {
            // What a lease backed no longer is cut soon, so that nothing lives on by grace alone.
            environment: vec![("KITH_EXPIRY_GRACE".to_owned(), "1s".to_owned())],
            ..LabOptions::default()
        };
        let mut lab = Lab::bare(options).unwrap();
        let spire = Spire::start(&lab, DOMAIN).await;
        spire.open_mesh(&mut lab, ttl, None).await;
        let entry = |path| Entry {
            path,
            ttl,
            ..Entry::default()
        };
        let (web, _) = spire.sidecar(entry(WEB)).await;
        let (orders, registered) = spire.sidecar(entry(ORDERS)).await;
        lab.control()
            .write("policies", &allow("orders", &[&spire.id(WEB)]))
            .unwrap();
        let started = lab.workloads([
            WorkloadSpec::new("shop", "web").attested(web),
            WorkloadSpec::new("shop", "orders")
                .port(8080, "HTTP")
                .port(7000, "TCP")
                .attested(orders),
        ]);
        let [web, orders] = <[_; 2]>::try_from(started.await.unwrap()).unwrap();
        let http = orders.app(&["http", "--name", "orders"]).await.unwrap();
        let tcp = orders.app(&["tcp", "--listen", "[::]:7000"]).await.unwrap();
        Self {
            web,
            orders,
            entry: registered,
            _apps: [http, tcp],
            spire,
            lab,
        }
    }

    async fn get(&self, path: &str) -> Reply {
        get(&self.web, path).await
    }

    /// 50 requests a second on four connections, until it is stopped.
    async fn load(&self) -> Load {
        let url = "http://orders.shop:8080/load";
        let load = [
            "load",
            url,
            "--rate",
            "50",
            "--connections",
            "4",
            "--seconds",
            "120",
            "--json",
        ];
        Load(self.web.app(&load).await.unwrap())
    }

    /// An opaque connection that goes on talking.
    async fn lasting(&self) -> Lasting {
        Lasting::opaque(&self.web, self.web.resolve("orders.shop:7000").unwrap()).await
    }

    /// How many roots each sidecar trusts in the mesh's own domain.
    async fn roots(&self) -> [u64; 2] {
        [roots(&self.web).await, roots(&self.orders).await]
    }
}

async fn get(from: &Workload, path: &str) -> Reply {
    from.call(Call::get(
        format!("http://orders.shop:8080{path}").parse().unwrap(),
    ))
    .await
    .unwrap()
}

struct Load(Process);

impl Load {
    /// How many requests there were, none of which failed.
    async fn stop(self) -> u64 {
        self.0.stop(Duration::from_secs(5)).await.unwrap();
        let report: Value = serde_json::from_str(&self.0.stdout()).unwrap();
        assert_eq!(report["failed"], 0, "{report}");
        report["ok"].as_u64().unwrap()
    }
}

async fn roots(workload: &Workload) -> u64 {
    let certs = workload.admin("/certs").await.unwrap().json();
    let bundles = certs["bundles"]
        .as_array()
        .unwrap_or_else(|| panic!("{certs:#}"));
    let own = bundles
        .iter()
        .find(|bundle| bundle["trust_domain"] == DOMAIN);
    own.and_then(|bundle| bundle["authorities"].as_u64())
        .unwrap_or_else(|| panic!("{certs:#}"))
}

async fn rotations(workload: &Workload) -> f64 {
    Metrics::of(workload)
        .await
        .sum("kith_svid_rotations_total", &[])
}
