//! From the resources that came over the wire to the types that decisions are made of.
//!
//! All or nothing: whatever can't be honoured exactly is an error that names the field. Nothing is
//! dropped, nothing is guessed. The control plane and the tool use the same functions, so that what they
//! accept is what a sidecar accepts.

mod authentication;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kith_policy::{
    Action, Condition, DefaultAction, EncodedSlash, FieldError, Mesh, Operation, Policy, Principal,
    Rule, Source, ValidPolicy,
};
use kith_xds_client::api::mesh as wire;

use crate::resolve::{Destination, DestinationPort, Endpoint, Target};
use crate::snapshot::{Egress, MtlsMode, Port, Protocol, Workload};

type Errors = Vec<FieldError>;

fn error(field: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError {
        field: field.into(),
        message: message.into(),
    }
}

fn finish<T>(value: T, errors: Errors) -> Result<T, Errors> {
    if errors.is_empty() {
        Ok(value)
    } else {
        Err(errors)
    }
}

/// The resource name must be the node id of the workload that it describes.
pub fn workload(name: &str, config: &wire::WorkloadConfig) -> Result<Workload, Vec<FieldError>> {
    let mut errors = Vec::new();
    for (field, value) in [
        ("revision", &config.revision),
        ("namespace", &config.namespace),
        ("name", &config.name),
        ("trust_domain", &config.trust_domain),
    ] {
        if value.is_empty() {
            errors.push(error(field, "must not be empty"));
        }
    }
    if name != format!("{}/{}", config.namespace, config.name) {
        errors.push(error(
            "name",
            format!(
                "describes {}/{} but was sent as {name}",
                config.namespace, config.name
            ),
        ));
    }
    if config.addresses.is_empty() {
        errors.push(error(
            "addresses",
            "must name at least one address of the workload",
        ));
    }
    let addresses = config
        .addresses
        .iter()
        .enumerate()
        .filter_map(|(index, text)| address(text, || format!("addresses[{index}]"), &mut errors))
        .collect();
    let default_mtls = mtls(
        config.default_mtls_mode,
        || "default_mtls_mode".into(),
        &mut errors,
    );
    let ports = ports(&config.ports, "ports", &mut errors);
    let default_action = match wire::DefaultAction::try_from(config.default_action) {
        Ok(wire::DefaultAction::Deny) => DefaultAction::Deny,
        Ok(wire::DefaultAction::Allow) => DefaultAction::Allow,
        _ => {
            errors.push(error(
                "default_action",
                format!("{} is neither DENY nor ALLOW", config.default_action),
            ));
            DefaultAction::Deny
        }
    };
    let egress = match wire::EgressMode::try_from(config.egress_mode) {
        Ok(wire::EgressMode::Refuse) => Egress::Refuse,
        Ok(wire::EgressMode::Allow) => Egress::Allow,
        _ => {
            errors.push(error(
                "egress_mode",
                format!("{} is neither REFUSE nor ALLOW", config.egress_mode),
            ));
            Egress::Refuse
        }
    };
    let workload = Workload {
        revision: config.revision.clone(),
        namespace: config.namespace.clone(),
        name: config.name.clone(),
        mesh: Mesh {
            trust_domain: config.trust_domain.clone(),
            trust_domain_aliases: config.trust_domain_aliases.clone(),
            default_action,
        },
        addresses,
        default_mtls,
        ports,
        egress,
        trusted_hops: config.trusted_forwarded_hops,
        tokens: authentication::rules(&config.request_authentication, &mut errors).map(Arc::new),
        policies: config.policies.clone(),
    };
    finish(workload, errors)
}

pub fn policy(
    name: &str,
    resource: &wire::AuthorizationPolicy,
) -> Result<Arc<ValidPolicy>, Vec<FieldError>> {
    if name != format!("{}/{}", resource.namespace, resource.name) {
        return Err(vec![error(
            "name",
            format!(
                "is {}/{} but was sent as {name}",
                resource.namespace, resource.name
            ),
        )]);
    }
    let action = match wire::Action::try_from(resource.action) {
        Ok(wire::Action::Allow) => Action::Allow,
        Ok(wire::Action::Deny) => Action::Deny,
        Ok(wire::Action::Audit) => Action::Audit,
        _ => {
            return Err(vec![error(
                "action",
                format!("{} is none of ALLOW, DENY, AUDIT", resource.action),
            )]);
        }
    };
    let rules = resource
        .rules
        .iter()
        .map(|rule| Rule {
            from: rule.from.iter().map(source).collect(),
            to: rule.to.iter().map(operation).collect(),
            when: rule
                .when
                .iter()
                .map(|when| Condition {
                    key: when.key.clone(),
                    values: when.values.clone(),
                    not_values: when.not_values.clone(),
                    cel: (!when.cel.is_empty()).then(|| when.cel.clone()),
                })
                .collect(),
        })
        .collect();
    ValidPolicy::new(Policy {
        namespace: resource.namespace.clone(),
        name: resource.name.clone(),
        action,
        rules,
        dry_run: resource.dry_run,
    })
    .map(Arc::new)
}

fn source(source: &wire::Source) -> Source {
    // Exhaustive on purpose: a field added to the message can't be forgotten here.
    let wire::Source {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        request_principals,
        not_request_principals,
    } = source.clone();
    Source {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        request_principals,
        not_request_principals,
    }
}

fn operation(operation: &wire::Operation) -> Operation {
    let wire::Operation {
        hosts,
        not_hosts,
        ports,
        not_ports,
        methods,
        not_methods,
        paths,
        not_paths,
    } = operation.clone();
    Operation {
        hosts,
        not_hosts,
        ports,
        not_ports,
        methods,
        not_methods,
        paths,
        not_paths,
    }
}

/// The resource name is the address or host that it answers for.
pub fn destination(resource: &wire::Address) -> Result<Destination, Vec<FieldError>> {
    let mut errors = Vec::new();
    let destination = match &resource.kind {
        None => return Err(vec![error("kind", "is neither a service nor a workload")]),
        Some(wire::address::Kind::Workload(workload)) => {
            Destination::Workload(endpoint(workload, "workload", &mut errors))
        }
        Some(wire::address::Kind::Service(service)) => {
            let endpoints: Vec<Endpoint> = service
                .endpoints
                .iter()
                .enumerate()
                .map(|(index, it)| {
                    endpoint(it, &format!("service.endpoints[{index}]"), &mut errors)
                })
                .collect();
            let ports = service
                .ports
                .iter()
                .enumerate()
                .filter_map(|(index, port)| {
                    service_port(service, port, index, &endpoints, &mut errors)
                })
                .collect();
            Destination::Service {
                name: format!("{}/{}", service.namespace, service.name).into(),
                ports,
            }
        }
    };
    finish(destination, errors)
}

fn service_port(
    service: &wire::Service,
    port: &wire::ServicePort,
    index: usize,
    endpoints: &[Endpoint],
    errors: &mut Errors,
) -> Option<(u16, DestinationPort)> {
    let at = format!("service.ports[{index}]");
    let number = port_number(port.number, || format!("{at}.number"), errors)?;
    let protocol = protocol(port.protocol, || format!("{at}.protocol"), errors);
    let default_target = port_number(port.target_port, || format!("{at}.target_port"), errors)?;
    let mut targets = Vec::with_capacity(endpoints.len());
    for (endpoint, resource) in endpoints.iter().zip(&service.endpoints) {
        let target_port = match resource.target_ports.get(&port.number) {
            None => default_target,
            // Named ports differ from pod to pod, and this one has none of that name.
            Some(0) => continue,
            Some(own) => port_number(
                *own,
                || format!("{at}: target_ports of {}", resource.workload),
                errors,
            )?,
        };
        targets.push(Arc::new(Target {
            workload: Arc::clone(&endpoint.workload),
            address: SocketAddr::new(endpoint.ip, target_port),
            principals: endpoint.principals.clone(),
        }));
    }
    Some((
        number,
        DestinationPort {
            protocol,
            targets: targets.into(),
        },
    ))
}

fn endpoint(endpoint: &wire::Endpoint, at: &str, errors: &mut Errors) -> Endpoint {
    let ip = address(&endpoint.address, || format!("{at}.address"), errors);
    let mut principals = Vec::with_capacity(endpoint.spiffe_ids.len());
    for (index, id) in endpoint.spiffe_ids.iter().enumerate() {
        match Principal::parse(id) {
            Ok(principal) => principals.push(principal),
            Err(problem) => errors.push(error(
                format!("{at}.spiffe_ids[{index}]"),
                problem.to_string(),
            )),
        }
    }
    Endpoint {
        workload: endpoint.workload.as_str().into(),
        ip: ip.unwrap_or(IpAddr::from([0, 0, 0, 0])),
        principals: principals.into(),
        ports: ports(&endpoint.ports, &format!("{at}.ports"), errors),
    }
}

fn ports(ports: &[wire::Port], at: &str, errors: &mut Errors) -> HashMap<u16, Port> {
    let mut by_number = HashMap::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let Some(number) = port_number(port.number, || format!("{at}.number"), errors) else {
            continue;
        };
        let encoded_slash = match wire::EncodedSlash::try_from(port.encoded_slash) {
            Ok(wire::EncodedSlash::Unspecified | wire::EncodedSlash::Refuse) => {
                EncodedSlash::Refuse
            }
            Ok(wire::EncodedSlash::Keep) => EncodedSlash::Keep,
            Ok(wire::EncodedSlash::Decode) => EncodedSlash::Decode,
            Err(_) => {
                errors.push(error(
                    format!("{at}.encoded_slash"),
                    format!("{} is unknown", port.encoded_slash),
                ));
                EncodedSlash::Refuse
            }
        };
        let value = Port {
            protocol: protocol(port.protocol, || format!("{at}.protocol"), errors),
            mtls: mtls(port.mtls_mode, || format!("{at}.mtls_mode"), errors),
            encoded_slash,
        };
        if by_number.insert(number, value).is_some() {
            errors.push(error(
                format!("{at}.number"),
                format!("port {number} is described twice"),
            ));
        }
    }
    by_number
}

fn protocol(value: i32, field: impl Fn() -> String, errors: &mut Errors) -> Option<Protocol> {
    match wire::Protocol::try_from(value) {
        Ok(wire::Protocol::Unspecified) => None,
        Ok(wire::Protocol::Http1) => Some(Protocol::Http1),
        Ok(wire::Protocol::Http2) => Some(Protocol::Http2),
        Ok(wire::Protocol::Tcp) => Some(Protocol::Tcp),
        Ok(wire::Protocol::Tls) => Some(Protocol::Tls),
        Err(_) => {
            errors.push(error(
                field(),
                format!("{value} is not a protocol known to this version"),
            ));
            None
        }
    }
}

fn mtls(value: i32, field: impl Fn() -> String, errors: &mut Errors) -> MtlsMode {
    match wire::MtlsMode::try_from(value) {
        Ok(wire::MtlsMode::Strict) => MtlsMode::Strict,
        Ok(wire::MtlsMode::Permissive) => MtlsMode::Permissive,
        Ok(wire::MtlsMode::Disable) => MtlsMode::Disable,
        _ => {
            errors.push(error(
                field(),
                format!("{value} is none of STRICT, PERMISSIVE, DISABLE"),
            ));
            MtlsMode::Strict
        }
    }
}

fn port_number(value: u32, field: impl Fn() -> String, errors: &mut Errors) -> Option<u16> {
    match u16::try_from(value) {
        Ok(number) if number != 0 => Some(number),
        _ => {
            errors.push(error(field(), format!("{value} is not a port: 1 to 65535")));
            None
        }
    }
}

fn address(text: &str, field: impl Fn() -> String, errors: &mut Errors) -> Option<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_canonical()),
        Err(_) => {
            errors.push(error(field(), format!("{text:?} is not an IP address")));
            None
        }
    }
}
