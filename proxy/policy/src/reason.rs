//! Why: one closed list of codes, the same on the wire, in records and in docs.
//!
//! A code is never renamed once released. Each comes with one sentence that tells a person what to do next.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

macro_rules! reasons {
    ($($variant:ident $code:literal $next_step:literal)+) => {
        /// Why a request or connection was allowed, denied or ended. See resources.md, "The decision".
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = concat!("`", $code, "`: ", $next_step)] $variant,)+
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code, kebab-case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// One sentence that tells a person what to do next.
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next_step),+ }
            }
        }
    };
}

reasons! {
    AllowedByRule "allowed-by-rule"
        "Nothing to do; the record names the ALLOW policy and rule that matched."
    AllowedByDefault "allowed-by-default"
        "Nothing to do; to restrict this workload, apply an ALLOW policy to it or set the default action to DENY."
    DeniedByRule "denied-by-rule"
        "Read the DENY policy and rule that the record names, and narrow it if this call should pass."
    NoAllowPolicyMatches "no-allow-policy-matches"
        "Look at the nearest policy and the clause that failed in the record, and add a rule that allows this call if it should pass."
    DeniedByDefault "denied-by-default"
        "No ALLOW policy selects this workload; apply one that allows this call."
    NoConfiguration "no-configuration"
        "The sidecar has no complete configuration yet; check /ready on it and its connection to the control plane."
    PeerUnauthenticated "peer-unauthenticated"
        "The peer proved no identity; put it into the mesh, or make the port permissive and keep identity out of its policies."
    SvidUntrusted "svid-untrusted"
        "The peer's SVID does not chain to the bundle of its trust domain; compare the authority that signed it with the bundle in /certs."
    SvidExpired "svid-expired"
        "The SVID is past its expiry; check that the peer's Workload API is up and that the clocks agree."
    SvidRevoked "svid-revoked"
        "The SVID is on a revocation list; issue a new one to the workload if it is still to be trusted."
    SvidMalformed "svid-malformed"
        "The certificate is not a valid X.509-SVID; the record says which rule it breaks, and its issuer must be corrected."
    TrustDomainUnknown "trust-domain-unknown"
        "There is no bundle for the peer's trust domain; federate with it in the Workload API if it should be trusted."
    PrincipalRevoked "principal-revoked"
        "The principal is on the revocation list; remove it there if it should be trusted again."
    TokenMissing "token-missing"
        "No token was verified; send one in the header, parameter or cookie that the RequestAuthentication names, and check that one is for this workload."
    TokenMalformed "token-malformed"
        "The token is no intact JWT with an `exp`, or the request has two different ones; send one, in one place."
    TokenUntrusted "token-untrusted"
        "The token's issuer, signature, place, `nbf` or `iat` is not accepted; compare it with the RequestAuthentication and its keys, and check the clocks."
    TokenExpired "token-expired"
        "The token is past its expiry; fetch a fresh one."
    TokenAudience "token-audience"
        "The token is for another audience; request one for this service."
    TokenRevoked "token-revoked"
        "The token is on the revocation list; fetch a new one if the subject is still to be trusted."
    TokenUnbound "token-unbound"
        "The token is not bound to the peer's certificate; request it over the workload's own mTLS (RFC 8705)."
    RequestMalformed "request-malformed"
        "The request breaks HTTP's grammar or says one thing twice; correct the client."
    PathRefused "path-refused"
        "The path cannot be normalised safely; send a plain path, or configure encoded slashes for the port."
    ServerIdentityMismatch "server-identity-mismatch"
        "The server proved another identity than the service should have; check its SPIFFE ID and the expected ones."
    ServerUnauthenticated "server-unauthenticated"
        "The server proved no identity; check that its sidecar runs and that its port is captured."
    ServerUnreachable "server-unreachable"
        "No connection to the server could be made; check that it is up and listening."
    NoRoute "no-route"
        "The destination is not known and egress to unknown addresses is refused; add a Service or Workload, or allow egress."
    PolicyChanged "policy-changed"
        "A policy change now forbids this open connection; see the policy that the record names."
    Overload "overload"
        "A limit of the sidecar was reached; lower the load, or raise the limit or the sidecar's resources."
    Timeout "timeout"
        "The other side took longer than its deadline; check whether it is stuck or slow."
    Draining "draining"
        "The sidecar is stopping; retry, so that another instance answers."
    ClientClosed "client-closed"
        "The client ended the connection early; look at the client's own timeouts and errors."
    ServerClosed "server-closed"
        "The server ended the connection early; look at the server's own limits and errors."
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a reason code")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == code)
            .ok_or_else(|| UnknownReason(code.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verbatim from resources.md; a released code is never renamed.
    const CODES: &str = "allowed-by-rule allowed-by-default denied-by-rule no-allow-policy-matches denied-by-default \
        no-configuration peer-unauthenticated svid-untrusted svid-expired svid-revoked \
        svid-malformed trust-domain-unknown principal-revoked token-missing token-malformed \
        token-untrusted token-expired token-audience token-revoked token-unbound request-malformed \
        path-refused server-identity-mismatch server-unauthenticated server-unreachable \
        no-route policy-changed overload timeout draining client-closed server-closed";

    #[test]
    fn codes_are_exactly_those_documented() {
        let codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes, CODES.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn every_code_parses_back_and_tells_what_to_do() {
        for &reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            let step = reason.next_step();
            assert!(step.ends_with('.') && step.len() > 20, "{reason}: {step}");
        }
        assert_eq!(
            "Denied-By-Rule".parse::<Reason>(),
            Err(UnknownReason("Denied-By-Rule".into()))
        );
    }
}
