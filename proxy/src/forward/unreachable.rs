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
