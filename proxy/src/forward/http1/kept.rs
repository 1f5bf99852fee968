//! What of a request is kept to be sent once more, while nothing is known of its fate.

use std::io;

use super::{Broken, Exchange, Outcome};
use crate::forward::again::MOST_KEPT;

impl Exchange {
    pub(super) fn keep(&mut self, part: &[u8]) {
        match &mut self.kept {
            Some(kept) if kept.len() + part.len() <= MOST_KEPT => kept.extend_from_slice(part),
            kept => *kept = None,
        }
    }

    /// The connection ended without an answer. `again`: in a way that allows the request to be sent once more, if all of
    /// it is still there and not a byte of an answer came.
    pub(super) fn silent(&self, again: bool, error: io::Error) -> Outcome {
        let broken = Broken::Io(error);
        if again && self.kept.is_some() && !self.heard {
            Outcome::Unsent(broken)
        } else {
            Outcome::NoAnswer(broken)
        }
    }
}
