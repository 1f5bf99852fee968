//! The one place where reasons become what a caller sees on the wire (resources.md, The decision).

use kith_policy::Reason;

/// The HTTP status of the proxy's own answer.
pub(crate) fn status_of(reason: Reason) -> u16 {
    match reason {
        Reason::TokenMissing
        | Reason::TokenMalformed
        | Reason::TokenUntrusted
        | Reason::TokenExpired
        | Reason::TokenAudience
        | Reason::TokenRevoked
        | Reason::TokenUnbound => 401,
        Reason::RequestMalformed | Reason::PathRefused => 400,
        Reason::ServerIdentityMismatch
        | Reason::ServerUnauthenticated
        | Reason::ServerUnreachable
        | Reason::ServerClosed
        | Reason::NoRoute
        | Reason::NoConfiguration
        | Reason::Overload
        | Reason::Draining => 503,
        Reason::Timeout => 504,
        _ => 403,
    }
}

/// The gRPC status code of the same answer (gRPC status codes; PERMISSION_DENIED 7, UNAUTHENTICATED 16,
/// UNAVAILABLE 14, DEADLINE_EXCEEDED 4, INTERNAL 13).
pub(crate) fn grpc_status_of(reason: Reason) -> u32 {
    match status_of(reason) {
        401 => 16,
        503 => 14,
        504 => 4,
        400 => 13,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_status_that_the_documents_promise() {
        for reason in Reason::ALL {
            let expected = match reason.as_str() {
                text if text.starts_with("token-") => 401,
                "request-malformed" | "path-refused" => 400,
                "timeout" => 504,
                "server-identity-mismatch"
                | "server-unauthenticated"
                | "server-unreachable"
                | "server-closed"
                | "no-route"
                | "no-configuration"
                | "overload"
                | "draining" => 503,
                _ => 403,
            };
            assert_eq!(status_of(*reason), expected, "{}", reason.as_str());
        }
    }
}
