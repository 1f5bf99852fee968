//! Which tokens count: `RequestAuthentication`, every field of it.

use std::time::Duration;

use kith_certs::TrustDomain;
use kith_certs::jwt::Jwks;
use kith_policy::FieldError;
use kith_xds_client::api::mesh as wire;

use super::{Errors, error};
use crate::headers::same_name;
use crate::token::rules::{ClaimHeader, IssuerKeys, Location, MAX_LOCATIONS, Rule, Rules, Trust};

const MAX_SKEW: u32 = 60;

/// Headers that can't carry a token, nor a claim: of this hop (RFC 9110 section 7.6.1), of framing and routing, and
/// those that Kith itself says something in. So are all of `x-forwarded-` and `x-kith-`.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// `None` where tokens are not looked at.
pub(super) fn rules(
    resources: &[wire::RequestAuthentication],
    errors: &mut Errors,
) -> Option<Rules> {
    let mut rules: Vec<Rule> = Vec::new();
    for (index, resource) in resources.iter().enumerate() {
        let at = format!("request_authentication[{index}]");
        let wire::RequestAuthentication {
            namespace,
            name,
            rules: described,
        } = resource;
        for (field, value) in [("namespace", namespace), ("name", name)] {
            if value.is_empty() {
                errors.push(error(format!("{at}.{field}"), "must not be empty"));
            }
        }
        if described.is_empty() {
            errors.push(error(
                format!("{at}.rules"),
                "must have at least one rule; remove it if no token is to be verified",
            ));
        }
        for (index, described) in described.iter().enumerate() {
            let mut field = Field {
                at: format!("{at}.rules[{index}]"),
                errors,
            };
            let Some(rule) = field.rule(described) else {
                continue;
            };
            if rules.iter().any(|other| other.issuer() == rule.issuer()) {
                let problem = format!(
                    "is the second rule about {:?}; put both into one",
                    rule.issuer()
                );
                field.wrong(field.whom(described), problem);
            }
            rules.push(rule);
        }
    }
    not_both(&rules, errors);
    let rules = Rules::new(rules)?;
    if rules.locations().len() > MAX_LOCATIONS {
        errors.push(error(
            "request_authentication",
            format!("names more than {MAX_LOCATIONS} places for tokens"),
        ));
    }
    Some(rules)
}

/// A header in which the application is told a claim can't be one in which a caller sends a token.
fn not_both(rules: &[Rule], errors: &mut Errors) {
    let locations = || rules.iter().flat_map(|rule| &rule.locations);
    for output in rules.iter().flat_map(Rule::outputs) {
        if locations()
            .any(|it| matches!(it, Location::Header { name, .. } if same_name(name, output)))
        {
            errors.push(error(
                "request_authentication",
                format!("has claims put into header {output:?}, where tokens are expected"),
            ));
        }
    }
}

/// One rule, and what is wrong with it.
struct Field<'e> {
    at: String,
    errors: &'e mut Errors,
}

impl Field<'_> {
    fn wrong(&mut self, field: impl AsRef<str>, problem: impl Into<String>) {
        let at = format!("{}.{}", self.at, field.as_ref());
        self.errors.push(FieldError {
            field: at,
            message: problem.into(),
        });
    }

    fn whom(&self, rule: &wire::JwtRule) -> &'static str {
        if rule.issuer.is_empty() {
            "spiffe_trust_domain"
        } else {
            "issuer"
        }
    }

    /// `None` when it is not even known whom it is about.
    fn rule(&mut self, rule: &wire::JwtRule) -> Option<Rule> {
        // Exhaustive on purpose: a field added to the message can't be forgotten here.
        let wire::JwtRule {
            issuer,
            spiffe_trust_domain,
            audiences,
            jwks,
            from_headers,
            from_params,
            from_cookies,
            forward_original_token,
            output_payload_to_header,
            output_claim_to_headers,
            clock_skew_seconds,
            require_bound_tokens,
        } = rule;
        let trust = self.trust(issuer, spiffe_trust_domain, jwks);
        for (index, audience) in audiences.iter().enumerate() {
            if audience.is_empty() {
                self.wrong(format!("audiences[{index}]"), "must not be empty");
            }
        }
        let locations = self.locations(from_headers, from_params, from_cookies);
        if *clock_skew_seconds > MAX_SKEW {
            self.wrong(
                "clock_skew_seconds",
                format!("is {clock_skew_seconds}, more than {MAX_SKEW}"),
            );
        }
        let rule = Rule {
            trust: trust?,
            audiences: audiences.clone(),
            locations,
            forward: *forward_original_token,
            payload_header: (!output_payload_to_header.is_empty())
                .then(|| output_payload_to_header.clone()),
            claim_headers: output_claim_to_headers
                .iter()
                .map(|it| ClaimHeader {
                    header: it.header.clone(),
                    claim: it.claim.clone(),
                })
                .collect(),
            skew: Duration::from_secs((*clock_skew_seconds).into()),
            bound: *require_bound_tokens,
        };
        self.check_outputs(&rule);
        Some(rule)
    }

    fn trust(&mut self, issuer: &str, domain: &str, jwks: &str) -> Option<Trust> {
        match (issuer.is_empty(), domain.is_empty()) {
            (true, true) => {
                self.wrong("issuer", "must be given, or spiffe_trust_domain");
                None
            }
            (false, false) => {
                self.wrong("spiffe_trust_domain", "can't be given together with issuer");
                None
            }
            (false, true) => Some(Trust::Issuer {
                issuer: issuer.to_owned(),
                keys: self.keys(jwks),
            }),
            (true, false) => {
                if !jwks.is_empty() {
                    self.wrong(
                        "jwks",
                        "can't be given for spiffe_trust_domain, whose keys come from the Workload API",
                    );
                }
                let id = format!("spiffe://{domain}");
                if let Err(problem) = TrustDomain::from_id(&id) {
                    self.wrong("spiffe_trust_domain", problem.to_string());
                }
                Some(Trust::TrustDomain {
                    name: domain.to_owned(),
                    issuer: id,
                })
            }
        }
    }

    fn keys(&mut self, jwks: &str) -> IssuerKeys {
        let mut keys = None;
        if !jwks.is_empty() {
            match Jwks::parse(jwks.as_bytes()) {
                Ok(parsed) if parsed.is_empty() => {
                    let mut problem = "has no key that tokens can be verified with".to_owned();
                    for unusable in parsed.unusable() {
                        problem.push_str(&format!("; {unusable}"));
                    }
                    self.wrong("jwks", problem);
                }
                Ok(parsed) => keys = Some(parsed),
                Err(problem) => self.wrong("jwks", format!("is no JWK Set: {problem}")),
            }
        }
        IssuerKeys {
            document: jwks.to_owned(),
            keys,
        }
    }

    fn locations(
        &mut self,
        headers: &[wire::JwtHeader],
        params: &[String],
        cookies: &[String],
    ) -> Vec<Location> {
        if headers.is_empty() && params.is_empty() && cookies.is_empty() {
            // RFC 6750 sections 2.1 and 2.3.
            let bearer = Location::Header {
                name: "authorization".into(),
                prefix: "Bearer ".into(),
            };
            return vec![bearer, Location::Param("access_token".into())];
        }
        let mut locations = Vec::new();
        for (index, header) in headers.iter().enumerate() {
            let at = format!("from_headers[{index}]");
            self.check_header(format!("{at}.name"), &header.name);
            let visible = |byte: u8| matches!(byte, 0x20..=0x7e);
            if header.prefix.starts_with(' ') || !header.prefix.bytes().all(visible) {
                self.wrong(
                    format!("{at}.prefix"),
                    "must be visible ASCII, spaces only behind or inside",
                );
            }
            self.push(
                &mut locations,
                at,
                Location::Header {
                    name: header.name.replace('_', "-"),
                    prefix: header.prefix.clone(),
                },
            );
        }
        for (index, name) in params.iter().enumerate() {
            let at = format!("from_params[{index}]");
            if name.is_empty() {
                self.wrong(&at, "must not be empty");
            }
            self.push(&mut locations, at, Location::Param(name.clone()));
        }
        for (index, name) in cookies.iter().enumerate() {
            let at = format!("from_cookies[{index}]");
            if !is_token(name) {
                self.wrong(
                    &at,
                    format!("{name:?} is no name of a cookie (RFC 6265 section 4.1.1)"),
                );
            }
            self.push(&mut locations, at, Location::Cookie(name.clone()));
        }
        locations
    }

    fn push(&mut self, locations: &mut Vec<Location>, at: String, location: Location) {
        if locations.contains(&location) {
            self.wrong(at, format!("{location} is named twice"));
        } else {
            locations.push(location);
        }
    }

    fn check_outputs(&mut self, rule: &Rule) {
        if let Some(name) = &rule.payload_header {
            self.check_header("output_payload_to_header", name);
        }
        for (index, it) in rule.claim_headers.iter().enumerate() {
            let at = format!("output_claim_to_headers[{index}]");
            self.check_header(format!("{at}.header"), &it.header);
            if it.claim.split('.').any(str::is_empty) {
                self.wrong(
                    format!("{at}.claim"),
                    format!("{:?} is no name of a claim", it.claim),
                );
            }
            let before = usize::from(rule.payload_header.is_some()) + index;
            if rule
                .outputs()
                .take(before)
                .any(|other| same_name(other, &it.header))
            {
                self.wrong(
                    format!("{at}.header"),
                    format!("{:?} is set twice", it.header),
                );
            }
        }
    }

    fn check_header(&mut self, field: impl AsRef<str>, name: &str) {
        let reserved = RESERVED.iter().any(|reserved| same_name(reserved, name))
            || ["x-forwarded-", "x-kith-"]
                .iter()
                .any(|prefix| name.replace('_', "-").starts_with(prefix));
        // RFC 9110 section 5.1. A `*` would be taken for any rest where headers are removed.
        if !is_token(name)
            || name.contains('*')
            || name.bytes().any(|byte| byte.is_ascii_uppercase())
        {
            self.wrong(
                field,
                format!("{name:?} is no header name in lower case without `*`"),
            );
        } else if reserved {
            self.wrong(
                field,
                format!("{name:?} can't be used: it has a meaning of its own"),
            );
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests;
