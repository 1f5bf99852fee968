//! Chains that this configuration verified before: a peer that opens many connections
//! presents the same chain in each, and its signatures need checking once.
//!
//! Verification depends on nothing but the snapshot, the chain and the time. So a chain that
//! passed under the same snapshot, at a time when all its certificates are still valid, passes
//! again. The peer proves that it holds the key in every handshake, remembered or not.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;

use crate::verify::Window;

/// Peers of a sidecar are counted in tens; beyond this it starts anew.
const CAPACITY: usize = 256;

#[derive(Default)]
pub(super) struct VerifiedChains {
    // A configuration belongs to one data worker, so nobody waits for this lock.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    generation: u64,
    windows: HashMap<ChainDigest, Window>,
}

/// SHA-256 over every certificate that was presented.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChainDigest([u8; 32]);

impl ChainDigest {
    pub(super) fn of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let mut context = Context::new(&SHA256);
        for certificate in std::iter::once(leaf).chain(intermediates) {
            // With its length, so that no two chains run into the same bytes.
            context.update(&certificate.len().to_be_bytes());
            context.update(certificate);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(context.finish().as_ref());
        ChainDigest(sha256)
    }
}

impl VerifiedChains {
    pub(super) fn holds(&self, chain: &ChainDigest, generation: u64, now: SystemTime) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.generation == generation && inner.windows.get(chain).is_some_and(|w| w.holds(now))
    }

    pub(super) fn insert(&self, chain: ChainDigest, generation: u64, window: Window) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.generation != generation || inner.windows.len() >= CAPACITY {
            inner.generation = generation;
            inner.windows.clear();
        }
        inner.windows.insert(chain, window);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn remembers_for_one_snapshot_and_one_time_span() {
        let chains = VerifiedChains::default();
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let (a, b) = (
            CertificateDer::from(vec![1, 2]),
            CertificateDer::from(vec![3]),
        );
        let chain = ChainDigest::of(&a, std::slice::from_ref(&b));
        chains.insert(chain, 1, Window::new(now, now + second));
        assert!(chains.holds(&chain, 1, now));
        assert!(!chains.holds(&chain, 2, now), "another snapshot");
        assert!(!chains.holds(&chain, 1, now + 2 * second), "expired");
        assert!(!chains.holds(&chain, 1, now - second), "not yet valid");
        for other in [
            ChainDigest::of(&a, &[]),
            ChainDigest::of(&b, std::slice::from_ref(&a)),
            ChainDigest::of(
                &CertificateDer::from(vec![1]),
                &[CertificateDer::from(vec![2, 3])],
            ),
        ] {
            assert!(!chains.holds(&other, 1, now), "another chain");
        }
        for index in 0..10_000_u32 {
            let other = ChainDigest::of(&CertificateDer::from(index.to_be_bytes().to_vec()), &[]);
            chains.insert(other, 2, Window::new(now, now + second));
        }
        assert!(chains.inner.lock().unwrap().windows.len() <= CAPACITY);
        assert!(
            !chains.holds(&chain, 1, now),
            "an old snapshot doesn't come back"
        );
    }
}
