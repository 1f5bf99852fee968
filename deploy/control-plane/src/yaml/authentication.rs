//! RequestAuthentication: from the shape people write to the wire's, but for keys that have to be fetched.

use std::collections::BTreeSet;

use hyper::header::HeaderName;
use kith_xds_client::api::mesh as api;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::document::{Document, Place};
use super::schema::{NoTarget, Selector};
use super::value::{Duration, TrustDomain};
use crate::jwks::{KeySets, Source, public_keys};
use crate::problem::Problem;

/// How long a fetch may take unless the rule says otherwise, as Istio has it.
const FETCH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
const MAX_FETCH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);
const MAX_CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(60);

/// Which tokens count, and for whom.
#[derive(Debug)]
pub struct RequestAuthentication {
    pub selector: Selector,
    rules: Vec<JwtRule>,
    pub(crate) warnings: Vec<(String, String)>,
}

/// One issuer.
#[derive(Debug)]
pub struct JwtRule {
    /// Without keys that have to be fetched.
    wire: api::JwtRule,
    fetch: Option<Fetch>,
}

/// Keys that are somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub source: Source,
    pub timeout: std::time::Duration,
}

impl RequestAuthentication {
    pub fn rules(&self) -> &[JwtRule] {
        &self.rules
    }

    pub(crate) fn to_wire(&self, keys: &KeySets) -> Vec<api::JwtRule> {
        let rules = self.rules.iter();
        rules.map(|rule| rule.to_wire(keys)).collect()
    }
}

impl JwtRule {
    /// The token's `iss`, as policies see it.
    pub fn issuer(&self) -> String {
        if self.wire.issuer.is_empty() {
            format!("spiffe://{}", self.wire.spiffe_trust_domain)
        } else {
            self.wire.issuer.clone()
        }
    }

    /// Where its keys are fetched from, if they are.
    pub fn fetch(&self) -> Option<&Fetch> {
        self.fetch.as_ref()
    }

    /// No keys, no trust: a set that was not fetched yet is empty on the wire, and then no token of the issuer
    /// is accepted.
    fn to_wire(&self, keys: &KeySets) -> api::JwtRule {
        let mut wire = self.wire.clone();
        if let Some(found) = self.fetch.as_ref().and_then(|f| keys.get(&f.source)) {
            wire.jwks = found.to_owned();
        }
        wire
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    #[serde(default)]
    selector: Selector,
    #[serde(default, rename = "targetRef")]
    _target_ref: NoTarget,
    #[serde(default, rename = "targetRefs")]
    _target_refs: NoTarget,
    #[serde(default)]
    jwt_rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    issuer: Option<String>,
    /// Kith's own, instead of `issuer`.
    spiffe_trust_domain: Option<TrustDomain>,
    #[serde(default)]
    audiences: Vec<String>,
    // Both spellings are in Istio's schema.
    #[serde(alias = "jwks_uri")]
    jwks_uri: Option<String>,
    jwks: Option<String>,
    #[serde(default)]
    from_headers: Vec<Header>,
    #[serde(default)]
    from_params: Vec<String>,
    #[serde(default)]
    from_cookies: Vec<String>,
    #[serde(default)]
    output_payload_to_header: String,
    #[serde(default)]
    forward_original_token: bool,
    #[serde(default)]
    output_claim_to_headers: Vec<ClaimToHeader>,
    timeout: Option<Duration>,
    #[serde(default, rename = "spaceDelimitedClaims")]
    _space_delimited_claims: NoSpaceDelimitedClaims,
    /// Kith's own.
    #[serde(default)]
    clock_skew: Duration,
    /// Kith's own.
    #[serde(default)]
    require_bound_tokens: bool,
}

/// Istio's from 1.28 on, and it changes what a claim in a policy is compared with: so it is never passed over.
#[derive(Debug, Default)]
struct NoSpaceDelimitedClaims;

impl<'de> Deserialize<'de> for NoSpaceDelimitedClaims {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(NO_SPACE_DELIMITED_CLAIMS))
    }
}

const NO_SPACE_DELIMITED_CLAIMS: &str = "is not supported: `scope` and `permission` are always split on spaces, so remove \
    them; for another claim write a condition, such as `cel: (\" \" + request.auth.claims.roles + \" \").contains(\" admin \")`";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    #[serde(default)]
    prefix: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimToHeader {
    header: String,
    claim: String,
}

pub(super) fn convert(
    document: Document<Spec>,
) -> Result<Document<RequestAuthentication>, Vec<Problem>> {
    let Document {
        place,
        metadata,
        spec,
    } = document;
    let mut checked = Checked {
        place: &place,
        at: String::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    // Istio takes it, and so it does no harm to have it; but surely somebody expects something of it.
    if spec.jwt_rules.is_empty() {
        checked.at = "spec".into();
        checked.warn(
            "jwtRules",
            "without rules no token is verified: this has no effect",
        );
    }
    let mut rules = Vec::new();
    for (index, rule) in spec.jwt_rules.into_iter().enumerate() {
        checked.at = format!("spec.jwtRules[{index}]");
        rules.push(checked.rule(rule));
    }
    let Checked {
        problems, warnings, ..
    } = checked;
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Document {
        place,
        metadata,
        spec: RequestAuthentication {
            selector: spec.selector,
            rules,
            warnings,
        },
    })
}

/// Walks the rules and collects everything that is wrong with them.
struct Checked<'a> {
    place: &'a Place,
    at: String,
    problems: Vec<Problem>,
    warnings: Vec<(String, String)>,
}

impl Checked<'_> {
    fn refuse(&mut self, field: &str, message: impl Into<String>) {
        let field = format!("{}.{field}", self.at);
        self.problems.push(self.place.problem(&field, message));
    }

    fn warn(&mut self, field: &str, message: impl Into<String>) {
        let field = format!("{}.{field}", self.at);
        self.warnings.push((field, message.into()));
    }

    fn rule(&mut self, rule: Rule) -> JwtRule {
        let issuer = rule.issuer.unwrap_or_default();
        match (&rule.spiffe_trust_domain, issuer.is_empty()) {
            (Some(_), false) => self.refuse(
                "spiffeTrustDomain",
                "the issuer of JWT-SVIDs is their trust domain: remove `issuer`",
            ),
            (None, true) => self.refuse(
                "issuer",
                "required: the `iss` of the tokens; for JWT-SVIDs give `spiffeTrustDomain` instead",
            ),
            _ => {}
        }
        let timeout = rule.timeout.map_or(FETCH_TIMEOUT, |given| given.0);
        if timeout.is_zero() || timeout > MAX_FETCH_TIMEOUT {
            self.refuse("timeout", "more than nothing and at most 10m");
        }
        let (jwks, fetch) = match (rule.jwks, rule.jwks_uri) {
            (jwks, uri) if rule.spiffe_trust_domain.is_some() => {
                if jwks.is_some() || uri.is_some() {
                    let field = if jwks.is_some() { "jwks" } else { "jwksUri" };
                    self.refuse(
                        field,
                        "the Workload API has the keys of JWT-SVIDs: remove it",
                    );
                }
                (String::new(), None)
            }
            (Some(_), Some(_)) => {
                self.refuse("jwksUri", "either `jwks` or `jwksUri`, never both");
                (String::new(), None)
            }
            (Some(jwks), None) => (self.given_keys(&jwks), None),
            (None, uri) => (String::new(), self.source(uri.as_deref(), &issuer)),
        };
        if rule.clock_skew.0 > MAX_CLOCK_SKEW || rule.clock_skew.0.subsec_nanos() != 0 {
            self.refuse("clockSkew", "whole seconds, at most 60s");
        }
        self.no_empty("audiences", &rule.audiences);
        self.no_empty("fromParams", &rule.from_params);
        self.no_empty("fromCookies", &rule.from_cookies);
        let wire = api::JwtRule {
            issuer,
            spiffe_trust_domain: rule
                .spiffe_trust_domain
                .map_or_else(String::new, |domain| domain.0.to_string()),
            audiences: rule.audiences,
            jwks,
            from_headers: self.token_headers(rule.from_headers),
            from_params: rule.from_params,
            from_cookies: rule.from_cookies,
            forward_original_token: rule.forward_original_token,
            output_payload_to_header: if rule.output_payload_to_header.is_empty() {
                String::new()
            } else {
                self.header("outputPayloadToHeader", &rule.output_payload_to_header)
            },
            output_claim_to_headers: self.claims_to_headers(rule.output_claim_to_headers),
            clock_skew_seconds: u32::try_from(rule.clock_skew.0.as_secs()).unwrap_or(u32::MAX),
            require_bound_tokens: rule.require_bound_tokens,
        };
        JwtRule {
            wire,
            fetch: fetch.map(|source| Fetch { source, timeout }),
        }
    }

    /// Keys in the document itself: a set without a usable one is a mistake that its author can see at once.
    fn given_keys(&mut self, jwks: &str) -> String {
        match public_keys(jwks.as_bytes()) {
            Ok(keys) => {
                for skipped in &keys.skipped {
                    self.warn("jwks", format!("{skipped}: not used"));
                }
                keys.json
            }
            Err(message) => {
                self.refuse("jwks", message);
                String::new()
            }
        }
    }

    fn source(&mut self, uri: Option<&str>, issuer: &str) -> Option<Source> {
        let (field, parsed) = match uri {
            Some(uri) => ("jwksUri", Source::jwks(uri)),
            // Said already.
            None if issuer.is_empty() => return None,
            None => (
                "issuer",
                Source::discovery(issuer).map_err(|why| {
                    format!("{why}; so its keys cannot be discovered: give `jwksUri` or `jwks`")
                }),
            ),
        };
        match parsed {
            Ok(source) => {
                if source.is_plaintext() {
                    self.warn(
                        field,
                        "fetched without TLS: whoever is on the way can replace the keys, and with them decide which \
                         tokens are genuine; use https",
                    );
                }
                Some(source)
            }
            Err(message) => {
                self.refuse(field, message);
                None
            }
        }
    }

    fn token_headers(&mut self, headers: Vec<Header>) -> Vec<api::JwtHeader> {
        let headers = headers.into_iter().enumerate();
        headers
            .map(|(index, header)| api::JwtHeader {
                name: self.header(&format!("fromHeaders[{index}].name"), &header.name),
                prefix: header.prefix,
            })
            .collect()
    }

    fn claims_to_headers(&mut self, claims: Vec<ClaimToHeader>) -> Vec<api::ClaimToHeader> {
        let mut seen = BTreeSet::new();
        let claims = claims.into_iter().enumerate();
        claims
            .map(|(index, ClaimToHeader { header, claim })| {
                let at = format!("outputClaimToHeaders[{index}]");
                if claim.is_empty() {
                    self.refuse(&format!("{at}.claim"), "required: the claim to hand over");
                }
                let header = self.header(&format!("{at}.header"), &header);
                if !seen.insert(header.clone()) {
                    let message = format!("`{header}` is named twice");
                    self.refuse(&format!("{at}.header"), message);
                }
                api::ClaimToHeader { header, claim }
            })
            .collect()
    }

    /// Lower case, as it is on the wire.
    fn header(&mut self, field: &str, name: &str) -> String {
        match HeaderName::try_from(name) {
            Ok(name) => name.as_str().to_owned(),
            Err(_) => {
                self.refuse(field, format!("`{name}` is not the name of a header"));
                String::new()
            }
        }
    }

    fn no_empty(&mut self, field: &str, list: &[String]) {
        for (index, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            self.refuse(&format!("{field}[{index}]"), "an empty string: remove it");
        }
    }
}
