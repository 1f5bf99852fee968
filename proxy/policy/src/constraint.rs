//! A rule as it is evaluated: typed constraints, each on one attribute.

use std::sync::Arc;

use crate::Clause;
use crate::pattern::{AddressSet, HostSet, PathSet, PrincipalSet, ServiceAccountSet, TextSet};
use crate::ports::PortSet;

/// `from` AND `to` AND `when`; an empty one is no restriction.
#[derive(Debug)]
pub(crate) struct Rule {
    /// OR of sources; the constraints of one source are AND.
    pub(crate) from: Box<[Box<[Constraint]>]>,
    /// OR of operations; the constraints of one operation are AND.
    pub(crate) to: Box<[Box<[Constraint]>]>,
    /// AND.
    pub(crate) when: Box<[Constraint]>,
    /// Some constraint needs an HTTP request.
    pub(crate) uses_http: bool,
}

/// One field of a source or operation, or one side of a condition.
#[derive(Debug)]
pub(crate) struct Constraint {
    pub(crate) attribute: Attribute,
    /// `notX`: NOT (any of).
    pub(crate) negative: bool,
}

/// An attribute and the values asked of it.
#[derive(Debug)]
pub(crate) enum Attribute {
    Principal(PrincipalSet),
    Namespace(TextSet, Scope),
    ServiceAccount(ServiceAccountSet, Scope),
    TrustDomain(TextSet),
    SourceIp(AddressSet),
    RemoteIp(AddressSet),
    Host(HostSet),
    Method(TextSet),
    Path(PathSet),
    Header(Arc<str>, TextSet),
    DestinationIp(AddressSet),
    /// Sorted.
    DestinationPort(Box<[u16]>),
    Sni(TextSet),
}

/// Whose namespaces and service accounts are meant (stricter rule 1).
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

impl Rule {
    pub(crate) fn uses_identity(&self) -> bool {
        self.from
            .iter()
            .flatten()
            .chain(&self.when)
            .any(|constraint| constraint.attribute.is_identity())
    }

    /// The ports on which it can match.
    pub(crate) fn ports(&self) -> PortSet {
        let of = |constraints: &[Constraint]| {
            constraints
                .iter()
                .fold(PortSet::all(), |ports, constraint| {
                    match &constraint.attribute {
                        Attribute::DestinationPort(named) => {
                            ports.restrict(named, constraint.negative)
                        }
                        _ => ports,
                    }
                })
        };
        let when = of(&self.when);
        match &*self.to {
            [] => when,
            to => to
                .iter()
                .map(|operation| of(operation))
                .fold(PortSet::none(), PortSet::union)
                .intersection(when),
        }
    }

    /// The first constraint that needs an HTTP request, and where it stands.
    pub(crate) fn first_http(&self) -> Option<(Stage, &Constraint)> {
        let to = self
            .to
            .iter()
            .flatten()
            .map(|constraint| (Stage::To, constraint));
        let when = self.when.iter().map(|constraint| (Stage::When, constraint));
        to.chain(when)
            .find(|(_, constraint)| constraint.attribute.is_http())
    }
}

impl Constraint {
    /// Its name in the YAML.
    pub(crate) fn clause(&self, stage: Stage) -> Clause {
        let field = |positive, negative| if self.negative { negative } else { positive };
        match stage {
            Stage::From => Clause::From(match &self.attribute {
                Attribute::Principal(_) => field("principals", "notPrincipals"),
                Attribute::Namespace(..) => field("namespaces", "notNamespaces"),
                Attribute::ServiceAccount(..) => field("serviceAccounts", "notServiceAccounts"),
                Attribute::TrustDomain(_) => field("trustDomains", "notTrustDomains"),
                Attribute::RemoteIp(_) => field("remoteIpBlocks", "notRemoteIpBlocks"),
                _ => field("ipBlocks", "notIpBlocks"),
            }),
            Stage::To => Clause::To(match &self.attribute {
                Attribute::Host(_) => field("hosts", "notHosts"),
                Attribute::Method(_) => field("methods", "notMethods"),
                Attribute::Path(_) => field("paths", "notPaths"),
                _ => field("ports", "notPorts"),
            }),
            Stage::When => match &self.attribute {
                Attribute::Header(name, _) => Clause::WhenHeader(name.clone()),
                attribute => Clause::When(attribute.key()),
            },
        }
    }
}

impl Attribute {
    pub(crate) fn is_identity(&self) -> bool {
        matches!(
            self,
            Self::Principal(_)
                | Self::Namespace(..)
                | Self::ServiceAccount(..)
                | Self::TrustDomain(_)
        )
    }

    pub(crate) fn is_http(&self) -> bool {
        matches!(
            self,
            Self::Host(_) | Self::Method(_) | Self::Path(_) | Self::Header(..)
        )
    }

    /// Its name as the key of a condition.
    fn key(&self) -> &'static str {
        match self {
            Self::Principal(_) => "source.principal",
            Self::Namespace(..) => "source.namespace",
            Self::ServiceAccount(..) => "source.serviceAccount",
            Self::TrustDomain(_) => "source.trustDomain",
            Self::SourceIp(_) => "source.ip",
            Self::RemoteIp(_) => "remote.ip",
            Self::DestinationIp(_) => "destination.ip",
            Self::DestinationPort(_) => "destination.port",
            Self::Sni(_) => "connection.sni",
            Self::Host(_) => "request.host",
            Self::Method(_) => "request.method",
            Self::Path(_) => "request.path",
            Self::Header(..) => "request.headers",
        }
    }
}
