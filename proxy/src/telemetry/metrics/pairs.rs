//! Principals as labels: as many pairs as are useful, then `other`, because who may connect is not ours to bound.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// The label of principals beyond the cap.
const OTHER: &str = "other";
/// The label where nobody proved who they are.
const UNKNOWN: &str = "unknown";

/// Two label values, shared by all series and connections that use them.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) source: Arc<str>,
    pub(crate) destination: Arc<str>,
    /// The true principals did not fit.
    pub(super) capped: bool,
}

impl Pair {
    pub(crate) fn unidentified() -> Self {
        static NOBODY: LazyLock<Arc<str>> = LazyLock::new(|| UNKNOWN.into());
        Pair {
            source: Arc::clone(&NOBODY),
            destination: Arc::clone(&NOBODY),
            capped: false,
        }
    }
}

pub(super) struct Pairs {
    known: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
    most: usize,
    other: Arc<str>,
}

impl Pairs {
    pub(super) fn new(most: usize) -> Self {
        Pairs {
            known: Mutex::default(),
            most,
            other: OTHER.into(),
        }
    }

    /// Once per connection: a lock and two short allocations are nothing next to its handshake.
    pub(super) fn of(&self, source: &str, destination: &str) -> Pair {
        let wanted: (Arc<str>, Arc<str>) = (source.into(), destination.into());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (source, destination) = match known.get(&wanted) {
            Some(pair) => pair.clone(),
            None if known.len() < self.most => {
                known.insert(wanted.clone());
                wanted
            }
            None => {
                let other = || Arc::clone(&self.other);
                return Pair {
                    source: other(),
                    destination: other(),
                    capped: true,
                };
            }
        };
        Pair {
            source,
            destination,
            capped: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_27_principals_beyond_the_cap_share_one_series() {
        let pairs = Pairs::new(2);
        assert!(!pairs.of("a", "x").capped);
        assert!(!pairs.of("b", "x").capped);
        let third = pairs.of("c", "x");
        assert!(third.capped);
        assert_eq!((&*third.source, &*third.destination), ("other", "other"));
        let first = pairs.of("a", "x");
        assert_eq!(
            (&*first.source, &*first.destination, first.capped),
            ("a", "x", false)
        );
    }
}
