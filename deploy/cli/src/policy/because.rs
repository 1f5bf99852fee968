//! Why a decision came out as it did, in one sentence.

use kith_policy::{Action, ExplainedClause, Explanation, Nearest, Reason};
use kith_proxy::rehearse::Outcome;

pub(super) fn because(outcome: &Outcome) -> String {
    let explanation = match outcome {
        Outcome::Refused { why, .. } => return why.clone(),
        Outcome::Decided(decided) => &decided.explanation,
    };
    let decision = &explanation.decision;
    match (decision.reason, &decision.policy, decision.rule) {
        (Reason::AllowedByDefault, ..) => {
            "no ALLOW policy is in force, and the default action is ALLOW".to_owned()
        }
        (Reason::DeniedByDefault, ..) => {
            "no ALLOW policy is in force, and the default action is DENY".to_owned()
        }
        (Reason::AllowedByRule, Some(policy), Some(rule)) => {
            format!("rule {rule} of the ALLOW policy {policy} matches")
        }
        (Reason::DeniedByRule, Some(policy), Some(rule)) => {
            format!("rule {rule} of the DENY policy {policy} matches")
        }
        _ => match &decision.nearest {
            Some(nearest) => miss(explanation, nearest),
            None => "no ALLOW policy matches".to_owned(),
        },
    }
}

fn miss(explanation: &Explanation, nearest: &Nearest) -> String {
    let Nearest { policy, clause } = nearest;
    let found = explanation
        .policies
        .iter()
        .filter(|it| it.action == Action::Allow && !it.dry_run && it.policy == *policy)
        .flat_map(|it| &it.rules);
    let rules: Vec<_> = found.collect();
    if rules.is_empty() {
        return format!("no ALLOW policy matches: {policy} comes closest, and it has no rules");
    }
    let clauses = || {
        let clauses = rules.iter().flat_map(|rule| {
            let alternatives = rule.from.iter().chain(&rule.to);
            alternatives.flatten().chain(&rule.when)
        });
        clauses.filter(|it| it.clause == *clause)
    };
    let why = match clauses().find(|it| !it.holds) {
        Some(failed) => what_failed(failed),
        // Its clauses hold, and yet it cannot match.
        None => "it uses HTTP attributes, and this is opaque TCP".to_owned(),
    };
    format!("no ALLOW policy matches: {policy} comes closest, and fails at {clause}: {why}")
}

fn what_failed(clause: &ExplainedClause) -> String {
    if let Some(why) = &clause.why {
        return why.to_string();
    }
    let wanted = clause.wanted.join(", ");
    let actual = clause.actual.as_deref().unwrap_or("nothing");
    match clause.negative {
        true => format!("it excludes {wanted}, and there is {actual}"),
        false => format!("it wants {wanted}, and there is {actual}"),
    }
}
