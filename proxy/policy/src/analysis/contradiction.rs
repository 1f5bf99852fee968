//! Constraints that never hold together.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::relation::relation;
use crate::constraint::{Attribute, Constraint, Rule, Stage};
use crate::evaluate::{Facts, Http};
use crate::model::Action;
use crate::pattern::{Domain, Pattern, Port, PrincipalPattern, Wildcard};
use crate::store::Store;
use crate::{Connection, Principal, Warning};

/// Constraints that must hold together, each with where it stands.
type Conjunction<'p> = Vec<(Stage, &'p Constraint)>;

/// The finest part that never matches: a source or operation, or all of the conditions.
pub(super) fn of_rule(
    rule: Rule<'_>,
    action: Action,
    local: &[Arc<str>],
    at: &str,
) -> Vec<Warning> {
    let find = |field: String, stage, constraints| {
        let why = contradiction(rule, &with_when(rule, stage, constraints), action, local)?;
        let message = format!("never matches: {why}").into();
        Some(Warning { field, message })
    };
    if let Some(warning) = find(format!("{at}.when"), Stage::When, &[]) {
        return vec![warning];
    }
    let sources = (rule.sources().enumerate())
        .filter_map(|(index, source)| find(format!("{at}.from[{index}]"), Stage::From, source));
    let operations = (rule.operations().enumerate())
        .filter_map(|(index, operation)| find(format!("{at}.to[{index}]"), Stage::To, operation));
    sources.chain(operations).collect()
}

fn with_when<'p>(rule: Rule<'p>, stage: Stage, own: &'p [Constraint]) -> Conjunction<'p> {
    let own = own.iter().map(|constraint| (stage, constraint));
    let when = rule.when.iter().map(|constraint| (Stage::When, constraint));
    own.chain(when).collect()
}

fn contradiction(
    rule: Rule<'_>,
    conjunction: &[(Stage, &Constraint)],
    action: Action,
    local: &[Arc<str>],
) -> Option<String> {
    let store = rule.store;
    let named = |(stage, constraint): &(Stage, &Constraint)| constraint.clause(*stage, store);
    for (index, a) in conjunction.iter().enumerate() {
        if never_holds(a.1, store, action) {
            return Some(match a.1.attribute.is_token(&store.programs) {
                true => format!(
                    "{} excludes every token, and a request without one never satisfies it in an ALLOW",
                    named(a)
                ),
                false => format!("{} excludes everything", named(a)),
            });
        }
        let other = conjunction[index + 1..]
            .iter()
            .find(|b| exclude_each_other(a.1, b.1, store, action, local));
        if let Some(b) = other {
            return Some(format!(
                "{} and {} contradict each other",
                named(a),
                named(b)
            ));
        }
    }
    let constraints: Vec<_> = conjunction
        .iter()
        .map(|(_, constraint)| **constraint)
        .collect();
    if rule.ports_of(&constraints).is_empty() {
        return Some("its ports exclude each other".to_owned());
    }
    no_principal_fits(&constraints, store, action, local)
        .then(|| "none of its principals has the identity that the other fields ask for".to_owned())
}

/// In a DENY or AUDIT, HTTP attributes are ignored on opaque TCP, and a negative identity field holds for a peer
/// without identity.
fn never_holds(constraint: &Constraint, store: &Store, action: Action) -> bool {
    constraint.negative
        && action == Action::Allow
        && match constraint.attribute {
            Attribute::Principal(run) => {
                run.of(&store.principals).first() == Some(&PrincipalPattern::Any)
            }
            Attribute::Namespace(run, _) | Attribute::TrustDomain(run) | Attribute::Method(run) => {
                run.of(&store.patterns).first() == Some(&Pattern::Any)
            }
            Attribute::ServiceAccount(run, _) => {
                (run.of(&store.accounts).iter()).any(|account| account.wildcard == Wildcard::Alone)
            }
            Attribute::Host(run) => (run.of(&store.hosts).iter())
                .any(|host| host.name == Pattern::Any && host.port == Port::Unsaid),
            Attribute::RequestPrincipal(run) => run
                .of(&store.token_principals)
                .iter()
                .any(|p| p.issuer == Pattern::Any && p.subject == Pattern::Any),
            _ => false,
        }
}

fn exclude_each_other(
    a: &Constraint,
    b: &Constraint,
    store: &Store,
    action: Action,
    local: &[Arc<str>],
) -> bool {
    if action != Action::Allow && a.attribute.is_http(&store.programs) {
        return false;
    }
    let relate = |a: &Constraint, b: &Constraint| {
        relation((store, &a.attribute), (store, &b.attribute), local)
    };
    let excludes = |wanted: &Constraint, unwanted: &Constraint| {
        relate(wanted, unwanted).is_some_and(|relation| relation.covered)
            && (action == Action::Allow || has_one_reading(wanted, store, local))
    };
    match (a.negative, b.negative) {
        (true, true) => false,
        (false, true) => excludes(a, b),
        (true, false) => excludes(b, a),
        (false, false) => {
            // A claim may be a list, with a value for each of them.
            let single = !matches!(
                a.attribute,
                Attribute::Claim(..) | Attribute::Audiences(_) | Attribute::Presenter(_)
            );
            single
                && relate(a, b).is_some_and(|relation| relation.disjoint)
                && (action == Action::Allow
                    || has_one_reading(a, store, local) && has_one_reading(b, store, local))
        }
    }
}

/// The wide reading, which counts in a DENY and AUDIT too, means nobody else.
fn has_one_reading(constraint: &Constraint, store: &Store, local: &[Arc<str>]) -> bool {
    match constraint.attribute {
        Attribute::Namespace(..) | Attribute::ServiceAccount(..) => false,
        Attribute::TrustDomain(run) => {
            local.len() < 2 || !local.iter().any(|name| store.matches(run, name.as_bytes()))
        }
        Attribute::Principal(run) => !run.of(&store.principals).iter().any(|&pattern| match store
            .principal(pattern)
        {
            PrincipalPattern::Exact(Domain::Any, _) => true,
            PrincipalPattern::Exact(Domain::Named(name), _)
            | PrincipalPattern::Prefix(Domain::Named(name), _) => has_aliases(name, local),
            _ => false,
        }),
        _ => true,
    }
}

/// One name of the local trust domain may stand for the others.
fn has_aliases(name: &str, local: &[Arc<str>]) -> bool {
    local.len() > 1 && local.iter().any(|local| **local == *name)
}

/// Every principal that is meant is known, and none satisfies all that is said of the identity.
fn no_principal_fits(
    constraints: &[Constraint],
    store: &Store,
    action: Action,
    local: &[Arc<str>],
) -> bool {
    let about_identity = |constraint: &&Constraint| {
        constraint.attribute.is_identity(&store.programs)
            && !matches!(constraint.attribute, Attribute::Cel(_))
    };
    constraints
        .iter()
        .filter(|constraint| !constraint.negative)
        .filter_map(|constraint| principals(&constraint.attribute, store, action, local))
        .any(|peers| {
            !peers.iter().any(|peer| {
                constraints
                    .iter()
                    .filter(about_identity)
                    .all(|constraint| holds_for(constraint, store, peer, action, local))
            })
        })
}

/// The principals that are meant, if they can be listed.
pub(super) fn principals(
    attribute: &Attribute,
    store: &Store,
    action: Action,
    local: &[Arc<str>],
) -> Option<Vec<Principal>> {
    let Attribute::Principal(run) = attribute else {
        return None;
    };
    let mut peers = Vec::new();
    for &pattern in run.of(&store.principals) {
        let PrincipalPattern::Exact(domain, path) = store.principal(pattern) else {
            return None;
        };
        let mut add =
            |domain: &str| peers.extend(Principal::parse(&format!("spiffe://{domain}{path}")));
        match domain {
            Domain::Any => return None,
            Domain::Named(name) if action == Action::Allow || !has_aliases(name, local) => {
                add(name)
            }
            Domain::Named(_) | Domain::Local => local.iter().for_each(|name| add(name)),
        }
    }
    Some(peers)
}

/// Of a constraint that is about the peer's identity alone.
pub(super) fn holds_for(
    constraint: &Constraint,
    store: &Store,
    peer: &Principal,
    action: Action,
    local: &[Arc<str>],
) -> bool {
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let connection = Connection {
        peer: Some(peer),
        source: nowhere,
        remote: Some(nowhere),
        destination: (nowhere, 0).into(),
        sni: None,
    };
    constraint.holds(store, &Facts::new(&connection, Http::Opaque, local), action)
}
