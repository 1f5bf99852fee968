//! The shape of every kind, field by field. A key that is not here is refused, and so is one that is here
//! only to say why: nothing that someone wrote is ever ignored, but for what a cluster adds by itself when an
//! object is exported.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny};

use super::value::{Address, Host, Labels, Port, SpiffeId, TrustDomain};

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
#[derive(Debug, Default)]
pub(super) struct NoTarget;

impl<'de> Deserialize<'de> for NoTarget {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(NO_TARGET))
    }
}

/// What CUSTOM actions would ask. Refused for good, with them (resources.md, stricter rule 10).
#[derive(Debug, Default)]
pub(super) struct NoProvider;

impl<'de> Deserialize<'de> for NoProvider {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(NO_CUSTOM))
    }
}

pub(super) const NO_CUSTOM: &str =
    "CUSTOM asks a service outside the mesh, which Kith never does: use ALLOW or DENY";
const NO_TARGET: &str = "names a gateway or waypoint, which a mesh of sidecars does not have: use `selector` to \
    pick workloads by their labels";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    pub trust_domain: TrustDomain,
    #[serde(default)]
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Policies in this namespace hold for the whole mesh.
    #[serde(default = "root_namespace")]
    pub root_namespace: String,
    #[serde(default)]
    pub default_action: DefaultAction,
    #[serde(default)]
    pub egress: Egress,
    #[serde(default)]
    pub trusted_forwarded_hops: u32,
}

fn root_namespace() -> String {
    "kith-system".into()
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DefaultAction {
    #[default]
    Deny,
    Allow,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Egress {
    #[default]
    Refuse,
    Allow,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    #[serde(default)]
    pub service_account: String,
    pub addresses: Vec<Address>,
    /// False: a machine without a sidecar, spoken to in plaintext.
    #[serde(default = "yes")]
    pub mesh: bool,
    /// Unless given, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub spiffe_id: Option<SpiffeId>,
    #[serde(default)]
    pub ports: Vec<WorkloadPort>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPort {
    pub port: Port,
    pub protocol: Option<Protocol>,
    #[serde(default)]
    pub encoded_slash: EncodedSlash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EncodedSlash {
    #[default]
    Refuse,
    Keep,
    Decode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    #[serde(default)]
    pub addresses: Vec<Address>,
    #[serde(default)]
    pub hosts: Vec<Host>,
    pub selector: Labels,
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// For people; nothing depends on it.
    pub name: Option<String>,
    pub port: Port,
    pub target_port: Option<Port>,
    pub protocol: Option<Protocol>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    #[serde(default)]
    pub match_labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthentication {
    #[serde(default)]
    pub selector: Selector,
    #[serde(default)]
    pub mtls: Mtls,
    #[serde(default)]
    pub port_level_mtls: BTreeMap<Port, Mtls>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mtls {
    #[serde(default)]
    pub mode: MtlsMode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// As the level above says.
    #[default]
    Unset,
    Strict,
    Permissive,
    Disable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AuthorizationPolicy {
    #[serde(default)]
    pub(super) selector: Selector,
    #[serde(default, rename = "targetRef")]
    _target_ref: NoTarget,
    #[serde(default, rename = "targetRefs")]
    _target_refs: NoTarget,
    #[serde(default, rename = "provider")]
    _provider: NoProvider,
    #[serde(default, rename = "dryRun")]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) action: Action,
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    /// Known, to be refused with its own reason.
    Custom,
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "ALLOW" => Ok(Self::Allow),
            "DENY" => Ok(Self::Deny),
            "AUDIT" => Ok(Self::Audit),
            "CUSTOM" => Ok(Self::Custom),
            // Nobody is told to write what is refused next.
            other => Err(D::Error::unknown_variant(
                other,
                &["ALLOW", "DENY", "AUDIT"],
            )),
        }
    }
}

/// An absent list is no restriction; one that is there and empty is a mistake (resources.md), so the two
/// are kept apart.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) from: Option<Vec<From>>,
    pub(super) to: Option<Vec<To>>,
    pub(super) when: Option<Vec<Condition>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    pub(super) source: Source,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct To {
    pub(super) operation: Operation,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Source {
    pub(super) principals: Option<Vec<String>>,
    pub(super) not_principals: Option<Vec<String>>,
    pub(super) namespaces: Option<Vec<String>>,
    pub(super) not_namespaces: Option<Vec<String>>,
    pub(super) service_accounts: Option<Vec<String>>,
    pub(super) not_service_accounts: Option<Vec<String>>,
    pub(super) trust_domains: Option<Vec<String>>,
    pub(super) not_trust_domains: Option<Vec<String>>,
    pub(super) ip_blocks: Option<Vec<String>>,
    pub(super) not_ip_blocks: Option<Vec<String>>,
    pub(super) remote_ip_blocks: Option<Vec<String>>,
    pub(super) not_remote_ip_blocks: Option<Vec<String>>,
    pub(super) request_principals: Option<Vec<String>>,
    pub(super) not_request_principals: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Operation {
    pub(super) hosts: Option<Vec<String>>,
    pub(super) not_hosts: Option<Vec<String>>,
    pub(super) ports: Option<Vec<String>>,
    pub(super) not_ports: Option<Vec<String>>,
    pub(super) methods: Option<Vec<String>>,
    pub(super) not_methods: Option<Vec<String>>,
    pub(super) paths: Option<Vec<String>>,
    pub(super) not_paths: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Condition {
    /// An expression in the Common Expression Language; then the rest is absent.
    pub(super) cel: Option<String>,
    pub(super) key: Option<String>,
    pub(super) values: Option<Vec<String>>,
    pub(super) not_values: Option<Vec<String>>,
}
