//! The demo's mesh: a shop of four workloads, and a stranger without a sidecar.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::lab::{Error, Lab, LabOptions, Process, Workload, WorkloadSpec};

/// How long an SVID is valid: short, so that rotation and expiry can be watched.
pub(crate) const SVID_TTL: Duration = Duration::from_secs(10);

/// The policies, as a person finds them in the folder.
pub(crate) const POLICIES: &str = include_str!("policies.yaml");

/// File name of [`POLICIES`], without its ending.
pub(crate) const POLICY_FILE: &str = "policies";

/// Opaque TCP feeds of `orders`.
pub(crate) const EVENTS: u16 = 7000;
pub(crate) const AUDIT: u16 = 7001;

/// The mesh of the demo.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) web: Arc<Workload>,
    pub(crate) gateway: Arc<Workload>,
    pub(crate) orders: Arc<Workload>,
    pub(crate) payments: Arc<Workload>,
    pub(crate) stranger: Arc<Workload>,
    // Servers, killed when the mesh is dropped; before the lab, so that nothing is cut off in the middle.
    _servers: Vec<Process>,
    pub(crate) lab: Lab,
}

impl Mesh {
    /// Starts everything; `progress` hears what is being waited for.
    pub(crate) async fn start(lab: Lab, mut progress: impl FnMut(&str)) -> Result<Self, Error> {
        lab.control().write(POLICY_FILE, POLICIES)?;
        progress("sidecars of web, gateway, orders and payments start");
        let specs = [
            WorkloadSpec::new("shop", "web"),
            WorkloadSpec::new("shop", "gateway"),
            WorkloadSpec::new("shop", "orders")
                .port(8080, "HTTP")
                .port(9090, "GRPC")
                .port(EVENTS, "TCP")
                .port(AUDIT, "TCP"),
            WorkloadSpec::new("shop", "payments").port(8080, "HTTP"),
            WorkloadSpec::new("shop", "stranger")
                .without_sidecar()
                .unannounced(),
        ];
        let workloads = lab.workloads(specs).await?;
        let [web, gateway, orders, payments, stranger] =
            <[_; 5]>::try_from(workloads).map_err(|_| Error::Refused {
                part: "the lab".to_owned(),
                why: "a workload is missing".to_owned(),
            })?;
        progress("applications start");
        let mut servers = Vec::new();
        for (workload, arguments) in [
            (
                &orders,
                &["http", "--name", "orders", "--listen", "[::]:8080"][..],
            ),
            (
                &orders,
                &["http", "--name", "orders", "--listen", "[::]:9090"][..],
            ),
            (
                &orders,
                &[
                    "tcp",
                    "--listen",
                    "[::]:7000",
                    "--greeting",
                    "events of orders",
                ][..],
            ),
            (
                &orders,
                &[
                    "tcp",
                    "--listen",
                    "[::]:7001",
                    "--greeting",
                    "audit of orders",
                ][..],
            ),
            (
                &payments,
                &["http", "--name", "payments", "--listen", "[::]:8080"][..],
            ),
        ] {
            servers.push(workload.app(arguments).await?);
        }
        Ok(Self {
            web,
            gateway,
            orders,
            payments,
            stranger,
            _servers: servers,
            lab,
        })
    }

    /// Those with a sidecar.
    pub(crate) fn sidecars(&self) -> [&Arc<Workload>; 4] {
        [&self.web, &self.gateway, &self.orders, &self.payments]
    }
}

/// Options of the demo's lab.
pub(crate) fn options() -> LabOptions {
    LabOptions {
        svid_ttl: SVID_TTL,
        mesh: json!({"defaultAction": "DENY", "egress": "REFUSE"}),
        // What is in flight when an SVID expires gets little time, so that the end of the walk doesn't wait for it.
        environment: vec![("KITH_EXPIRY_GRACE".to_owned(), "1s".to_owned())],
        ..LabOptions::default()
    }
}
