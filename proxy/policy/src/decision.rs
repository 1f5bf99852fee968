//! What comes out: allow or deny, why, and what decided.

use std::fmt;
use std::sync::Arc;

use crate::Reason;

/// The outcome for one request or one opaque connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allow: bool,
    pub reason: Reason,
    /// The policy that decided, `namespace/name`; of several that match, the first in the order given.
    pub policy: Option<Arc<str>>,
    /// The index of the rule that decided, in `policy`.
    pub rule: Option<u32>,
    /// When no ALLOW policy matches, with or without the right token: the one that came closest.
    pub nearest: Option<Nearest>,
    /// What AUDIT and dry-run policies say, those that have something to say; they never decide.
    pub shadow: Vec<Shadow>,
    /// What the decision would be with the dry-run policies in force; `None` when there are none.
    pub would_allow: Option<bool>,
    /// The revision of the policies that decided.
    pub revision: Arc<str>,
}

/// What one AUDIT or dry-run policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    pub policy: Arc<str>,
    /// The first of its rules that matches; `None` when none does, and that is what it says.
    pub rule: Option<u32>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
    /// An AUDIT policy matches.
    Audit,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

/// The ALLOW policy whose rule got furthest on a miss, and the clause at which it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    pub policy: Arc<str>,
    pub clause: Clause,
}

/// A part of a rule, in the words of the policy's YAML: `from.notPrincipals`, `when[request.headers[x-id]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clause {
    /// The policy has no rules, so that nothing matches.
    Rules,
    From(&'static str),
    To(&'static str),
    When(&'static str),
    WhenHeader(Arc<str>),
    /// The path of a claim, as in `a][b`.
    WhenClaim(Arc<str>),
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules => f.write_str("rules"),
            Self::From(field) => write!(f, "from.{field}"),
            Self::To(field) => write!(f, "to.{field}"),
            Self::When(key) => write!(f, "when[{key}]"),
            Self::WhenHeader(name) => write!(f, "when[request.headers[{name}]]"),
            Self::WhenClaim(path) => write!(f, "when[request.auth.claims[{path}]]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_are_written_in_the_words_of_the_yaml() {
        for (clause, expected) in [
            (Clause::Rules, "rules"),
            (Clause::From("notPrincipals"), "from.notPrincipals"),
            (Clause::To("methods"), "to.methods"),
            (Clause::When("source.ip"), "when[source.ip]"),
            (
                Clause::WhenHeader("x-id".into()),
                "when[request.headers[x-id]]",
            ),
            (
                Clause::WhenClaim("realm][roles".into()),
                "when[request.auth.claims[realm][roles]]",
            ),
        ] {
            assert_eq!(clause.to_string(), expected);
        }
    }
}
