//! What a test wants of a decision, and whether it is so.

use std::fmt;

use kith_policy::{Decision, Reason};
use kith_proxy::rehearse::Outcome;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

/// Only the decision has to be said; what is not said may be anything.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Expect {
    decision: Said,
    /// `null` is: no policy.
    #[serde(
        default,
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    policy: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u32>,
    #[serde(
        default,
        deserialize_with = "reason",
        serialize_with = "code",
        skip_serializing_if = "Option::is_none"
    )]
    reason: Option<Reason>,
    /// What AUDIT and dry-run policies say, all of it, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<Vec<ShadowSaid>>,
    /// What the decision would be with the dry-run policies in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_be: Option<Said>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said {
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShadowSaid {
    policy: String,
    decision: ShadowDecision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum ShadowDecision {
    Allow,
    Deny,
    Audit,
}

fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reason>, D::Error> {
    let code = String::deserialize(deserializer)?;
    code.parse().map(Some).map_err(D::Error::custom)
}

// As serde passes it.
#[allow(clippy::ref_option)]
fn code<S: Serializer>(reason: &Option<Reason>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.map(Reason::as_str).serialize(serializer)
}

// As serde passes it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn known_code<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

/// What came of it, in the words of an expectation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Got {
    decision: Said,
    policy: Option<String>,
    rule: Option<u32>,
    #[serde(serialize_with = "known_code")]
    reason: Reason,
    shadow: Vec<ShadowSaid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_be: Option<Said>,
}

impl From<&Outcome> for Got {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Refused { reason, .. } => Self {
                decision: Said::Deny,
                policy: None,
                rule: None,
                reason: *reason,
                shadow: Vec::new(),
                would_be: None,
            },
            Outcome::Decided(decided) => Self::of(&decided.explanation.decision),
        }
    }
}

impl Got {
    fn of(decision: &Decision) -> Self {
        let shadow = decision.shadow.iter().map(|shadow| ShadowSaid {
            policy: shadow.policy.to_string(),
            decision: match shadow.verdict {
                kith_policy::Verdict::Allow => ShadowDecision::Allow,
                kith_policy::Verdict::Deny => ShadowDecision::Deny,
                kith_policy::Verdict::Audit => ShadowDecision::Audit,
            },
        });
        Self {
            decision: decision.allow.into(),
            policy: decision.policy.as_deref().map(str::to_owned),
            rule: decision.rule,
            reason: decision.reason,
            shadow: shadow.collect(),
            would_be: decision.would_allow.map(Said::from),
        }
    }
}

impl From<bool> for Said {
    fn from(allow: bool) -> Self {
        if allow { Self::Allow } else { Self::Deny }
    }
}

impl Expect {
    pub(super) fn is_met_by(&self, got: &Got) -> bool {
        let sorted = |shadow: &[ShadowSaid]| {
            let mut shadow = shadow.to_vec();
            shadow.sort();
            shadow
        };
        self.decision == got.decision
            && self.policy.as_ref().is_none_or(|it| *it == got.policy)
            && self.rule.is_none_or(|rule| Some(rule) == got.rule)
            && self.reason.is_none_or(|reason| reason == got.reason)
            && (self.shadow.as_ref()).is_none_or(|it| sorted(it) == sorted(&got.shadow))
            && self.would_be.is_none_or(|it| Some(it) == got.would_be)
    }

    /// What was got, as far as something was expected of it.
    pub(super) fn beside(&self, got: &Got) -> String {
        let mut text = got.to_string();
        if self.shadow.is_some() {
            text.push_str(&shadow_text(&got.shadow));
        }
        if self.would_be.is_some() {
            text.push_str(&match got.would_be {
                Some(would_be) => format!(", would be {would_be}"),
                None => ", without dry-run policies".to_owned(),
            });
        }
        text
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.decision)?;
        match &self.policy {
            Some(Some(policy)) => write!(f, " by {policy}")?,
            Some(None) => f.write_str(" by no policy")?,
            None => {}
        }
        if let Some(rule) = self.rule {
            write!(f, " rule {rule}")?;
        }
        if let Some(reason) = self.reason {
            write!(f, " ({reason})")?;
        }
        if let Some(shadow) = &self.shadow {
            f.write_str(&shadow_text(shadow))?;
        }
        if let Some(would_be) = self.would_be {
            write!(f, ", would be {would_be}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.decision)?;
        if let Some(policy) = &self.policy {
            write!(f, " by {policy}")?;
        }
        if let Some(rule) = self.rule {
            write!(f, " rule {rule}")?;
        }
        write!(f, " ({})", self.reason)
    }
}

fn shadow_text(shadow: &[ShadowSaid]) -> String {
    let said: Vec<String> = (shadow.iter())
        .map(|it| format!("{} {}", it.policy, it.decision))
        .collect();
    format!(", shadow [{}]", said.join(", "))
}

impl fmt::Display for ShadowDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        })
    }
}
