//! Does a rule hold for a connection and request?
//!
//! What cannot be known for sure is decided against the caller, in the one table of [`Constraint::holds`].

use crate::cel::{Env, EvalError, Program};
use crate::constraint::{Attribute, Constraint, Rule, Stage};
use crate::model::Action;
use crate::pattern::in_blocks;
use crate::store::Store;
use crate::{Clause, Principal};

pub(crate) use facts::{Facts, Http};

mod facts;
mod request;
mod wide;

/// How an attribute compares with the values of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matched {
    Yes,
    No,
    /// The peer has no such identity, or the request no token.
    Absent,
    /// It may be both: repeated headers that differ, a host without port, a claim that is no string, an
    /// expression without a value, no HTTP on opaque TCP, an identity that only the [wide reading](wide) matches.
    Unknown,
    /// It depends on what is not given yet, the request or a token.
    Open,
}

impl<'p> Rule<'p> {
    pub(crate) fn holds(self, facts: &Facts<'_>, action: Action) -> bool {
        let all = |constraints: &[Constraint]| {
            constraints
                .iter()
                .all(|constraint| constraint.holds(self.store, facts, action))
        };
        // resources.md, "Opaque TCP": an ALLOW rule that uses any HTTP attribute never matches, even by
        // way of an operation without one. In a DENY they are ignored, see `Matched::Unknown`.
        if self.is_out_of_place(facts, action) {
            return false;
        }
        (self.from.is_empty() || self.sources().any(all))
            && (self.to.is_empty() || self.operations().any(all))
            && all(self.when)
    }

    /// An ALLOW rule that needs HTTP, where there is none.
    pub(crate) fn is_out_of_place(self, facts: &Facts<'_>, action: Action) -> bool {
        action == Action::Allow && self.uses_http && matches!(facts.http, Http::Opaque)
    }

    /// Where an ALLOW rule that does not hold fails.
    pub(crate) fn failure(self, facts: &Facts<'_>) -> Option<Failure<'p>> {
        self.furthest(Stage::From, self.sources(), facts)
            .or_else(|| self.furthest(Stage::To, self.operations(), facts))
            .or_else(|| self.furthest(Stage::When, [self.when].into_iter(), facts))
            // All of it holds, and yet it uses HTTP attributes and there is no HTTP.
            .or_else(|| {
                let (stage, constraint) = self.first_http()?;
                Some(Failure {
                    stage,
                    passed: usize::MAX,
                    constraint,
                    store: self.store,
                })
            })
    }

    /// Of several alternatives none of which holds, the one that passes most constraints.
    fn furthest(
        self,
        stage: Stage,
        alternatives: impl Iterator<Item = &'p [Constraint]>,
        facts: &Facts<'_>,
    ) -> Option<Failure<'p>> {
        let mut best: Option<Failure<'p>> = None;
        for constraints in alternatives {
            let passed = constraints
                .iter()
                .position(|constraint| !constraint.holds(self.store, facts, Action::Allow))?;
            if best.is_none_or(|best| passed > best.passed) {
                best = Some(Failure {
                    stage,
                    passed,
                    constraint: &constraints[passed],
                    store: self.store,
                });
            }
        }
        best
    }
}

/// The constraint at which a rule fails.
#[derive(Clone, Copy)]
pub(crate) struct Failure<'p> {
    stage: Stage,
    /// How many constraints hold before it, in its source, operation or `when`.
    passed: usize,
    constraint: &'p Constraint,
    store: &'p Store,
}

impl Failure<'_> {
    /// Later stages count for more than constraints passed within one.
    pub(crate) fn progress(&self) -> (Stage, usize) {
        (self.stage, self.passed)
    }

    pub(crate) fn clause(&self) -> Clause {
        self.constraint.clause(self.stage, self.store)
    }
}

impl Constraint {
    pub(crate) fn holds(&self, store: &Store, facts: &Facts<'_>, action: Action) -> bool {
        self.satisfied(self.compare(store, facts, action), action)
    }

    /// With the wide reading where a match is against the caller: what an ALLOW excludes, what a DENY or AUDIT names.
    pub(crate) fn compare(&self, store: &Store, facts: &Facts<'_>, action: Action) -> Matched {
        let matched = self.attribute.compare(store, facts);
        let against_caller = self.negative == (action == Action::Allow);
        if against_caller
            && matches!(matched, Matched::No | Matched::Absent)
            && self.attribute.may_mean_peer(store, facts)
        {
            return Matched::Unknown;
        }
        matched
    }

    /// | compares as | in an ALLOW | negative, in an ALLOW | in a DENY or AUDIT | negative, in a DENY or AUDIT |
    /// |---|---|---|---|---|
    /// | yes     | holds | fails | holds | fails |
    /// | no      | fails | holds | fails | holds |
    /// | absent  | fails | fails | fails | holds |
    /// | unknown | fails | fails | holds | holds |
    /// | open    | holds | holds | fails | fails |
    pub(crate) fn satisfied(&self, matched: Matched, action: Action) -> bool {
        match matched {
            Matched::Yes => !self.negative,
            Matched::No => self.negative,
            Matched::Absent => self.negative && action != Action::Allow,
            Matched::Unknown => action != Action::Allow,
            Matched::Open => action == Action::Allow,
        }
    }
}

impl Attribute {
    fn compare(&self, store: &Store, facts: &Facts<'_>) -> Matched {
        match *self {
            Self::Principal(patterns) => identity(facts.peer(), |peer: &Principal| {
                store.matches_principal(patterns, peer, facts.peer_is_local)
            }),
            Self::Namespace(patterns, scope) => {
                identity(facts.workload(scope), |(namespace, _)| {
                    store.matches(patterns, namespace.as_bytes())
                })
            }
            Self::ServiceAccount(accounts, scope) => {
                identity(facts.workload(scope), |(namespace, account)| {
                    store.matches_account(accounts, namespace, account)
                })
            }
            Self::TrustDomain(patterns) => identity(facts.peer(), |peer| {
                store.matches(patterns, peer.trust_domain().as_bytes())
            }),
            Self::SourceIp(blocks) => in_blocks(blocks.of(&store.blocks), facts.source).into(),
            Self::DestinationIp(blocks) => {
                in_blocks(blocks.of(&store.blocks), facts.destination).into()
            }
            Self::DestinationPort(ports) => ports
                .of(&store.ports)
                .binary_search(&facts.port())
                .is_ok()
                .into(),
            Self::Sni(patterns) => match facts.sni() {
                Some(sni) if sni.bytes().any(|byte| byte.is_ascii_uppercase()) => store
                    .matches(patterns, sni.to_ascii_lowercase().as_bytes())
                    .into(),
                Some(sni) => store.matches(patterns, sni.as_bytes()).into(),
                None => Matched::No,
            },
            // Behind trusted hops it comes from a header of the request.
            Self::RemoteIp(blocks) => match facts.http {
                Http::AnyRequest => Matched::Open,
                Http::Opaque | Http::Request(_) => {
                    facts.remote.map_or(Matched::Unknown, |remote| {
                        in_blocks(blocks.of(&store.blocks), remote).into()
                    })
                }
            },
            Self::Cel(index) => expression(&store.programs[index as usize], facts),
            _ => match facts.http {
                Http::AnyRequest => Matched::Open,
                Http::Opaque => Matched::Unknown,
                Http::Request(request) => self.compare_request(store, facts, request),
            },
        }
    }
}

/// Stricter rule 6: what can't be evaluated satisfies no ALLOW and escapes no DENY.
fn expression(program: &Program, facts: &Facts<'_>) -> Matched {
    match facts.http {
        Http::AnyRequest if program.uses_request() || program.uses_remote_ip() => Matched::Open,
        Http::Opaque if program.uses_request() => Matched::Unknown,
        Http::Request(request) if facts.awaits_token(request) && program.uses_token() => {
            Matched::Open
        }
        _ => evaluate(program, facts).map_or(Matched::Unknown, Matched::from),
    }
}

/// The value of an expression.
pub(crate) fn evaluate(program: &Program, facts: &Facts<'_>) -> Result<bool, EvalError> {
    program.eval(&Env {
        connection: facts.connection,
        request: match facts.http {
            Http::Request(request) => Some(request),
            Http::Opaque | Http::AnyRequest => None,
        },
        peer_is_local: facts.peer_is_local,
    })
}

fn identity<T>(value: Option<T>, matches: impl FnOnce(T) -> bool) -> Matched {
    value.map_or(Matched::Absent, |value| matches(value).into())
}

impl From<bool> for Matched {
    fn from(matched: bool) -> Self {
        if matched { Self::Yes } else { Self::No }
    }
}
