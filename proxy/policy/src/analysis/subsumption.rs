//! Does one rule match whatever another one matches?

use std::sync::Arc;

use super::contradiction::{holds_for, principals};
use super::relation::relation;
use crate::constraint::{Attribute, Constraint, Rule};
use crate::model::Action;
use crate::store::Store;

/// Whatever `allow` matches, `deny` matches.
pub(super) fn covers(deny: Rule<'_>, allow: Rule<'_>, local: &[Arc<str>]) -> bool {
    // What holds whenever the ALLOW rule matches: one of these conjunctions.
    let sources = alternatives(allow.sources());
    let operations = alternatives(allow.operations());
    sources.iter().all(|source| {
        operations.iter().all(|operation| {
            let known: Vec<_> = [*source, *operation, allow.when].concat();
            let known = Known {
                constraints: &known,
                rule: allow,
                local,
            };
            let all = |wanted: &[Constraint]| wanted.iter().all(|it| known.implies(it, deny.store));
            (deny.from.is_empty() || deny.sources().any(all))
                && (deny.to.is_empty() || deny.operations().any(all))
                && all(deny.when)
        })
    })
}

/// At least one, which may ask for nothing.
fn alternatives<'p>(of: impl Iterator<Item = &'p [Constraint]>) -> Vec<&'p [Constraint]> {
    let mut alternatives: Vec<_> = of.collect();
    if alternatives.is_empty() {
        alternatives.push(&[]);
    }
    alternatives
}

/// Constraints of an ALLOW rule that hold together.
struct Known<'a> {
    constraints: &'a [Constraint],
    rule: Rule<'a>,
    local: &'a [Arc<str>],
}

impl Known<'_> {
    /// When they hold in an ALLOW, this one holds in a DENY.
    fn implies(&self, wanted: &Constraint, store: &Store) -> bool {
        if let Attribute::DestinationPort(ports) = wanted.attribute {
            let known = self.rule.ports_of(self.constraints);
            let outside = known
                .clone()
                .restrict(ports.of(&store.ports), !wanted.negative);
            return outside.is_empty();
        }
        self.constraints
            .iter()
            .any(|known| self.one_implies(known, wanted, store))
            || self.principals_imply(wanted, store)
    }

    fn one_implies(&self, known: &Constraint, wanted: &Constraint, store: &Store) -> bool {
        let known_at = (self.rule.store, &known.attribute);
        let wanted_at = (store, &wanted.attribute);
        match (known.negative, wanted.negative) {
            (false, false) => {
                // Stricter rule 1 makes no difference here: the DENY means them in every trust domain.
                relation(known_at, wanted_at, self.local).is_some_and(|it| it.covered)
            }
            // Of a list one element may match the one and another the other.
            (false, true) => {
                !matches!(
                    known.attribute,
                    Attribute::Claim(..) | Attribute::Audiences(_) | Attribute::Presenter(_)
                ) && relation(known_at, wanted_at, self.local).is_some_and(|it| it.disjoint)
            }
            (true, true) => relation(wanted_at, known_at, self.local).is_some_and(|it| it.covered),
            (true, false) => false,
        }
    }

    /// The principals that are meant are known, and it holds for each.
    fn principals_imply(&self, wanted: &Constraint, store: &Store) -> bool {
        let about_identity = wanted.attribute.is_identity(&store.programs)
            && !matches!(wanted.attribute, Attribute::Cel(_));
        about_identity
            && self
                .constraints
                .iter()
                .filter(|known| !known.negative)
                .filter_map(|known| {
                    principals(&known.attribute, self.rule.store, Action::Allow, self.local)
                })
                .any(|peers| {
                    peers
                        .iter()
                        .all(|peer| holds_for(wanted, store, peer, Action::Deny, self.local))
                })
    }
}
