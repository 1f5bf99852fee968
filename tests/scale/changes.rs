//! One change after another in the API, and when it was where it had to be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kith_xds_client::Kind;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::mpsc;

use crate::cluster::{ApiServer, Control};
use crate::population::{Population, endpoint, slice_name};
use crate::sidecars::{Arrival, Fleet};
use crate::{Arguments, Failure};

/// Between two changes, so that each is alone.
const PAUSE: Duration = Duration::from_millis(50);
/// What has not come by then will not.
const LONGEST: Duration = Duration::from_secs(3);

pub(crate) struct Measured {
    /// From before the request to the API server until a sidecar has it, for every sidecar that asked for it.
    latencies: Vec<Duration>,
    changes: usize,
    /// Responses to sidecars that the change is none of the business of.
    pub(crate) strays: usize,
    /// Sidecars that were not told.
    pub(crate) missing: usize,
    cpu_before: Duration,
}

pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

pub(crate) async fn measure(
    api: &ApiServer,
    population: &Population,
    fleet: &Fleet,
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
    arguments: &Arguments,
    control: &Control,
) -> Result<Measured, Failure> {
    let mut measured = Measured {
        latencies: Vec::new(),
        changes: arguments.changes,
        strays: 0,
        missing: 0,
        cpu_before: control.cpu()?,
    };
    while arrivals.try_recv().is_ok() {}
    for number in 0..arguments.changes {
        // Three of four are about who is behind a service, one about a pod itself.
        let begun = Instant::now();
        let (kind, name, mut waiting) = if number % 4 == 3 {
            relabel(api, population, fleet, number).await?
        } else {
            change_endpoints(api, population, fleet, number).await?
        };
        let deadline = begun + LONGEST;
        while !waiting.is_empty() {
            let Ok(Some(arrival)) = tokio::time::timeout_at(deadline.into(), arrivals.recv()).await
            else {
                break;
            };
            measured.on_arrival(&arrival, kind, &name, &mut waiting, begun);
        }
        measured.missing += waiting.len();
        tokio::time::sleep(PAUSE).await;
        // Late ones are strays: everybody who asked has been told.
        while let Ok(arrival) = arrivals.try_recv() {
            measured.on_arrival(&arrival, kind, &name, &mut waiting, begun);
        }
    }
    Ok(measured)
}

impl Measured {
    fn on_arrival(
        &mut self,
        arrival: &Arrival,
        kind: Kind,
        name: &str,
        waiting: &mut BTreeSet<usize>,
        begun: Instant,
    ) {
        let expected = arrival.kind == kind && arrival.names == [name];
        if expected && waiting.remove(&arrival.sidecar) {
            self.latencies.push(arrival.at - begun);
        } else {
            self.strays += 1;
        }
    }

    pub(crate) fn latency(&self) -> Percentiles {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let at = |share: f64| {
            let index = ((sorted.len() as f64 * share).ceil() as usize).max(1) - 1;
            sorted
                .get(index)
                .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
        };
        Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            most: at(1.0),
        }
    }

    pub(crate) fn deliveries(&self) -> usize {
        self.latencies.len()
    }

    pub(crate) fn cpu_ms_per_change(&self, control: &Control) -> Result<f64, Failure> {
        let used = control.cpu()?.saturating_sub(self.cpu_before);
        Ok(used.as_secs_f64() * 1000.0 / self.changes.max(1) as f64)
    }
}

/// One pod is not ready any more, or is again: who calls its service has to know.
async fn change_endpoints(
    api: &ApiServer,
    population: &Population,
    fleet: &Fleet,
    number: usize,
) -> Result<(Kind, String, BTreeSet<usize>), Failure> {
    // A step that is prime to every number of services that anybody would ask for.
    let service = &population.services[(number * 7919) % population.services.len()];
    let endpoints: Vec<_> = service
        .backends
        .iter()
        .enumerate()
        .map(|(position, backend)| {
            let ready = position != number % service.backends.len();
            endpoint(&population.pods[*backend], "IPv4", ready)
        })
        .collect();
    let slices = Api::<EndpointSlice>::namespaced(api.client.clone(), &service.namespace);
    let name = slice_name(&service.name, "IPv4");
    let change = Patch::Merge(json!({"endpoints": endpoints}));
    slices
        .patch(&name, &PatchParams::default(), &change)
        .await?;
    let address = service.addresses[0].clone();
    let waiting = fleet.asked.get(&address).cloned().unwrap_or_default();
    Ok((Kind::Address, address, waiting))
}

/// A pod's labels are part of its own configuration, and of nobody else's.
async fn relabel(
    api: &ApiServer,
    population: &Population,
    fleet: &Fleet,
    number: usize,
) -> Result<(Kind, String, BTreeSet<usize>), Failure> {
    let sidecar = (number * 7919) % fleet.size;
    let pod = &population.pods[sidecar];
    let pods = Api::<Pod>::namespaced(api.client.clone(), &pod.namespace);
    let change = json!({"metadata": {"labels": {"version": format!("v{}", number + 2)}}});
    pods.patch(&pod.name, &PatchParams::default(), &Patch::Merge(change))
        .await?;
    Ok((Kind::WorkloadConfig, pod.node(), BTreeSet::from([sidecar])))
}
