//! What the configuration says of tokens: whose are believed, where they are, what the application is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kith_certs::jwt::Jwks;

/// Distinct locations of one configuration; sets of them are kept as bits.
pub const MAX_LOCATIONS: usize = 64;

/// All rules of one workload. There is at least one.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Arc<Rule>>,
    locations: Vec<Location>,
    claim_headers: Vec<String>,
    /// Headers that carry claims or tokens: no trailer can have their names.
    own_headers: Arc<[String]>,
}

/// The tokens of one issuer.
#[derive(Debug, PartialEq)]
pub struct Rule {
    pub trust: Trust,
    /// `aud` must name one of them. Empty: any for an issuer; the workload's own SPIFFE ID for JWT-SVIDs.
    pub audiences: Vec<String>,
    /// Not empty, without repetitions.
    pub locations: Vec<Location>,
    /// The application sees the token.
    pub forward: bool,
    /// Gets the claims as base64url JSON.
    pub payload_header: Option<String>,
    pub claim_headers: Vec<ClaimHeader>,
    /// Tolerance for the times in a token.
    pub skew: Duration,
    /// A token must be bound to a certificate (RFC 8705 section 3.1).
    pub bound: bool,
}

/// Whom a rule believes.
#[derive(Debug, PartialEq)]
pub enum Trust {
    Issuer {
        issuer: String,
        keys: IssuerKeys,
    },
    /// JWT-SVIDs, with the keys that the Workload API hands over.
    TrustDomain {
        name: String,
        issuer: String,
    },
}

/// An issuer's keys. Equal when the documents are.
pub struct IssuerKeys {
    /// Empty while the control plane could not fetch it: then no token of the issuer is trusted.
    pub document: String,
    pub keys: Option<Jwks>,
}

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The name in lower case, with `-` for `_`.
    Header {
        name: String,
        prefix: String,
    },
    Param(String),
    Cookie(String),
}

/// A header that the application gets one claim in.
#[derive(Debug, PartialEq, Eq)]
pub struct ClaimHeader {
    pub header: String,
    pub claim: String,
}

impl Rules {
    /// `None` without rules: then tokens are not looked at.
    pub fn new(rules: Vec<Rule>) -> Option<Rules> {
        let mut locations: Vec<Location> = Vec::new();
        let mut claim_headers: Vec<String> = Vec::new();
        for rule in &rules {
            for location in &rule.locations {
                if !locations.contains(location) {
                    locations.push(location.clone());
                }
            }
            for header in rule.outputs() {
                // As headers to remove are written: `-` stands for `_` too.
                let header = header.replace('_', "-");
                if !claim_headers.contains(&header) {
                    claim_headers.push(header);
                }
            }
        }
        let token_headers = locations.iter().filter_map(|location| match location {
            Location::Header { name, .. } => Some(name),
            Location::Param(_) | Location::Cookie(_) => None,
        });
        let own_headers = claim_headers.iter().chain(token_headers).cloned().collect();
        (!rules.is_empty()).then(|| Rules {
            rules: rules.into_iter().map(Arc::new).collect(),
            locations,
            claim_headers,
            own_headers,
        })
    }

    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// Whose tokens they are about, as policies name them.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.issuer())
    }

    /// Headers that carry claims and nothing else, whoever sent them.
    pub(crate) fn claim_headers(&self) -> &[String] {
        &self.claim_headers
    }

    pub(crate) fn own_headers(&self) -> &Arc<[String]> {
        &self.own_headers
    }

    pub(crate) fn any_trust_domain(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| matches!(rule.trust, Trust::TrustDomain { .. }))
    }

    /// Is a parameter of this name one that tokens come in?
    pub(crate) fn is_token_param(&self, name: &str) -> bool {
        self.locations
            .iter()
            .any(|location| matches!(location, Location::Param(param) if param == name))
    }

    /// The one rule for a token that says this of itself: by `iss`, else by the trust domain of a SPIFFE ID in `sub`,
    /// since the JWT-SVID standard defines no `iss`.
    pub(crate) fn of(&self, issuer: Option<&str>, subject: Option<&str>) -> Option<&Arc<Rule>> {
        let by_issuer = issuer.and_then(|said| {
            self.rules
                .iter()
                .find(|rule| matches!(&rule.trust, Trust::Issuer { issuer, .. } if issuer == said))
        });
        by_issuer.or_else(|| {
            let domain = subject?.strip_prefix("spiffe://")?.split('/').next()?;
            self.rules.iter().find(
                |rule| matches!(&rule.trust, Trust::TrustDomain { name, .. } if name == domain),
            )
        })
    }

    /// The very rule, and not only one like it.
    pub(crate) fn holds(&self, rule: &Arc<Rule>) -> bool {
        self.rules.iter().any(|held| Arc::ptr_eq(held, rule))
    }

    /// Whether a rule lists one of these locations.
    pub(crate) fn lists(&self, rule: &Rule, at: u64) -> bool {
        self.locations
            .iter()
            .enumerate()
            .any(|(index, location)| at & (1 << index) != 0 && rule.locations.contains(location))
    }
}

impl Rule {
    /// As policies and records name it.
    pub fn issuer(&self) -> &str {
        match &self.trust {
            Trust::Issuer { issuer, .. } | Trust::TrustDomain { issuer, .. } => issuer,
        }
    }

    /// The headers that it sets.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        let claims = self.claim_headers.iter().map(|it| it.header.as_str());
        self.payload_header.as_deref().into_iter().chain(claims)
    }
}

impl PartialEq for IssuerKeys {
    fn eq(&self, other: &Self) -> bool {
        self.document == other.document
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerKeys")
            .field("keys", &self.keys.as_ref().map_or(0, Jwks::len))
            .finish_non_exhaustive()
    }
}

/// For people: `header authorization`, never what is in it.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Header { name, .. } => write!(f, "header {name}"),
            Location::Param(name) => write!(f, "query parameter {name}"),
            Location::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}
