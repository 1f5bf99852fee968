//! The proof that a policy can be honoured exactly: nothing is dropped, nothing is guessed.

use std::borrow::Cow;
use std::sync::Arc;

use thiserror::Error;

use crate::constraint::{Constraint, Rule};
use crate::model::{Action, Policy};
use crate::store::{Store, offset};
use crate::words;
use check::Check;

mod check;
mod key;
mod values;

/// A field that cannot be honoured exactly. The author of the policy is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// A path in the names of the resource API, such as `rules[0].from[1].principals[2]`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// A field that is honoured exactly, and probably isn't what its author meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// As in [`FieldError`].
    pub field: String,
    pub message: Cow<'static, str>,
}

/// A policy of which every field can be honoured exactly.
#[derive(Debug)]
pub struct ValidPolicy {
    id: Arc<str>,
    action: Action,
    dry_run: bool,
    spans: Box<[Span]>,
    /// Of all rules, one behind the other.
    constraints: Box<[Constraint]>,
    store: Store,
    warnings: Box<[Warning]>,
}

/// Where the constraints of a rule are: sources, then operations, then conditions.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: u32,
    to: u32,
    when: u32,
    end: u32,
    uses_http: bool,
}

impl ValidPolicy {
    /// All mistakes at once, in the order of the policy.
    // Consumes the policy: the strings live on in their compiled form only.
    #[allow(clippy::needless_pass_by_value)]
    pub fn new(policy: Policy) -> Result<Self, Vec<FieldError>> {
        let mut check = Check::new(&policy);
        for (field, value) in [("namespace", &policy.namespace), ("name", &policy.name)] {
            if value.is_empty() || value.contains('/') {
                check.refuse(
                    field,
                    "a policy has a namespace and a name, without `/`".to_owned(),
                );
            }
        }
        if policy.action == Action::Deny && policy.rules.is_empty() {
            check.refuse("rules", words::DENY_WITHOUT_RULES.to_owned());
        }
        if policy.action == Action::Audit && policy.rules.is_empty() {
            check.warn(
                "rules",
                "an AUDIT without rules never matches; to audit everything, write one empty rule",
            );
        }
        let mut spans = Vec::with_capacity(policy.rules.len());
        for (index, rule) in policy.rules.iter().enumerate() {
            spans.push(check.rule(index, rule));
        }
        if !check.errors.is_empty() {
            return Err(check.errors);
        }
        Ok(Self {
            id: format!("{}/{}", policy.namespace, policy.name).into(),
            action: policy.action,
            dry_run: policy.dry_run,
            spans: spans.into(),
            constraints: check.constraints.into(),
            store: check.store.finish(),
            warnings: check.warnings.into(),
        })
    }

    /// `namespace/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn action(&self) -> Action {
        self.action
    }

    /// It never decides: what it would do is told beside the decision.
    pub fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// It can decide: it is neither AUDIT nor dry-run.
    pub(crate) fn is_enforced(&self) -> bool {
        !self.dry_run && self.action != Action::Audit
    }

    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    pub(crate) fn rules(&self) -> impl ExactSizeIterator<Item = Rule<'_>> {
        self.spans.iter().map(|span| self.of(span))
    }

    pub(crate) fn rule(&self, index: usize) -> Rule<'_> {
        self.of(&self.spans[index])
    }

    fn of(&self, span: &Span) -> Rule<'_> {
        let of = |start: u32, end: u32| &self.constraints[start as usize..end as usize];
        Rule {
            from: of(span.from, span.to),
            to: of(span.to, span.when),
            when: of(span.when, span.end),
            uses_http: span.uses_http,
            store: &self.store,
        }
    }
}

impl Check<'_> {
    /// Where the next constraint will stand.
    fn here(&self) -> u32 {
        offset(self.constraints.len())
    }
}

#[cfg(test)]
mod tests;
