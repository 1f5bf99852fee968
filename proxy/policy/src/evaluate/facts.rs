//! Everything that rules ask, made canonical once per decision.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use crate::constraint::Scope;
use crate::host::{Host, normalise_host};
use crate::{Connection, Principal, Request};

#[derive(Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) connection: &'a Connection<'a>,
    /// The local trust domain and its aliases.
    pub(crate) local: &'a [Arc<str>],
    /// The peer is of one of them.
    pub(crate) peer_is_local: bool,
    pub(crate) source: IpAddr,
    pub(crate) remote: Option<IpAddr>,
    pub(crate) destination: IpAddr,
    pub(crate) http: Http<'a>,
    /// A request without a token may yet get one, whichever.
    any_token: bool,
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

impl<'a> Facts<'a> {
    pub(crate) fn new(
        connection: &'a Connection<'a>,
        http: Http<'a>,
        local: &'a [Arc<str>],
    ) -> Self {
        Self {
            local,
            connection,
            peer_is_local: connection
                .peer
                .is_some_and(|peer| local.iter().any(|domain| **domain == *peer.trust_domain())),
            source: connection.source.to_canonical(),
            remote: connection.remote.map(|remote| remote.to_canonical()),
            destination: connection.destination.ip().to_canonical(),
            http,
            any_token: false,
            host: OnceCell::new(),
        }
    }

    /// The same, were there a token as it is wanted; `None` when there is one already, or no request.
    pub(crate) fn with_any_token(&self) -> Option<Self> {
        match self.http {
            Http::Request(request) if request.token.is_none() => Some(Self {
                any_token: true,
                ..self.clone()
            }),
            _ => None,
        }
    }

    pub(super) fn awaits_token(&self, request: &Request<'_>) -> bool {
        self.any_token && request.token.is_none()
    }

    pub(crate) fn peer(&self) -> Option<&'a Principal> {
        self.connection.peer
    }

    pub(crate) fn port(&self) -> u16 {
        self.connection.destination.port()
    }

    pub(crate) fn sni(&self) -> Option<&'a str> {
        self.connection.sni
    }

    pub(crate) fn host(&self, request: &Request<'a>) -> Option<&Host<'a>> {
        self.host
            .get_or_init(|| normalise_host(request.host).ok())
            .as_ref()
    }

    /// Namespace and service account, where the scope reaches the peer (stricter rules 1 and 8).
    pub(crate) fn workload(&self, scope: Scope) -> Option<(&'a str, &'a str)> {
        let peer = self
            .peer()
            .filter(|_| scope == Scope::AnyTrustDomain || self.peer_is_local)?;
        peer.namespace().zip(peer.service_account())
    }
}
