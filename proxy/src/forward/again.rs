//! When a request that got no answer may be sent once more.
//!
//! **Architecture invariant:** never when an application may have acted on it, unless acting twice is the same as once.

/// What may have happened to a request for it to be sent once more. By default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Again {
    /// The server's proxy, a Kith, says that it may go to another server, and there is one
    /// ([`AGAIN`](crate::headers::AGAIN)).
    pub(crate) refused: bool,
    /// The server's proxy, a Kith, ended the connection in good order without a byte of an answer. It does so only
    /// between requests: it has not read this one.
    pub(crate) closed: bool,
    /// A connection that had served others was lost before a byte of an answer, which is how an idle one ends, and the
    /// method is idempotent (RFC 9110 section 9.2.2).
    pub(crate) lost: bool,
}

impl Again {
    pub(crate) fn is_possible(self) -> bool {
        self != Again::default()
    }
}

/// How much of a request's body is kept to be sent once more.
pub(crate) const MOST_KEPT: usize = 64 * 1024;

pub(crate) fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}
