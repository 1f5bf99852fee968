//! A rule as it is evaluated: typed constraints, each on one attribute.

use ipnet::IpNet;

use crate::Clause;
use crate::cel::Program;
use crate::pattern::{Account, HostPattern, Pattern, PrincipalPattern, TokenPrincipal};
use crate::ports::PortSet;
use crate::store::{Run, Store, Text};

/// `from` AND `to` AND `when`; an empty one is no restriction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule<'p> {
    /// Sources, one behind the other.
    pub(crate) from: &'p [Constraint],
    /// Operations, one behind the other.
    pub(crate) to: &'p [Constraint],
    /// AND.
    pub(crate) when: &'p [Constraint],
    /// Some constraint needs an HTTP request.
    pub(crate) uses_http: bool,
    /// What the constraints ask for.
    pub(crate) store: &'p Store,
}

/// One field of a source or operation, or one side of a condition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constraint {
    pub(crate) attribute: Attribute,
    /// `notX`: NOT (any of).
    pub(crate) negative: bool,
    /// With it a source or operation begins.
    pub(crate) first: bool,
}

/// An attribute and the values asked of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attribute {
    Principal(Run<PrincipalPattern<Text>>),
    Namespace(Run<Pattern<Text>>, Scope),
    ServiceAccount(Run<Account<Text>>, Scope),
    TrustDomain(Run<Pattern<Text>>),
    SourceIp(Run<IpNet>),
    RemoteIp(Run<IpNet>),
    RequestPrincipal(Run<TokenPrincipal<Text>>),
    Audiences(Run<Pattern<Text>>),
    Presenter(Run<Pattern<Text>>),
    /// At a path as [`claim_path`](crate::pattern::claim_path) gives it.
    Claim(Text, Run<Pattern<Text>>),
    Host(Run<HostPattern<Text>>),
    Method(Run<Pattern<Text>>),
    Path(Run<Pattern<Text>>),
    /// The name in lower case.
    Header(Text, Run<Pattern<Text>>),
    DestinationIp(Run<IpNet>),
    /// Sorted.
    DestinationPort(Run<u16>),
    Sni(Run<Pattern<Text>>),
    /// An expression, by its index.
    Cel(u32),
}

/// Whose namespaces and service accounts are meant where a match is for the caller (stricter rule 1); where it is against
/// the caller, the wide reading means those of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of the local trust domain and its aliases.
    Local,
    /// Those of any: the trust domain is a constraint of its own.
    AnyTrustDomain,
}

/// Which part of a rule a constraint stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    From,
    To,
    When,
}

impl<'p> Rule<'p> {
    /// OR; the constraints of one are AND.
    pub(crate) fn sources(self) -> impl Iterator<Item = &'p [Constraint]> + Clone {
        self.from.chunk_by(|_, next| !next.first)
    }

    /// OR; the constraints of one are AND.
    pub(crate) fn operations(self) -> impl Iterator<Item = &'p [Constraint]> + Clone {
        self.to.chunk_by(|_, next| !next.first)
    }

    pub(crate) fn constraints(self) -> impl Iterator<Item = (Stage, &'p Constraint)> {
        let of = |stage, constraints: &'p [Constraint]| {
            constraints
                .iter()
                .map(move |constraint| (stage, constraint))
        };
        of(Stage::From, self.from)
            .chain(of(Stage::To, self.to))
            .chain(of(Stage::When, self.when))
    }

    pub(crate) fn uses_identity(self) -> bool {
        self.constraints()
            .any(|(_, constraint)| constraint.attribute.is_identity(&self.store.programs))
    }

    pub(crate) fn uses_token(self) -> bool {
        self.constraints()
            .any(|(_, constraint)| constraint.attribute.is_token(&self.store.programs))
    }

    /// The first constraint that needs an HTTP request, and where it stands.
    pub(crate) fn first_http(self) -> Option<(Stage, &'p Constraint)> {
        self.constraints()
            .find(|(_, constraint)| constraint.attribute.is_http(&self.store.programs))
    }

    /// The ports on which it can match.
    pub(crate) fn ports(self) -> PortSet {
        let when = self.ports_of(self.when);
        if self.to.is_empty() {
            return when;
        }
        self.operations()
            .map(|operation| self.ports_of(operation))
            .reduce(PortSet::union)
            .unwrap_or_else(PortSet::none)
            .intersection(when)
    }

    pub(crate) fn ports_of(self, constraints: &[Constraint]) -> PortSet {
        constraints
            .iter()
            .fold(PortSet::all(), |ports, constraint| {
                match constraint.attribute {
                    Attribute::DestinationPort(named) => {
                        ports.restrict(named.of(&self.store.ports), constraint.negative)
                    }
                    _ => ports,
                }
            })
    }
}

impl Constraint {
    /// Its name in the YAML.
    pub(crate) fn clause(&self, stage: Stage, store: &Store) -> Clause {
        let field = |positive, negative| if self.negative { negative } else { positive };
        match stage {
            Stage::From => Clause::From(match self.attribute {
                Attribute::Principal(_) => field("principals", "notPrincipals"),
                Attribute::Namespace(..) => field("namespaces", "notNamespaces"),
                Attribute::ServiceAccount(..) => field("serviceAccounts", "notServiceAccounts"),
                Attribute::TrustDomain(_) => field("trustDomains", "notTrustDomains"),
                Attribute::RemoteIp(_) => field("remoteIpBlocks", "notRemoteIpBlocks"),
                Attribute::RequestPrincipal(_) => {
                    field("requestPrincipals", "notRequestPrincipals")
                }
                _ => field("ipBlocks", "notIpBlocks"),
            }),
            Stage::To => Clause::To(match self.attribute {
                Attribute::Host(_) => field("hosts", "notHosts"),
                Attribute::Method(_) => field("methods", "notMethods"),
                Attribute::Path(_) => field("paths", "notPaths"),
                _ => field("ports", "notPorts"),
            }),
            Stage::When => match self.attribute {
                Attribute::Header(name, _) => Clause::WhenHeader(store.text(name).into()),
                Attribute::Claim(path, _) => Clause::WhenClaim(store.text(path).into()),
                attribute => Clause::When(attribute.key()),
            },
        }
    }
}

impl Attribute {
    /// It is about who the peer is, as proved in the TLS handshake.
    pub(crate) fn is_identity(&self, programs: &[Program]) -> bool {
        match self {
            Self::Principal(_)
            | Self::Namespace(..)
            | Self::ServiceAccount(..)
            | Self::TrustDomain(_) => true,
            Self::Cel(index) => programs[*index as usize].uses_identity(),
            _ => false,
        }
    }

    /// It is about the request's token.
    pub(crate) fn is_token(&self, programs: &[Program]) -> bool {
        match self {
            Self::RequestPrincipal(_)
            | Self::Audiences(_)
            | Self::Presenter(_)
            | Self::Claim(..) => true,
            Self::Cel(index) => programs[*index as usize].uses_token(),
            _ => false,
        }
    }

    /// It needs an HTTP request.
    pub(crate) fn is_http(&self, programs: &[Program]) -> bool {
        match self {
            Self::Host(_) | Self::Method(_) | Self::Path(_) | Self::Header(..) => true,
            Self::Cel(index) => programs[*index as usize].uses_request(),
            token => token.is_token(programs),
        }
    }

    /// Its name as the key of a condition.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Principal(_) => "source.principal",
            Self::Namespace(..) => "source.namespace",
            Self::ServiceAccount(..) => "source.serviceAccount",
            Self::TrustDomain(_) => "source.trustDomain",
            Self::SourceIp(_) => "source.ip",
            Self::RemoteIp(_) => "remote.ip",
            Self::RequestPrincipal(_) => "request.auth.principal",
            Self::Audiences(_) => "request.auth.audiences",
            Self::Presenter(_) => "request.auth.presenter",
            Self::Claim(..) => "request.auth.claims",
            Self::DestinationIp(_) => "destination.ip",
            Self::DestinationPort(_) => "destination.port",
            Self::Sni(_) => "connection.sni",
            Self::Host(_) => "request.host",
            Self::Method(_) => "request.method",
            Self::Path(_) => "request.path",
            Self::Header(..) => "request.headers",
            Self::Cel(_) => "cel",
        }
    }
}
