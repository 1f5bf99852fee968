//! EndpointSlices of services with a selector: which pods stand behind them, at which port, in which condition.

use std::collections::BTreeMap;
use std::rc::Rc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::deployments::is_ready;
use crate::kube::node::Node;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGER: &str = "node";

/// Writes what has changed, and gives back all slices as they are to be.
pub(super) async fn keep(node: &Node) -> Result<Vec<EndpointSlice>, kube::Error> {
    let mut all = Vec::new();
    for service in node.objects.services.all() {
        all.extend(slices(&service, &node.objects.pods.all()));
    }
    let mut written = node.services.written.borrow_mut().clone();
    let key = |slice: &EndpointSlice| (slice.namespace().unwrap_or_default(), slice.name_any());
    for slice in &all {
        if written.get(&key(slice)) == Some(slice) {
            continue;
        }
        let api = Api::<EndpointSlice>::namespaced(
            node.client.clone(),
            &slice.namespace().unwrap_or_default(),
        );
        let parameters = PatchParams::apply(MANAGER).force();
        let result = api
            .patch(&slice.name_any(), &parameters, &Patch::Apply(slice))
            .await;
        match result {
            // Its namespace or service is being deleted.
            Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => {}
            other => drop(other?),
        }
        written.insert(key(slice), slice.clone());
    }
    let gone: Vec<_> = written
        .keys()
        .filter(|known| !all.iter().any(|slice| key(slice) == **known))
        .cloned()
        .collect();
    for known in gone {
        let api = Api::<EndpointSlice>::namespaced(node.client.clone(), &known.0);
        match api.delete(&known.1, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
        written.remove(&known);
    }
    *node.services.written.borrow_mut() = written;
    Ok(all)
}

fn slices(service: &core::Service, pods: &[Rc<core::Pod>]) -> Vec<EndpointSlice> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(selector) = spec.selector.as_ref().filter(|labels| !labels.is_empty()) else {
        return Vec::new();
    };
    let selected = pods.iter().filter(|pod| {
        let labels = pod.labels();
        pod.namespace() == service.namespace()
            && selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    });
    // Pods that name a port differently go into slices of their own.
    let mut groups: BTreeMap<Vec<(String, i32)>, Vec<&Rc<core::Pod>>> = BTreeMap::new();
    for pod in selected {
        groups.entry(ports(spec, pod)).or_default().push(pod);
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    let families = spec
        .ip_families
        .clone()
        .unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let mut slices = Vec::new();
    for family in families {
        for (number, (ports, pods)) in groups.iter().enumerate() {
            let endpoints = pods
                .iter()
                .filter_map(|pod| endpoint(spec, pod, &family))
                .collect();
            slices.push(slice(service, &family, number, ports, endpoints));
        }
    }
    slices
}

/// By service port name, the pod's port.
fn ports(spec: &core::ServiceSpec, pod: &core::Pod) -> Vec<(String, i32)> {
    let ports = spec.ports.iter().flatten();
    let found = ports.filter_map(|port| {
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => {
                let pod = pod.spec.as_ref()?;
                let containers = pod.containers.iter();
                let containers = containers.chain(pod.init_containers.iter().flatten());
                let mut named = containers.flat_map(|container| container.ports.iter().flatten());
                named
                    .find(|port| port.name.as_ref() == Some(name))?
                    .container_port
            }
        };
        Some((port.name.clone().unwrap_or_default(), number))
    });
    found.collect()
}

fn endpoint(spec: &core::ServiceSpec, pod: &core::Pod, family: &str) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut addresses = status
        .pod_ips
        .iter()
        .flatten()
        .map(|entry| entry.ip.clone());
    let address = addresses.find(|ip| ip.contains(':') == (family == "IPv6"))?;
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let always = spec.publish_not_ready_addresses == Some(true);
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some((serving && !terminating) || always),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        hostname: pod.spec.as_ref().and_then(|spec| spec.hostname.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn slice(
    service: &core::Service,
    family: &str,
    number: usize,
    ports: &[(String, i32)],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.name_any();
    let declared = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let declared: Vec<&core::ServicePort> = declared.collect();
    let ports = ports.iter().map(|(port, target)| {
        let same = |entry: &&&core::ServicePort| entry.name.as_deref().unwrap_or_default() == port;
        let entry = declared.iter().find(same);
        EndpointPort {
            name: Some(port.clone()),
            port: Some(*target),
            protocol: Some("TCP".to_owned()),
            app_protocol: entry.and_then(|entry| entry.app_protocol.clone()),
        }
    });
    let labels = json!({SERVICE: name, "endpointslice.kubernetes.io/managed-by": MANAGER});
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}-{number}", family.to_lowercase())),
            namespace: service.namespace(),
            labels: serde_json::from_value(labels).ok(),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: name.clone(),
                uid: service.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints,
        ports: Some(ports.collect()),
    }
}
