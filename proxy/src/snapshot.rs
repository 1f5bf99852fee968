//! What decisions read: everything of one revision, immutable, swapped whole.
//!
//! **Architecture invariant:** a `Snapshot` is complete. Its fields are private and `control` is the only
//! place that makes one, once every policy that the configuration names is here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use kith_policy::{EncodedSlash, Mesh, PolicySet, ValidPolicy};

use crate::token::rules::Rules;

use crate::revocation::Revocations;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http1,
    Http2,
    Tcp,
    /// The application's own TLS.
    Tls,
}

impl Protocol {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtlsMode {
    Strict,
    Permissive,
    Disable,
}

#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// `None`: not declared, found out by looking.
    pub protocol: Option<Protocol>,
    pub mtls: MtlsMode,
    pub encoded_slash: EncodedSlash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    Refuse,
    Allow,
}

/// A `WorkloadConfig` that can be honoured exactly.
#[derive(Debug)]
pub struct Workload {
    pub revision: String,
    pub namespace: String,
    pub name: String,
    pub mesh: Mesh,
    pub addresses: Vec<IpAddr>,
    pub default_mtls: MtlsMode,
    pub ports: HashMap<u16, Port>,
    pub egress: Egress,
    pub trusted_hops: u32,
    /// Which tokens of requests are verified; without, tokens are not looked at.
    pub tokens: Option<Arc<Rules>>,
    /// Names of the policies that must be in force.
    pub policies: Vec<String>,
}

pub(crate) struct Snapshot {
    workload: Arc<Workload>,
    policies: Arc<PolicySet>,
    revocations: Arc<Revocations>,
    revision: Arc<str>,
}

/// Missing policies that are told by name.
const NAMED: usize = 16;

impl Snapshot {
    /// Names the policies that are missing when the configuration is incomplete, the first of them.
    pub(crate) fn complete(
        workload: &Arc<Workload>,
        revocations: &Arc<Revocations>,
        available: impl Fn(&str) -> Option<Arc<ValidPolicy>>,
    ) -> Result<Snapshot, Vec<String>> {
        let mut policies = Vec::with_capacity(workload.policies.len());
        let mut missing = Vec::new();
        for name in &workload.policies {
            match available(name) {
                Some(policy) => policies.push(policy),
                // Asked again with every delivery while thousands come in.
                None if missing.len() == NAMED => {
                    missing.push("…".to_owned());
                    break;
                }
                None => missing.push(name.clone()),
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        Ok(Snapshot {
            workload: Arc::clone(workload),
            policies: Arc::new(PolicySet::compile(
                &workload.mesh,
                &workload.revision,
                &policies,
            )),
            revocations: Arc::clone(revocations),
            revision: workload.revision.as_str().into(),
        })
    }

    /// The same revision with another revocation list.
    pub(crate) fn with_revocations(&self, revocations: &Arc<Revocations>) -> Snapshot {
        Snapshot {
            workload: Arc::clone(&self.workload),
            policies: Arc::clone(&self.policies),
            revocations: Arc::clone(revocations),
            revision: Arc::clone(&self.revision),
        }
    }

    /// The list as of now; empty when none was ever received.
    pub(crate) fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    pub(crate) fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// Is a parameter of this name one that tokens come in?
    pub(crate) fn is_token_param(&self, name: &str) -> bool {
        self.token_rules()
            .is_some_and(|rules| rules.is_token_param(name))
    }

    pub(crate) fn token_rules(&self) -> Option<&Arc<Rules>> {
        self.workload.tokens.as_ref()
    }

    pub(crate) fn workload(&self) -> &Workload {
        &self.workload
    }

    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    pub(crate) fn revision_shared(&self) -> Arc<str> {
        Arc::clone(&self.revision)
    }

    pub(crate) fn is_own_address(&self, ip: IpAddr) -> bool {
        self.workload.addresses.contains(&ip)
    }

    pub(crate) fn port(&self, number: u16) -> Port {
        self.workload.ports.get(&number).copied().unwrap_or(Port {
            protocol: None,
            mtls: self.workload.default_mtls,
            encoded_slash: EncodedSlash::Refuse,
        })
    }
}
