//! The proof that a policy can be honoured exactly: nothing is dropped, nothing is guessed.

use std::sync::Arc;

use thiserror::Error;

use crate::constraint::{Attribute, Constraint, Rule, Scope};
use crate::host::is_host_byte;
use crate::model::{self, Action, Policy};
use crate::pattern::{
    AddressSet, HostSet, Interner, PathSet, Pattern, PrincipalSet, ServiceAccountSet, TextSet,
    never_matches,
};
use crate::ports::parse_port;
use crate::principal::{is_segment_byte, is_trust_domain_byte};

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

/// How the strings of a field are to be read.
enum Kind<'a> {
    Principal,
    Namespace(Scope),
    ServiceAccount(Scope),
    TrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    Sni,
    Host,
    Method,
    Path,
    Header(&'a str),
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
        let key = &*condition.key;
        let kind = || {
            Ok(match key {
                "source.ip" => Kind::SourceIp,
                "remote.ip" => Kind::RemoteIp,
                "source.namespace" => Kind::Namespace(scope),
                "source.principal" => Kind::Principal,
                "source.serviceAccount" => Kind::ServiceAccount(scope),
                "source.trustDomain" => Kind::TrustDomain,
                "destination.ip" => Kind::DestinationIp,
                "destination.port" => Kind::DestinationPort,
                "connection.sni" => Kind::Sni,
                _ => Kind::Header(header_name(key)?),
            })
        };
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

    fn attribute(&mut self, at: &str, kind: &Kind<'_>, values: &[String]) -> Attribute {
        let errors = &mut self.errors;
        let refuse = &mut |index: usize, message: String| {
            errors.push(FieldError {
                field: format!("{at}[{index}]"),
                message,
            });
        };
        let interner = &mut self.interner;
        match kind {
            Kind::Principal => Attribute::Principal(PrincipalSet::parse(values, interner, refuse)),
            Kind::Namespace(scope) => Attribute::Namespace(
                texts(values, is_segment_byte, "a namespace", interner, refuse),
                *scope,
            ),
            Kind::ServiceAccount(scope) => {
                let set =
                    ServiceAccountSet::parse(values, &self.policy.namespace, interner, refuse);
                Attribute::ServiceAccount(set, *scope)
            }
            Kind::TrustDomain => Attribute::TrustDomain(texts(
                values,
                is_trust_domain_byte,
                "a trust domain",
                interner,
                refuse,
            )),
            Kind::SourceIp => Attribute::SourceIp(AddressSet::parse(values, refuse)),
            Kind::RemoteIp => Attribute::RemoteIp(AddressSet::parse(values, refuse)),
            Kind::DestinationIp => Attribute::DestinationIp(AddressSet::parse(values, refuse)),
            Kind::DestinationPort => Attribute::DestinationPort(ports(values, refuse)),
            Kind::Sni => {
                let lower: Vec<_> = values
                    .iter()
                    .map(|value| value.to_ascii_lowercase())
                    .collect();
                Attribute::Sni(texts(
                    &lower,
                    is_host_byte,
                    "a server name",
                    interner,
                    refuse,
                ))
            }
            Kind::Host => Attribute::Host(HostSet::parse(values, interner, refuse)),
            Kind::Method => {
                let attribute =
                    Attribute::Method(texts(values, is_token_byte, "a method", interner, refuse));
                self.warn_of(at, values, |method| {
                    method.bytes().any(|byte| byte.is_ascii_lowercase()).then(|| {
                        "methods are compared as they are written, and the usual ones are in upper case".to_owned()
                    })
                });
                attribute
            }
            Kind::Path => {
                let attribute = Attribute::Path(PathSet::parse(values, interner, refuse));
                self.warn_of(at, values, |path| {
                    never_matches(path).map(|why| format!("`{path}` matches no request: {why}"))
                });
                attribute
            }
            Kind::Header(name) => {
                let name = interner.intern(&name.to_ascii_lowercase());
                Attribute::Header(name, texts(values, |_| true, "a header", interner, refuse))
            }
        }
    }

    fn warn_of(&mut self, at: &str, values: &[String], what: impl Fn(&str) -> Option<String>) {
        for (index, value) in values.iter().enumerate() {
            if let Some(message) = what(value) {
                self.warn(&format!("{at}[{index}]"), message);
            }
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

/// `request.headers[x]`, and what to say of every other key.
fn header_name(key: &str) -> Result<&str, String> {
    let Some(name) = key
        .strip_prefix("request.headers[")
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return Err(match key.starts_with("request.auth.") {
            true => format!(
                "`{key}` is not supported by this version: it does not verify request tokens"
            ),
            false => format!(
                "`{key}` is not a condition; known are request.headers[name], source.ip, remote.ip, \
                 source.namespace, source.principal, source.serviceAccount, source.trustDomain, destination.ip, \
                 destination.port and connection.sni"
            ),
        });
    };
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(format!("`{name}` is not a header name"));
    }
    // It has no one place: HTTP/1.1 has a header, HTTP/2 a pseudo-header.
    if name.eq_ignore_ascii_case("host") {
        return Err(format!(
            "`{key}` is not supported; use `hosts` or `notHosts` of an operation"
        ));
    }
    Ok(name)
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn texts(
    values: &[String],
    allowed: fn(u8) -> bool,
    what: &str,
    interner: &mut Interner,
    refuse: &mut dyn FnMut(usize, String),
) -> TextSet {
    let mut patterns = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match Pattern::parse_of(value, allowed, what) {
            Ok(pattern) => patterns.push(pattern),
            Err(message) => refuse(index, message),
        }
    }
    TextSet::new(patterns, interner)
}

fn ports(values: &[String], refuse: &mut dyn FnMut(usize, String)) -> Box<[u16]> {
    let mut ports = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match parse_port(value) {
            Ok(port) => ports.push(port),
            Err(message) => refuse(index, message),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports.into()
}

#[cfg(test)]
mod tests;
