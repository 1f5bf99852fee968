//! What is to be sent, cut into responses of bearable size.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Encoded;

/// Well below the 4 MiB that gRPC receivers accept by default.
pub(super) const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// The names of one response, and what is behind them.
pub(super) type Part = Vec<(Arc<str>, Option<Arc<Encoded>>)>;

/// Names to send and what is behind them; sorted, so that equal changes are equal messages.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<Arc<str>, Option<Arc<Encoded>>>);

impl Changes {
    pub(super) fn add(&mut self, name: Arc<str>, found: Option<&Arc<Encoded>>) {
        self.0.insert(name, found.cloned());
    }

    /// Responses of bearable size.
    pub(super) fn split(self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut part = Vec::new();
        let mut bytes = 0;
        for (name, found) in self.0 {
            let size = name.len() + found.as_ref().map_or(0, |found| found.size());
            if bytes + size > MAX_RESPONSE_BYTES && !part.is_empty() {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            bytes += size;
            part.push((name, found));
        }
        if !part.is_empty() {
            parts.push(part);
        }
        parts
    }
}
