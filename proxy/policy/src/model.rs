//! Policies as people and the control plane state them: plain data, nothing checked yet.
//!
//! The shape is that of `kith.mesh.v1.AuthorizationPolicy`; the meaning of every field is in
//! resources.md, "AuthorizationPolicy: exact meaning".

/// One policy that selects this workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    pub namespace: String,
    pub name: String,
    pub action: Action,
    /// OR. Empty on ALLOW: matches nothing. Empty on DENY: refused.
    pub rules: Vec<Rule>,
    /// Never decides; recorded as what would have happened.
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Action {
    #[default]
    Allow,
    Deny,
    /// Never decides; recorded when it matches.
    Audit,
}

/// `from` AND `to` AND `when`; an empty list is no restriction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// OR.
    pub from: Vec<Source>,
    /// OR.
    pub to: Vec<Operation>,
    /// AND.
    pub when: Vec<Condition>,
}

/// Fields are AND, the values of one field OR, `not_x` is NOT (any of). Without any field: refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
}

/// Fields are AND, the values of one field OR, `not_x` is NOT (any of). Without any field: refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

/// `key` as people write it, e.g. `request.headers[x-id]`, with `values` AND `not_values`, at least one of them;
/// or `cel` alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// An expression in the Common Expression Language; then the rest is empty.
    pub cel: Option<String>,
    pub key: String,
    pub values: Vec<String>,
    pub not_values: Vec<String>,
}

/// What holds for every policy of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mesh {
    /// The trust domain of this mesh: what `cluster.local` stands for in a principal pattern.
    pub trust_domain: String,
    /// Other names of the same trust domain.
    pub trust_domain_aliases: Vec<String>,
    /// What decides when no ALLOW policy is in force.
    pub default_action: DefaultAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DefaultAction {
    #[default]
    Deny,
    Allow,
}
