//! Pod: who it is, where, and whether a sidecar is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{address, is_tcp, port};

/// The init container that is the sidecar.
const SIDECAR: &str = "kith-proxy";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Shared by all pods with the same ones, once in the store.
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    pub(crate) service_account: Arc<str>,
    pub(crate) addresses: Box<[IpAddr]>,
    /// TCP ports that its containers declare, each once.
    pub(crate) ports: Box<[u16]>,
    /// Has a sidecar.
    pub(crate) mesh: bool,
    /// Its addresses are the node's and say nothing of it: no workload, and outside the mesh.
    pub(crate) host_network: bool,
    pub(crate) terminating: bool,
    /// Seconds since 1970.
    pub(crate) created: i64,
}

impl Pod {
    /// None: it has ended, and its address may be another pod's by now.
    pub(crate) fn of(pod: core::Pod) -> Option<Self> {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let host_network = spec.host_network == Some(true);
        let init_containers = spec.init_containers.unwrap_or_default();
        // An init container that does not stay is no sidecar, whatever its name.
        let is_sidecar = |container: &core::Container| {
            container.name == SIDECAR && container.restart_policy.as_deref() == Some("Always")
        };
        let mesh = !host_network && init_containers.iter().any(is_sidecar);
        let declared = spec.containers.into_iter().flat_map(|it| it.ports);
        let ports: BTreeSet<u16> = declared
            .flatten()
            .filter(|declared| is_tcp(declared.protocol.as_deref()))
            .filter_map(|declared| port(declared.container_port))
            .collect();
        let addresses = match status.pod_ips.filter(|ips| !ips.is_empty()) {
            Some(ips) => ips.iter().filter_map(|ip| address(&ip.ip)).collect(),
            None => status.pod_ip.iter().filter_map(|ip| address(ip)).collect(),
        };
        let account = spec.service_account_name.or(spec.service_account);
        let account = account.filter(|account| !account.is_empty());
        Some(Self {
            labels: Arc::new(pod.metadata.labels.unwrap_or_default()),
            service_account: account.as_deref().unwrap_or("default").into(),
            addresses,
            ports: ports.into_iter().collect(),
            mesh,
            host_network,
            terminating: pod.metadata.deletion_timestamp.is_some(),
            created: (pod.metadata.creation_timestamp).map_or(0, |time| time.0.as_second()),
        })
    }

    /// Which of two pods an address belongs to: an address is given to a new pod while the old one is still being
    /// deleted.
    pub(crate) fn precedence(&self) -> (bool, i64) {
        (!self.terminating, self.created)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(changes: Value) -> Option<Pod> {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "web-1", "labels": {"app": "web"}, "creationTimestamp": "2026-11-01T00:00:10Z"},
            "spec": {
                "serviceAccountName": "web",
                "initContainers": [{"name": "kith-proxy", "restartPolicy": "Always"}],
                "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]},
        });
        json_patch::merge(&mut pod, &changes);
        Pod::of(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_is_kept_as_what_decides() {
        let pod = pod(json!({})).unwrap();
        assert_eq!(
            pod,
            Pod {
                labels: Arc::new(BTreeMap::from([("app".into(), "web".into())])),
                service_account: "web".into(),
                addresses: ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()].into(),
                ports: [8080].into(),
                mesh: true,
                host_network: false,
                terminating: false,
                created: 1_793_491_210,
            }
        );
    }

    #[test]
    fn a_pod_is_in_the_mesh_exactly_when_a_sidecar_stays_in_it() {
        for (changes, mesh) in [
            (json!({}), true),
            (json!({"spec": {"initContainers": null}}), false),
            (
                json!({"spec": {"initContainers": [{"name": "kith-proxy"}]}}),
                false,
            ),
            (
                json!({"spec": {"initContainers": [{"name": "kith-capture", "restartPolicy": "Always"}]}}),
                false,
            ),
            // Among the containers it could be anybody's.
            (
                json!({"spec": {"initContainers": null, "containers": [{"name": "kith-proxy", "restartPolicy": "Always"}]}}),
                false,
            ),
            (json!({"spec": {"hostNetwork": true}}), false),
        ] {
            assert_eq!(pod(changes.clone()).unwrap().mesh, mesh, "{changes}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_is_gone() {
        for (phase, gone) in [
            ("Pending", false),
            ("Running", false),
            ("Unknown", false),
            ("Succeeded", true),
            ("Failed", true),
        ] {
            let pod = pod(json!({"status": {"phase": phase}}));
            assert_eq!(pod.is_none(), gone, "{phase}");
        }
    }

    #[test]
    fn addresses_are_canonical_and_one_is_enough() {
        for (status, expected) in [
            (
                json!({"podIPs": [{"ip": "::ffff:10.0.0.9"}]}),
                vec!["10.0.0.9"],
            ),
            (
                json!({"podIPs": null, "podIP": "10.0.0.8"}),
                vec!["10.0.0.8"],
            ),
            (json!({"podIPs": [], "podIP": "10.0.0.8"}), vec!["10.0.0.8"]),
            (json!({"podIPs": null, "podIP": null}), vec![]),
            (json!({"podIPs": [{"ip": "0.0.0.0"}, {"ip": "?"}]}), vec![]),
        ] {
            let found = pod(json!({"status": status.clone()})).unwrap().addresses;
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{status}");
        }
    }

    #[test]
    fn only_ports_that_a_sidecar_captures_are_declared() {
        let containers = json!([
            {"name": "app", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]},
            {"name": "other", "ports": [{"containerPort": 8080, "protocol": "TCP"}, {"containerPort": 0}, {"containerPort": 70000}]},
            {"name": "none"},
        ]);
        let pod = pod(json!({"spec": {"containers": containers}})).unwrap();
        assert_eq!(*pod.ports, [8080]);
    }

    #[test]
    fn without_an_account_it_runs_as_the_default_one() {
        for account in [Value::Null, json!("")] {
            let pod = pod(json!({"spec": {"serviceAccountName": account}})).unwrap();
            assert_eq!(&*pod.service_account, "default");
        }
    }

    #[test]
    fn an_address_belongs_to_the_pod_that_stays_else_to_the_newer_one() {
        let old = json!({"metadata": {"creationTimestamp": "2026-11-01T00:00:00Z"}});
        let new = json!({"metadata": {"creationTimestamp": "2026-11-02T00:00:00Z"}});
        let new_and_leaving = json!({"metadata": {"creationTimestamp": "2026-11-02T00:00:00Z", "deletionTimestamp": "2026-11-02T00:01:00Z"}});
        let precedence = |changes: &Value| pod(changes.clone()).unwrap().precedence();
        assert!(precedence(&new) > precedence(&old));
        assert!(precedence(&old) > precedence(&new_and_leaving));
    }
}
