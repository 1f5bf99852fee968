//! EndpointSlice: which pods are behind a Service, at which ports.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as discovery;

use super::protocol::declared;
use super::{Id, address, id, is_tcp, port};
use crate::yaml::schema::Protocol;

const SERVICE: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) service: Id,
    pub(crate) ports: Box<[SlicePort]>,
    pub(crate) endpoints: Box<[Endpoint]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlicePort {
    /// As the Service names it.
    pub(crate) name: Box<str>,
    pub(crate) number: u16,
    pub(crate) protocol: Option<Protocol>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// The pod that it is. None: something else, known by its address alone.
    pub(crate) pod: Option<Id>,
    pub(crate) ready: bool,
    /// Would still answer, though perhaps it is being deleted.
    pub(crate) serving: bool,
}

impl Slice {
    /// None: it belongs to no Service, or has names instead of addresses.
    pub(crate) fn of(slice: discovery::EndpointSlice) -> Option<Self> {
        let namespace = slice.metadata.namespace.unwrap_or_default();
        let labels = slice.metadata.labels.unwrap_or_default();
        let service = labels.get(SERVICE).filter(|name| !name.is_empty())?;
        let of_family: fn(&IpAddr) -> bool = match slice.address_type.as_str() {
            "IPv4" => IpAddr::is_ipv4,
            "IPv6" => IpAddr::is_ipv6,
            _ => return None,
        };
        let ports = slice.ports.unwrap_or_default().into_iter();
        let ports = ports.filter(|port| is_tcp(port.protocol.as_deref()));
        let endpoints = slice.endpoints.into_iter();
        Some(Self {
            service: id(Some(&namespace), service),
            ports: ports.filter_map(SlicePort::of).collect(),
            endpoints: endpoints
                .filter_map(|given| Endpoint::of(&namespace, given))
                .filter(|endpoint| of_family(&endpoint.address))
                .collect(),
        })
    }
}

impl SlicePort {
    fn of(given: discovery::EndpointPort) -> Option<Self> {
        Some(Self {
            number: port(given.port?)?,
            protocol: declared(given.app_protocol.as_deref(), given.name.as_deref()),
            name: given.name.unwrap_or_default().into(),
        })
    }
}

impl Endpoint {
    fn of(namespace: &str, given: discovery::Endpoint) -> Option<Self> {
        // Consumers take the first: a second one was never more than a synonym, and is deprecated.
        let address = address(given.addresses.first()?)?;
        let target = given.target_ref.unwrap_or_default();
        let pod = match (target.kind.as_deref(), target.name) {
            // A slice speaks of pods of its own namespace: anything else is a claim on somebody else's.
            (Some("Pod"), Some(name)) => match target.namespace.as_deref() {
                None | Some("") => Some(id(Some(namespace), &name)),
                Some(given) if given == namespace => Some(id(Some(namespace), &name)),
                Some(_) => return None,
            },
            _ => None,
        };
        let conditions = given.conditions.unwrap_or_default();
        // "nil should be interpreted as true" (EndpointConditions), and a ready endpoint serves.
        let ready = conditions.ready.unwrap_or(true);
        Some(Self {
            address,
            pod,
            ready,
            serving: conditions.serving.unwrap_or(ready),
        })
    }
}

/// The endpoints that get traffic. Those that are leaving but still answer are better than nobody: a rollout of a single
/// replica would fail requests otherwise.
pub(crate) fn in_use<'a>(
    endpoints: Vec<(&'a Endpoint, &'a Slice)>,
    publish_not_ready: bool,
) -> Vec<(&'a Endpoint, &'a Slice)> {
    if publish_not_ready {
        return endpoints;
    }
    let some_ready = endpoints.iter().any(|(endpoint, _)| endpoint.ready);
    let endpoints = endpoints.into_iter();
    endpoints
        .filter(|(endpoint, _)| {
            if some_ready {
                endpoint.ready
            } else {
                endpoint.serving
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(changes: Value) -> Option<Slice> {
        let mut slice = json!({
            "metadata": {"namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [],
        });
        json_patch::merge(&mut slice, &changes);
        Slice::of(serde_json::from_value(slice).unwrap())
    }

    fn endpoints(endpoints: Value) -> Box<[Endpoint]> {
        slice(json!({"endpoints": endpoints})).unwrap().endpoints
    }

    #[test]
    fn an_endpoint_is_ready_unless_the_slice_denies_it() {
        for (conditions, ready, serving) in [
            (Value::Null, true, true),
            (json!({}), true, true),
            (json!({"ready": false}), false, false),
            (
                json!({"ready": false, "serving": true, "terminating": true}),
                false,
                true,
            ),
            (json!({"ready": true, "serving": true}), true, true),
        ] {
            let found = endpoints(json!([{"addresses": ["10.0.0.1"], "conditions": conditions}]));
            assert_eq!(
                (found[0].ready, found[0].serving),
                (ready, serving),
                "{conditions}"
            );
        }
    }

    #[test]
    fn an_endpoint_is_a_pod_of_the_same_namespace_or_known_by_its_address() {
        for (target, expected) in [
            (Value::Null, Some(None)),
            (
                json!({"kind": "Pod", "name": "web-1"}),
                Some(Some("shop/web-1")),
            ),
            (
                json!({"kind": "Pod", "name": "web-1", "namespace": "shop"}),
                Some(Some("shop/web-1")),
            ),
            (
                json!({"kind": "Pod", "name": "web-1", "namespace": "bank"}),
                None,
            ),
            (json!({"kind": "Node", "name": "n"}), Some(None)),
        ] {
            let found = endpoints(json!([{"addresses": ["10.0.0.1"], "targetRef": target}]));
            let found: Vec<_> = found.iter().map(|it| it.pod.as_deref()).collect();
            assert_eq!(found.first().copied(), expected, "{target}");
        }
    }

    #[test]
    fn a_slice_has_addresses_of_its_family() {
        let both = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}, {"addresses": []}, {"addresses": ["x"]}]);
        for (family, expected) in [
            ("IPv4", Some(vec!["10.0.0.1"])),
            ("IPv6", Some(vec!["fd00::1"])),
            ("FQDN", None),
        ] {
            let found = slice(json!({"addressType": family, "endpoints": both}));
            let found = found.map(|slice| {
                let endpoints = slice.endpoints.iter();
                endpoints
                    .map(|it| it.address.to_string())
                    .collect::<Vec<_>>()
            });
            let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect());
            assert_eq!(found, expected, "{family}");
        }
    }

    #[test]
    fn a_slice_of_no_service_is_nobodys() {
        let labels = json!({"metadata": {"labels": {"kubernetes.io/service-name": null}}});
        assert_eq!(slice(labels), None);
    }

    #[test]
    fn ports_without_a_number_or_for_udp_say_nothing() {
        let ports = json!([{"name": "a"}, {"name": "b", "port": 53, "protocol": "UDP"}, {"name": "grpc-c", "port": 9}]);
        let found = slice(json!({"ports": ports})).unwrap().ports;
        let expected = SlicePort {
            name: "grpc-c".into(),
            number: 9,
            protocol: Some(Protocol::Grpc),
        };
        assert_eq!(*found, [expected]);
    }

    #[test]
    fn endpoints_that_are_leaving_are_used_when_no_other_is_ready() {
        let given = [
            ("10.0.0.1", true, true),
            ("10.0.0.2", false, true),
            ("10.0.0.3", false, false),
        ];
        let given = given.map(|(address, ready, serving)| Endpoint {
            address: address.parse().unwrap(),
            pod: None,
            ready,
            serving,
        });
        let slice = slice(json!({})).unwrap();
        let check = |among: &[usize], publish_not_ready, expected: &[usize]| {
            let of = |list: &[usize]| -> Vec<_> {
                list.iter().map(|at| (&given[*at], &slice)).collect()
            };
            assert_eq!(in_use(of(among), publish_not_ready), of(expected));
        };
        check(&[0, 1, 2], false, &[0]);
        check(&[1, 2], false, &[1]);
        check(&[2], false, &[]);
        check(&[0, 1, 2], true, &[0, 1, 2]);
    }
}
