//! What an expression may read: the attributes of `when`, by the same names.

use std::net::IpAddr;

use serde_json::Value as Json;

use super::Env;
use super::error::EvalError;
use super::types::{Kind, Type};
use super::value::{List, Map, Shared, Value};
use crate::{Principal, Request, Token, normalise_host};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    SourcePrincipal,
    SourceNamespace,
    SourceServiceAccount,
    SourceTrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    ConnectionSni,
    RequestMethod,
    RequestHost,
    RequestPath,
    RequestHeaders,
    AuthPrincipal,
    AuthAudiences,
    AuthPresenter,
    AuthClaims,
}

impl Attribute {
    pub(super) const ALL: [Self; 17] = [
        Self::SourcePrincipal,
        Self::SourceNamespace,
        Self::SourceServiceAccount,
        Self::SourceTrustDomain,
        Self::SourceIp,
        Self::RemoteIp,
        Self::DestinationIp,
        Self::DestinationPort,
        Self::ConnectionSni,
        Self::RequestMethod,
        Self::RequestHost,
        Self::RequestPath,
        Self::RequestHeaders,
        Self::AuthPrincipal,
        Self::AuthAudiences,
        Self::AuthPresenter,
        Self::AuthClaims,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::SourcePrincipal => "source.principal",
            Self::SourceNamespace => "source.namespace",
            Self::SourceServiceAccount => "source.serviceAccount",
            Self::SourceTrustDomain => "source.trustDomain",
            Self::SourceIp => "source.ip",
            Self::RemoteIp => "remote.ip",
            Self::DestinationIp => "destination.ip",
            Self::DestinationPort => "destination.port",
            Self::ConnectionSni => "connection.sni",
            Self::RequestMethod => "request.method",
            Self::RequestHost => "request.host",
            Self::RequestPath => "request.path",
            Self::RequestHeaders => "request.headers",
            Self::AuthPrincipal => "request.auth.principal",
            Self::AuthAudiences => "request.auth.audiences",
            Self::AuthPresenter => "request.auth.presenter",
            Self::AuthClaims => "request.auth.claims",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|attribute| attribute.as_str() == name)
    }

    pub(super) fn value_type(self) -> Type {
        match self {
            Self::DestinationPort => Type::INT,
            Self::RequestHeaders => Type::map(Type::STRING, Type::STRING),
            Self::AuthAudiences => Type::list(Type::STRING),
            Self::AuthClaims => Type::map(Type::STRING, Type::Dyn),
            _ => Type::Plain(Kind::String),
        }
    }

    pub(super) fn is_identity(self) -> bool {
        matches!(
            self,
            Self::SourcePrincipal
                | Self::SourceNamespace
                | Self::SourceServiceAccount
                | Self::SourceTrustDomain
        )
    }

    pub(super) fn is_request(self) -> bool {
        self.as_str().starts_with("request.")
    }

    pub(super) fn is_token(self) -> bool {
        self.as_str().starts_with("request.auth.")
    }

    pub(super) fn is_address(self) -> bool {
        matches!(self, Self::SourceIp | Self::RemoteIp | Self::DestinationIp)
    }

    fn absent(self, why: &'static str) -> EvalError {
        let name = self.as_str();
        EvalError::NoSuchAttribute { name, why }
    }

    /// There, and not what it is to be: whoever chose it must not pass for somebody who has none.
    fn unreadable(self, why: &'static str) -> EvalError {
        let name = self.as_str();
        EvalError::UnreadableAttribute { name, why }
    }

    /// Of an address attribute. IPv4-mapped IPv6 is IPv4 (security.md row 18).
    pub(super) fn address(self, env: &Env<'_>) -> Result<IpAddr, EvalError> {
        let address = match self {
            Self::RemoteIp => env.connection.remote.ok_or_else(|| {
                self.unreadable("what a trusted hop wrote into x-forwarded-for is no address")
            })?,
            Self::DestinationIp => env.connection.destination.ip(),
            _ => env.connection.source,
        };
        Ok(address.to_canonical())
    }

    pub(super) fn read<'v>(self, env: &'v Env<'v>) -> Result<Value<'v>, EvalError> {
        match self {
            Self::SourcePrincipal => Ok(Value::text(self.peer(env)?.as_str())),
            Self::SourceTrustDomain => Ok(Value::text(self.peer(env)?.trust_domain())),
            Self::SourceNamespace => self.workload(env, Principal::namespace),
            Self::SourceServiceAccount => self.workload(env, Principal::service_account),
            Self::SourceIp | Self::RemoteIp | Self::DestinationIp => {
                Ok(Value::owned_text(&self.address(env)?.to_string()))
            }
            Self::DestinationPort => Ok(Value::Int(env.connection.destination.port().into())),
            Self::ConnectionSni => match env.connection.sni {
                Some(sni) => Ok(lower_case(sni)),
                None => Err(self.absent("the connection has no server name")),
            },
            Self::RequestMethod => Ok(Value::text(self.request(env)?.method)),
            Self::RequestPath => Ok(Value::text(self.request(env)?.path)),
            Self::RequestHost => {
                let host = normalise_host(self.request(env)?.host)
                    .map_err(|_| self.absent("what the request names is not a host"))?;
                Ok(match host.name {
                    std::borrow::Cow::Borrowed(name) => Value::text(name),
                    std::borrow::Cow::Owned(name) => Value::owned_text(&name),
                })
            }
            // Never read as a whole: the checker sees to it.
            Self::RequestHeaders => Err(self.absent("headers are read one by one")),
            Self::AuthPrincipal => self.principal_of_token(self.token(env)?),
            Self::AuthAudiences => self.audiences(self.token(env)?),
            Self::AuthPresenter => match self.token(env)?.claims.get("azp") {
                Some(Json::String(presenter)) => Ok(Value::text(presenter)),
                Some(_) => Err(self.unreadable("the claim `azp` is not a string")),
                None => Err(self.absent("the token has no claim `azp`")),
            },
            Self::AuthClaims => Ok(Value::Map(Map::Claims(self.token(env)?))),
        }
    }

    /// `has()`: an error where there is no request at all.
    pub(super) fn is_present(self, env: &Env<'_>) -> Result<bool, EvalError> {
        if self == Self::RequestHeaders {
            return self.request(env).map(|_| true);
        }
        match self.read(env) {
            Ok(_) => Ok(true),
            Err(EvalError::NoSuchAttribute { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn request<'v>(self, env: &'v Env<'v>) -> Result<&'v Request<'v>, EvalError> {
        env.request.ok_or(EvalError::NoRequest(self.as_str()))
    }

    fn token<'v>(self, env: &'v Env<'v>) -> Result<&'v Token<'v>, EvalError> {
        let token = self.request(env)?.token.as_ref();
        token.ok_or_else(|| self.absent("the request has no token"))
    }

    fn peer<'v>(self, env: &'v Env<'v>) -> Result<&'v Principal, EvalError> {
        let peer = env.connection.peer;
        peer.ok_or_else(|| self.absent("the peer has no identity"))
    }

    /// resources.md, stricter rules 1 and 8.
    fn workload<'v>(
        self,
        env: &'v Env<'v>,
        part: impl FnOnce(&'v Principal) -> Option<&'v str>,
    ) -> Result<Value<'v>, EvalError> {
        let peer = self.peer(env)?;
        if !env.peer_is_local {
            return Err(self.absent(
                "the peer is of another trust domain, compare `source.principal` instead",
            ));
        }
        part(peer)
            .map(Value::text)
            .ok_or_else(|| self.absent("the peer's path is not /ns/<namespace>/sa/<account>"))
    }

    /// `iss/sub`. Refused where the text could stand for another issuer and subject: where splitting
    /// it as a pattern is split does not give back what was joined.
    fn principal_of_token<'v>(self, token: &Token<'_>) -> Result<Value<'v>, EvalError> {
        if token.subject.is_empty() {
            return Err(self.absent("the token has no subject"));
        }
        let joined = format!("{}/{}", token.issuer, token.subject);
        if joined.find("/spiffe://").or_else(|| joined.rfind('/')) != Some(token.issuer.len()) {
            return Err(self.unreadable(
                "issuer and subject contain slashes, compare the claims `iss` and `sub` instead",
            ));
        }
        Ok(Value::owned_text(&joined))
    }

    /// RFC 7519 section 4.1.3: one string, or a list of strings.
    fn audiences<'v>(self, token: &'v Token<'v>) -> Result<Value<'v>, EvalError> {
        let elements = match token.claims.get("aud") {
            None => return Err(self.absent("the token has no audience")),
            Some(Json::Array(elements)) => elements.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        if !elements.iter().all(Json::is_string) {
            return Err(self.unreadable("the token's audience is not a list of strings"));
        }
        Ok(Value::List(List::Json(elements)))
    }
}

/// As `connection.sni` of `when` compares it.
fn lower_case(name: &str) -> Value<'_> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Value::String(Shared::Owned(name.to_ascii_lowercase().into()))
    } else {
        Value::text(name)
    }
}
