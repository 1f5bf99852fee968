//! Service: the addresses that clients dial, and what is spoken there.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::protocol::declared;
use super::{address, is_tcp, port};
use crate::yaml::schema::Protocol;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Of both families when it is dual stack. None when it is headless: clients then dial pods.
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) ports: Box<[ServicePort]>,
    pub(crate) publish_not_ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// What a slice's port is found by; empty when the Service has one port only.
    pub(crate) name: Box<str>,
    pub(crate) number: u16,
    pub(crate) protocol: Option<Protocol>,
    /// Where it goes, for slices to say otherwise: of a named port this is not even a guess.
    pub(crate) target: u16,
}

impl Service {
    /// None: an ExternalName, an alias in DNS for something that is looked up by its own address.
    pub(crate) fn of(service: core::Service) -> Option<Self> {
        let spec = service.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let given = match spec.cluster_ips.filter(|ips| !ips.is_empty()) {
            Some(ips) => ips,
            None => spec.cluster_ip.into_iter().collect(),
        };
        let ports = spec.ports.unwrap_or_default().into_iter();
        let ports = ports.filter(|port| is_tcp(port.protocol.as_deref()));
        Some(Self {
            // "None" says that it is headless.
            addresses: given.iter().filter_map(|ip| address(ip)).collect(),
            ports: ports.filter_map(ServicePort::of).collect(),
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        })
    }
}

impl ServicePort {
    fn of(given: core::ServicePort) -> Option<Self> {
        let number = port(given.port)?;
        let target = match given.target_port {
            Some(IntOrString::Int(target)) => port(target),
            Some(IntOrString::String(_)) | None => None,
        };
        Some(Self {
            protocol: declared(given.app_protocol.as_deref(), given.name.as_deref()),
            name: given.name.unwrap_or_default().into(),
            number,
            target: target.unwrap_or(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Option<Service> {
        let service = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec});
        Service::of(serde_json::from_value(service).unwrap())
    }

    #[test]
    fn the_addresses_are_those_of_the_cluster() {
        for (spec, expected) in [
            (json!({"clusterIP": "10.96.0.1"}), vec!["10.96.0.1"]),
            (
                json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]}),
                vec!["10.96.0.1", "fd00::1"],
            ),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), vec![]),
            (json!({}), vec![]),
        ] {
            let found = service(spec.clone()).unwrap().addresses;
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn an_external_name_has_nothing_to_resolve() {
        let spec =
            json!({"type": "ExternalName", "externalName": "example.com", "ports": [{"port": 80}]});
        assert_eq!(service(spec), None);
    }

    #[test]
    fn ports_say_what_is_spoken_and_where_it_goes() {
        let ports = json!([
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "web", "port": 81, "targetPort": "web", "appProtocol": "kubernetes.io/h2c"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "sig", "port": 54, "protocol": "SCTP"},
            {"name": "db", "port": 5432, "protocol": "TCP"},
        ]);
        let found = service(json!({"ports": ports})).unwrap().ports;
        let port = |name: &str, number, protocol, target| ServicePort {
            name: name.into(),
            number,
            protocol,
            target,
        };
        assert_eq!(
            *found,
            [
                port("http", 80, Some(Protocol::Http), 8080),
                port("web", 81, Some(Protocol::Http2), 81),
                port("db", 5432, None, 5432),
            ]
        );
    }
}
