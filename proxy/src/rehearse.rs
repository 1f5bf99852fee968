//! What a sidecar would say to a connection or a request, without either: for people who test and explain policies.
//!
//! Nothing is decided here. It is the inbound pipeline's own steps, in their order, on facts that somebody states
//! instead of facts that a socket and a handshake proved.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kith_policy::{
    Connection, Explanation, FieldError, Headers, Principal, Reason, Request, Token, ValidPolicy,
    normalise_host, normalise_target,
};
use kith_xds_client::api::mesh as wire;

use crate::authorize;
use crate::revocation::Revocations;
use crate::snapshot::{MtlsMode, Snapshot, Workload};
use crate::translate;

/// A sidecar that has its configuration, and no sockets.
pub struct Sidecar {
    snapshot: Snapshot,
}

/// What somebody does, as the sidecar receives it.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// Who the handshake would prove the peer to be; `None` is plaintext.
    pub peer: Option<&'a Principal>,
    pub source: IpAddr,
    /// The workload's own address and port.
    pub destination: SocketAddr,
    pub sni: Option<&'a str>,
    /// `None` is opaque TCP.
    pub request: Option<Asked<'a>>,
}

/// One HTTP request, its token verified before.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// Host or `:authority`; empty when the request has none.
    pub host: &'a str,
    /// The request target as received, not normalised.
    pub target: &'a str,
    pub headers: &'a dyn Headers,
    pub token: Option<Token<'a>>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Before any policy was asked.
    Refused {
        reason: Reason,
        /// What is wrong, in words.
        why: String,
    },
    Decided(Box<Decided>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub explanation: Explanation,
    /// The path that policies saw.
    pub path: Option<String>,
    /// The address that `remoteIpBlocks` saw; `None` when a trusted hop wrote none that can be understood.
    pub remote: Option<IpAddr>,
}

impl Sidecar {
    /// From what the control plane sends it; `node` is the name of the `WorkloadConfig`.
    ///
    /// # Errors
    /// What a sidecar would refuse.
    pub fn new(
        node: &str,
        config: &wire::WorkloadConfig,
        policies: &HashMap<String, wire::AuthorizationPolicy>,
    ) -> Result<Self, Vec<FieldError>> {
        let workload = Arc::new(translate::workload(node, config)?);
        let mut valid: HashMap<&str, Arc<ValidPolicy>> = HashMap::with_capacity(policies.len());
        for (name, policy) in policies {
            valid.insert(name, translate::policy(name, policy)?);
        }
        let available = |name: &str| valid.get(name).map(Arc::clone);
        match Snapshot::complete(&workload, &Arc::new(Revocations::default()), available) {
            Ok(snapshot) => Ok(Self { snapshot }),
            Err(missing) => Err(vec![FieldError {
                field: "policies".to_owned(),
                message: format!("{} missing", missing.join(", ")),
            }]),
        }
    }

    /// The mTLS mode in force on a port.
    pub fn mtls(&self, port: u16) -> MtlsMode {
        self.snapshot.port(port).mtls
    }

    /// The issuers whose tokens it verifies. Empty: it looks at none.
    pub fn issuers(&self) -> Vec<&str> {
        let rules = self.snapshot.token_rules();
        rules.map_or_else(Vec::new, |rules| rules.issuers().collect())
    }

    /// Would it verify a token that says this of itself, with the keys of some rule?
    pub fn has_rule_for(&self, issuer: &str, subject: &str) -> bool {
        let rules = self.snapshot.token_rules();
        rules.is_some_and(|rules| rules.of(Some(issuer), Some(subject)).is_some())
    }

    /// What it is configured for.
    pub fn workload(&self) -> &Workload {
        self.snapshot.workload()
    }

    pub fn revision(&self) -> &str {
        self.snapshot.revision()
    }

    /// The target, then the peer, then the policies: as `inbound` goes.
    pub fn inbound(&self, attempt: &Attempt<'_>) -> Outcome {
        let Attempt {
            peer,
            source,
            destination,
            sni,
            request: asked,
        } = *attempt;
        let port = self.snapshot.port(destination.port());
        // Where mTLS is off nobody is asked who they are.
        let peer = peer.filter(|_| port.mtls != MtlsMode::Disable);
        let source = source.to_canonical();
        let target = match asked.map(|asked| {
            normalise_target(asked.method, asked.target.as_bytes(), port.encoded_slash)
        }) {
            Some(Err(refused)) => return refuse(Reason::PathRefused, refused.to_string()),
            Some(Ok(target)) => Some(target),
            None => None,
        };
        let mut host = asked.map_or("", |asked| asked.host);
        if let Some(authority) = target.as_ref().and_then(|target| target.authority) {
            // RFC 9112 section 3.2.2; two names for one request are none (security.md row 4).
            if !host.is_empty() && !host.eq_ignore_ascii_case(authority) {
                let why =
                    format!("the request target names `{authority}`, and its host is `{host}`");
                return refuse(Reason::RequestMalformed, why);
            }
            host = authority;
        }
        if let Some(Err(refused)) = (!host.is_empty()).then(|| normalise_host(host)) {
            return refuse(Reason::RequestMalformed, refused.to_string());
        }
        let plaintext =
            authorize::plaintext_allowed(&self.snapshot, destination.port(), peer.is_some());
        if let Err(reason) = plaintext {
            let why = match port.mtls {
                MtlsMode::Strict => format!("mTLS is strict on port {}", destination.port()),
                MtlsMode::Permissive | MtlsMode::Disable => format!(
                    "a policy uses identity on port {}, and there plaintext is denied (stricter rule 3)",
                    destination.port()
                ),
            };
            return refuse(reason, why);
        }
        let mut connection = Connection {
            peer,
            source,
            remote: Some(source),
            destination,
            sni,
        };
        let path = target.map(|target| target.path.into_owned());
        let request = asked.zip(path.as_deref()).map(|(asked, path)| Request {
            method: asked.method,
            host,
            path,
            headers: asked.headers,
            token: asked.token,
        });
        if let Some(request) = &request {
            connection.remote = authorize::remote_address(&self.snapshot, source, request);
        }
        let explanation = self
            .snapshot
            .policies()
            .explain(&connection, request.as_ref());
        let remote = connection.remote;
        Outcome::Decided(Box::new(Decided {
            explanation,
            path,
            remote,
        }))
    }
}

fn refuse(reason: Reason, why: String) -> Outcome {
    Outcome::Refused { reason, why }
}
