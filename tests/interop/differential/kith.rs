//! Kith as one of the judges, all the way that a policy goes: YAML, the control plane, the wire, the sidecar's types,
//! the engine.

use std::path::Path;

use kith_control::{resolve, yaml};
use kith_policy::model::{Mesh, Policy};
use kith_policy::{
    Connection, Decision, EncodedSlash, Headers, PolicySet, Request, Token, normalise_target,
};
use kith_xds_client::api::mesh as api;
use prost::Message;

use super::generate::Call;

/// A workload `shop/orders` and the policies in force for it.
pub(crate) struct Kith {
    pub(crate) yaml: String,
    pub(crate) mesh: Mesh,
    pub(crate) trusted_hops: u32,
    /// As they were read: what the other judge's rules are made from.
    pub(crate) policies: Vec<Policy>,
    set: PolicySet,
}

impl Kith {
    pub(crate) fn load(yaml: String) -> Self {
        let loaded = yaml::load_str(Path::new("generated.yaml"), &yaml)
            .unwrap_or_else(|problems| panic!("{problems:#?}\n{yaml}"));
        let policies = loaded
            .files()
            .flat_map(|file| &file.authorization_policies)
            .map(|document| document.spec.policy().clone())
            .collect();
        let resolved = resolve::resolve(&loaded, &Default::default())
            .unwrap_or_else(|problems| panic!("{problems:#?}"));
        let node = resolved.catalog.node("shop/orders").expect("the workload");
        let config = api::WorkloadConfig::decode(node.config().content()).unwrap();
        let workload = kith_proxy::translate::workload("shop/orders", &config)
            .unwrap_or_else(|errors| panic!("{errors:#?}\n{yaml}"));
        let valid: Vec<_> = node
            .policies()
            .map(|(name, policy)| {
                let policy = api::AuthorizationPolicy::decode(policy.content()).unwrap();
                kith_proxy::translate::policy(name, &policy)
                    .unwrap_or_else(|errors| panic!("{errors:#?}\n{yaml}"))
            })
            .collect();
        Self {
            set: PolicySet::compile(&workload.mesh, &workload.revision, &valid),
            mesh: workload.mesh,
            trusted_hops: workload.trusted_hops,
            policies,
            yaml,
        }
    }

    pub(crate) fn decide(&self, connection: &Connection<'_>, call: Option<&Call>) -> Decision {
        let Some(call) = call else {
            return self.set.decide(connection, None);
        };
        let target =
            normalise_target(call.method, call.target.as_bytes(), EncodedSlash::Refuse).unwrap();
        let path = call.target.split('?').next().unwrap_or_default();
        assert_eq!(target.path, path, "both judges must read the same path");
        let request = Request {
            method: call.method,
            host: &call.host,
            path: &target.path,
            headers: call,
            token: call.token.as_ref().map(|token| Token {
                issuer: token.claims["iss"].as_str().unwrap_or_default(),
                subject: token.claims["sub"].as_str().unwrap_or_default(),
                claims: &token.claims,
            }),
        };
        self.set.decide(connection, Some(&request))
    }

    /// The rule that decided.
    pub(crate) fn rule(&self, decision: &Decision) -> Option<&kith_policy::Rule> {
        let (id, rule) = (decision.policy.as_deref()?, decision.rule?);
        let policy = self
            .policies
            .iter()
            .find(|policy| format!("{}/{}", policy.namespace, policy.name) == id)?;
        policy.rules.get(rule as usize)
    }
}

impl Headers for Call {
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self
            .headers
            .iter()
            .filter(|(name, _)| *name == lower_case_name)
        {
            visit(value.as_bytes());
        }
    }
}
