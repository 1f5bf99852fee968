//! How the stream is doing, for metrics and readiness.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use crate::resource::Kind;

/// How the stream is doing. Read it through [`Client::status`](crate::Client::status).
#[derive(Clone, Debug)]
pub struct Status {
    pub connected: bool,
    /// When `connected` last changed; the start, before it ever did.
    pub since: Instant,
    /// When a delivery from the control plane was last answered: how current this side is.
    pub last_update: Option<SystemTime>,
    /// Why the last stream ended or could not be opened. Stays until the next one is connected.
    pub last_error: Option<String>,
    /// What the last NACK said.
    pub last_nack: Option<String>,
    /// Responses refused in whole or in part, those of unknown types included.
    pub nacks: u64,
    /// Answers by kind.
    pub updates: BTreeMap<Kind, Updates>,
}

/// How many responses about one kind were answered, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updates {
    pub acks: u64,
    pub nacks: u64,
}

impl Status {
    pub(crate) fn at_start() -> Status {
        Status {
            connected: false,
            since: Instant::now(),
            last_update: None,
            last_error: None,
            last_nack: None,
            nacks: 0,
            updates: Kind::ALL
                .into_iter()
                .map(|kind| (kind, Updates::default()))
                .collect(),
        }
    }

    pub(crate) fn connected(&mut self) {
        self.connected = true;
        self.since = Instant::now();
        self.last_error = None;
    }

    pub(crate) fn disconnected(&mut self, error: String) {
        if self.connected {
            self.connected = false;
            self.since = Instant::now();
        }
        self.last_error = Some(error);
    }

    /// Counts the answer to a response about `kind` (none: a type that is not known); `nack` says why.
    pub(crate) fn answered(&mut self, kind: Option<Kind>, nack: Option<String>) {
        if kind.is_some() {
            self.last_update = Some(SystemTime::now());
        }
        let counts = kind.map(|kind| self.updates.entry(kind).or_default());
        if let Some(reason) = nack {
            self.nacks += 1;
            self.last_nack = Some(reason);
            if let Some(counts) = counts {
                counts.nacks += 1;
            }
        } else if let Some(counts) = counts {
            counts.acks += 1;
        }
    }
}
