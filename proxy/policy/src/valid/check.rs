//! Walks one policy, compiles it, and collects everything that is wrong with it.

use std::borrow::Cow;
use std::fmt;

use super::values::Kind;
use super::{FieldError, Span, Warning};
use crate::cel::Program;
use crate::constraint::{Attribute, Constraint, Scope};
use crate::model::{self, Action, Policy};
use crate::store::{StoreBuilder, offset};
use crate::words;

pub(super) struct Check<'a> {
    pub(super) policy: &'a Policy,
    pub(super) store: StoreBuilder,
    pub(super) constraints: Vec<Constraint>,
    pub(super) errors: Vec<FieldError>,
    pub(super) warnings: Vec<Warning>,
}

/// A place in the policy, written out only when there is something to say of it.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    name: &'a str,
    index: Option<usize>,
}

impl<'a> At<'a> {
    fn rule(index: usize) -> Self {
        Self {
            parent: None,
            name: "rules",
            index: Some(index),
        }
    }

    fn item(&'a self, name: &'a str, index: usize) -> Self {
        Self {
            parent: Some(self),
            name,
            index: Some(index),
        }
    }

    fn field(&'a self, name: &'a str) -> Self {
        Self {
            parent: Some(self),
            name,
            index: None,
        }
    }

    /// `not_…`: what is excluded.
    pub(super) fn is_negative(&self) -> bool {
        self.name.starts_with("not_")
    }

    /// A value of this field.
    pub(super) fn value(self, index: usize) -> Self {
        Self {
            index: Some(index),
            ..self
        }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}.")?;
        }
        f.write_str(self.name)?;
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None => Ok(()),
        }
    }
}

impl<'a> Check<'a> {
    pub(super) fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            store: StoreBuilder::default(),
            constraints: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn refuse(&mut self, field: impl fmt::Display, message: String) {
        self.errors.push(FieldError {
            field: field.to_string(),
            message,
        });
    }

    pub(super) fn warn(&mut self, field: impl fmt::Display, message: impl Into<Cow<'static, str>>) {
        self.warnings.push(Warning {
            field: field.to_string(),
            message: message.into(),
        });
    }

    pub(super) fn rule(&mut self, index: usize, rule: &model::Rule) -> Span {
        let at = At::rule(index);
        let from = self.here();
        for (index, source) in rule.from.iter().enumerate() {
            self.source(at.item("from", index), source);
        }
        let to = self.here();
        for (index, operation) in rule.to.iter().enumerate() {
            self.operation(at.item("to", index), operation);
        }
        let when = self.here();
        let scope = condition_scope(rule);
        for (index, condition) in rule.when.iter().enumerate() {
            self.condition(at.item("when", index), condition, scope);
        }
        let end = self.here();
        let uses_http = self.constraints[from as usize..]
            .iter()
            .any(|constraint| constraint.attribute.is_http(&self.store.programs));
        if self.policy.action == Action::Deny && uses_http {
            self.warn(
                at,
                "hosts, methods, paths, headers and tokens do not exist on opaque TCP: there this rule denies by its \
                 other parts alone; restrict it to HTTP ports if that is not meant",
            );
        }
        Span {
            from,
            to,
            when,
            end,
            uses_http,
        }
    }

    fn source(&mut self, at: At<'_>, source: &model::Source) {
        let scope = if source.trust_domains.is_empty() {
            Scope::Local
        } else {
            Scope::AnyTrustDomain
        };
        // Exhaustive on purpose: a field added to the model can't be forgotten here.
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
        self.fields(
            at,
            words::EMPTY_SOURCE,
            &[
                ("principals", Kind::Principal, principals, false),
                ("not_principals", Kind::Principal, not_principals, true),
                ("namespaces", Kind::Namespace(scope), namespaces, false),
                (
                    "not_namespaces",
                    Kind::Namespace(scope),
                    not_namespaces,
                    true,
                ),
                (
                    "service_accounts",
                    Kind::ServiceAccount(scope),
                    service_accounts,
                    false,
                ),
                (
                    "not_service_accounts",
                    Kind::ServiceAccount(scope),
                    not_service_accounts,
                    true,
                ),
                ("trust_domains", Kind::TrustDomain, trust_domains, false),
                (
                    "not_trust_domains",
                    Kind::TrustDomain,
                    not_trust_domains,
                    true,
                ),
                ("ip_blocks", Kind::SourceIp, ip_blocks, false),
                ("not_ip_blocks", Kind::SourceIp, not_ip_blocks, true),
                ("remote_ip_blocks", Kind::RemoteIp, remote_ip_blocks, false),
                (
                    "not_remote_ip_blocks",
                    Kind::RemoteIp,
                    not_remote_ip_blocks,
                    true,
                ),
                (
                    "request_principals",
                    Kind::RequestPrincipal,
                    request_principals,
                    false,
                ),
                (
                    "not_request_principals",
                    Kind::RequestPrincipal,
                    not_request_principals,
                    true,
                ),
            ],
        );
    }

    fn operation(&mut self, at: At<'_>, operation: &model::Operation) {
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
        // The port first: it is the cheapest to compare, and says most on a miss.
        self.fields(
            at,
            words::EMPTY_OPERATION,
            &[
                ("ports", Kind::DestinationPort, ports, false),
                ("not_ports", Kind::DestinationPort, not_ports, true),
                ("hosts", Kind::Host, hosts, false),
                ("not_hosts", Kind::Host, not_hosts, true),
                ("paths", Kind::Path, paths, false),
                ("not_paths", Kind::Path, not_paths, true),
                ("methods", Kind::Method, methods, false),
                ("not_methods", Kind::Method, not_methods, true),
            ],
        );
    }

    fn condition(&mut self, at: At<'_>, condition: &model::Condition, scope: Scope) {
        let model::Condition {
            cel,
            key,
            values,
            not_values,
        } = condition;
        if let Some(source) = cel {
            if !(key.is_empty() && values.is_empty() && not_values.is_empty()) {
                self.refuse(at, words::CEL_AND_KEY.to_owned());
            }
            return self.expression(at.field("cel"), source);
        }
        match Kind::of_key(key, scope) {
            Ok(kind) => self.fields(
                at,
                words::NO_VALUES,
                &[
                    ("values", kind, values, false),
                    ("not_values", kind, not_values, true),
                ],
            ),
            Err(message) => self.refuse(at.field("key"), message),
        }
    }

    fn expression(&mut self, at: At<'_>, source: &str) {
        match Program::compile(source) {
            Ok(program) => {
                let index = offset(self.store.programs.len());
                self.store.programs.push(program);
                self.constraints.push(Constraint {
                    attribute: Attribute::Cel(index),
                    negative: false,
                    first: true,
                });
            }
            Err(error) => self.refuse(at, error.to_string()),
        }
    }

    fn fields(&mut self, at: At<'_>, empty: &str, fields: &[(&str, Kind<'_>, &Vec<String>, bool)]) {
        let mut first = true;
        for &(name, kind, values, negative) in fields {
            if !values.is_empty() {
                let attribute = self.attribute(at.field(name), kind, values);
                self.constraints.push(Constraint {
                    attribute,
                    negative,
                    first,
                });
                first = false;
            }
        }
        if first {
            self.refuse(at, empty.to_owned());
        }
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
