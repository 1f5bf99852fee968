//! What one workload's sidecar must know: its configuration and the policies in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_certs::SpiffeId;
use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;
use prost::Message;

use super::mtls::Modes;
use super::select::{Index, Scope};
use crate::catalog::{Encoded, Node, content_hash};
use crate::problem::Problem;
use crate::yaml::schema::{DefaultAction, Egress, EncodedSlash, MeshConfig, Protocol, Workload};
use crate::yaml::{Document, Loaded};

/// One workload as its own sidecar and as its clients see it.
pub(super) struct Resolved {
    /// None: not in the mesh.
    pub(super) principal: Option<SpiffeId>,
    /// Declared ports, and those that PeerAuthentication names.
    pub(super) ports: Vec<api::Port>,
    /// None: not in the mesh, no sidecar.
    pub(super) node: Option<Arc<Node>>,
}

/// In the index's order.
pub(super) fn resolve(
    loaded: &Loaded,
    mesh: &MeshConfig,
    index: &Index<'_>,
    modes: Vec<Modes>,
    tokens: Vec<Vec<api::RequestAuthentication>>,
    problems: &mut Vec<Problem>,
) -> Vec<Resolved> {
    let mut policies = policies_in_force(loaded, mesh, index);
    let each = index.workloads.iter().zip(modes).zip(tokens).enumerate();
    each.map(|(position, ((workload, modes), tokens))| {
        let principal = match principal(workload, mesh) {
            Ok(principal) => principal,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        // Without a sidecar nobody is there to speak mTLS, whatever PeerAuthentication says.
        let modes = if workload.spec.mesh {
            modes
        } else {
            Modes::disabled()
        };
        let ports = ports(&workload.spec, &modes);
        let node = principal.clone().map(|principal| {
            let policies = std::mem::take(&mut policies[position]);
            Arc::new(node(
                workload,
                mesh,
                principal,
                &modes,
                ports.clone(),
                policies,
                tokens,
            ))
        });
        Resolved {
            principal,
            ports,
            node,
        }
    })
    .collect()
}

/// A policy is encoded once, however many workloads it selects.
fn policies_in_force(
    loaded: &Loaded,
    mesh: &MeshConfig,
    index: &Index<'_>,
) -> Vec<BTreeMap<String, Arc<Encoded>>> {
    let mut in_force = vec![BTreeMap::new(); index.workloads.len()];
    for document in loaded.files().flat_map(|file| &file.authorization_policies) {
        let encoded = Encoded::new(
            Kind::AuthorizationPolicy,
            document.id(),
            &document.spec.to_wire(),
        );
        let scope = Scope::of(&document.metadata.namespace, &mesh.root_namespace);
        for position in index.select(scope, &document.spec.selector.match_labels.0) {
            in_force[position].insert(document.id(), Arc::clone(&encoded));
        }
    }
    in_force
}

fn principal(
    workload: &Document<Workload>,
    mesh: &MeshConfig,
) -> Result<Option<SpiffeId>, Problem> {
    if !workload.spec.mesh {
        return Ok(None);
    }
    if let Some(given) = &workload.spec.spiffe_id {
        return Ok(Some(given.0.clone()));
    }
    let (namespace, account) = (&workload.metadata.namespace, &workload.spec.service_account);
    let text = format!("{}/ns/{namespace}/sa/{account}", mesh.trust_domain.0.id());
    let parsed = SpiffeId::parse(&text);
    parsed.map(Some).map_err(|error| {
        workload
            .place
            .problem("spec.serviceAccount", format!("`{text}` {error}"))
    })
}

fn ports(workload: &Workload, modes: &Modes) -> Vec<api::Port> {
    // What PeerAuthentication says of ports that nobody declared matters to clients and server alike.
    let undeclared = modes.ports.iter().map(|(number, mode)| {
        let port = api::Port {
            number: u32::from(*number),
            mtls_mode: (*mode).into(),
            encoded_slash: api::EncodedSlash::Refuse.into(),
            protocol: api::Protocol::Unspecified.into(),
        };
        (*number, port)
    });
    let mut ports: BTreeMap<u16, api::Port> = undeclared.collect();
    for declared in &workload.ports {
        let number = declared.port.get();
        let mode = modes.ports.get(&number).copied().unwrap_or(modes.default);
        let encoded_slash = match declared.encoded_slash {
            EncodedSlash::Refuse => api::EncodedSlash::Refuse,
            EncodedSlash::Keep => api::EncodedSlash::Keep,
            EncodedSlash::Decode => api::EncodedSlash::Decode,
        };
        let port = api::Port {
            number: u32::from(number),
            protocol: protocol(declared.protocol).into(),
            mtls_mode: mode.into(),
            encoded_slash: encoded_slash.into(),
        };
        ports.insert(number, port);
    }
    ports.into_values().collect()
}

pub(super) fn protocol(declared: Option<Protocol>) -> api::Protocol {
    match declared {
        None => api::Protocol::Unspecified,
        Some(Protocol::Http) => api::Protocol::Http1,
        Some(Protocol::Http2 | Protocol::Grpc) => api::Protocol::Http2,
        Some(Protocol::Tcp) => api::Protocol::Tcp,
        Some(Protocol::Tls) => api::Protocol::Tls,
    }
}

fn node(
    workload: &Document<Workload>,
    mesh: &MeshConfig,
    principal: SpiffeId,
    modes: &Modes,
    ports: Vec<api::Port>,
    policies: BTreeMap<String, Arc<Encoded>>,
    request_authentication: Vec<api::RequestAuthentication>,
) -> Node {
    let mut config = api::WorkloadConfig {
        revision: String::new(),
        namespace: workload.metadata.namespace.clone(),
        name: workload.metadata.name.clone(),
        service_account: workload.spec.service_account.clone(),
        labels: workload.metadata.labels.clone(),
        trust_domain: mesh.trust_domain.0.to_string(),
        trust_domain_aliases: mesh
            .trust_domain_aliases
            .iter()
            .map(|alias| alias.0.to_string())
            .collect(),
        addresses: workload
            .spec
            .addresses
            .iter()
            .map(|address| address.0.to_string())
            .collect(),
        default_mtls_mode: modes.default.into(),
        ports,
        default_action: match mesh.default_action {
            DefaultAction::Deny => api::DefaultAction::Deny,
            DefaultAction::Allow => api::DefaultAction::Allow,
        }
        .into(),
        policies: policies.keys().cloned().collect(),
        egress_mode: match mesh.egress {
            Egress::Refuse => api::EgressMode::Refuse,
            Egress::Allow => api::EgressMode::Allow,
        }
        .into(),
        trusted_forwarded_hops: mesh.trusted_forwarded_hops,
        request_authentication,
    };
    // The policies' versions are of one length, and so the parts cannot run into each other.
    let content = config.encode_to_vec();
    let mut parts: Vec<&[u8]> = policies
        .values()
        .map(|policy| policy.version().as_bytes())
        .collect();
    parts.push(&content);
    config.revision = content_hash(&parts);
    let id = workload.id();
    let revision = config.revision.clone();
    let config = Encoded::new(Kind::WorkloadConfig, id.clone(), &config);
    Node {
        id,
        principal,
        revision,
        config,
        policies,
    }
}
