//! An explanation for people.

use std::fmt::Write;

use kith_policy::{Clause, Decision, ExplainedClause, ExplainedPolicy, ExplainedRule, Reason};
use kith_proxy::rehearse::{Decided, Outcome, Sidecar};
use kith_proxy::snapshot::MtlsMode;

use super::json::action;
use super::unverified::{Answer, Unverified};
use crate::policy::attempt::Attempt;
use crate::policy::because::because;

/// How it is shown that a clause holds, and that it doesn't.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    holds: &'static str,
    fails: &'static str,
}

/// For a terminal.
pub(super) const MARKS: Marks = Marks {
    holds: "✓",
    fails: "✗",
};

/// For everything else.
pub(super) const WORDS: Marks = Marks {
    holds: "yes",
    fails: "no",
};

pub(super) fn of(
    attempt: &Attempt,
    unverified: Option<&Unverified>,
    answer: &Answer,
    sidecar: &Sidecar,
    marks: Marks,
) -> String {
    let mut text = String::new();
    let Answer { outcome, without } = answer;
    facts(attempt, unverified, outcome, sidecar, &mut text);
    let (allow, reason, decision) = match outcome {
        Outcome::Refused { reason, .. } => (false, *reason, None),
        Outcome::Decided(decided) => {
            let decision = &decided.explanation.decision;
            if decided.explanation.policies.is_empty() {
                line(&mut text, 0, "\nNo policy is for this workload.");
            }
            for policy in &decided.explanation.policies {
                one_policy(policy, marks, &mut text);
            }
            (decision.allow, decision.reason, Some(decision))
        }
    };
    verdict(allow, reason, decision, &because(outcome), &mut text);
    if let Some(Outcome::Decided(without)) = without {
        let Decision { allow, reason, .. } = &without.explanation.decision;
        let says = format!(
            "Without the token, or with it where no rule looks, it would be: {}, {reason}.",
            allowed(*allow)
        );
        line(&mut text, 1, &says);
    }
    text
}

fn facts(
    attempt: &Attempt,
    unverified: Option<&Unverified>,
    outcome: &Outcome,
    sidecar: &Sidecar,
    text: &mut String,
) {
    let port = attempt.destination.port();
    let mtls = match sidecar.mtls(port) {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Disable => "off",
    };
    let mut rows = vec![
        (
            "peer",
            match &attempt.peer {
                Some(peer) => peer.to_string(),
                None => "none: plaintext".to_owned(),
            },
        ),
        ("source", attempt.source.ip().to_canonical().to_string()),
        (
            "destination",
            format!("{}, mTLS {mtls}", attempt.destination),
        ),
    ];
    if let Some(sni) = &attempt.sni {
        rows.push(("server name", sni.clone()));
    }
    let decided: Option<&Decided> = match outcome {
        Outcome::Decided(decided) => Some(decided),
        Outcome::Refused { .. } => None,
    };
    match &attempt.request {
        None => rows.push(("carries", "opaque TCP".to_owned())),
        Some(request) => {
            let asked = format!("{} {} of {}", request.method, request.path, request.host);
            rows.push(("request", asked));
            let path = decided.and_then(|decided| decided.path.as_deref());
            if let Some(path) = path.filter(|path| *path != request.path) {
                rows.push(("path", format!("{path}, as policies see it")));
            }
            let token = match (&request.token, unverified) {
                (None, Some(unverified)) => unverified.says(),
                (None, None) => "none".to_owned(),
                (Some(token), _) => format!("{}/{}", token.issuer, token.subject),
            };
            rows.push(("token", token));
        }
    }
    if let Some(decided) =
        decided.filter(|it| it.remote != Some(attempt.source.ip().to_canonical()))
    {
        let remote = decided.remote.map_or_else(
            || "unknown: x-forwarded-for is not understood".to_owned(),
            |remote| format!("{remote}, by x-forwarded-for"),
        );
        rows.push(("remote", remote));
    }
    for (name, value) in rows {
        line(text, 0, &format!("{name:<12} {value}"));
    }
}

fn one_policy(policy: &ExplainedPolicy, marks: Marks, text: &mut String) {
    let dry_run = if policy.dry_run { " (dry-run)" } else { "" };
    let says = match (policy.matches, policy.rules.is_empty()) {
        (_, true) => "has no rules, and matches nothing",
        (true, false) => "matches",
        (false, false) => "does not match",
    };
    let heading = format!(
        "{}{dry_run} {} {says}",
        action(policy.action),
        policy.policy
    );
    line(text, 0, "");
    line(text, 0, &heading);
    for (index, rule) in policy.rules.iter().enumerate() {
        one_rule(index, rule, marks, text);
    }
}

fn one_rule(index: usize, rule: &ExplainedRule, marks: Marks, text: &mut String) {
    let rows = rows(rule, marks);
    let note = match (rule.out_of_place, rows.is_empty()) {
        (true, _) => ": never on opaque TCP, for it uses HTTP attributes",
        (false, true) => ": it asks for nothing",
        (false, false) => "",
    };
    let matches = if rule.matches { "matches" } else { "no match" };
    line(text, 1, &format!("rule {index}: {matches}{note}"));
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).chars().count()).max();
    let (marks, names, wants) = (
        width(|row| row.mark).unwrap_or(0),
        width(|row| &row.name).unwrap_or(0),
        width(|row| &row.wants).unwrap_or(0),
    );
    for Row {
        mark,
        name,
        wants: wanted,
        has,
    } in &rows
    {
        let row = format!("{mark:<marks$}  {name:<names$}  {wanted:<wants$}  {has}");
        line(text, 2, row.trim_end());
    }
}

struct Row {
    mark: &'static str,
    name: String,
    wants: String,
    has: String,
}

/// Of sources and of operations one has to hold, of conditions all: so they are numbered as in the YAML.
fn rows(rule: &ExplainedRule, marks: Marks) -> Vec<Row> {
    let alternatives = |list: &'static str, all: &[Vec<ExplainedClause>]| -> Vec<Row> {
        let each = all.iter().enumerate();
        each.flat_map(|(index, clauses)| {
            clauses.iter().map(move |clause| {
                let name = match &clause.clause {
                    Clause::From(field) | Clause::To(field) => format!("{list}[{index}].{field}"),
                    other => other.to_string(),
                };
                row(name, clause, marks)
            })
        })
        .collect()
    };
    let mut rows = alternatives("from", &rule.from);
    rows.extend(alternatives("to", &rule.to));
    let when = rule.when.iter();
    rows.extend(when.map(|clause| row(clause.clause.to_string(), clause, marks)));
    rows
}

fn row(name: String, clause: &ExplainedClause, marks: Marks) -> Row {
    let wanted = clause.wanted.join(" | ");
    let has = match (&clause.actual, &clause.why) {
        (Some(actual), None) => format!("has {actual}"),
        (Some(actual), Some(why)) => format!("has {actual}: {why}"),
        (None, Some(why)) => why.to_string(),
        (None, None) => "has nothing".to_owned(),
    };
    Row {
        mark: if clause.holds {
            marks.holds
        } else {
            marks.fails
        },
        name,
        wants: match clause.negative {
            true => format!("wants none of {wanted}"),
            false => format!("wants {wanted}"),
        },
        has,
    }
}

fn verdict(
    allow: bool,
    reason: Reason,
    decision: Option<&Decision>,
    because: &str,
    text: &mut String,
) {
    line(text, 0, "");
    line(text, 0, &format!("Decision: {}, {reason}", allowed(allow)));
    line(text, 1, &format!("Because {because}."));
    line(text, 1, reason.next_step());
    let Some(decision) = decision else {
        return;
    };
    for shadow in &decision.shadow {
        let rule = match shadow.rule {
            Some(rule) => format!(" by rule {rule}"),
            None => ", for none of its rules matches".to_owned(),
        };
        let says = format!(
            "Shadow: {} says {}{rule}.",
            shadow.policy,
            shadow.verdict.as_str()
        );
        line(text, 1, &says);
    }
    if let Some(would_allow) = decision.would_allow {
        let says = format!(
            "With the dry-run policies in force it would be: {}.",
            allowed(would_allow)
        );
        line(text, 1, &says);
    }
}

fn allowed(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn line(text: &mut String, indent: usize, content: &str) {
    // Writing to a String cannot fail.
    _ = writeln!(text, "{:width$}{content}", "", width = indent * 2);
}
