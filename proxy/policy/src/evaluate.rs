//! Does a rule hold for a connection and request?
//!
//! What cannot be known for sure is decided against the caller, in the one table of [`Constraint::holds`].

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use crate::constraint::{Attribute, Constraint, Rule, Scope, Stage};
use crate::host::{Host, normalise_host};
use crate::model::Action;
use crate::pattern::{HostMatch, TextSet};
use crate::{Clause, Connection, Headers, Principal, Request};

/// Everything that rules ask, made canonical once per decision.
pub(crate) struct Facts<'a> {
    peer: Option<&'a Principal>,
    /// The peer is of the local trust domain or an alias of it.
    peer_is_local: bool,
    source: IpAddr,
    remote: IpAddr,
    destination: IpAddr,
    port: u16,
    sni: Option<&'a str>,
    http: Http<'a>,
    /// Normalised when the first rule asks; `None` inside is a host that cannot be.
    host: OnceCell<Option<Host<'a>>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Http<'a> {
    /// Opaque TCP: there is no request.
    Opaque,
    /// An HTTP connection, whatever the request.
    AnyRequest,
    Request(&'a Request<'a>),
}

/// How an attribute compares with the values of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matched {
    Yes,
    No,
    /// The peer has no such identity.
    Absent,
    /// It may be both: repeated headers that differ, a host without port, no HTTP on opaque TCP.
    Unknown,
    /// It depends on the request, and none is given.
    Open,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(connection: &Connection<'a>, http: Http<'a>, local: &[Arc<str>]) -> Self {
        Self {
            peer: connection.peer,
            peer_is_local: connection
                .peer
                .is_some_and(|peer| local.iter().any(|domain| **domain == *peer.trust_domain())),
            source: connection.source.to_canonical(),
            remote: connection.remote.to_canonical(),
            destination: connection.destination.ip().to_canonical(),
            port: connection.destination.port(),
            sni: connection.sni,
            http,
            host: OnceCell::new(),
        }
    }

    pub(crate) fn peer(&self) -> Option<&'a Principal> {
        self.peer
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn host(&self, request: &Request<'a>) -> Option<&Host<'a>> {
        self.host
            .get_or_init(|| normalise_host(request.host).ok())
            .as_ref()
    }

    /// Namespace and service account, where the scope reaches the peer (stricter rules 1 and 8).
    fn workload(&self, scope: Scope) -> Option<(&'a str, &'a str)> {
        let peer = self
            .peer
            .filter(|_| scope == Scope::AnyTrustDomain || self.peer_is_local)?;
        peer.namespace().zip(peer.service_account())
    }
}

impl Rule {
    pub(crate) fn holds(&self, facts: &Facts<'_>, action: Action) -> bool {
        let all = |constraints: &[Constraint]| {
            constraints
                .iter()
                .all(|constraint| constraint.holds(facts, action))
        };
        // resources.md, "Opaque TCP": an ALLOW rule that uses any HTTP attribute never matches, even by
        // way of an operation without one. In a DENY they are ignored, see `Matched::Unknown`.
        if action == Action::Allow && self.uses_http && matches!(facts.http, Http::Opaque) {
            return false;
        }
        (self.from.is_empty() || self.from.iter().any(|source| all(source)))
            && (self.to.is_empty() || self.to.iter().any(|operation| all(operation)))
            && all(&self.when)
    }

    /// Where an ALLOW rule that does not hold fails.
    pub(crate) fn failure(&self, facts: &Facts<'_>) -> Option<Failure<'_>> {
        furthest(Stage::From, self.from.iter().map(|source| &**source), facts)
            .or_else(|| {
                furthest(
                    Stage::To,
                    self.to.iter().map(|operation| &**operation),
                    facts,
                )
            })
            .or_else(|| furthest(Stage::When, [&*self.when].into_iter(), facts))
            // All of it holds, and yet it uses HTTP attributes and there is no HTTP.
            .or_else(|| {
                let (stage, constraint) = self.first_http()?;
                Some(Failure {
                    stage,
                    passed: usize::MAX,
                    constraint,
                })
            })
    }
}

/// The constraint at which a rule fails.
#[derive(Clone, Copy)]
pub(crate) struct Failure<'r> {
    stage: Stage,
    /// How many constraints hold before it, in its source, operation or `when`.
    passed: usize,
    constraint: &'r Constraint,
}

impl Failure<'_> {
    /// Later stages count for more than constraints passed within one.
    pub(crate) fn progress(&self) -> (Stage, usize) {
        (self.stage, self.passed)
    }

    pub(crate) fn clause(&self) -> Clause {
        self.constraint.clause(self.stage)
    }
}

/// Of several alternatives none of which holds, the one that passes most constraints.
fn furthest<'r>(
    stage: Stage,
    alternatives: impl Iterator<Item = &'r [Constraint]>,
    facts: &Facts<'_>,
) -> Option<Failure<'r>> {
    let mut best: Option<Failure<'r>> = None;
    for constraints in alternatives {
        let passed = constraints
            .iter()
            .position(|constraint| !constraint.holds(facts, Action::Allow))?;
        if best.is_none_or(|best| passed > best.passed) {
            best = Some(Failure {
                stage,
                passed,
                constraint: &constraints[passed],
            });
        }
    }
    best
}

impl Constraint {
    /// | compares as | in an ALLOW | negative, in an ALLOW | in a DENY | negative, in a DENY |
    /// |---|---|---|---|---|
    /// | yes     | holds | fails | holds | fails |
    /// | no      | fails | holds | fails | holds |
    /// | absent  | fails | fails | fails | holds |
    /// | unknown | fails | fails | holds | holds |
    /// | open    | holds | holds | fails | fails |
    fn holds(&self, facts: &Facts<'_>, action: Action) -> bool {
        match self.attribute.compare(facts) {
            Matched::Yes => !self.negative,
            Matched::No => self.negative,
            Matched::Absent => self.negative && action == Action::Deny,
            Matched::Unknown => action == Action::Deny,
            Matched::Open => action == Action::Allow,
        }
    }
}

impl Attribute {
    fn compare(&self, facts: &Facts<'_>) -> Matched {
        match self {
            Self::Principal(set) => {
                identity(facts.peer, |peer| set.matches(peer, facts.peer_is_local))
            }
            Self::Namespace(set, scope) => identity(facts.workload(*scope), |(namespace, _)| {
                set.matches(namespace.as_bytes())
            }),
            Self::ServiceAccount(set, scope) => {
                identity(facts.workload(*scope), |(namespace, account)| {
                    set.matches(namespace, account)
                })
            }
            Self::TrustDomain(set) => identity(facts.peer, |peer| {
                set.matches(peer.trust_domain().as_bytes())
            }),
            Self::SourceIp(set) => set.contains(facts.source).into(),
            Self::DestinationIp(set) => set.contains(facts.destination).into(),
            Self::DestinationPort(ports) => ports.binary_search(&facts.port).is_ok().into(),
            Self::Sni(set) => match facts.sni {
                Some(sni) if sni.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                    set.matches(sni.to_ascii_lowercase().as_bytes()).into()
                }
                Some(sni) => set.matches(sni.as_bytes()).into(),
                None => Matched::No,
            },
            // Behind trusted hops it comes from a header of the request.
            Self::RemoteIp(set) => match facts.http {
                Http::AnyRequest => Matched::Open,
                Http::Opaque | Http::Request(_) => set.contains(facts.remote).into(),
            },
            Self::Host(_) | Self::Method(_) | Self::Path(_) | Self::Header(..) => {
                match facts.http {
                    Http::AnyRequest => Matched::Open,
                    Http::Opaque => Matched::Unknown,
                    Http::Request(request) => self.compare_request(facts, request),
                }
            }
        }
    }

    fn compare_request<'a>(&self, facts: &Facts<'a>, request: &Request<'a>) -> Matched {
        match self {
            Self::Host(set) => match facts.host(request).map(|host| set.matches(host)) {
                Some(HostMatch::Yes) => Matched::Yes,
                Some(HostMatch::No) => Matched::No,
                Some(HostMatch::Unknown) | None => Matched::Unknown,
            },
            Self::Method(set) => set.matches_present(request.method.as_bytes()).into(),
            Self::Path(set) => set.matches(request.path).into(),
            Self::Header(name, set) => header(request.headers, name, set),
            _ => Matched::No,
        }
    }
}

fn identity<T>(value: Option<T>, matches: impl FnOnce(T) -> bool) -> Matched {
    value.map_or(Matched::Absent, |value| matches(value).into())
}

/// Stricter rule 4: an ALLOW needs every value and their join to match, a DENY any.
fn header(headers: &dyn Headers, name: &str, set: &TextSet) -> Matched {
    let (mut values, mut matching) = (0_usize, 0_usize);
    headers.for_each(name, &mut |value| {
        values += 1;
        matching += usize::from(set.matches_present(value));
    });
    if values > 1 {
        let mut joined = Vec::new();
        // RFC 9110 section 5.3; RFC 9113 section 8.2.3 for cookies.
        let separator: &[u8] = if name == "cookie" { b"; " } else { b"," };
        let mut between: &[u8] = b"";
        headers.for_each(name, &mut |value| {
            joined.extend_from_slice(between);
            joined.extend_from_slice(value);
            between = separator;
        });
        values += 1;
        matching += usize::from(set.matches_present(&joined));
    }
    match matching {
        0 => Matched::No,
        _ if matching == values => Matched::Yes,
        _ => Matched::Unknown,
    }
}

impl From<bool> for Matched {
    fn from(matched: bool) -> Self {
        if matched { Self::Yes } else { Self::No }
    }
}
