//! ALLOW rules in the shadow of a DENY.
//!
//! Comparing every rule with every other would take minutes in a large mesh, so only those are compared that
//! can have something to do with each other.

use std::collections::{BTreeSet, HashMap};

use kith_policy::Mesh;
use kith_policy::model::{Action, Rule};

use super::{Found, InForce};

/// DENY policies for everybody that are compared with one ALLOW rule; of more, nobody reads the warning.
const FOR_EVERYBODY: usize = 64;

/// DENY policies by whom they are for.
#[derive(Default)]
struct Denies<'a> {
    for_everybody: Vec<&'a InForce<'a>>,
    /// By the path of a principal that is named in full; its trust domain may have several names.
    by_path: HashMap<&'a str, Vec<&'a InForce<'a>>>,
}

pub(super) fn check(in_force: &[InForce<'_>], mesh: &Mesh, found: &mut Found) {
    let of = |action| {
        in_force
            .iter()
            .filter(move |it| it.valid.action() == action)
    };
    let mut denies = Denies::default();
    of(Action::Deny).for_each(|deny| denies.add(deny));
    for allow in of(Action::Allow).filter(|allow| !allow.selected.is_empty()) {
        for (number, rule) in allow.document.spec.policy().rules.iter().enumerate() {
            let shadow = denies.about(rule).find_map(|deny| {
                let by = allow.valid.shadowed_by(number, &deny.valid, mesh)?;
                // It must be so wherever the ALLOW is in force.
                let everywhere = allow.selected.is_subset(&deny.selected);
                everywhere.then_some((deny.document, by))
            });
            if let Some((deny, by)) = shadow {
                let message = format!(
                    "whatever this allows, rule {by} of the DENY policy `{}` ({}) denies",
                    deny.id(),
                    deny.place.describe()
                );
                let field = format!("spec.rules[{number}]");
                found.add("shadowed", allow.document, &field, message);
            }
        }
    }
}

impl<'a> Denies<'a> {
    fn add(&mut self, deny: &'a InForce<'a>) {
        let rules = &deny.document.spec.policy().rules;
        let paths: Option<Vec<_>> = rules.iter().map(named_paths).collect();
        match paths {
            None => self.for_everybody.push(deny),
            Some(paths) => {
                for path in paths.into_iter().flatten().collect::<BTreeSet<_>>() {
                    self.by_path.entry(path).or_default().push(deny);
                }
            }
        }
    }

    /// Those that could deny all that `rule` allows.
    fn about(&self, rule: &Rule) -> impl Iterator<Item = &'a InForce<'a>> {
        // Whoever denies all of it denies the first of whom it names.
        let path = named_paths(rule).and_then(|paths| paths.first().copied());
        let named = path.and_then(|path| self.by_path.get(path));
        let everybody = self.for_everybody.iter().take(FOR_EVERYBODY);
        named.into_iter().flatten().chain(everybody).copied()
    }
}

/// The paths of the principals that the rule is for, if it is for principals named in full and nobody else.
fn named_paths(rule: &Rule) -> Option<Vec<&str>> {
    if rule.from.is_empty() {
        return None;
    }
    let mut paths = Vec::new();
    for source in &rule.from {
        if source.principals.is_empty() {
            return None;
        }
        for principal in &source.principals {
            let principal = principal.strip_prefix("spiffe://").unwrap_or(principal);
            if principal.contains('*') {
                return None;
            }
            paths.push(principal.split_once('/')?.1);
        }
    }
    Some(paths)
}
