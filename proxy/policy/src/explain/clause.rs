//! One clause: what it wants, what there is, and why it holds or not.

use serde_json::Value;

use super::{ExplainedClause, Why};
use crate::cel::Program;
use crate::constraint::{Attribute, Constraint, Scope, Stage};
use crate::evaluate::{Facts, Http, Matched, evaluate};
use crate::model::Action;
use crate::pattern::{Pattern, claim};
use crate::store::{Run, Store, Text};
use crate::{Request, Token};

impl Constraint {
    pub(super) fn explain(
        &self,
        stage: Stage,
        store: &Store,
        facts: &Facts<'_>,
        action: Action,
    ) -> ExplainedClause {
        let matched = self.compare(store, facts, action);
        ExplainedClause {
            clause: self.clause(stage, store),
            negative: self.negative,
            wanted: self.attribute.wanted(store),
            actual: self.attribute.actual(store, facts),
            holds: self.satisfied(matched, action),
            why: match matched {
                Matched::Unknown
                    if self.attribute.is_identity(&store.programs)
                        && !matches!(self.attribute, Attribute::Cel(_)) =>
                {
                    Some(Why::WideReading)
                }
                Matched::Absent | Matched::Unknown => self.attribute.why(store, facts),
                Matched::Yes | Matched::No | Matched::Open => None,
            },
        }
    }
}

impl Attribute {
    fn wanted(&self, store: &Store) -> Vec<String> {
        let patterns = |run: Run<Pattern<Text>>| {
            let patterns = run.of(&store.patterns).iter();
            patterns
                .map(|&pattern| store.pattern(pattern).written())
                .collect()
        };
        match *self {
            Self::Principal(run) => {
                let patterns = run.of(&store.principals).iter();
                patterns
                    .map(|&pattern| store.principal(pattern).written())
                    .collect()
            }
            Self::ServiceAccount(run, _) => {
                let accounts = run.of(&store.accounts).iter();
                accounts
                    .map(|&account| store.account(account).written())
                    .collect()
            }
            Self::Host(run) => {
                let hosts = run.of(&store.hosts).iter();
                hosts.map(|&host| store.host(host).written()).collect()
            }
            Self::RequestPrincipal(run) => {
                let patterns = run.of(&store.token_principals).iter();
                patterns
                    .map(|&pattern| store.token_principal(pattern).written())
                    .collect()
            }
            Self::SourceIp(run) | Self::RemoteIp(run) | Self::DestinationIp(run) => run
                .of(&store.blocks)
                .iter()
                .map(ToString::to_string)
                .collect(),
            Self::DestinationPort(run) => run
                .of(&store.ports)
                .iter()
                .map(ToString::to_string)
                .collect(),
            Self::Namespace(run, _)
            | Self::TrustDomain(run)
            | Self::Audiences(run)
            | Self::Presenter(run)
            | Self::Claim(_, run)
            | Self::Method(run)
            | Self::Path(run)
            | Self::Header(_, run)
            | Self::Sni(run) => patterns(run),
            Self::Cel(index) => vec![store.programs[index as usize].source().to_owned()],
        }
    }

    fn actual(&self, store: &Store, facts: &Facts<'_>) -> Option<String> {
        let workload = || facts.workload(Scope::AnyTrustDomain);
        Some(match self {
            Self::Principal(_) => facts.peer()?.as_str().to_owned(),
            Self::Namespace(..) => workload()?.0.to_owned(),
            Self::ServiceAccount(..) => {
                let (namespace, account) = workload()?;
                format!("{namespace}/{account}")
            }
            Self::TrustDomain(_) => facts.peer()?.trust_domain().to_owned(),
            Self::SourceIp(_) => facts.source.to_string(),
            Self::RemoteIp(_) => facts.remote?.to_string(),
            Self::DestinationIp(_) => facts.destination.to_string(),
            Self::DestinationPort(_) => facts.port().to_string(),
            Self::Sni(_) => facts.sni()?.to_owned(),
            Self::Cel(index) => {
                let program: &Program = &store.programs[*index as usize];
                evaluate(program, facts).ok()?.to_string()
            }
            _ => match facts.http {
                Http::Request(request) => self.actual_of_request(store, request)?,
                Http::Opaque | Http::AnyRequest => return None,
            },
        })
    }

    fn actual_of_request(&self, store: &Store, request: &Request<'_>) -> Option<String> {
        Some(match *self {
            Self::Host(_) => request.host.to_owned(),
            Self::Method(_) => request.method.to_owned(),
            Self::Path(_) => request.path.to_owned(),
            Self::Header(name, _) => {
                let mut values = Vec::new();
                request.headers.for_each(store.text(name), &mut |value| {
                    values.push(String::from_utf8_lossy(value).into_owned());
                });
                if values.is_empty() {
                    return None;
                }
                values.join(", ")
            }
            Self::RequestPrincipal(_) => {
                let token = request.token?;
                format!("{}/{}", token.issuer, token.subject)
            }
            Self::Audiences(_) => written(&request.token?, "aud")?,
            Self::Presenter(_) => written(&request.token?, "azp")?,
            Self::Claim(path, _) => written(&request.token?, store.text(path))?,
            _ => return None,
        })
    }

    /// Of a clause that was not decided by comparing.
    fn why(&self, store: &Store, facts: &Facts<'_>) -> Option<Why> {
        let request = match facts.http {
            Http::Request(request) => Some(request),
            Http::Opaque | Http::AnyRequest => None,
        };
        Some(match self {
            Self::Principal(_) | Self::TrustDomain(_) => Why::NoIdentity,
            Self::Namespace(..) | Self::ServiceAccount(..) => match facts.peer() {
                None => Why::NoIdentity,
                Some(peer) if peer.namespace().is_none() => Why::NoServiceAccount,
                Some(_) => Why::OtherTrustDomain,
            },
            Self::Cel(index) => {
                let program = &store.programs[*index as usize];
                match evaluate(program, facts) {
                    _ if request.is_none() && program.uses_request() => Why::OpaqueTcp,
                    Err(error) => Why::NoValue(error.to_string()),
                    Ok(_) => return None,
                }
            }
            Self::RemoteIp(_) => Why::RemoteUnknown,
            _ => match (self, request) {
                (_, None) => Why::OpaqueTcp,
                (Self::Host(_), Some(request)) => match facts.host(request) {
                    Some(_) => Why::HostWithoutPort,
                    None => Why::HostMalformed,
                },
                (Self::Header(..), _) => Why::RepeatedHeader,
                (_, Some(request)) if request.token.is_none() => Why::NoToken,
                (Self::RequestPrincipal(_), _) => Why::NoSubject,
                _ => Why::ClaimNotText,
            },
        })
    }
}

/// A string as it is, anything else as JSON.
fn written(token: &Token<'_>, path: &str) -> Option<String> {
    if path == "iss" {
        return Some(token.issuer.to_owned());
    }
    match claim(token, path).ok()?? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
