//! Reads the strings of a field into the type of its attribute.

use super::{Check, FieldError};
use crate::constraint::{Attribute, Scope};
use crate::host::is_host_byte;
use crate::pattern::{
    AddressSet, HostSet, Interner, PathSet, Pattern, PrincipalSet, ServiceAccountSet, TextSet,
    never_matches,
};
use crate::ports::parse_port;
use crate::principal::{is_segment_byte, is_trust_domain_byte};

/// How the strings of a field are to be read.
pub(super) enum Kind<'a> {
    Principal,
    Namespace(Scope),
    ServiceAccount(Scope),
    TrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    Sni,
    Host,
    Method,
    Path,
    Header(&'a str),
}

impl<'a> Kind<'a> {
    /// What the key of a condition asks for; an unknown or unsupported one is refused by name.
    pub(super) fn of_key(key: &'a str, scope: Scope) -> Result<Self, String> {
        Ok(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace(scope),
            "source.principal" => Self::Principal,
            "source.serviceAccount" => Self::ServiceAccount(scope),
            "source.trustDomain" => Self::TrustDomain,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            _ => Self::Header(header_name(key)?),
        })
    }
}

impl Check<'_> {
    pub(super) fn attribute(&mut self, at: &str, kind: &Kind<'_>, values: &[String]) -> Attribute {
        let errors = &mut self.errors;
        let refuse = &mut |index: usize, message: String| {
            errors.push(FieldError {
                field: format!("{at}[{index}]"),
                message,
            });
        };
        let interner = &mut self.interner;
        match kind {
            Kind::Principal => Attribute::Principal(PrincipalSet::parse(values, interner, refuse)),
            Kind::Namespace(scope) => Attribute::Namespace(
                texts(
                    values,
                    |value| Pattern::parse_of(value, is_segment_byte, "a namespace"),
                    interner,
                    refuse,
                ),
                *scope,
            ),
            Kind::ServiceAccount(scope) => {
                let set =
                    ServiceAccountSet::parse(values, &self.policy.namespace, interner, refuse);
                Attribute::ServiceAccount(set, *scope)
            }
            Kind::TrustDomain => Attribute::TrustDomain(texts(
                values,
                |value| Pattern::parse_of(value, is_trust_domain_byte, "a trust domain"),
                interner,
                refuse,
            )),
            Kind::SourceIp => Attribute::SourceIp(AddressSet::parse(values, refuse)),
            Kind::RemoteIp => Attribute::RemoteIp(AddressSet::parse(values, refuse)),
            Kind::DestinationIp => Attribute::DestinationIp(AddressSet::parse(values, refuse)),
            Kind::DestinationPort => Attribute::DestinationPort(ports(values, refuse)),
            Kind::Sni => {
                let lower: Vec<_> = values
                    .iter()
                    .map(|value| value.to_ascii_lowercase())
                    .collect();
                Attribute::Sni(texts(
                    &lower,
                    |value| Pattern::parse_of(value, is_host_byte, "a server name"),
                    interner,
                    refuse,
                ))
            }
            Kind::Host => Attribute::Host(HostSet::parse(values, interner, refuse)),
            Kind::Method => {
                let attribute = Attribute::Method(texts(
                    values,
                    |value| Pattern::parse_of(value, is_token_byte, "a method"),
                    interner,
                    refuse,
                ));
                self.warn_of(at, values, |method| {
                    method.bytes().any(|byte| byte.is_ascii_lowercase()).then(|| {
                        "methods are compared as they are written, and the usual ones are in upper case".to_owned()
                    })
                });
                attribute
            }
            Kind::Path => {
                let attribute = Attribute::Path(PathSet::parse(values, interner, refuse));
                self.warn_of(at, values, |path| {
                    never_matches(path).map(|why| format!("`{path}` matches no request: {why}"))
                });
                attribute
            }
            Kind::Header(name) => {
                let name = interner.intern(&name.to_ascii_lowercase());
                // Any text: a header may hold any bytes.
                Attribute::Header(name, texts(values, Pattern::parse, interner, refuse))
            }
        }
    }

    fn warn_of(&mut self, at: &str, values: &[String], what: impl Fn(&str) -> Option<String>) {
        for (index, value) in values.iter().enumerate() {
            if let Some(message) = what(value) {
                self.warn(&format!("{at}[{index}]"), message);
            }
        }
    }
}

/// `request.headers[x]`, and what to say of every other key.
fn header_name(key: &str) -> Result<&str, String> {
    let Some(name) = key
        .strip_prefix("request.headers[")
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return Err(match key.starts_with("request.auth.") {
            true => format!(
                "`{key}` is not supported by this version: it does not verify request tokens"
            ),
            false => format!(
                "`{key}` is not a condition; known are request.headers[name], source.ip, remote.ip, \
                 source.namespace, source.principal, source.serviceAccount, source.trustDomain, destination.ip, \
                 destination.port and connection.sni"
            ),
        });
    };
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(format!("`{name}` is not a header name"));
    }
    // It has no one place: HTTP/1.1 has a header, HTTP/2 a pseudo-header.
    if name.eq_ignore_ascii_case("host") {
        return Err(format!(
            "`{key}` is not supported; use `hosts` or `notHosts` of an operation"
        ));
    }
    Ok(name)
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn texts<'v>(
    values: &'v [String],
    parse: impl Fn(&'v str) -> Result<Pattern<'v>, String>,
    interner: &mut Interner,
    refuse: &mut dyn FnMut(usize, String),
) -> TextSet {
    let mut patterns = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match parse(value) {
            Ok(pattern) => patterns.push(pattern),
            Err(message) => refuse(index, message),
        }
    }
    TextSet::new(patterns, interner)
}

fn ports(values: &[String], refuse: &mut dyn FnMut(usize, String)) -> Box<[u16]> {
    let mut ports = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match parse_port(value) {
            Ok(port) => ports.push(port),
            Err(message) => refuse(index, message),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports.into()
}
