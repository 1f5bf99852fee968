//! Which of the stricter rules of resources.md can be why Kith and Istio's reading of a policy differ.

use std::collections::BTreeSet;
use std::sync::Arc;

use kith_policy::model::{Action, Policy, Rule, Source};
use kith_policy::{Connection, normalise_host};
use serde_json::Value;

use super::generate::Call;
use super::kith::Kith;
use super::rbac::means;
use super::token::Token;

/// The numbers of the rules that speak of this peer or request and of something that the policies use.
pub(crate) fn rules(
    kith: &Kith,
    connection: &Connection<'_>,
    call: Option<&Call>,
) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for policy in &kith.policies {
        for rule in &policy.rules {
            identity(kith, connection, policy, rule, &mut found);
            if let Some(call) = call {
                request(call, policy, rule, &mut found);
            }
        }
    }
    found
}

fn identity(
    kith: &Kith,
    connection: &Connection<'_>,
    policy: &Policy,
    rule: &Rule,
    found: &mut BTreeSet<&'static str>,
) {
    let Some(peer) = connection.peer else {
        if policy.action == Action::Allow && excludes_by_identity(rule) {
            found.insert("2");
        }
        return;
    };
    let domain = peer.trust_domain();
    let local = domain == kith.mesh.trust_domain
        || kith
            .mesh
            .trust_domain_aliases
            .iter()
            .any(|alias| alias == domain);
    if names_workloads(rule) {
        if !local {
            found.insert("1");
        }
        // A `*` that takes in segments finds its end in `sa`.
        let ends_sa = |value: &String| {
            value.len() > 1
                && value
                    .strip_prefix('*')
                    .is_some_and(|end| "sa".ends_with(end))
        };
        if peer.namespace().is_none() || namespaces(rule).any(ends_sa) {
            found.insert("8");
        }
    }
    let extra = |value: &String| {
        value.strip_prefix('*').is_some_and(|path| {
            path.starts_with('/') && peer.path() != path && peer.path().ends_with(path)
        })
    };
    if principals(rule).any(extra) {
        found.insert("8");
    }
    // Of a principal or trust domain the name is literal, where Istio takes one of the local ones for all.
    let alias = |value: &String| {
        let value = value.strip_prefix("spiffe://").unwrap_or(value);
        let named = value.split_once('/').map_or(value, |(name, _)| name);
        let mut names = kith.mesh.trust_domain_aliases.iter();
        !means(named, domain)
            && (names.any(|name| means(named, name)) || means(named, &kith.mesh.trust_domain))
    };
    if local && (principals(rule).any(alias) || trust_domains(rule).any(alias)) {
        found.insert("8");
    }
}

fn request(call: &Call, policy: &Policy, rule: &Rule, found: &mut BTreeSet<&'static str>) {
    let of = |key: &str| {
        let name = key
            .strip_prefix("request.headers[")?
            .strip_suffix(']')?
            .to_ascii_lowercase();
        Some(
            call.headers
                .iter()
                .filter(|(sent, _)| *sent == name)
                .count(),
        )
    };
    if rule
        .when
        .iter()
        .any(|condition| of(&condition.key) > Some(1))
    {
        found.insert("4");
    }
    let without_port = normalise_host(&call.host).is_ok_and(|host| host.port.is_none());
    let mut hosts = rule
        .to
        .iter()
        .flat_map(|to| to.hosts.iter().chain(&to.not_hosts));
    if without_port && hosts.any(|pattern| pattern.contains(':')) {
        found.insert("9");
    }
    let excludes_by_token = rule
        .from
        .iter()
        .any(|source| !source.not_request_principals.is_empty())
        || rule.when.iter().any(|condition| {
            condition.key.starts_with("request.auth.") && !condition.not_values.is_empty()
        });
    let unreadable = |token: &Arc<Token>| {
        rule.when
            .iter()
            .any(|condition| is_unreadable(&condition.key, token))
    };
    if call.token.as_ref().is_some_and(unreadable) {
        found.insert("6");
    }
    if call.token.is_none() && policy.action == Action::Allow && excludes_by_token {
        found.insert("7");
    }
}

/// `request.auth.claims[a][b]` that is there and no string or list of them, or of an `a` that has no members: not absent,
/// but an error.
fn is_unreadable(key: &str, token: &Token) -> bool {
    let Some(path) = key.strip_prefix("request.auth.claims") else {
        return false;
    };
    let mut path = path.split(['[', ']']).filter(|part| !part.is_empty());
    let mut value = path.next().and_then(|name| token.claims.get(name));
    for name in path {
        match value {
            Some(Value::Object(members)) => value = members.get(name),
            Some(_) => return true,
            None => return false,
        }
    }
    value.is_some_and(|value| !matches!(value, Value::String(_) | Value::Array(_)))
}

/// By namespace or service account, in one way or another.
fn names_workloads(rule: &Rule) -> bool {
    let named = |source: &Source| {
        [
            &source.namespaces,
            &source.not_namespaces,
            &source.service_accounts,
            &source.not_service_accounts,
        ]
        .iter()
        .any(|values| !values.is_empty())
    };
    rule.from.iter().any(named)
        || rule.when.iter().any(|condition| {
            matches!(
                condition.key.as_str(),
                "source.namespace" | "source.serviceAccount"
            )
        })
}

fn excludes_by_identity(rule: &Rule) -> bool {
    let excluded = |source: &Source| {
        [
            &source.not_principals,
            &source.not_namespaces,
            &source.not_service_accounts,
            &source.not_trust_domains,
        ]
        .iter()
        .any(|values| !values.is_empty())
    };
    let keys = [
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
    ];
    rule.from.iter().any(excluded)
        || rule.when.iter().any(|condition| {
            !condition.not_values.is_empty() && keys.contains(&condition.key.as_str())
        })
}

fn namespaces(rule: &Rule) -> impl Iterator<Item = &String> {
    let in_from = rule
        .from
        .iter()
        .flat_map(|source| source.namespaces.iter().chain(&source.not_namespaces));
    let in_when = rule
        .when
        .iter()
        .filter(|condition| condition.key == "source.namespace")
        .flat_map(|condition| condition.values.iter().chain(&condition.not_values));
    in_from.chain(in_when)
}

fn trust_domains(rule: &Rule) -> impl Iterator<Item = &String> {
    let in_from = rule
        .from
        .iter()
        .flat_map(|source| source.trust_domains.iter().chain(&source.not_trust_domains));
    let in_when = rule
        .when
        .iter()
        .filter(|condition| condition.key == "source.trustDomain")
        .flat_map(|condition| condition.values.iter().chain(&condition.not_values));
    in_from.chain(in_when)
}

fn principals(rule: &Rule) -> impl Iterator<Item = &String> {
    let in_from = rule
        .from
        .iter()
        .flat_map(|source| source.principals.iter().chain(&source.not_principals));
    let in_when = rule
        .when
        .iter()
        .filter(|condition| condition.key == "source.principal")
        .flat_map(|condition| condition.values.iter().chain(&condition.not_values));
    in_from.chain(in_when)
}
