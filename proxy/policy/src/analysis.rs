//! What can be said of a policy before anything is asked of it, for people who write policies.
//!
//! Sound and incomplete: what is found is so, whatever the request; not all that is so is found.

use crate::constraint::{Attribute, Stage};
use crate::model::{Action, Mesh};
use crate::pattern::{Domain, Pattern, PrincipalPattern};
use crate::ports::PortSet;
use crate::{ValidPolicy, Warning};

mod contradiction;
mod relation;
mod subsumption;

/// A trust domain that a policy names, literally.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedTrustDomain {
    /// As in [`FieldError`](crate::FieldError), without the index of the value.
    pub field: String,
    pub trust_domain: String,
    /// The value that names it.
    pub value: String,
}

impl ValidPolicy {
    /// How many rules it has; they are numbered from 0.
    pub fn rule_count(&self) -> usize {
        self.rules().len()
    }

    /// Does the rule use any attribute of an HTTP request? On opaque TCP, in an ALLOW it never matches then, and
    /// in a DENY or AUDIT these attributes are ignored.
    ///
    /// # Panics
    /// When there is no such rule.
    pub fn uses_http(&self, rule: usize) -> bool {
        self.rule(rule).uses_http
    }

    /// Can the rule match on this port, by the ports that it names in its operations and conditions?
    ///
    /// # Panics
    /// When there is no such rule.
    pub fn can_match_on_port(&self, rule: usize, port: u16) -> bool {
        self.rule(rule).ports().contains(port)
    }

    /// The only ports on which the rule can match; `None` when it names none, or only those where it can't.
    ///
    /// # Panics
    /// When there is no such rule.
    pub fn only_ports(&self, rule: usize) -> Option<Vec<u16>> {
        match self.rule(rule).ports() {
            PortSet::Only(ports) => Some(ports),
            PortSet::AllBut(_) => None,
        }
    }

    /// The trust domains that it names literally, in principals and among trust domains; neither patterns of
    /// trust domains nor `cluster.local` in a principal, which is always the local one.
    pub fn named_trust_domains(&self) -> Vec<NamedTrustDomain> {
        let mut named = Vec::new();
        for (number, rule) in self.rules().enumerate() {
            let store = rule.store;
            let (mut stage, mut item) = (Stage::From, 0);
            for (at, constraint) in rule.constraints() {
                // Which source or condition of the rule this is.
                item = match at == stage {
                    true if constraint.first => item + 1,
                    true => item,
                    false => 1,
                };
                stage = at;
                let field = || {
                    let name = match (&constraint.attribute, constraint.negative, at) {
                        (_, false, Stage::When) => "values",
                        (_, true, Stage::When) => "not_values",
                        (Attribute::Principal(_), false, _) => "principals",
                        (Attribute::Principal(_), true, _) => "not_principals",
                        (_, false, _) => "trust_domains",
                        (_, true, _) => "not_trust_domains",
                    };
                    let stage = if at == Stage::When { "when" } else { "from" };
                    format!("rules[{number}].{stage}[{}].{name}", item - 1)
                };
                let mut add = |domain: &str, value: String| {
                    named.push(NamedTrustDomain {
                        field: field(),
                        trust_domain: domain.to_owned(),
                        value,
                    });
                };
                match constraint.attribute {
                    Attribute::Principal(patterns) => {
                        for &pattern in patterns.of(&store.principals) {
                            let pattern = store.principal(pattern);
                            if let PrincipalPattern::Exact(Domain::Named(name), _)
                            | PrincipalPattern::Prefix(Domain::Named(name), _) = pattern
                            {
                                add(name, pattern.written());
                            }
                        }
                    }
                    Attribute::TrustDomain(patterns) => {
                        for &pattern in patterns.of(&store.patterns) {
                            if let Pattern::Exact(name) = store.pattern(pattern) {
                                add(name, name.to_owned());
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        named
    }

    /// Rules, sources and operations that can never match, because what they ask for contradicts itself.
    pub fn contradictions(&self, mesh: &Mesh) -> Vec<Warning> {
        let local = local(mesh);
        self.rules()
            .enumerate()
            .flat_map(|(number, rule)| {
                contradiction::of_rule(rule, self.action(), &local, &format!("rules[{number}]"))
            })
            .collect()
    }

    /// Whatever this ALLOW rule matches, a rule of `deny` matches too: the first such rule of it. Then the ALLOW
    /// rule is of no use where both policies are in force. Always `None` when one of the policies never decides.
    ///
    /// # Panics
    /// When there is no such rule.
    pub fn shadowed_by(&self, rule: usize, deny: &ValidPolicy, mesh: &Mesh) -> Option<usize> {
        let in_question = self.action() == Action::Allow
            && deny.action() == Action::Deny
            && self.is_enforced()
            && deny.is_enforced();
        if !in_question {
            return None;
        }
        let (allow, local) = (self.rule(rule), local(mesh));
        deny.rules()
            .position(|deny| subsumption::covers(deny, allow, &local))
    }
}

/// The local trust domain and its aliases.
fn local(mesh: &Mesh) -> Vec<std::sync::Arc<str>> {
    [&mesh.trust_domain]
        .into_iter()
        .chain(&mesh.trust_domain_aliases)
        .map(|domain| domain.as_str().into())
        .collect()
}
