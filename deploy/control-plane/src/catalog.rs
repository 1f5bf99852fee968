//! What is served: every resource encoded once, immutable, shared by all streams.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest;
use kith_certs::SpiffeId;
use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3 as discovery;
use prost::Message;

/// The name of the one revocation list.
pub const REVOCATION_LIST: &str = "mesh";

/// A resource as it goes over the wire. Equal content has an equal version, across restarts and replicas.
#[derive(Debug, PartialEq)]
pub struct Encoded {
    name: String,
    version: String,
    resource: prost_types::Any,
}

impl Encoded {
    pub(crate) fn new(kind: Kind, name: String, message: &impl Message) -> Arc<Self> {
        let value = message.encode_to_vec();
        let resource = prost_types::Any {
            type_url: kind.type_url().into(),
            value,
        };
        Arc::new(Self {
            name,
            version: content_hash(&[&resource.value]),
            resource,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// The encoded message, as a sidecar gets it.
    pub fn content(&self) -> &[u8] {
        &self.resource.value
    }

    /// Roughly what it takes on the wire.
    pub(crate) fn size(&self) -> usize {
        self.name.len()
            + self.version.len()
            + self.resource.type_url.len()
            + self.resource.value.len()
            + 16
    }

    pub(crate) fn to_wire(&self) -> discovery::Resource {
        discovery::Resource {
            name: self.name.clone(),
            version: self.version.clone(),
            resource: Some(self.resource.clone()),
            aliases: Vec::new(),
        }
    }
}

/// The first 12 hex digits of SHA-256: short enough to read aloud, long enough never to collide by chance.
pub(crate) fn content_hash(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    lower_hex(&context.finish().as_ref()[..6])
}

pub(crate) fn lower_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What one sidecar gets.
#[derive(Debug, PartialEq)]
pub struct Node {
    /// `namespace/name`.
    pub id: String,
    /// Who may ask for it.
    pub principal: SpiffeId,
    pub revision: String,
    pub(crate) config: Arc<Encoded>,
    /// The policies in force, by name.
    pub(crate) policies: BTreeMap<String, Arc<Encoded>>,
}

impl Node {
    /// The `WorkloadConfig`.
    pub fn config(&self) -> &Encoded {
        &self.config
    }

    /// The policies in force, by name.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &Encoded)> {
        let policies = self.policies.iter();
        policies.map(|(name, policy)| (name.as_str(), &**policy))
    }
}

/// Everything that is served, of one load of the folder.
#[derive(Debug, PartialEq)]
pub struct Catalog {
    pub(crate) nodes: HashMap<String, Arc<Node>>,
    /// By address or host, as `Address` resources are named.
    pub(crate) addresses: HashMap<String, Arc<Encoded>>,
    pub(crate) revocations: Arc<Encoded>,
    pub counts: Counts,
}

/// How much there is, for people to check against what they wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub workloads: usize,
    pub services: usize,
    pub authorization_policies: usize,
    pub peer_authentications: usize,
    pub request_authentications: usize,
    pub revocations: usize,
}

impl Catalog {
    /// Every sidecar that is served, by node id.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Arc<Node>)> {
        self.nodes.iter().map(|(id, node)| (id.as_str(), node))
    }

    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// What `node` may have under this name. Another workload's configuration and policies do not exist for it.
    pub(crate) fn find(&self, node: &str, kind: Kind, name: &str) -> Option<&Arc<Encoded>> {
        match kind {
            Kind::WorkloadConfig if name == node => self.nodes.get(node).map(|node| &node.config),
            Kind::WorkloadConfig => None,
            Kind::AuthorizationPolicy => self.nodes.get(node)?.policies.get(name),
            Kind::Address => self.addresses.get(name),
            Kind::RevocationList => (name == REVOCATION_LIST).then_some(&self.revocations),
        }
    }
}
