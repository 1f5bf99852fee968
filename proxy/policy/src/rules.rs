//! The rules of one action, and which of them holds.

use std::sync::Arc;

use crate::constraint::Rule;
use crate::evaluate::{Facts, Failure};
use crate::index::Index;
pub(crate) use crate::index::Place;
use crate::model::Action;
use crate::{Clause, Nearest, ValidPolicy};

/// On a miss, how many rules that could be for this peer are looked at to name the nearest.
const NEAREST_RULES_FOR_PEER: usize = 64;

/// And how many of the others, when there is none for this peer.
const NEAREST_RULES: usize = 16;

#[derive(Debug)]
pub(crate) struct Rules {
    action: Action,
    index: Index,
    /// At most [`NEAREST_RULES`].
    first_rules: Box<[Place]>,
    /// The first policy, which may have no rules.
    first_policy: Option<u32>,
    /// Some rule is about the request's token.
    uses_token: bool,
}

impl Rules {
    /// The policies of this action that decide.
    pub(crate) fn enforced(
        action: Action,
        policies: &[Arc<ValidPolicy>],
        local: &[Arc<str>],
    ) -> Self {
        Self::of(action, policies, local, ValidPolicy::is_enforced)
    }

    /// Those that don't.
    pub(crate) fn shadow(
        action: Action,
        policies: &[Arc<ValidPolicy>],
        local: &[Arc<str>],
    ) -> Self {
        Self::of(action, policies, local, |policy| !policy.is_enforced())
    }

    fn of(
        action: Action,
        policies: &[Arc<ValidPolicy>],
        local: &[Arc<str>],
        role: fn(&ValidPolicy) -> bool,
    ) -> Self {
        let of_action = || {
            (0_u32..)
                .zip(policies)
                .filter(move |(_, policy)| policy.action() == action && role(policy))
        };
        let rules = || {
            of_action().flat_map(|(number, policy)| {
                (0..)
                    .zip(policy.rules())
                    .map(move |(rule, compiled)| ((number, rule), compiled))
            })
        };
        Self {
            action,
            uses_token: rules().any(|(_, rule)| rule.uses_token()),
            index: Index::build(action, rules(), local),
            first_rules: rules()
                .take(NEAREST_RULES)
                .map(|(place, _)| place)
                .collect(),
            first_policy: of_action().next().map(|(number, _)| number),
        }
    }

    /// There is not even a policy without rules.
    pub(crate) fn is_empty(&self) -> bool {
        self.first_policy.is_none()
    }

    /// In the order of the policies.
    pub(crate) fn matches<'a>(
        &'a self,
        policies: &'a [Arc<ValidPolicy>],
        facts: &'a Facts<'_>,
    ) -> impl Iterator<Item = Place> + 'a {
        self.index
            .candidates(facts.peer(), facts.port())
            .filter(|&place| rule(policies, place).holds(facts, self.action))
    }

    pub(crate) fn first_match(
        &self,
        policies: &[Arc<ValidPolicy>],
        facts: &Facts<'_>,
    ) -> Option<Place> {
        self.matches(policies, facts).next()
    }

    /// When none of these ALLOW policies matches: the first that would, were there a token as it wants it.
    pub(crate) fn but_for_token(
        &self,
        policies: &[Arc<ValidPolicy>],
        facts: &Facts<'_>,
    ) -> Option<Nearest> {
        let with_token = facts.with_any_token().filter(|_| self.uses_token)?;
        let place = self.first_match(policies, &with_token)?;
        Some(Nearest {
            policy: policies[place.0 as usize].shared_id().clone(),
            clause: rule(policies, place).failure(facts)?.clause(),
        })
    }

    /// When none of these ALLOW policies matches: the one whose rule got furthest; of several, the first.
    /// Rules that could be for this peer are nearer than all others.
    pub(crate) fn nearest(
        &self,
        policies: &[Arc<ValidPolicy>],
        facts: &Facts<'_>,
    ) -> Option<Nearest> {
        let for_peer = self
            .index
            .candidates_on_any_port(facts.peer())
            .take(NEAREST_RULES_FOR_PEER);
        let best = furthest(policies, for_peer, facts)
            .or_else(|| furthest(policies, self.first_rules.iter().copied(), facts));
        let (policy, clause) = match best {
            Some(((policy, _), failure)) => (policy, failure.clause()),
            None => (self.first_policy?, Clause::Rules),
        };
        Some(Nearest {
            policy: policies[policy as usize].shared_id().clone(),
            clause,
        })
    }
}

fn furthest<'p>(
    policies: &'p [Arc<ValidPolicy>],
    rules: impl Iterator<Item = Place>,
    facts: &Facts<'_>,
) -> Option<(Place, Failure<'p>)> {
    let mut best: Option<(Place, Failure<'_>)> = None;
    for place in rules {
        if let Some(failure) = rule(policies, place).failure(facts)
            && best.is_none_or(|(_, before)| failure.progress() > before.progress())
        {
            best = Some((place, failure));
        }
    }
    best
}

fn rule(policies: &[Arc<ValidPolicy>], (policy, rule): Place) -> Rule<'_> {
    policies[policy as usize].rule(rule as usize)
}
