//! The one place where reasons become what a caller sees on the wire (resources.md, The decision).

use kith_policy::Reason;

use crate::record::Direction;

/// The HTTP status of the proxy's own answer.
pub(crate) fn status_of(direction: Direction, reason: Reason) -> u16 {
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
        // The application is free to call; what is wrong is wrong with the server that it called.
        _ if direction == Direction::Outbound => 503,
        _ => 403,
    }
}

/// What a 401 must say of how to come back (RFC 9110 section 15.5.2): without a token no more than that one is wanted
/// (RFC 6750 section 3.1).
pub(crate) fn challenge_of(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::TokenMissing => Some("Bearer"),
        Reason::TokenMalformed
        | Reason::TokenUntrusted
        | Reason::TokenExpired
        | Reason::TokenAudience
        | Reason::TokenRevoked
        | Reason::TokenUnbound => Some(r#"Bearer error="invalid_token""#),
        _ => None,
    }
}

/// The gRPC status code of the same answer (gRPC status codes; PERMISSION_DENIED 7, UNAUTHENTICATED 16,
/// UNAVAILABLE 14, DEADLINE_EXCEEDED 4, INTERNAL 13).
pub(crate) fn grpc_status_of(direction: Direction, reason: Reason) -> u32 {
    match status_of(direction, reason) {
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
    fn a_bad_token_is_told_from_none() {
        assert_eq!(challenge_of(Reason::TokenMissing), Some("Bearer"));
        let invalid = r#"Bearer error="invalid_token""#;
        assert_eq!(challenge_of(Reason::TokenExpired), Some(invalid));
        for reason in Reason::ALL {
            let unauthorized = status_of(Direction::Inbound, *reason) == 401;
            assert_eq!(challenge_of(*reason).is_some(), unauthorized, "{reason}");
        }
    }

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
            for (direction, expected) in [
                (Direction::Inbound, expected),
                // A server's SVID that is no good is not the fault of the application that called it.
                (
                    Direction::Outbound,
                    if expected == 403 { 503 } else { expected },
                ),
            ] {
                let status = status_of(direction, *reason);
                assert_eq!(status, expected, "{direction:?} {reason}");
            }
        }
    }
}
