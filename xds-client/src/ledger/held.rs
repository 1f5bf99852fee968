//! What is held, for those who remember it.

use super::Ledger;
use crate::resource::Kind;

/// Each grows when what is held changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revisions {
    /// Of anything.
    pub(super) all: u64,
    /// Of the revocation list.
    pub(super) revocations: u64,
}

/// What is to be remembered.
pub(crate) struct Held {
    pub(crate) revisions: Revisions,
    /// Responses, each behind its length.
    pub(crate) encoded: Vec<u8>,
    /// The revocation list alone: the others are in the middle of an update, and what is remembered of them stays.
    pub(crate) revocations_only: bool,
}

impl Ledger {
    /// What is held, if it differs from `seen` and is of one piece: while something is unanswered, what is held may be half
    /// of an update. A revocation list is whole by itself, and does not wait for the rest.
    pub(crate) fn held_since(&self, seen: Revisions) -> Option<Held> {
        let remember = |only: Option<Kind>| {
            let mut encoded = Vec::new();
            for (kind, book) in &self.books {
                if only.is_none_or(|only| only == *kind) {
                    book.remember(kind.type_url(), &mut encoded);
                }
            }
            encoded
        };
        let whole = self.unanswered.is_empty();
        if whole && self.held.all != seen.all {
            return Some(Held {
                revisions: self.held,
                encoded: remember(None),
                revocations_only: false,
            });
        }
        let news = !whole && self.held.revocations != seen.revocations;
        news.then(|| Held {
            revisions: Revisions {
                revocations: self.held.revocations,
                ..seen
            },
            encoded: remember(Some(Kind::RevocationList)),
            revocations_only: true,
        })
    }
}
