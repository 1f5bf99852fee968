//! What is said of a document that is refused, where a cluster's API server says it too. What begins with a space or a
//! colon goes on after the value in quotes.

// AuthorizationPolicy.
pub(crate) const EMPTY_LIST: &str = "an empty list: name at least one entry, or remove the field";
pub(crate) const CEL_DECIDES: &str = "`cel` decides by itself: remove `values` and `notValues`";
pub(crate) const CEL_OR_KEY: &str = "either `key` with values or `cel`, never both";
pub(crate) const NEITHER_CEL_NOR_KEY: &str = "needs a `key` with values, or `cel`";
pub(crate) const EXPERIMENTAL: &str = "experimental.";
pub(crate) const NO_ENVOY: &str = " reads the state of an Envoy filter, which Kith does not have: decide by principal and \
     port, or remove the policy";

// Selectors and PeerAuthentication.
pub(crate) const LABEL_NEVER: &str = ": an empty key or a `*` never selects anything";
pub(crate) const NEEDS_SELECTOR: &str = "needs a `selector`: ports belong to particular workloads";

// MeshConfig, Workload, Service.
pub(crate) const NOT_A_NAMESPACE: &str = " is not a namespace: use a-z, 0-9 and `-`";
pub(crate) const NO_ADDRESS: &str = "at least one address is needed to know the workload by";
pub(crate) const NO_SERVICE_ACCOUNT: &str =
    "required of a workload in the mesh; a machine without a sidecar says `mesh: false`";
pub(crate) const NOT_IN_SPIFFE_ID: &str =
    " cannot be part of a SPIFFE ID: use letters, digits, `.`, `-` and `_`";
pub(crate) const NO_IDENTITY: &str = "a workload with `mesh: false` proves no identity: remove it";
pub(crate) const NOTHING_TO_DIAL: &str = "needs `addresses` or `hosts` for clients to dial";
pub(crate) const SELECTS_NOTHING: &str =
    "an empty selector selects no workload: name at least one label";
pub(crate) const NO_PORT: &str = "at least one port is needed";
pub(crate) const NAMED_TWICE: &str = " is named twice";

// Values.
pub(crate) const NOT_AN_ADDRESS: &str =
    " is not an IP address; a host name belongs in a Service's `hosts`";
pub(crate) const NOT_ONE_MACHINE: &str = " is not the address of one machine";
pub(crate) const HOST_IS_ADDRESS: &str = " is an IP address: it belongs in `addresses`";
pub(crate) const NOT_A_HOST: &str = " is not a host name";
pub(crate) const TRUST_DOMAIN_ALONE: &str = ": write the trust domain alone, without `spiffe://`";
pub(crate) const NO_WORKLOAD: &str = " names a trust domain; a workload's SPIFFE ID has a path";
pub(crate) const NOT_A_PORT_NUMBER: &str = " is not a port: 1 to 65535";
pub(crate) const NOT_A_DURATION: &str = " is not a duration such as `5s`, `500ms` or `1m30s`";

// RequestAuthentication.
pub(crate) const REMOVE_ISSUER: &str =
    "the issuer of JWT-SVIDs is their trust domain: remove `issuer`";
pub(crate) const NO_ISSUER: &str =
    "required: the `iss` of the tokens; for JWT-SVIDs give `spiffeTrustDomain` instead";
pub(crate) const TIMEOUT: &str = "more than nothing and at most 10m";
pub(crate) const REMOVE_KEYS: &str = "the Workload API has the keys of JWT-SVIDs: remove it";
pub(crate) const TWO_KEY_SETS: &str = "either `jwks` or `jwksUri`, never both";
pub(crate) const CLOCK_SKEW: &str = "whole seconds, at most 60s";
pub(crate) const NO_CLAIM: &str = "required: the claim to hand over";
pub(crate) const NOT_A_HEADER: &str = " is not the name of a header";
pub(crate) const REMOVE_EMPTY: &str = "an empty string: remove it";

// Revocation.
pub(crate) const ONE_REVOKED: &str =
    "needs exactly one of `principal`, `certificate` and `token`: what is revoked";
pub(crate) const NOT_A_SERIAL: &str =
    " is not a serial number in hex, such as `4b:c3:7b` or `4BC37B`";
pub(crate) const SERIAL_ZERO: &str = "a serial number of zero belongs to no certificate";
pub(crate) const NOT_A_HASH: &str =
    "not the SHA-256 of a token: 64 hex digits; never the token itself";
pub(crate) const EMPTY_JTI: &str = "empty: no token has it";
pub(crate) const ONE_TOKEN: &str = "needs either `sha256` or `jti`";
pub(crate) const NO_UNTIL: &str = "required: when what is revoked would have expired anyway, e.g. `2030-01-31T00:00:00Z`; an entry \
     without an end would stay on every sidecar forever";
pub(crate) const NOT_A_TIME: &str =
    " is not a time as RFC 3339 has it, e.g. `2030-01-31T00:00:00Z`";
pub(crate) const OUT_OF_TIME: &str = " is not between the years 1970 and 9999 (UTC)";
pub(crate) const NO_REASON: &str = "required: why, for whoever reads the records";
