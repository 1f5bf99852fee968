//! What is served: every resource encoded once, immutable, shared by all streams.

mod changed;
mod shards;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use kith_certs::SpiffeId;
use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3 as discovery;
use prost::Message;
use serde::{Serialize, Serializer};

pub(crate) use self::changed::Changed;
pub use self::shards::Shards;

/// The name of the one revocation list.
pub const REVOCATION_LIST: &str = "mesh";

/// The first 12 hex digits of SHA-256: short enough to read aloud, long enough never to collide by chance. Held by value,
/// since every stream remembers one for each name it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; 12]);

impl Version {
    /// Of parts that cannot run into each other, or it does not matter if they do.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut digits = [0; 12];
        let bytes = context.finish();
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes.as_ref()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(digits)
    }

    pub fn as_str(&self) -> &str {
        // Digits are text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A resource as it goes over the wire. Equal content has an equal version, across restarts and replicas.
#[derive(Debug, PartialEq)]
pub struct Encoded {
    name: Arc<str>,
    version: Version,
    kind: Kind,
    content: Box<[u8]>,
}

impl Encoded {
    pub(crate) fn new(kind: Kind, name: impl Into<Arc<str>>, message: &impl Message) -> Arc<Self> {
        let content = message.encode_to_vec().into_boxed_slice();
        Arc::new(Self {
            name: name.into(),
            version: Version::of(&[&content]),
            kind,
            content,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, to be kept without a copy.
    pub(crate) fn key(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub fn version(&self) -> &str {
        self.version.as_str()
    }

    /// The version, to be kept.
    pub(crate) fn stamp(&self) -> Version {
        self.version
    }

    /// The encoded message, as a sidecar gets it.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Roughly what it takes on the wire.
    pub(crate) fn size(&self) -> usize {
        let type_url = self.kind.type_url().len();
        self.name.len() + self.version().len() + type_url + self.content.len() + 16
    }

    pub(crate) fn to_wire(&self) -> discovery::Resource {
        discovery::Resource {
            name: self.name.as_ref().to_owned(),
            version: self.version().to_owned(),
            resource: Some(prost_types::Any {
                type_url: self.kind.type_url().to_owned(),
                value: self.content.to_vec(),
            }),
            aliases: Vec::new(),
        }
    }
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
    pub id: Arc<str>,
    /// Who may ask for it.
    pub principal: SpiffeId,
    pub revision: Version,
    pub(crate) config: Arc<Encoded>,
    /// The policies in force, in the order of their names.
    pub(crate) policies: Box<[Arc<Encoded>]>,
    /// The PeerAuthentications and RequestAuthentications that hold here: kind, and `namespace/name`.
    pub(crate) authentications: Box<[(&'static str, Arc<str>)]>,
}

impl Node {
    /// The `WorkloadConfig`.
    pub fn config(&self) -> &Encoded {
        &self.config
    }

    /// The policies in force, by name.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &Encoded)> {
        let policies = self.policies.iter();
        policies.map(|policy| (policy.name(), &**policy))
    }

    pub(crate) fn policy(&self, name: &str) -> Option<&Arc<Encoded>> {
        let found = self.policies.binary_search_by(|one| one.name().cmp(name));
        found.ok().map(|at| &self.policies[at])
    }
}

/// Everything that is served at one moment. A clone shares what is in it, so that a small change is a cheap one.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    pub(crate) nodes: Shards<Arc<Node>>,
    /// By address or host, as `Address` resources are named.
    pub(crate) addresses: Shards<Arc<Encoded>>,
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
        self.nodes.iter().map(|(id, node)| (&**id, node))
    }

    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// What `node` may have under this name. Another workload's configuration and policies do not exist for it.
    pub(crate) fn find(&self, node: &str, kind: Kind, name: &str) -> Option<&Arc<Encoded>> {
        match kind {
            Kind::WorkloadConfig if name == node => self.nodes.get(node).map(|node| &node.config),
            Kind::WorkloadConfig => None,
            Kind::AuthorizationPolicy => self.nodes.get(node)?.policy(name),
            Kind::Address => self.addresses.get(name),
            Kind::RevocationList => (name == REVOCATION_LIST).then_some(&self.revocations),
        }
    }
}
