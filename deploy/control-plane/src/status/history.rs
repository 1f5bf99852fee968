//! Which revisions a node said are in force, and when.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::rfc3339;
use crate::catalog::Version;

/// How many acknowledgements are remembered for each node.
const REMEMBERED: usize = 64;

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Acknowledged>);

/// A revision that a sidecar said is in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) revision: Version,
    /// When this control plane heard of it.
    pub(super) time: SystemTime,
}

impl History {
    /// A revision is in force from now on; said again, it stays the one that was heard first.
    pub(super) fn add(&mut self, revision: Version) {
        if self.0.back().is_some_and(|last| last.revision == revision) {
            return;
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        // Most have few, and there are many nodes.
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact((self.0.len() / 2).max(1));
        }
        let time = SystemTime::now();
        self.0.push_back(Acknowledged { revision, time });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Acknowledged> {
        self.0.iter().copied()
    }
}

impl Serialize for Acknowledged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Described {
            revision: Version,
            #[serde(serialize_with = "rfc3339")]
            time: Option<SystemTime>,
            /// The same, to the microsecond, for machines.
            unix_us: u128,
        }
        let since_1970 = self.time.duration_since(SystemTime::UNIX_EPOCH);
        let described = Described {
            revision: self.revision,
            time: Some(self.time),
            unix_us: since_1970.unwrap_or(Duration::ZERO).as_micros(),
        };
        described.serialize(serializer)
    }
}
