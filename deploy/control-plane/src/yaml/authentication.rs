//! RequestAuthentication: from the shape people write to the wire's, but for keys that have to be fetched.

use std::collections::BTreeSet;

use hyper::header::HeaderName;
use kith_xds_client::api::mesh as api;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::document::{Document, Place};
use super::schema::{NoTarget, Selector};
use super::value::{Duration, TrustDomain};
use super::words;
use crate::crd::authentication as demand;
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

/// Which tokens are good. A request without one passes, without a request principal; to require one, write an ALLOW with
/// `requestPrincipals: ["*"]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    /// The workloads that it is for. Without one: every workload of the namespace, and in the mesh's root namespace
    /// every workload of the mesh.
    #[serde(default)]
    selector: Selector,
    /// Refused: it names a gateway or waypoint, and a mesh of sidecars has none.
    #[serde(default, rename = "targetRef")]
    _target_ref: NoTarget,
    /// Refused, as `targetRef`.
    #[serde(default, rename = "targetRefs")]
    #[schemars(transform = crate::crd::policy::targets)]
    _target_refs: NoTarget,
    /// One for each issuer. A token of any other is refused.
    #[serde(default)]
    #[schemars(transform = demand::rules)]
    jwt_rules: Vec<Rule>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = demand::rule)]
struct Rule {
    /// The tokens' `iss`. Without `jwks` and `jwksUri` its keys are discovered there (OpenID Connect Discovery).
    #[schemars(transform = demand::text)]
    issuer: Option<String>,
    /// Kith's own, instead of `issuer`: JWT-SVIDs of this trust domain, with keys from the Workload API.
    spiffe_trust_domain: Option<TrustDomain>,
    /// A token has to be for one of these. Default: for anyone; of JWT-SVIDs, for the workload's own SPIFFE ID.
    #[serde(default)]
    #[schemars(transform = demand::texts)]
    audiences: Vec<String>,
    /// Where the keys are fetched from, over https.
    // Both spellings are in Istio's schema.
    #[serde(alias = "jwks_uri")]
    #[schemars(transform = demand::text)]
    jwks_uri: Option<String>,
    /// The keys themselves, a JWK Set in JSON.
    #[schemars(transform = demand::keys)]
    jwks: Option<String>,
    /// Headers that tokens are in. Without this and the next two: `Authorization: Bearer`, and the parameter
    /// `access_token`.
    #[serde(default)]
    #[schemars(transform = demand::entries)]
    from_headers: Vec<Header>,
    /// Parameters of the query that tokens are in.
    #[serde(default)]
    #[schemars(transform = demand::texts)]
    from_params: Vec<String>,
    /// Cookies that tokens are in.
    #[serde(default)]
    #[schemars(transform = demand::texts)]
    from_cookies: Vec<String>,
    /// The header in which the application finds the token's payload, in base64url. Default: none.
    #[serde(default)]
    #[schemars(transform = demand::header_or_none)]
    output_payload_to_header: String,
    /// True: the application sees the token itself. Default: false.
    #[serde(default)]
    forward_original_token: bool,
    /// Claims that the application finds in headers.
    #[serde(default)]
    #[schemars(transform = demand::entries)]
    output_claim_to_headers: Vec<ClaimToHeader>,
    /// How long a fetch of keys may take, such as `5s`; at most `10m`. Default: `5s`.
    #[schemars(transform = demand::timeout)]
    timeout: Option<Duration>,
    /// Refused: `scope` and `permission` are always split on spaces, and no other claim is.
    #[serde(default, rename = "spaceDelimitedClaims")]
    _space_delimited_claims: NoSpaceDelimitedClaims,
    /// Kith's own: how far the clocks of issuer and mesh may be apart, in whole seconds; at most `60s`. Default: not at
    /// all.
    #[serde(default)]
    #[schemars(transform = demand::clock_skew)]
    clock_skew: Duration,
    /// Kith's own. True: a token has to be bound to the caller's certificate (RFC 8705). Default: only if it says so
    /// itself.
    #[serde(default)]
    require_bound_tokens: bool,
}

/// Istio's from 1.28 on, and it changes what a claim in a policy is compared with: so it is never passed over.
#[derive(Debug, Default, JsonSchema)]
#[schemars(transform = demand::no_space_delimited_claims)]
struct NoSpaceDelimitedClaims;

impl<'de> Deserialize<'de> for NoSpaceDelimitedClaims {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(NO_SPACE_DELIMITED_CLAIMS))
    }
}

pub(crate) const NO_SPACE_DELIMITED_CLAIMS: &str = "is not supported: `scope` and `permission` are always split on spaces, so remove \
    them; for another claim write a condition, such as `cel: (\" \" + request.auth.claims.roles + \" \").contains(\" admin \")`";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The header's name, in any case.
    #[schemars(transform = demand::header)]
    name: String,
    /// What is before the token in its value, such as `Bearer `. Default: nothing.
    #[serde(default)]
    #[schemars(transform = demand::text)]
    prefix: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ClaimToHeader {
    /// The header's name, in any case; what a caller sends in it never reaches the application.
    #[schemars(transform = demand::header)]
    header: String,
    /// The claim's name.
    #[schemars(transform = demand::claim)]
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
            (Some(_), false) => self.refuse("spiffeTrustDomain", words::REMOVE_ISSUER),
            (None, true) => self.refuse("issuer", words::NO_ISSUER),
            _ => {}
        }
        let timeout = rule.timeout.map_or(FETCH_TIMEOUT, |given| given.0);
        if timeout.is_zero() || timeout > MAX_FETCH_TIMEOUT {
            self.refuse("timeout", words::TIMEOUT);
        }
        let (jwks, fetch) = match (rule.jwks, rule.jwks_uri) {
            (jwks, uri) if rule.spiffe_trust_domain.is_some() => {
                if jwks.is_some() || uri.is_some() {
                    let field = if jwks.is_some() { "jwks" } else { "jwksUri" };
                    self.refuse(field, words::REMOVE_KEYS);
                }
                (String::new(), None)
            }
            (Some(_), Some(_)) => {
                self.refuse("jwksUri", words::TWO_KEY_SETS);
                (String::new(), None)
            }
            (Some(jwks), None) => (self.given_keys(&jwks), None),
            (None, uri) => (String::new(), self.source(uri.as_deref(), &issuer)),
        };
        if rule.clock_skew.0 > MAX_CLOCK_SKEW || rule.clock_skew.0.subsec_nanos() != 0 {
            self.refuse("clockSkew", words::CLOCK_SKEW);
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
                    self.refuse(&format!("{at}.claim"), words::NO_CLAIM);
                }
                let header = self.header(&format!("{at}.header"), &header);
                if !seen.insert(header.clone()) {
                    let message = format!("`{header}`{}", words::NAMED_TWICE);
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
                self.refuse(field, format!("`{name}`{}", words::NOT_A_HEADER));
                String::new()
            }
        }
    }

    fn no_empty(&mut self, field: &str, list: &[String]) {
        for (index, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            self.refuse(&format!("{field}[{index}]"), words::REMOVE_EMPTY);
        }
    }
}
