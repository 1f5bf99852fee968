//! The policies in force, compiled; DENY, then ALLOW, then the default.

use std::sync::Arc;

use crate::constraint::Rule;
use crate::evaluate::{Facts, Failure, Http};
use crate::index::Index;
use crate::model::{Action, DefaultAction, Mesh};
use crate::ports::PortSet;
use crate::{Clause, Connection, Decision, Nearest, Reason, Request, ValidPolicy};

/// On a miss, how many rules that could be for this peer are looked at to name the nearest.
const NEAREST_RULES_FOR_PEER: usize = 64;

/// And how many of the others, when there is none for this peer.
const NEAREST_RULES: usize = 16;

/// All policies of a workload, compiled and indexed, immutable.
#[derive(Debug)]
pub struct PolicySet {
    revision: Arc<str>,
    /// The local trust domain and its aliases.
    local: Box<[Arc<str>]>,
    default_action: DefaultAction,
    policies: Box<[Arc<ValidPolicy>]>,
    deny: Rules,
    allow: Rules,
    /// The first ALLOW policy; with one, even one without rules, a miss is a denial.
    first_allow: Option<usize>,
    /// Where a rule that uses identity can match.
    identity_ports: PortSet,
}

/// The rules of one action.
#[derive(Debug)]
struct Rules {
    action: Action,
    /// Policy and rule, in order.
    places: Box<[(u32, u32)]>,
    index: Index,
}

impl PolicySet {
    /// The order of `policies` decides which one is named when several match.
    pub fn compile(mesh: &Mesh, revision: &str, policies: &[Arc<ValidPolicy>]) -> Self {
        let local: Box<[Arc<str>]> = [&mesh.trust_domain]
            .into_iter()
            .chain(&mesh.trust_domain_aliases)
            .map(|domain| domain.as_str().into())
            .collect();
        let identity_ports = policies
            .iter()
            .flat_map(|policy| policy.rules())
            .filter(|rule| rule.uses_identity())
            .fold(PortSet::none(), |ports, rule| ports.union(rule.ports()));
        Self {
            revision: revision.into(),
            default_action: mesh.default_action,
            deny: Rules::of(Action::Deny, policies, &local),
            allow: Rules::of(Action::Allow, policies, &local),
            first_allow: policies
                .iter()
                .position(|policy| policy.action() == Action::Allow),
            identity_ports,
            policies: policies.into(),
            local,
        }
    }

    /// May this request pass, or, without a request, this opaque connection?
    pub fn decide(&self, connection: &Connection<'_>, request: Option<&Request<'_>>) -> Decision {
        let http = request.map_or(Http::Opaque, Http::Request);
        self.decide_on(&Facts::new(connection, http, &self.local))
    }

    /// Could any HTTP request on this connection still be allowed? Decided on the connection's own
    /// attributes; whatever depends on the request, the remote address included, may match.
    ///
    /// `Err` when a DENY rule matches whatever the request, or when no ALLOW rule can. Not for opaque
    /// connections: for them [`decide`](Self::decide) has the whole answer.
    // A decision is what the caller wants to record; it is made rarely here.
    #[allow(clippy::result_large_err)]
    pub fn could_allow(&self, connection: &Connection<'_>) -> Result<(), Decision> {
        let decision = self.decide_on(&Facts::new(connection, Http::AnyRequest, &self.local));
        if decision.allow {
            Ok(())
        } else {
            Err(decision)
        }
    }

    /// Does any rule that can match on this port use identity? There, plaintext is denied even in
    /// permissive mode (stricter rule 3).
    pub fn uses_identity(&self, port: u16) -> bool {
        self.identity_ports.contains(port)
    }

    pub fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    fn decide_on(&self, facts: &Facts<'_>) -> Decision {
        if let Some(place) = self.first_match(&self.deny, facts) {
            return self.decided_by(Reason::DeniedByRule, place);
        }
        let Some(first_allow) = self.first_allow else {
            return match self.default_action {
                DefaultAction::Allow => self.decision(Reason::AllowedByDefault),
                DefaultAction::Deny => self.decision(Reason::DeniedByDefault),
            };
        };
        match self.first_match(&self.allow, facts) {
            Some(place) => self.decided_by(Reason::AllowedByRule, place),
            None => Decision {
                nearest: Some(self.nearest(first_allow, facts)),
                ..self.decision(Reason::NoAllowPolicyMatches)
            },
        }
    }

    fn first_match(&self, rules: &Rules, facts: &Facts<'_>) -> Option<(u32, u32)> {
        rules
            .index
            .candidates(facts.peer(), facts.port())
            .map(|number| rules.places[number as usize])
            .find(|&place| self.rule(place).holds(facts, rules.action))
    }

    /// The ALLOW policy whose rule got furthest; of several, the first. Rules that could be for this
    /// peer are nearer than all others.
    fn nearest(&self, first_allow: usize, facts: &Facts<'_>) -> Nearest {
        let index = &self.allow.index;
        let for_peer = index
            .candidates_on_any_port(facts.peer())
            .take(NEAREST_RULES_FOR_PEER);
        let best = self.furthest(for_peer, facts).or_else(|| {
            let rules = 0..self.allow.places.len().min(NEAREST_RULES) as u32;
            self.furthest(rules, facts)
        });
        match best {
            Some(((policy, _), failure)) => Nearest {
                policy: self.policies[policy as usize].shared_id().clone(),
                clause: failure.clause(),
            },
            None => Nearest {
                policy: self.policies[first_allow].shared_id().clone(),
                clause: Clause::Rules,
            },
        }
    }

    fn furthest(
        &self,
        rules: impl Iterator<Item = u32>,
        facts: &Facts<'_>,
    ) -> Option<((u32, u32), Failure<'_>)> {
        let mut best: Option<((u32, u32), Failure<'_>)> = None;
        for number in rules {
            let place = self.allow.places[number as usize];
            if let Some(failure) = self.rule(place).failure(facts)
                && best.is_none_or(|(_, before)| failure.progress() > before.progress())
            {
                best = Some((place, failure));
            }
        }
        best
    }

    fn rule(&self, (policy, rule): (u32, u32)) -> &Rule {
        &self.policies[policy as usize].rules()[rule as usize]
    }

    fn decision(&self, reason: Reason) -> Decision {
        Decision {
            allow: matches!(reason, Reason::AllowedByRule | Reason::AllowedByDefault),
            reason,
            policy: None,
            rule: None,
            nearest: None,
            revision: self.revision.clone(),
        }
    }

    fn decided_by(&self, reason: Reason, (policy, rule): (u32, u32)) -> Decision {
        Decision {
            policy: Some(self.policies[policy as usize].shared_id().clone()),
            rule: Some(rule),
            ..self.decision(reason)
        }
    }
}

impl Rules {
    fn of(action: Action, policies: &[Arc<ValidPolicy>], local: &[Arc<str>]) -> Self {
        let rules = || {
            (0..)
                .zip(policies)
                .filter(move |(_, policy)| policy.action() == action)
                .flat_map(|(number, policy)| {
                    (0..)
                        .zip(policy.rules())
                        .map(move |(rule, compiled)| ((number, rule), compiled))
                })
        };
        Self {
            action,
            places: rules().map(|(place, _)| place).collect(),
            index: Index::build(rules().map(|(_, rule)| rule), local),
        }
    }
}
