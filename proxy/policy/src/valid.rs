//! The proof that a policy can be honoured exactly: nothing is dropped, nothing is guessed.

use std::sync::Arc;

use thiserror::Error;

use crate::constraint::{Constraint, Rule, Scope};
use crate::model::{self, Action, Policy};
use crate::pattern::Interner;
use values::Kind;

mod values;

/// A field that cannot be honoured exactly. The author of the policy is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// A path in the names of the resource API, such as `rules[0].from[1].principals[2]`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// A field that is honoured exactly, and probably isn't what its author meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// As in [`FieldError`].
    pub field: String,
    pub message: String,
}

/// A policy of which every field can be honoured exactly.
#[derive(Debug)]
pub struct ValidPolicy {
    id: Arc<str>,
    action: Action,
    rules: Box<[Rule]>,
    warnings: Vec<Warning>,
}

impl ValidPolicy {
    /// All mistakes at once, in the order of the policy.
    // Consumes the policy: the strings live on in their compiled form only.
    #[allow(clippy::needless_pass_by_value)]
    pub fn new(policy: Policy) -> Result<Self, Vec<FieldError>> {
        let mut check = Check {
            policy: &policy,
            interner: Interner::default(),
            errors: vec![],
            warnings: vec![],
        };
        for (field, value) in [("namespace", &policy.namespace), ("name", &policy.name)] {
            if value.is_empty() || value.contains('/') {
                check.refuse(
                    field,
                    "a policy has a namespace and a name, without `/`".to_owned(),
                );
            }
        }
        if policy.action == Action::Deny && policy.rules.is_empty() {
            check.refuse(
                "rules",
                "a DENY without rules denies nothing; to deny everything, write one empty rule"
                    .to_owned(),
            );
        }
        let rules: Vec<_> = policy
            .rules
            .iter()
            .enumerate()
            .map(|(index, rule)| check.rule(index, rule))
            .collect();
        let Check {
            errors, warnings, ..
        } = check;
        if !errors.is_empty() {
            return Err(errors);
        }
        let id = format!("{}/{}", policy.namespace, policy.name).into();
        Ok(Self {
            id,
            action: policy.action,
            rules: rules.into(),
            warnings,
        })
    }

    /// `namespace/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn action(&self) -> Action {
        self.action
    }

    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// Walks one policy and collects everything that is wrong with it.
struct Check<'a> {
    policy: &'a Policy,
    interner: Interner,
    errors: Vec<FieldError>,
    warnings: Vec<Warning>,
}

impl Check<'_> {
    fn refuse(&mut self, field: &str, message: String) {
        self.errors.push(FieldError {
            field: field.to_owned(),
            message,
        });
    }

    fn warn(&mut self, field: &str, message: String) {
        self.warnings.push(Warning {
            field: field.to_owned(),
            message,
        });
    }

    fn rule(&mut self, index: usize, rule: &model::Rule) -> Rule {
        let at = format!("rules[{index}]");
        let from: Vec<_> = (rule.from.iter().enumerate())
            .map(|(index, source)| self.source(&format!("{at}.from[{index}]"), source))
            .collect();
        let to: Vec<_> = (rule.to.iter().enumerate())
            .map(|(index, operation)| self.operation(&format!("{at}.to[{index}]"), operation))
            .collect();
        let scope = condition_scope(rule);
        let when: Vec<_> = (rule.when.iter().enumerate())
            .flat_map(|(index, condition)| {
                self.condition(&format!("{at}.when[{index}]"), condition, scope)
            })
            .collect();
        let mut rule = Rule {
            from: from.into(),
            to: to.into(),
            when: when.into(),
            uses_http: false,
        };
        rule.uses_http = rule.first_http().is_some();
        if self.policy.action == Action::Deny && rule.uses_http {
            self.warn(
                &at,
                "hosts, methods, paths and headers do not exist on opaque TCP: there this rule denies by its other \
                 parts alone; restrict it to HTTP ports if that is not meant"
                    .to_owned(),
            );
        }
        rule
    }

    fn source(&mut self, at: &str, source: &model::Source) -> Box<[Constraint]> {
        let scope = if source.trust_domains.is_empty() {
            Scope::Local
        } else {
            Scope::AnyTrustDomain
        };
        let s = source;
        self.fields(
            at,
            "a source without any field; remove it, or name who is meant",
            [
                ("principals", Kind::Principal, &s.principals, false),
                ("not_principals", Kind::Principal, &s.not_principals, true),
                ("namespaces", Kind::Namespace(scope), &s.namespaces, false),
                (
                    "not_namespaces",
                    Kind::Namespace(scope),
                    &s.not_namespaces,
                    true,
                ),
                (
                    "service_accounts",
                    Kind::ServiceAccount(scope),
                    &s.service_accounts,
                    false,
                ),
                (
                    "not_service_accounts",
                    Kind::ServiceAccount(scope),
                    &s.not_service_accounts,
                    true,
                ),
                ("trust_domains", Kind::TrustDomain, &s.trust_domains, false),
                (
                    "not_trust_domains",
                    Kind::TrustDomain,
                    &s.not_trust_domains,
                    true,
                ),
                ("ip_blocks", Kind::SourceIp, &s.ip_blocks, false),
                ("not_ip_blocks", Kind::SourceIp, &s.not_ip_blocks, true),
                (
                    "remote_ip_blocks",
                    Kind::RemoteIp,
                    &s.remote_ip_blocks,
                    false,
                ),
                (
                    "not_remote_ip_blocks",
                    Kind::RemoteIp,
                    &s.not_remote_ip_blocks,
                    true,
                ),
            ],
        )
    }

    fn operation(&mut self, at: &str, operation: &model::Operation) -> Box<[Constraint]> {
        let o = operation;
        // The port first: it is the cheapest to compare, and says most on a miss.
        self.fields(
            at,
            "an operation without any field; remove it, or name what is meant",
            [
                ("ports", Kind::DestinationPort, &o.ports, false),
                ("not_ports", Kind::DestinationPort, &o.not_ports, true),
                ("hosts", Kind::Host, &o.hosts, false),
                ("not_hosts", Kind::Host, &o.not_hosts, true),
                ("paths", Kind::Path, &o.paths, false),
                ("not_paths", Kind::Path, &o.not_paths, true),
                ("methods", Kind::Method, &o.methods, false),
                ("not_methods", Kind::Method, &o.not_methods, true),
            ],
        )
    }

    fn condition(
        &mut self,
        at: &str,
        condition: &model::Condition,
        scope: Scope,
    ) -> Vec<Constraint> {
        let kind = || Kind::of_key(&condition.key, scope);
        match (kind(), kind()) {
            (Ok(positive), Ok(negative)) => self
                .fields(
                    at,
                    "a condition without values; give `values` or `notValues`",
                    [
                        ("values", positive, &condition.values, false),
                        ("not_values", negative, &condition.not_values, true),
                    ],
                )
                .into_vec(),
            (Err(message), _) | (_, Err(message)) => {
                self.refuse(&format!("{at}.key"), message);
                vec![]
            }
        }
    }

    fn fields<const N: usize>(
        &mut self,
        at: &str,
        empty: &str,
        fields: [(&str, Kind<'_>, &Vec<String>, bool); N],
    ) -> Box<[Constraint]> {
        let constraints: Vec<_> = fields
            .into_iter()
            .filter(|(_, _, values, _)| !values.is_empty())
            .map(|(name, kind, values, negative)| Constraint {
                attribute: self.attribute(&format!("{at}.{name}"), &kind, values),
                negative,
            })
            .collect();
        if constraints.is_empty() {
            self.refuse(at, empty.to_owned());
        }
        constraints.into()
    }
}

/// Stricter rule 1, for conditions: they mean the local trust domain unless the rule names trust
/// domains beside them, in `when` itself or in every source.
fn condition_scope(rule: &model::Rule) -> Scope {
    let in_when = rule
        .when
        .iter()
        .any(|condition| condition.key == "source.trustDomain" && !condition.values.is_empty());
    let in_from = !rule.from.is_empty()
        && rule
            .from
            .iter()
            .all(|source| !source.trust_domains.is_empty());
    if in_when || in_from {
        Scope::AnyTrustDomain
    } else {
        Scope::Local
    }
}

#[cfg(test)]
mod tests;
