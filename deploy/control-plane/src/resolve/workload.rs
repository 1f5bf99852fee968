//! What one workload's sidecar must know: its configuration and the policies in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_certs::SpiffeId;
use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;
use prost::Message;

use super::mtls::Modes;
use super::rules::Subject;
use crate::catalog::{Encoded, Node, Version};
use crate::yaml::schema::{
    DefaultAction, Egress, EncodedSlash, MeshConfig, Protocol, WorkloadPort,
};

/// What every workload is told of the mesh.
#[derive(Debug)]
pub(super) struct Mesh {
    /// The trust domain as a SPIFFE ID, `spiffe://example.org`.
    pub(super) id: String,
    trust_domain: String,
    trust_domain_aliases: Vec<String>,
    default_action: api::DefaultAction,
    egress_mode: api::EgressMode,
    trusted_forwarded_hops: u32,
}

impl Mesh {
    pub(super) fn new(config: &MeshConfig) -> Self {
        let aliases = config.trust_domain_aliases.iter();
        Self {
            id: config.trust_domain.0.id().to_string(),
            trust_domain: config.trust_domain.0.to_string(),
            trust_domain_aliases: aliases.map(|alias| alias.0.to_string()).collect(),
            default_action: match config.default_action {
                DefaultAction::Deny => api::DefaultAction::Deny,
                DefaultAction::Allow => api::DefaultAction::Allow,
            },
            egress_mode: match config.egress {
                Egress::Refuse => api::EgressMode::Refuse,
                Egress::Allow => api::EgressMode::Allow,
            },
            trusted_forwarded_hops: config.trusted_forwarded_hops,
        }
    }
}

pub(super) fn ports(declared: &[WorkloadPort], modes: &Modes) -> Vec<api::Port> {
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
    for declared in declared {
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

#[expect(
    clippy::too_many_arguments,
    reason = "each is another part of the same message, found by whoever knows it"
)]
pub(super) fn node(
    subject: &Subject<'_>,
    mesh: &Mesh,
    principal: SpiffeId,
    modes: &Modes,
    ports: Vec<api::Port>,
    policies: Box<[Arc<Encoded>]>,
    request_authentication: Vec<api::RequestAuthentication>,
    authentications: Box<[(&'static str, Arc<str>)]>,
) -> Node {
    let mut config = api::WorkloadConfig {
        revision: String::new(),
        namespace: subject.namespace.to_owned(),
        name: subject.name.to_owned(),
        service_account: subject.service_account.to_owned(),
        labels: subject.labels.clone(),
        trust_domain: mesh.trust_domain.clone(),
        trust_domain_aliases: mesh.trust_domain_aliases.clone(),
        addresses: subject.addresses.iter().map(ToString::to_string).collect(),
        default_mtls_mode: modes.default.into(),
        ports,
        default_action: mesh.default_action.into(),
        policies: policies.iter().map(|it| it.name().to_owned()).collect(),
        egress_mode: mesh.egress_mode.into(),
        trusted_forwarded_hops: mesh.trusted_forwarded_hops,
        request_authentication,
    };
    // The policies' versions are of one length, and so the parts cannot run into each other.
    let content = config.encode_to_vec();
    let mut parts: Vec<&[u8]> = policies
        .iter()
        .map(|policy| policy.version().as_bytes())
        .collect();
    parts.push(&content);
    let revision = Version::of(&parts);
    config.revision = revision.to_string();
    let id: Arc<str> = format!("{}/{}", subject.namespace, subject.name).into();
    Node {
        config: Encoded::new(Kind::WorkloadConfig, Arc::clone(&id), &config),
        id,
        principal,
        revision,
        policies,
        authentications,
    }
}
