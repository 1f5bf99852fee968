//! What is held, for those who remember it.

use super::{Book, Ledger};
use crate::api::envoy::service::discovery::v3::DeltaDiscoveryResponse;
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
    pub(crate) responses: Vec<DeltaDiscoveryResponse>,
    /// The revocation list alone: the others are in the middle of an update, and what is remembered of them stays.
    pub(crate) revocations_only: bool,
}

impl Ledger {
    /// What is held, if it differs from `seen` and is of one piece: while something is unanswered, what is held may be half
    /// of an update. A revocation list is whole by itself, and does not wait for the rest.
    pub(crate) fn held_since(&self, seen: Revisions) -> Option<Held> {
        let whole = self.unanswered.is_empty();
        let remember = |(kind, book): (&Kind, &Book)| book.remember(kind.type_url());
        if whole && self.held.all != seen.all {
            return Some(Held {
                revisions: self.held,
                responses: self.books.iter().filter_map(remember).collect(),
                revocations_only: false,
            });
        }
        let news = !whole && self.held.revocations != seen.revocations;
        news.then(|| Held {
            revisions: Revisions {
                revocations: self.held.revocations,
                ..seen
            },
            responses: (self.books.iter())
                .filter(|(kind, _)| **kind == Kind::RevocationList)
                .filter_map(remember)
                .collect(),
            revocations_only: true,
        })
    }
}
