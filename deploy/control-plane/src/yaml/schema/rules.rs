//! What an AuthorizationPolicy says.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::{NoProvider, NoTarget, Selector};
use crate::crd::{policy as demand, strings};

/// Who may ask what of the workloads that it selects. A DENY that matches denies; then, if any ALLOW selects the
/// workload, one of them has to match; if none does, the MeshConfig's `defaultAction` decides.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::spec)]
pub(crate) struct AuthorizationPolicy {
    /// The workloads that it is for. Without one: every workload of the namespace, and in the mesh's root namespace
    /// every workload of the mesh.
    #[serde(default)]
    pub(in crate::yaml) selector: Selector,
    /// Refused: it names a gateway or waypoint, and a mesh of sidecars has none.
    #[serde(default, rename = "targetRef")]
    _target_ref: NoTarget,
    /// Refused, as `targetRef`.
    #[serde(default, rename = "targetRefs")]
    #[schemars(transform = demand::targets)]
    _target_refs: NoTarget,
    /// Refused: Kith asks no service outside the mesh for decisions.
    #[serde(default, rename = "provider")]
    _provider: NoProvider,
    /// True: it decides nothing, and what it would have decided is recorded. Default: false. The annotation
    /// `istio.io/dry-run: "true"` says the same.
    #[serde(default, rename = "dryRun")]
    pub(in crate::yaml) dry_run: bool,
    /// What a match means: `ALLOW`, `DENY`, or `AUDIT` (recorded, and decides nothing). Default: `ALLOW`.
    #[serde(default)]
    #[schemars(with = "String", transform = demand::action)]
    pub(in crate::yaml) action: Action,
    /// Any of them. An ALLOW without rules matches nothing; one empty rule (`{}`) matches everything.
    #[serde(default)]
    #[schemars(transform = strings::rules)]
    pub(in crate::yaml) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::yaml) enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    /// Known, to be refused with its own reason.
    Custom,
}

/// Nobody is told to write what is refused next, so CUSTOM is not among them.
pub(crate) const ACTIONS: [&str; 3] = ["ALLOW", "DENY", "AUDIT"];

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "ALLOW" => Ok(Self::Allow),
            "DENY" => Ok(Self::Deny),
            "AUDIT" => Ok(Self::Audit),
            "CUSTOM" => Ok(Self::Custom),
            other => Err(D::Error::unknown_variant(other, &ACTIONS)),
        }
    }
}

/// `from` and `to` and `when`: what is absent is no restriction.
// An absent list is no restriction; one that is there and empty is a mistake (resources.md), so the two
// are kept apart.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::yaml) struct Rule {
    /// Who asks: any of these sources.
    #[schemars(transform = strings::entries)]
    pub(in crate::yaml) from: Option<Vec<From>>,
    /// What is asked: any of these operations.
    #[schemars(transform = strings::entries)]
    pub(in crate::yaml) to: Option<Vec<To>>,
    /// What else has to be so: all of these conditions.
    #[schemars(transform = strings::entries)]
    pub(in crate::yaml) when: Option<Vec<Condition>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::yaml) struct From {
    /// All of its fields have to match.
    pub(in crate::yaml) source: Source,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::yaml) struct To {
    /// All of its fields have to match.
    pub(in crate::yaml) operation: Operation,
}

/// Who asks. Values are exact, `prefix*`, `*suffix` or `*`, which means not empty; any one of a list is enough, and
/// `not…` means none of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::source)]
pub(in crate::yaml) struct Source {
    /// Identities that the peer proved in its handshake, as `trust-domain/ns/namespace/sa/account`, with or without
    /// `spiffe://`. `cluster.local` stands for the mesh's own trust domain and its aliases.
    #[schemars(transform = strings::principals)]
    pub(in crate::yaml) principals: Option<Vec<String>>,
    /// Not these; as `principals`. In an ALLOW, a peer without identity never satisfies it.
    #[schemars(transform = strings::principals)]
    pub(in crate::yaml) not_principals: Option<Vec<String>>,
    /// Namespaces of the peer, in the mesh's own trust domain unless `trustDomains` says otherwise.
    #[schemars(transform = strings::namespaces)]
    pub(in crate::yaml) namespaces: Option<Vec<String>>,
    /// Not these; as `namespaces`.
    #[schemars(transform = strings::namespaces)]
    pub(in crate::yaml) not_namespaces: Option<Vec<String>>,
    /// Service accounts of the peer: `namespace/account`, or `account` in the policy's own namespace. In the mesh's own
    /// trust domain unless `trustDomains` says otherwise.
    #[schemars(transform = strings::service_accounts)]
    pub(in crate::yaml) service_accounts: Option<Vec<String>>,
    /// Not these; as `serviceAccounts`.
    #[schemars(transform = strings::service_accounts)]
    pub(in crate::yaml) not_service_accounts: Option<Vec<String>>,
    /// Trust domains of the peer.
    #[schemars(transform = strings::trust_domains)]
    pub(in crate::yaml) trust_domains: Option<Vec<String>>,
    /// Not these; as `trustDomains`.
    #[schemars(transform = strings::trust_domains)]
    pub(in crate::yaml) not_trust_domains: Option<Vec<String>>,
    /// Addresses and CIDRs of the TCP peer, IPv4 or IPv6.
    #[schemars(transform = strings::blocks)]
    pub(in crate::yaml) ip_blocks: Option<Vec<String>>,
    /// Not these; as `ipBlocks`.
    #[schemars(transform = strings::blocks)]
    pub(in crate::yaml) not_ip_blocks: Option<Vec<String>>,
    /// Addresses and CIDRs of the caller as `x-forwarded-for` has it, after as many hops as the MeshConfig's
    /// `trustedForwardedHops` says.
    #[schemars(transform = strings::blocks)]
    pub(in crate::yaml) remote_ip_blocks: Option<Vec<String>>,
    /// Not these; as `remoteIpBlocks`.
    #[schemars(transform = strings::blocks)]
    pub(in crate::yaml) not_remote_ip_blocks: Option<Vec<String>>,
    /// Whom the request's verified token is for: `issuer/subject`, split at the last `/`. `*`: any verified token.
    #[schemars(transform = strings::request_principals)]
    pub(in crate::yaml) request_principals: Option<Vec<String>>,
    /// Not these; as `requestPrincipals`. In an ALLOW, a request without a token never satisfies it.
    #[schemars(transform = strings::request_principals)]
    pub(in crate::yaml) not_request_principals: Option<Vec<String>>,
}

/// What is asked. Values are exact, `prefix*`, `*suffix` or `*`; any one of a list is enough, and `not…` means none of
/// them. On opaque TCP only the ports exist: there an ALLOW with anything else never matches, and a DENY ignores it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::operation)]
pub(in crate::yaml) struct Operation {
    /// Hosts of the request, in any case; a pattern with a port matches the port too.
    #[schemars(transform = strings::hosts)]
    pub(in crate::yaml) hosts: Option<Vec<String>>,
    /// Not these; as `hosts`.
    #[schemars(transform = strings::hosts)]
    pub(in crate::yaml) not_hosts: Option<Vec<String>>,
    /// Ports of the workload (not those of a service), 1 to 65535, in quotes.
    #[schemars(transform = strings::ports)]
    pub(in crate::yaml) ports: Option<Vec<String>>,
    /// Not these; as `ports`.
    #[schemars(transform = strings::ports)]
    pub(in crate::yaml) not_ports: Option<Vec<String>>,
    /// Methods of the request, compared as they are written. gRPC is `POST`.
    #[schemars(transform = strings::methods)]
    pub(in crate::yaml) methods: Option<Vec<String>>,
    /// Not these; as `methods`.
    #[schemars(transform = strings::methods)]
    pub(in crate::yaml) not_methods: Option<Vec<String>>,
    /// Paths of the request without its query, after normalisation. `{*}` stands for one segment, `{**}` for any number.
    #[schemars(transform = strings::paths)]
    pub(in crate::yaml) paths: Option<Vec<String>>,
    /// Not these; as `paths`.
    #[schemars(transform = strings::paths)]
    pub(in crate::yaml) not_paths: Option<Vec<String>>,
}

/// What else has to be so: `key` with `values`, `notValues` or both, or `cel` alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::condition)]
pub(in crate::yaml) struct Condition {
    /// An expression in the Common Expression Language that is a bool; then the rest is absent. An error while it is
    /// evaluated means that an ALLOW does not match and a DENY does.
    #[schemars(transform = strings::expression)]
    pub(in crate::yaml) cel: Option<String>,
    /// What is compared, such as `request.headers[x-id]`, `source.ip` or `request.auth.claims[group]`.
    #[schemars(transform = demand::key)]
    pub(in crate::yaml) key: Option<String>,
    /// Any of these.
    #[schemars(transform = strings::values)]
    pub(in crate::yaml) values: Option<Vec<String>>,
    /// None of these.
    #[schemars(transform = strings::values)]
    pub(in crate::yaml) not_values: Option<Vec<String>>,
}
