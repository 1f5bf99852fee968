//! Why no connection to a server was made.

use std::rc::Rc;

use kith_policy::Reason;

use crate::record::{Hop, Record};

#[derive(Clone)]
pub(crate) struct Unreachable {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// The handshake that was made all the same: it says who the server is.
    pub(crate) hop: Option<Rc<Hop>>,
}

impl Unreachable {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Unreachable {
            reason,
            message: message.into(),
            hop: None,
        }
    }

    /// Of what went wrong with two endpoints, what is to be told: that one is not who it should be must not be lost
    /// because another could not be reached.
    pub(crate) fn or_graver(self, earlier: Option<Self>) -> Self {
        let gravity = |reason| match reason {
            Reason::ServerUnreachable => 0,
            // It may be that the connection broke during the handshake.
            Reason::ServerUnauthenticated => 1,
            _ => 2,
        };
        match earlier {
            Some(earlier) if gravity(earlier.reason) > gravity(self.reason) => earlier,
            _ => self,
        }
    }

    pub(crate) fn record(&self, record: &mut Record) {
        record.refuse(self.reason);
        match &self.hop {
            Some(hop) => record.travels(hop, 0),
            // A server that could not even be connected to is no failure of TLS.
            None if self.reason == Reason::ServerUnreachable => {}
            None => record.tls_error(&self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_server_is_not_is_told_before_that_another_is_away() {
        let told = |reasons: &[Reason]| {
            let told = reasons.iter().fold(None, |earlier, reason| {
                Some(Unreachable::new(*reason, "").or_graver(earlier))
            });
            told.unwrap().reason
        };
        let (away, nobody, other) = (
            Reason::ServerUnreachable,
            Reason::ServerUnauthenticated,
            Reason::ServerIdentityMismatch,
        );
        assert_eq!(told(&[away]), away);
        assert_eq!(told(&[nobody, away, away]), nobody);
        assert_eq!(told(&[away, other, nobody, away]), other);
        assert_eq!(
            told(&[away, Reason::PrincipalRevoked]),
            Reason::PrincipalRevoked
        );
    }
}
