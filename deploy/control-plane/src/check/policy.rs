//! AuthorizationPolicy: rules without effect, and rules with more effect than meant.

mod shadow;

use std::collections::BTreeSet;
use std::sync::Arc;

use kith_policy::cel::Program;
use kith_policy::model::{self, Action};
use kith_policy::{Mesh, ValidPolicy};

use super::{Found, Meaning};
use crate::yaml::schema::Protocol;
use crate::yaml::{AuthorizationPolicy, Document, field_in_yaml};

/// A policy, compiled, and the workloads that it is for.
struct InForce<'a> {
    document: &'a Document<AuthorizationPolicy>,
    valid: Arc<ValidPolicy>,
    selected: BTreeSet<usize>,
}

pub(super) fn check(meaning: &Meaning<'_>, found: &mut Found) {
    let mesh = mesh(meaning);
    let known = KnownNames::of(meaning);
    let mut in_force = Vec::new();
    let documents = (meaning.loaded.files()).flat_map(|file| &file.authorization_policies);
    for document in documents {
        let selected = meaning.selected(document, &document.spec.selector);
        let selected = BTreeSet::from_iter(selected);
        // It was valid when it was loaded.
        let Ok(valid) = ValidPolicy::new(document.spec.policy().clone()) else {
            continue;
        };
        meaning.selects_nothing(document, &document.spec.selector, found);
        in_force.push(InForce {
            document,
            valid: Arc::new(valid),
            selected,
        });
    }
    for policy in &in_force {
        surprises(policy, found);
        contradictions(policy, &mesh, found);
        trust_domains(policy, &known, found);
        namespaces(policy, &known, found);
        opaque_ports(meaning, policy, found);
        undeclared_ports(meaning, policy, found);
        missing_tokens(meaning, policy, found);
    }
    shadow::check(&in_force, &mesh, found);
}

fn mesh(meaning: &Meaning<'_>) -> Mesh {
    let aliases = meaning.mesh.trust_domain_aliases.iter();
    Mesh {
        trust_domain: meaning.mesh.trust_domain.0.to_string(),
        trust_domain_aliases: aliases.map(|alias| alias.0.to_string()).collect(),
        ..Mesh::default()
    }
}

/// What the engine finds surprising in one policy alone.
fn surprises(policy: &InForce<'_>, found: &mut Found) {
    // On which ports a DENY gets wider is said below, for ports that there are.
    let wider: BTreeSet<String> = (0..policy.valid.rule_count())
        .map(|rule| format!("spec.rules[{rule}]"))
        .collect();
    for (field, message) in &policy.document.spec.warnings {
        if !wider.contains(field) {
            found.add("surprising", policy.document, field, message.as_str());
        }
    }
}

fn contradictions(policy: &InForce<'_>, mesh: &Mesh, found: &mut Found) {
    for warning in policy.valid.contradictions(mesh) {
        let field = field_in_yaml(&warning.field);
        found.add(
            "never-matches",
            policy.document,
            &field,
            warning.message.to_string(),
        );
    }
}

/// Trust domains and namespaces that there are.
struct KnownNames {
    trust_domains: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

impl KnownNames {
    fn of(meaning: &Meaning<'_>) -> Self {
        let mesh = mesh(meaning);
        let mut trust_domains: BTreeSet<String> = mesh.trust_domain_aliases.into_iter().collect();
        trust_domains.insert(mesh.trust_domain);
        let workloads = &meaning.index.workloads;
        let ids = workloads.iter().filter_map(|it| it.spec.spiffe_id.as_ref());
        trust_domains.extend(ids.map(|id| id.0.trust_domain().to_string()));
        Self {
            trust_domains,
            namespaces: workloads
                .iter()
                .map(|it| it.metadata.namespace.clone())
                .collect(),
        }
    }
}

fn trust_domains(policy: &InForce<'_>, known: &KnownNames, found: &mut Found) {
    for named in policy.valid.named_trust_domains() {
        if known.trust_domains.contains(&named.trust_domain) {
            continue;
        }
        let known = Vec::from_iter(known.trust_domains.iter().map(String::as_str));
        let message = format!(
            "`{}` is in the trust domain `{}`, which nobody here is known to be in: known are {}; if it is federated, \
             this is as meant",
            named.value,
            named.trust_domain,
            known.join(", ")
        );
        let field = field_in_yaml(&named.field);
        found.add("unknown-trust-domain", policy.document, &field, message);
    }
}

fn namespaces(policy: &InForce<'_>, known: &KnownNames, found: &mut Found) {
    if known.namespaces.is_empty() {
        return;
    }
    let mut add = |field: String, values: &[String]| {
        for (index, value) in values.iter().enumerate() {
            if !value.contains('*') && !known.namespaces.contains(value) {
                let message = format!("no workload is in namespace `{value}`");
                let field = format!("{field}[{index}]");
                found.add("no-such-namespace", policy.document, &field, message);
            }
        }
    };
    for (i, rule) in policy.document.spec.policy().rules.iter().enumerate() {
        for (j, source) in rule.from.iter().enumerate() {
            // Of other trust domains nothing is known.
            if source.trust_domains.is_empty() {
                let at = format!("spec.rules[{i}].from[{j}].source");
                add(format!("{at}.namespaces"), &source.namespaces);
                add(format!("{at}.notNamespaces"), &source.not_namespaces);
            }
        }
        for (j, when) in rule.when.iter().enumerate() {
            if when.key == "source.namespace" {
                let at = format!("spec.rules[{i}].when[{j}]");
                add(format!("{at}.values"), &when.values);
                add(format!("{at}.notValues"), &when.not_values);
            }
        }
    }
}

/// A DENY gets wider where there is no HTTP (resources.md, Opaque TCP).
fn opaque_ports(meaning: &Meaning<'_>, policy: &InForce<'_>, found: &mut Found) {
    if policy.valid.action() == Action::Allow {
        return;
    }
    for rule in (0..policy.valid.rule_count()).filter(|rule| policy.valid.uses_http(*rule)) {
        let mut opaque = BTreeSet::new();
        let mut where_ = Vec::new();
        for position in &policy.selected {
            let ports = meaning.workload(*position).spec.ports.iter();
            let ports: Vec<u16> = ports
                .filter(|port| matches!(port.protocol, Some(Protocol::Tcp | Protocol::Tls)))
                .map(|port| port.port.get())
                .filter(|port| policy.valid.can_match_on_port(rule, *port))
                .collect();
            if !ports.is_empty() {
                where_.push(*position);
                opaque.extend(ports);
            }
        }
        if where_.is_empty() {
            continue;
        }
        let ports: Vec<_> = opaque.iter().map(u16::to_string).collect();
        let message = format!(
            "port {} of {} is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds \
             by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant",
            ports.join(", "),
            meaning.names(&where_)
        );
        let field = format!("spec.rules[{rule}]");
        found.add("wider-on-opaque-port", policy.document, &field, message);
    }
}

fn undeclared_ports(meaning: &Meaning<'_>, policy: &InForce<'_>, found: &mut Found) {
    let mut check = |field: String, values: &[String]| {
        for (index, value) in values.iter().enumerate() {
            let port = value.parse().ok();
            let message = port.and_then(|port| meaning.undeclared(&policy.selected, port));
            if let Some(message) = message {
                let field = format!("{field}[{index}]");
                found.add("no-such-port", policy.document, &field, message);
            }
        }
    };
    for (i, rule) in policy.document.spec.policy().rules.iter().enumerate() {
        for (j, to) in rule.to.iter().enumerate() {
            let at = format!("spec.rules[{i}].to[{j}].operation");
            check(format!("{at}.ports"), &to.ports);
            check(format!("{at}.notPorts"), &to.not_ports);
        }
        for (j, when) in rule.when.iter().enumerate() {
            if when.key == "destination.port" {
                let at = format!("spec.rules[{i}].when[{j}]");
                check(format!("{at}.values"), &when.values);
                check(format!("{at}.notValues"), &when.not_values);
            }
        }
    }
}

impl Meaning<'_> {
    /// What is wrong with naming `port`, if all of the workloads say which ports they have and none has it.
    pub(super) fn undeclared<'p>(
        &self,
        positions: impl IntoIterator<Item = &'p usize>,
        port: u16,
    ) -> Option<String> {
        let mut declared = BTreeSet::new();
        for position in positions {
            let ports = &self.workload(*position).spec.ports;
            // Not all ports have to be declared.
            if ports.is_empty() {
                return None;
            }
            declared.extend(ports.iter().map(|port| port.port.get()));
        }
        if declared.is_empty() || declared.contains(&port) {
            return None;
        }
        let list: Vec<_> = declared.iter().map(u16::to_string).collect();
        let service = self.service_with(port, &declared).unwrap_or_default();
        Some(format!(
            "no workload that this is for declares port {port}, only {}{service}",
            list.join(", ")
        ))
    }

    /// The usual mistake: a port of the service instead of the workload's own.
    fn service_with(&self, port: u16, declared: &BTreeSet<u16>) -> Option<String> {
        let services = self.loaded.files().flat_map(|file| &file.services);
        services
            .flat_map(|service| service.spec.ports.iter().map(move |it| (service, it)))
            .filter(|(_, it)| it.port.get() == port)
            .find_map(|(service, it)| {
                let target = it.target_port?.get();
                let meant = declared.contains(&target);
                meant.then(|| {
                    format!(
                        "; {port} is a port of the Service `{}`, whose targetPort {target} is meant",
                        service.id()
                    )
                })
            })
    }
}

/// Where nothing verifies tokens there are none.
fn missing_tokens(meaning: &Meaning<'_>, policy: &InForce<'_>, found: &mut Found) {
    let without: Vec<_> = (policy.selected.iter().copied())
        .filter(|position| !meaning.tokens[*position])
        .collect();
    if without.is_empty() {
        return;
    }
    for (i, rule) in policy.document.spec.policy().rules.iter().enumerate() {
        for (field, asks) in token_fields(rule) {
            let consequence = match (policy.valid.action(), asks) {
                (_, Asks::Expression) => "what this asks of a token is never there",
                (Action::Allow, _) | (_, Asks::For) => "this never matches there",
                (_, Asks::Against) => "every request is one without a token, and this matches it",
            };
            let message = format!(
                "no RequestAuthentication verifies tokens for {}: {consequence}",
                meaning.names(&without)
            );
            let field = format!("spec.rules[{i}].{field}");
            found.add("no-tokens", policy.document, &field, message);
        }
    }
}

/// What a field says of the request's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    For,
    Against,
    Expression,
}

/// The fields of a rule that say something of the request's token.
pub(super) fn token_fields(rule: &model::Rule) -> Vec<(String, Asks)> {
    let mut fields = Vec::new();
    for (j, source) in rule.from.iter().enumerate() {
        if !source.request_principals.is_empty() {
            fields.push((format!("from[{j}].source.requestPrincipals"), Asks::For));
        }
        if !source.not_request_principals.is_empty() {
            let field = format!("from[{j}].source.notRequestPrincipals");
            fields.push((field, Asks::Against));
        }
    }
    for (j, when) in rule.when.iter().enumerate() {
        if when.key.starts_with("request.auth.") {
            let asks = match when.values.is_empty() {
                true => Asks::Against,
                false => Asks::For,
            };
            fields.push((format!("when[{j}]"), asks));
        }
        let uses_token = |cel: &String| Program::compile(cel).is_ok_and(|it| it.uses_token());
        if when.cel.as_ref().is_some_and(uses_token) {
            fields.push((format!("when[{j}].cel"), Asks::Expression));
        }
    }
    fields
}
