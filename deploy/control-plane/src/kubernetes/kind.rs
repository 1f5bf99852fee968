//! The kinds that are watched, and how the API server calls them.

use std::fmt;

use kube::core::ApiResource;

/// A kind of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Namespace,
    ServiceAccount,
    Pod,
    Service,
    EndpointSlice,
    Document(DocumentKind),
}

/// A kind whose objects are documents, as they could be files of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum DocumentKind {
    MeshConfig,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Workload,
    Service,
    Revocation,
    IstioAuthorizationPolicy,
    IstioPeerAuthentication,
    IstioRequestAuthentication,
}

const KITH: &str = "kith.dev";
const ISTIO: &str = "security.istio.io";

impl Kind {
    /// What is always watched.
    pub(crate) const CLUSTER: [Self; 5] = [
        Self::Namespace,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// Its API group; empty for the core.
    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::ServiceAccount | Self::Pod | Self::Service => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::Document(kind) if kind.is_istio() => ISTIO,
            Self::Document(_) => KITH,
        }
    }

    /// Its name in URLs and in RBAC.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::ServiceAccount => "serviceaccounts",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Document(kind) => kind.plural(),
        }
    }

    /// A cluster without Istio has none of its kinds, and that is no fault.
    pub(crate) fn may_be_missing(self) -> bool {
        matches!(self, Self::Document(kind) if kind.is_istio())
    }
}

/// `pods`, `endpointslices.discovery.k8s.io`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group() {
            "" => f.write_str(self.plural()),
            group => write!(f, "{}.{group}", self.plural()),
        }
    }
}

impl DocumentKind {
    pub(crate) const KITH: [Self; 7] = [
        Self::MeshConfig,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::Workload,
        Self::Service,
        Self::Revocation,
    ];
    pub(crate) const ISTIO: [Self; 3] = [
        Self::IstioAuthorizationPolicy,
        Self::IstioPeerAuthentication,
        Self::IstioRequestAuthentication,
    ];

    pub(crate) fn is_istio(self) -> bool {
        Self::ISTIO.contains(&self)
    }

    /// As a document says it.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::MeshConfig => "MeshConfig",
            Self::AuthorizationPolicy | Self::IstioAuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication | Self::IstioPeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication | Self::IstioRequestAuthentication => {
                "RequestAuthentication"
            }
            Self::Workload => "Workload",
            Self::Service => "Service",
            Self::Revocation => "Revocation",
        }
    }

    /// As an [`ObjectKey`](super::verdict::ObjectKey) says it: Istio's kinds with their group.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::IstioAuthorizationPolicy => "AuthorizationPolicy.security.istio.io",
            Self::IstioPeerAuthentication => "PeerAuthentication.security.istio.io",
            Self::IstioRequestAuthentication => "RequestAuthentication.security.istio.io",
            own => own.kind(),
        }
    }

    pub(crate) fn plural(self) -> &'static str {
        match self.kind() {
            "MeshConfig" => "meshconfigs",
            "AuthorizationPolicy" => "authorizationpolicies",
            "PeerAuthentication" => "peerauthentications",
            "RequestAuthentication" => "requestauthentications",
            "Workload" => "workloads",
            "Service" => "services",
            _ => "revocations",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        if self.is_istio() {
            "security.istio.io/v1"
        } else {
            "kith.dev/v1alpha1"
        }
    }

    pub(crate) fn resource(self) -> ApiResource {
        let (group, version) = self
            .api_version()
            .split_once('/')
            .unwrap_or((KITH, "v1alpha1"));
        ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: self.api_version().into(),
            kind: self.kind().into(),
            plural: self.plural().into(),
        }
    }
}
