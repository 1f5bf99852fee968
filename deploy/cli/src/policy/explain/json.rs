//! An explanation for machines.

use kith_policy::{Action, ExplainedClause, ExplainedPolicy, ExplainedRule};
use kith_proxy::rehearse::{Outcome, Sidecar};
use serde_json::{Value, json};

use super::unverified::{Answer, Unverified};
use crate::policy::because::because;

pub(super) fn of(answer: &Answer, unverified: Option<&Unverified>, sidecar: &Sidecar) -> Value {
    let mut explained = of_outcome(&answer.outcome, sidecar);
    if let Some(unverified) = unverified {
        explained["token_not_verified"] = unverified.why.as_str().into();
    }
    if let Some(without) = &answer.without {
        explained["without_token"] = of_outcome(without, sidecar);
    }
    explained
}

fn of_outcome(outcome: &Outcome, sidecar: &Sidecar) -> Value {
    match outcome {
        Outcome::Refused { reason, .. } => json!({
            "decision": "deny",
            "reason": reason.as_str(),
            "because": because(outcome),
            "next_step": reason.next_step(),
            "revision": sidecar.revision(),
            "policies": [],
        }),
        Outcome::Decided(decided) => {
            let decision = &decided.explanation.decision;
            let policies = decided.explanation.policies.iter().map(policy);
            let shadow = decision.shadow.iter().map(|shadow| {
                json!({
                    "policy": &*shadow.policy,
                    "rule": shadow.rule,
                    "decision": shadow.verdict.as_str(),
                })
            });
            json!({
                "decision": verdict(decision.allow),
                "reason": decision.reason.as_str(),
                "policy": decision.policy.as_deref(),
                "rule": decision.rule,
                "nearest": decision.nearest.as_ref().map(|nearest| json!({
                    "policy": &*nearest.policy,
                    "clause": nearest.clause.to_string(),
                })),
                "shadow": shadow.collect::<Vec<_>>(),
                "would_be": decision.would_allow.map(verdict),
                "because": because(outcome),
                "next_step": decision.reason.next_step(),
                "revision": &*decision.revision,
                "path": decided.path,
                "remote": decided.remote.map(|remote| remote.to_string()),
                "policies": policies.collect::<Vec<_>>(),
            })
        }
    }
}

fn verdict(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn policy(policy: &ExplainedPolicy) -> Value {
    json!({
        "policy": &*policy.policy,
        "action": action(policy.action),
        "dry_run": policy.dry_run,
        "matches": policy.matches,
        "rules": policy.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

pub(super) fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "AUDIT",
    }
}

fn rule(rule: &ExplainedRule) -> Value {
    let alternatives = |clauses: &[Vec<ExplainedClause>]| -> Value {
        clauses
            .iter()
            .map(|clauses| clauses.iter().map(clause).collect::<Value>())
            .collect()
    };
    json!({
        "matches": rule.matches,
        "out_of_place": rule.out_of_place,
        "from": alternatives(&rule.from),
        "to": alternatives(&rule.to),
        "when": rule.when.iter().map(clause).collect::<Vec<_>>(),
    })
}

fn clause(clause: &ExplainedClause) -> Value {
    json!({
        "clause": clause.clause.to_string(),
        "negative": clause.negative,
        "wanted": clause.wanted,
        "actual": clause.actual,
        "holds": clause.holds,
        "why": clause.why.as_ref().map(ToString::to_string),
    })
}
