//! The shape of every kind, field by field. A key that is not here is refused, and so is one that is here
//! only to say why: nothing that someone wrote is ever ignored, but for what a cluster adds by itself when an
//! object is exported.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny};

use super::value::{Address, Host, Labels, Port, SpiffeId, TrustDomain};
use crate::crd::mesh as demand;

mod rules;

pub(crate) use rules::{ACTIONS, AuthorizationPolicy};
pub(super) use rules::{Action, Condition, Operation, Rule, Source};

/// What every document begins with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Envelope<S> {
    #[serde(rename = "apiVersion")]
    pub(super) _api_version: String,
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: Option<S>,
    /// What a cluster observed; nobody's intention.
    #[serde(default, rename = "status")]
    _status: IgnoredAny,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Empty on kinds that belong to the whole mesh.
    #[serde(default)]
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,

    // What a cluster adds by itself, so that an exported object loads unchanged. None of it can change
    // what a policy means.
    #[serde(default, rename = "uid")]
    _uid: IgnoredAny,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: IgnoredAny,
    #[serde(default, rename = "generation")]
    _generation: IgnoredAny,
    #[serde(default, rename = "generateName")]
    _generate_name: IgnoredAny,
    #[serde(default, rename = "creationTimestamp")]
    _creation_timestamp: IgnoredAny,
    #[serde(default, rename = "deletionTimestamp")]
    _deletion_timestamp: IgnoredAny,
    #[serde(default, rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: IgnoredAny,
    #[serde(default, rename = "managedFields")]
    _managed_fields: IgnoredAny,
    #[serde(default, rename = "ownerReferences")]
    _owner_references: IgnoredAny,
    #[serde(default, rename = "finalizers")]
    _finalizers: IgnoredAny,
    #[serde(default, rename = "selfLink")]
    _self_link: IgnoredAny,
}

/// Where a policy says that it is for a gateway or waypoint. Kith has none, and a policy that is for one must
/// not quietly become one for every sidecar.
#[derive(Debug, Default, JsonSchema)]
#[schemars(transform = crate::crd::policy::no_target)]
pub(super) struct NoTarget;

impl<'de> Deserialize<'de> for NoTarget {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(NO_TARGET))
    }
}

/// What CUSTOM actions would ask. Refused for good, with them (resources.md, stricter rule 10).
#[derive(Debug, Default, JsonSchema)]
#[schemars(transform = crate::crd::policy::no_provider)]
pub(super) struct NoProvider;

impl<'de> Deserialize<'de> for NoProvider {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(NO_CUSTOM))
    }
}

pub(crate) const NO_CUSTOM: &str =
    "CUSTOM asks a service outside the mesh, which Kith never does: use ALLOW or DENY";
pub(crate) const NO_TARGET: &str = "names a gateway or waypoint, which a mesh of sidecars does not have: use `selector` to \
    pick workloads by their labels";

/// What holds for the whole mesh. There is one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    /// The trust domain that the mesh's own identities are in, such as `example.org`.
    pub trust_domain: TrustDomain,
    /// Other names of the same trust domain, for instance while it is being renamed. Default: none.
    #[serde(default)]
    #[schemars(transform = demand::aliases)]
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Policies in this namespace hold for the whole mesh. Default: `kith-system`.
    #[serde(default = "root_namespace")]
    #[schemars(transform = demand::root_namespace)]
    pub root_namespace: String,
    /// What decides where no ALLOW policy selects the workload. Default: `DENY`.
    #[serde(default)]
    #[schemars(extend("x-kith-default" = "DENY"))]
    pub default_action: DefaultAction,
    /// What becomes of connections to addresses that the mesh does not know. Default: `REFUSE`.
    #[serde(default)]
    #[schemars(extend("x-kith-default" = "REFUSE"))]
    pub egress: Egress,
    /// How many proxies in front of the mesh append to `x-forwarded-for` and are believed. Default: 0, so that
    /// `remoteIpBlocks` are about the TCP peer.
    #[serde(default)]
    pub trusted_forwarded_hops: u32,
}

pub(crate) const ROOT_NAMESPACE: &str = "kith-system";

fn root_namespace() -> String {
    ROOT_NAMESPACE.into()
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DefaultAction {
    #[default]
    Deny,
    Allow,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Egress {
    #[default]
    Refuse,
    Allow,
}

/// A machine or process outside the cluster that belongs to the mesh or is known to it, by its addresses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::workload)]
pub struct Workload {
    /// The last part of its identity. Required of a workload in the mesh.
    #[serde(default)]
    #[schemars(transform = demand::service_account)]
    pub service_account: String,
    /// Its IP addresses, at least one; no other workload has any of them.
    #[schemars(transform = demand::workload_addresses)]
    pub addresses: Vec<Address>,
    /// False: a machine without a sidecar, spoken to in plaintext. Default: true.
    #[serde(default = "yes")]
    pub mesh: bool,
    /// Its whole identity. Default: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub spiffe_id: Option<SpiffeId>,
    /// What is known of its ports. Others are served too, their protocol found out by each connection.
    #[serde(default)]
    #[schemars(transform = demand::ports)]
    pub ports: Vec<WorkloadPort>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPort {
    /// The port that the workload listens on, 1 to 65535.
    pub port: Port,
    /// What is spoken there. Default: found out by each connection.
    pub protocol: Option<Protocol>,
    /// What becomes of `%2F` and `%5C` in a path: refused with 400, kept as they are, or decoded to `/`. Default:
    /// `REFUSE`.
    #[serde(default)]
    pub encoded_slash: EncodedSlash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum EncodedSlash {
    #[default]
    Refuse,
    Keep,
    Decode,
}

/// Addresses and host names that stand for the workloads that it selects.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = demand::service)]
pub struct Service {
    /// IP addresses that clients dial; nothing else has any of them.
    #[serde(default)]
    #[schemars(transform = demand::service_addresses)]
    pub addresses: Vec<Address>,
    /// Host names that clients dial.
    #[serde(default)]
    #[schemars(transform = demand::hosts)]
    pub hosts: Vec<Host>,
    /// The workloads behind it, of its own namespace: those with all of these labels, at least one.
    #[schemars(transform = demand::service_selector)]
    pub selector: Labels,
    /// Its ports, at least one.
    #[schemars(transform = demand::service_ports)]
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// For people; nothing depends on it.
    #[schemars(length(max = 63))]
    pub name: Option<String>,
    /// The port that clients dial, 1 to 65535.
    pub port: Port,
    /// The workloads' own port, 1 to 65535. Default: the same as `port`.
    pub target_port: Option<Port>,
    /// What is spoken there. Default: what the workload's port says, else found out by each connection.
    pub protocol: Option<Protocol>,
}

/// Picks workloads by their labels.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Workloads with all of these labels. Default: none, which picks every workload in reach.
    #[serde(default)]
    pub match_labels: Labels,
}

/// Whether callers have to prove an identity: of the workload's own over the namespace's over the mesh's; without any,
/// they have to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::peer_authentication)]
pub struct PeerAuthentication {
    /// The workloads that it is for. Without one: every workload of the namespace, and in the mesh's root namespace
    /// every workload of the mesh.
    #[serde(default)]
    pub selector: Selector,
    /// What holds for every port.
    #[serde(default)]
    pub mtls: Mtls,
    /// What holds for particular ports of the workload, by their numbers (1 to 65535); needs a `selector`.
    #[serde(default)]
    #[schemars(transform = demand::port_level_mtls)]
    pub port_level_mtls: BTreeMap<Port, Mtls>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mtls {
    /// `STRICT`: mutual TLS only. `PERMISSIVE`: plaintext too, where no policy asks for an identity. `DISABLE`: plaintext
    /// only. `UNSET`: as the level above says. Default: `UNSET`.
    #[serde(default)]
    pub mode: MtlsMode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// As the level above says.
    #[default]
    Unset,
    Strict,
    Permissive,
    Disable,
}
