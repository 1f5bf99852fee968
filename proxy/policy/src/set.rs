//! The policies in force, compiled; DENY, then ALLOW, then the default.

use std::sync::Arc;

use crate::evaluate::{Facts, Http};
use crate::model::{Action, DefaultAction, Mesh};
use crate::ports::PortSet;
use crate::rules::{Place, Rules};
use crate::shadow::Shadows;
use crate::{Connection, Decision, Explanation, Reason, Request, ValidPolicy, explain};

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
    /// AUDIT and dry-run policies, if there are any. Nothing else looks at them.
    shadows: Option<Box<Shadows>>,
    /// Where a rule that uses identity can match.
    identity_ports: PortSet,
}

impl PolicySet {
    /// The order of `policies` decides which one is named when several match.
    pub fn compile(mesh: &Mesh, revision: &str, policies: &[Arc<ValidPolicy>]) -> Self {
        let local: Box<[Arc<str>]> = [&mesh.trust_domain]
            .into_iter()
            .chain(&mesh.trust_domain_aliases)
            .map(|domain| domain.as_str().into())
            .collect();
        let enforced = policies.iter().filter(|policy| policy.is_enforced());
        let identity_ports = PortSet::where_identity_is_used(enforced);
        Self {
            revision: revision.into(),
            default_action: mesh.default_action,
            deny: Rules::enforced(Action::Deny, policies, &local),
            allow: Rules::enforced(Action::Allow, policies, &local),
            shadows: Shadows::of(policies, &local).map(Box::new),
            identity_ports,
            policies: policies.into(),
            local,
        }
    }

    /// May this request pass, or, without a request, this opaque connection?
    ///
    /// Of an HTTP request that no ALLOW policy matches, and that carries no token, the reason is
    /// [`TokenMissing`](Reason::TokenMissing) when some rule asks for a token and fails by that alone: with the
    /// right token it would match. Then `nearest` names this rule's policy and the clause about the token.
    /// Otherwise the reason is [`NoAllowPolicyMatches`](Reason::NoAllowPolicyMatches).
    pub fn decide(&self, connection: &Connection<'_>, request: Option<&Request<'_>>) -> Decision {
        let http = request.map_or(Http::Opaque, Http::Request);
        let facts = Facts::new(connection, http, &self.local);
        let mut decision = self.decide_on(&facts);
        if let Some(shadows) = &self.shadows {
            shadows.tell(&mut decision, &self.policies, self.default_action, &facts);
        }
        decision
    }

    /// The same decision, by the same code, and how it came about.
    pub fn explain(
        &self,
        connection: &Connection<'_>,
        request: Option<&Request<'_>>,
    ) -> Explanation {
        let http = request.map_or(Http::Opaque, Http::Request);
        let facts = Facts::new(connection, http, &self.local);
        let order = |policy: &ValidPolicy| match (policy.action(), policy.dry_run()) {
            (Action::Audit, _) => 2,
            (_, true) => 3,
            (Action::Deny, false) => 0,
            (Action::Allow, false) => 1,
        };
        let mut policies: Vec<_> = self.policies.iter().collect();
        policies.sort_by_key(|policy| order(policy));
        Explanation {
            decision: self.decide(connection, request),
            policies: policies
                .into_iter()
                .map(|policy| explain::policy(policy, &facts))
                .collect(),
        }
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
        if let Some(place) = self.deny.first_match(&self.policies, facts) {
            return self.decided_by(Reason::DeniedByRule, place);
        }
        // With an ALLOW policy, even one without rules, a miss is a denial.
        if self.allow.is_empty() {
            return match self.default_action {
                DefaultAction::Allow => self.decision(Reason::AllowedByDefault),
                DefaultAction::Deny => self.decision(Reason::DeniedByDefault),
            };
        }
        if let Some(place) = self.allow.first_match(&self.policies, facts) {
            return self.decided_by(Reason::AllowedByRule, place);
        }
        let (reason, nearest) = match self.allow.but_for_token(&self.policies, facts) {
            Some(nearest) => (Reason::TokenMissing, Some(nearest)),
            None => (
                Reason::NoAllowPolicyMatches,
                self.allow.nearest(&self.policies, facts),
            ),
        };
        Decision {
            nearest,
            ..self.decision(reason)
        }
    }

    fn decision(&self, reason: Reason) -> Decision {
        Decision {
            allow: matches!(reason, Reason::AllowedByRule | Reason::AllowedByDefault),
            reason,
            policy: None,
            rule: None,
            nearest: None,
            shadow: Vec::new(),
            would_allow: None,
            revision: self.revision.clone(),
        }
    }

    fn decided_by(&self, reason: Reason, (policy, rule): Place) -> Decision {
        Decision {
            policy: Some(self.policies[policy as usize].shared_id().clone()),
            rule: Some(rule),
            ..self.decision(reason)
        }
    }
}
