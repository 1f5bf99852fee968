//! Reads the strings of a field into the type of its attribute.

use super::check::{At, Check};
use super::key::header_name;
use crate::constraint::{Attribute, Scope};
use crate::host::is_host_byte;
use crate::model::Action;
use crate::pattern::{Pattern, TokenPrincipal, blocks, claim_path, never_matches, parse_path};
use crate::ports::parse_port;
use crate::principal::{is_segment_byte, is_trust_domain_byte};
use crate::store::append;
use crate::words;

/// How the strings of a field are to be read.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Principal,
    Namespace(Scope),
    ServiceAccount(Scope),
    TrustDomain,
    SourceIp,
    RemoteIp,
    RequestPrincipal,
    Audiences,
    Presenter,
    /// As [`claim_path`] gives it.
    Claim(&'a str),
    DestinationIp,
    DestinationPort,
    Sni,
    Host,
    Method,
    Path,
    Header(&'a str),
}

impl<'a> Kind<'a> {
    /// What the key of a condition asks for; an unknown one is refused by name.
    pub(super) fn of_key(key: &'a str, scope: Scope) -> Result<Self, String> {
        Ok(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace(scope),
            "source.principal" => Self::Principal,
            "source.serviceAccount" => Self::ServiceAccount(scope),
            "source.trustDomain" => Self::TrustDomain,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audiences,
            "request.auth.presenter" => Self::Presenter,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            _ => match key.strip_prefix("request.auth.claims") {
                Some(brackets) => Self::Claim(
                    claim_path(brackets).ok_or_else(|| format!("`{key}`{}", words::NOT_A_CLAIM))?,
                ),
                None => Self::Header(header_name(key)?),
            },
        })
    }
}

impl Check<'_> {
    pub(super) fn attribute(&mut self, at: At<'_>, kind: Kind<'_>, values: &[String]) -> Attribute {
        // Told apart from `self`, whose store is being filled meanwhile.
        let mut refused = Vec::new();
        let refuse = &mut |index: usize, message: String| refused.push((index, message));
        let store = &mut self.store;
        let attribute = match kind {
            Kind::Principal => Attribute::Principal(store.principals(values, refuse)),
            Kind::Namespace(scope) => {
                let parse = |value| Pattern::parse_of(value, is_segment_byte, "a namespace");
                Attribute::Namespace(store.patterns(parsed(values, parse, refuse)), scope)
            }
            Kind::ServiceAccount(scope) => {
                let accounts = store.accounts(values, &self.policy.namespace, refuse);
                Attribute::ServiceAccount(accounts, scope)
            }
            Kind::TrustDomain => {
                let parse =
                    |value| Pattern::parse_of(value, is_trust_domain_byte, "a trust domain");
                Attribute::TrustDomain(store.patterns(parsed(values, parse, refuse)))
            }
            Kind::SourceIp => {
                Attribute::SourceIp(append(&mut store.blocks, blocks(values, refuse)))
            }
            Kind::RemoteIp => {
                Attribute::RemoteIp(append(&mut store.blocks, blocks(values, refuse)))
            }
            Kind::DestinationIp => {
                Attribute::DestinationIp(append(&mut store.blocks, blocks(values, refuse)))
            }
            Kind::RequestPrincipal => {
                Attribute::RequestPrincipal(store.token_principals(values, refuse))
            }
            // Any text: a claim or header may hold any.
            Kind::Audiences => {
                Attribute::Audiences(store.patterns(parsed(values, Pattern::parse, refuse)))
            }
            Kind::Presenter => {
                Attribute::Presenter(store.patterns(parsed(values, Pattern::parse, refuse)))
            }
            Kind::Claim(path) => {
                let path = store.text(path);
                Attribute::Claim(path, store.patterns(parsed(values, Pattern::parse, refuse)))
            }
            Kind::Header(name) => {
                let name = store.text(&name.to_ascii_lowercase());
                Attribute::Header(name, store.patterns(parsed(values, Pattern::parse, refuse)))
            }
            Kind::DestinationPort => {
                let mut ports = parsed(values, parse_port, refuse);
                ports.sort_unstable();
                ports.dedup();
                Attribute::DestinationPort(append(&mut store.ports, ports))
            }
            Kind::Sni => {
                let lower: Vec<_> = values
                    .iter()
                    .map(|value| value.to_ascii_lowercase())
                    .collect();
                let parse = |value| Pattern::parse_of(value, is_host_byte, "a server name");
                Attribute::Sni(store.patterns(parsed(&lower, parse, refuse)))
            }
            Kind::Host => Attribute::Host(store.hosts(values, refuse)),
            Kind::Method => {
                let parse = |value| Pattern::parse_of(value, is_token_byte, "a method");
                Attribute::Method(store.patterns(parsed(values, parse, refuse)))
            }
            Kind::Path => Attribute::Path(store.patterns(parsed(values, parse_path, refuse))),
        };
        for (index, message) in refused {
            self.refuse(at.value(index), message);
        }
        self.look_at_values(at, kind, values);
        attribute
    }

    fn look_at_values(&mut self, at: At<'_>, kind: Kind<'_>, values: &[String]) {
        for (index, value) in values.iter().enumerate() {
            match kind {
                Kind::Method if value.bytes().any(|byte| byte.is_ascii_lowercase()) => self.warn(
                    at.value(index),
                    "methods are compared as they are written, and the usual ones are in upper case",
                ),
                // Of one that cannot be read enough was said.
                Kind::Path if parse_path(value).is_ok() => {
                    if let Some(why) = never_matches(value) {
                        let message = format!("`{value}` matches no request: {why}");
                        // As with hosts and methods: in a DENY, or in what an ALLOW excludes, it would be a hole. In what an
                        // ALLOW names it allows less than meant.
                        if self.policy.action == Action::Allow && !at.is_negative() {
                            self.warn(at.value(index), message);
                        } else {
                            self.refuse(at.value(index), message);
                        }
                    }
                }
                Kind::RequestPrincipal => {
                    if let Ok(TokenPrincipal { issuer, subject }) = TokenPrincipal::parse(value)
                        && issuer.literal().ends_with(":/")
                    {
                        self.warn(
                            at.value(index),
                            format!(
                                "a request principal is `issuer/subject`, split at the last `/`: this one asks for the \
                                 issuer `{}` and the subject `{}`",
                                issuer.written(),
                                subject.written()
                            ),
                        );
                    }
                }
                _ => {}
            }
        }
    }
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn parsed<'v, T>(
    values: &'v [String],
    parse: impl Fn(&'v str) -> Result<T, String>,
    refuse: &mut dyn FnMut(usize, String),
) -> Vec<T> {
    let mut all = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match parse(value) {
            Ok(value) => all.push(value),
            Err(message) => refuse(index, message),
        }
    }
    all
}
