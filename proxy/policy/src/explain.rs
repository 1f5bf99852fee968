//! How a decision comes about: every policy, rule by rule, clause by clause, by the code that decides.
//!
//! For people who ask; nothing here is on the way of a request.

use std::fmt;
use std::sync::Arc;

use crate::constraint::{Constraint, Rule, Stage};
use crate::evaluate::Facts;
use crate::model::Action;
use crate::{Clause, Decision, ValidPolicy};

mod clause;

/// The decision for one request or opaque connection, and everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub decision: Decision,
    /// DENY, then ALLOW, then AUDIT, then dry-run; within each in the order in which they were given.
    pub policies: Vec<ExplainedPolicy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPolicy {
    /// `namespace/name`.
    pub policy: Arc<str>,
    pub action: Action,
    pub dry_run: bool,
    /// Some rule of it matches.
    pub matches: bool,
    pub rules: Vec<ExplainedRule>,
}

/// It matches when one of `from`, one of `to` and all of `when` hold, where there are any, and it is not
/// `out_of_place`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedRule {
    pub matches: bool,
    /// An ALLOW rule that uses HTTP attributes, on opaque TCP: it never matches, whatever its clauses say.
    pub out_of_place: bool,
    /// One list of clauses for each source.
    pub from: Vec<Vec<ExplainedClause>>,
    /// One list of clauses for each operation.
    pub to: Vec<Vec<ExplainedClause>>,
    pub when: Vec<ExplainedClause>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedClause {
    pub clause: Clause,
    /// `notX` or `notValues`: it holds when none of `wanted` is there.
    pub negative: bool,
    /// The values of the policy, in a form that means the same; for `cel` the expression.
    pub wanted: Vec<String>,
    /// What the connection or request has; `None` is nothing.
    pub actual: Option<String>,
    pub holds: bool,
    /// When comparing the values doesn't say why it holds or not.
    pub why: Option<Why>,
}

/// Why a clause could not be decided by comparing values. Then it holds in a DENY or AUDIT, and in an ALLOW it
/// doesn't; but where nothing is there to compare, only a negative clause holds in a DENY or AUDIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The peer proved no identity (stricter rule 2).
    NoIdentity,
    /// Namespace and service account mean those of the local trust domain (stricter rule 1).
    OtherTrustDomain,
    /// The path of the peer's SPIFFE ID is not `/ns/<namespace>/sa/<account>` (stricter rule 8).
    NoServiceAccount,
    /// The peer is meant only when the value is read as Istio reads it: a namespace or service account anywhere in a SPIFFE
    /// ID of any trust domain, a `*` that takes in path segments. That counts where it is against the caller.
    WideReading,
    /// The request carries no token (stricter rule 7).
    NoToken,
    /// The token has no subject, so that the request has no request principal.
    NoSubject,
    /// Not all of the header's values and their join compare alike (stricter rule 4).
    RepeatedHeader,
    /// The clause names a port and the request's host has none.
    HostWithoutPort,
    /// The request's host is none.
    HostMalformed,
    /// The claim is no string and no list of strings (stricter rule 6).
    ClaimNotText,
    /// The expression has no value (stricter rule 6); this is what went wrong.
    NoValue(String),
    /// What a trusted hop wrote into x-forwarded-for is no address.
    RemoteUnknown,
    /// There is no HTTP request on opaque TCP.
    OpaqueTcp,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoIdentity => "the peer proved no identity",
            Self::OtherTrustDomain => {
                "without trustDomains it means the local trust domain, and the peer is of another"
            }
            Self::NoServiceAccount => {
                "the path of the peer's SPIFFE ID is not /ns/<namespace>/sa/<account>"
            }
            Self::RemoteUnknown => "what a trusted hop wrote into x-forwarded-for is no address",
            Self::WideReading => {
                "read widely, it means the peer's SPIFFE ID; that doubt is decided against the caller"
            }
            Self::NoToken => "the request carries no token",
            Self::NoSubject => "the token has no subject",
            Self::RepeatedHeader => "the header is repeated, and not all of its values agree",
            Self::HostWithoutPort => "the request's host has no port",
            Self::HostMalformed => "the request's host is malformed",
            Self::ClaimNotText => "the claim is neither a string nor a list of strings",
            Self::NoValue(error) => return write!(f, "the expression has no value: {error}"),
            Self::OpaqueTcp => "there is no HTTP request on opaque TCP",
        })
    }
}

/// The rules of a policy, as its action reads them.
pub(crate) fn policy(policy: &ValidPolicy, facts: &Facts<'_>) -> ExplainedPolicy {
    let action = policy.action();
    let rules: Vec<_> = policy
        .rules()
        .map(|compiled| rule(compiled, facts, action))
        .collect();
    ExplainedPolicy {
        policy: policy.shared_id().clone(),
        action,
        dry_run: policy.dry_run(),
        matches: rules.iter().any(|rule| rule.matches),
        rules,
    }
}

fn rule(rule: Rule<'_>, facts: &Facts<'_>, action: Action) -> ExplainedRule {
    let clauses = |stage: Stage, constraints: &[Constraint]| -> Vec<_> {
        constraints
            .iter()
            .map(|constraint| constraint.explain(stage, rule.store, facts, action))
            .collect()
    };
    ExplainedRule {
        matches: rule.holds(facts, action),
        out_of_place: rule.is_out_of_place(facts, action),
        from: rule
            .sources()
            .map(|source| clauses(Stage::From, source))
            .collect(),
        to: rule
            .operations()
            .map(|operation| clauses(Stage::To, operation))
            .collect(),
        when: clauses(Stage::When, rule.when),
    }
}
