//! AuthorizationPolicy: from the shape people write to the engine's model, checked by the engine itself,
//! and on to the wire. One path for the control plane, the proxy's tests and `kith policy test`.

use kith_policy::model;
use kith_xds_client::api::mesh as api;

use super::document::{Document, Place};
use super::schema::{self, Action, Metadata, NO_CUSTOM, Selector};
use super::words;
use crate::problem::Problem;

const DRY_RUN: &str = "istio.io/dry-run";

/// A policy that the engine accepts, and whom it is for.
#[derive(Debug)]
pub struct AuthorizationPolicy {
    pub selector: Selector,
    policy: model::Policy,
    /// What the engine finds surprising, by field.
    pub(crate) warnings: Vec<(String, String)>,
}

impl AuthorizationPolicy {
    /// As the engine takes it.
    pub fn policy(&self) -> &model::Policy {
        &self.policy
    }

    pub(crate) fn to_wire(&self) -> api::AuthorizationPolicy {
        let policy = self.policy.clone();
        api::AuthorizationPolicy {
            namespace: policy.namespace,
            name: policy.name,
            action: match policy.action {
                model::Action::Allow => api::Action::Allow,
                model::Action::Deny => api::Action::Deny,
                model::Action::Audit => api::Action::Audit,
            }
            .into(),
            dry_run: policy.dry_run,
            rules: policy.rules.into_iter().map(rule_to_wire).collect(),
        }
    }
}

pub(super) fn convert(
    document: Document<schema::AuthorizationPolicy>,
) -> Result<Document<AuthorizationPolicy>, Vec<Problem>> {
    let Document {
        place,
        metadata,
        spec,
    } = document;
    let mut checked = Checked {
        place: &place,
        problems: Vec::new(),
    };
    let action = match spec.action {
        Action::Allow => model::Action::Allow,
        Action::Deny => model::Action::Deny,
        Action::Audit => model::Action::Audit,
        // resources.md, stricter rule 10.
        Action::Custom => {
            return Err(vec![place.problem("spec.action", NO_CUSTOM)]);
        }
    };
    let dry_run = checked.dry_run(&metadata, spec.dry_run);
    let rules = spec
        .rules
        .into_iter()
        .enumerate()
        .map(|(i, rule)| checked.rule(&format!("spec.rules[{i}]"), rule));
    let policy = model::Policy {
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        action,
        rules: rules.collect(),
        dry_run,
    };
    let mut problems = checked.problems;
    // The empty lists that were just reported would look like absent ones to the engine.
    if !problems.is_empty() {
        return Err(problems);
    }
    let warnings = match kith_policy::ValidPolicy::new(policy.clone()) {
        Ok(valid) => {
            let warnings = valid.warnings().iter();
            warnings
                .map(|warning| (field_in_yaml(&warning.field), warning.message.to_string()))
                .collect()
        }
        Err(errors) => {
            problems.extend(
                errors
                    .into_iter()
                    .map(|e| place.problem(&field_in_yaml(&e.field), e.message.to_string())),
            );
            return Err(problems);
        }
    };
    let spec = AuthorizationPolicy {
        selector: spec.selector,
        policy,
        warnings,
    };
    Ok(Document {
        place,
        metadata,
        spec,
    })
}

/// Collects what is there and empty: in the model it could not be told from what is absent.
struct Checked<'a> {
    place: &'a Place,
    problems: Vec<Problem>,
}

impl Checked<'_> {
    fn list<T>(&mut self, field: &str, list: Option<Vec<T>>) -> Vec<T> {
        if list.as_ref().is_some_and(Vec::is_empty) {
            self.problems
                .push(self.place.problem(field, words::EMPTY_LIST));
        }
        list.unwrap_or_default()
    }

    fn rule(&mut self, field: &str, rule: schema::Rule) -> model::Rule {
        let from = self
            .list(&format!("{field}.from"), rule.from)
            .into_iter()
            .enumerate();
        let from = from
            .map(|(i, from)| self.source(&format!("{field}.from[{i}].source"), from.source))
            .collect();
        let to = self
            .list(&format!("{field}.to"), rule.to)
            .into_iter()
            .enumerate();
        let to = to
            .map(|(i, to)| self.operation(&format!("{field}.to[{i}].operation"), to.operation))
            .collect();
        let when = self
            .list(&format!("{field}.when"), rule.when)
            .into_iter()
            .enumerate();
        let when = when
            .map(|(i, when)| self.condition(&format!("{field}.when[{i}]"), when))
            .collect();
        model::Rule { from, to, when }
    }

    fn source(&mut self, at: &str, source: schema::Source) -> model::Source {
        let mut list = |name: &str, list| self.list(&format!("{at}.{name}"), list);
        model::Source {
            principals: list("principals", source.principals),
            not_principals: list("notPrincipals", source.not_principals),
            namespaces: list("namespaces", source.namespaces),
            not_namespaces: list("notNamespaces", source.not_namespaces),
            service_accounts: list("serviceAccounts", source.service_accounts),
            not_service_accounts: list("notServiceAccounts", source.not_service_accounts),
            trust_domains: list("trustDomains", source.trust_domains),
            not_trust_domains: list("notTrustDomains", source.not_trust_domains),
            ip_blocks: list("ipBlocks", source.ip_blocks),
            not_ip_blocks: list("notIpBlocks", source.not_ip_blocks),
            remote_ip_blocks: list("remoteIpBlocks", source.remote_ip_blocks),
            not_remote_ip_blocks: list("notRemoteIpBlocks", source.not_remote_ip_blocks),
            request_principals: list("requestPrincipals", source.request_principals),
            not_request_principals: list("notRequestPrincipals", source.not_request_principals),
        }
    }

    fn operation(&mut self, at: &str, operation: schema::Operation) -> model::Operation {
        let mut list = |name: &str, list| self.list(&format!("{at}.{name}"), list);
        model::Operation {
            hosts: list("hosts", operation.hosts),
            not_hosts: list("notHosts", operation.not_hosts),
            ports: list("ports", operation.ports),
            not_ports: list("notPorts", operation.not_ports),
            methods: list("methods", operation.methods),
            not_methods: list("notMethods", operation.not_methods),
            paths: list("paths", operation.paths),
            not_paths: list("notPaths", operation.not_paths),
        }
    }

    fn condition(&mut self, at: &str, condition: schema::Condition) -> model::Condition {
        let schema::Condition {
            cel,
            key,
            values,
            not_values,
        } = condition;
        match (&cel, &key) {
            (Some(_), None) if values.is_some() || not_values.is_some() => {
                self.refuse(at, words::CEL_DECIDES);
            }
            (Some(_), Some(_)) => self.refuse(at, words::CEL_OR_KEY),
            (None, None) => self.refuse(at, words::NEITHER_CEL_NOR_KEY),
            // What Istio calls experimental is the inner state of Envoy's filters.
            (None, Some(key)) if key.starts_with(words::EXPERIMENTAL) => {
                let message = format!("`{key}`{}", words::NO_ENVOY);
                self.refuse(&format!("{at}.key"), message);
            }
            _ => {}
        }
        model::Condition {
            cel,
            key: key.unwrap_or_default(),
            values: self.list(&format!("{at}.values"), values),
            not_values: self.list(&format!("{at}.notValues"), not_values),
        }
    }

    /// Either way of saying it is enough. A value that cannot be understood is no "false": enforcing what
    /// someone meant to try out first would be as wrong as ignoring it.
    fn dry_run(&mut self, metadata: &Metadata, in_spec: bool) -> bool {
        let annotated = match metadata.annotations.get(DRY_RUN).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                let message = format!("`{other}` is neither \"true\" nor \"false\"");
                self.refuse(&format!("metadata.annotations.{DRY_RUN}"), message);
                true
            }
        };
        annotated || in_spec
    }

    fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(self.place.problem(field, message));
    }
}

/// The engine names fields as the wire does, people as YAML does:
/// `rules[0].from[1].not_principals[2]` is `spec.rules[0].from[1].source.notPrincipals[2]`.
pub(crate) fn field_in_yaml(field: &str) -> String {
    let mut path = String::from("spec");
    for segment in field.split('.').filter(|segment| !segment.is_empty()) {
        path.push('.');
        let mut upper = false;
        for c in segment.chars() {
            match c {
                '_' => upper = true,
                c if upper => {
                    path.extend(c.to_uppercase());
                    upper = false;
                }
                c => path.push(c),
            }
        }
        if segment.starts_with("from[") {
            path.push_str(".source");
        } else if segment.starts_with("to[") {
            path.push_str(".operation");
        }
    }
    path
}

fn rule_to_wire(rule: model::Rule) -> api::Rule {
    api::Rule {
        from: rule.from.into_iter().map(source_to_wire).collect(),
        to: rule.to.into_iter().map(operation_to_wire).collect(),
        when: rule.when.into_iter().map(condition_to_wire).collect(),
    }
}

// Taken apart whole: a field added to the model does not compile until it goes over the wire too.
fn source_to_wire(source: model::Source) -> api::Source {
    let model::Source {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        request_principals,
        not_request_principals,
    } = source;
    api::Source {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        request_principals,
        not_request_principals,
    }
}

fn operation_to_wire(operation: model::Operation) -> api::Operation {
    let model::Operation {
        hosts,
        not_hosts,
        ports,
        not_ports,
        methods,
        not_methods,
        paths,
        not_paths,
    } = operation;
    api::Operation {
        hosts,
        not_hosts,
        ports,
        not_ports,
        methods,
        not_methods,
        paths,
        not_paths,
    }
}

fn condition_to_wire(condition: model::Condition) -> api::Condition {
    let model::Condition {
        key,
        values,
        not_values,
        cel,
    } = condition;
    api::Condition {
        key,
        values,
        not_values,
        cel: cel.unwrap_or_default(),
    }
}
