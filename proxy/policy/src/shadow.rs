//! AUDIT and dry-run policies: they never decide, and what they would do is told beside the decision.

use std::sync::Arc;

use crate::evaluate::Facts;
use crate::model::{Action, DefaultAction};
use crate::ports::PortSet;
use crate::rules::{Place, Rules};
use crate::{Decision, Reason, Shadow, ValidPolicy, Verdict};

/// A policy that is both AUDIT and dry-run is like one that is AUDIT.
#[derive(Debug)]
pub(crate) struct Shadows {
    deny: Rules,
    allow: Rules,
    audit: Rules,
    /// Where plaintext would be denied besides, see [`PolicySet::uses_identity`](crate::PolicySet::uses_identity).
    identity_ports: PortSet,
}

impl Shadows {
    /// `None` when there are no such policies, so that they cost nothing then.
    pub(crate) fn of(policies: &[Arc<ValidPolicy>], local: &[Arc<str>]) -> Option<Self> {
        if policies.iter().all(|policy| policy.is_enforced()) {
            return None;
        }
        Some(Self {
            deny: Rules::shadow(Action::Deny, policies, local),
            allow: Rules::shadow(Action::Allow, policies, local),
            audit: Rules::shadow(Action::Audit, policies, local),
            identity_ports: PortSet::where_identity_is_used(
                policies
                    .iter()
                    .filter(|policy| policy.dry_run() && policy.action() != Action::Audit),
            ),
        })
    }

    /// Completes a decision of the enforced policies with what these say.
    pub(crate) fn tell(
        &self,
        decision: &mut Decision,
        policies: &[Arc<ValidPolicy>],
        default_action: DefaultAction,
        facts: &Facts<'_>,
    ) {
        let mut told = |rules: &Rules, verdict| {
            let before = decision.shadow.len();
            // The places come in the order of the policies: of each, the first rule is told.
            let mut last = None;
            for (policy, rule) in rules.matches(policies, facts) {
                if last.replace(policy) != Some(policy) {
                    decision
                        .shadow
                        .push(shadow(policies, (policy, rule), verdict));
                }
            }
            decision.shadow.len() > before
        };
        let denied = told(&self.deny, Verdict::Deny);
        let allowed = told(&self.allow, Verdict::Allow);
        told(&self.audit, Verdict::Audit);
        if self.deny.is_empty() && self.allow.is_empty() {
            return;
        }
        // Stricter rule 3, which is asked before any policy is.
        let nameless = facts.peer().is_none() && self.identity_ports.contains(facts.port());
        // The order of `PolicySet::decide`, with both kinds of policies in it.
        let would_allow = match decision.reason {
            _ if nameless => false,
            Reason::DeniedByRule => false,
            _ if denied => false,
            Reason::AllowedByRule => true,
            _ if allowed => true,
            Reason::AllowedByDefault | Reason::DeniedByDefault if self.allow.is_empty() => {
                default_action == DefaultAction::Allow
            }
            // No ALLOW matches: the dry-run policy that came closest to it is the one that would deny.
            _ => {
                decision
                    .shadow
                    .extend(self.allow.nearest(policies, facts).map(|nearest| Shadow {
                        policy: nearest.policy,
                        rule: None,
                        verdict: Verdict::Deny,
                    }));
                false
            }
        };
        decision.would_allow = Some(would_allow);
    }
}

fn shadow(policies: &[Arc<ValidPolicy>], (policy, rule): Place, verdict: Verdict) -> Shadow {
    Shadow {
        policy: policies[policy as usize].shared_id().clone(),
        rule: Some(rule),
        verdict,
    }
}
