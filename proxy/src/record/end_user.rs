//! Whom a token is about: what is proved of it, and never the token.

use std::time::SystemTime;

/// `end_user.*`. Empty texts are not written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndUser {
    pub(crate) issuer: Box<str>,
    pub(crate) subject: Box<str>,
    /// The first bytes of the token's SHA-256: enough to find it again, of no use to anyone else.
    pub(crate) token: [u8; 8],
    pub(crate) expires: Option<SystemTime>,
}

impl EndUser {
    /// Of a token that proves nothing.
    pub(crate) fn of_digest(sha256: [u8; 32]) -> EndUser {
        let [a, b, c, d, e, f, g, h, ..] = sha256;
        EndUser {
            issuer: "".into(),
            subject: "".into(),
            token: [a, b, c, d, e, f, g, h],
            expires: None,
        }
    }
}
