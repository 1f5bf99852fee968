//! One update of the Workload API as one immutable snapshot: who we are and whom we trust.

mod bundle;
pub(crate) mod jwt;
mod own;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use bundle::Bundles;
pub use bundle::{Bundle, RefusedBundle, split_der};
use own::OwnSvid;
pub use own::UpdateError;

use crate::workload_api::proto::X509svidResponse;
use crate::{SpiffeId, SvidError, TrustDomain};

/// Everything that a handshake needs, of one update. Swapped whole, never changed.
pub struct TrustSnapshot {
    generation: u64,
    own: OwnSvid,
    bundles: Bundles,
    refused: Vec<RefusedBundle>,
    jwks: Arc<JwtBundles>,
}

/// JWKS documents per trust domain, byte for byte as the Workload API sent them; each one was parsed on arrival.
pub type JwtBundles = BTreeMap<TrustDomain, Arc<[u8]>>;

impl TrustSnapshot {
    /// Builds a snapshot from one message, which is the full state: nothing is filled in from
    /// an older one (SPIFFE_Workload_API 4.4). A bad foreign bundle is left out and named in
    /// [`refused_bundles`](Self::refused_bundles); an unusable SVID of our own is an error.
    pub fn from_update(
        update: &X509svidResponse,
        hint: Option<&str>,
        jwks: Arc<JwtBundles>,
        generation: u64,
        now: SystemTime,
    ) -> Result<TrustSnapshot, UpdateError> {
        let chosen = own::choose(&update.svids, hint)?;
        let own = OwnSvid::parse(chosen, now)?;
        let (bundles, refused) = bundle::collect(update, chosen, own.id.trust_domain())?;
        Ok(TrustSnapshot {
            generation,
            own,
            bundles,
            refused,
            jwks,
        })
    }

    /// The same SVID and bundles with other JWKS documents.
    pub(crate) fn with_jwks(&self, jwks: Arc<JwtBundles>, generation: u64) -> TrustSnapshot {
        TrustSnapshot {
            generation,
            own: self.own.clone(),
            bundles: self.bundles.clone(),
            refused: self.refused.clone(),
            jwks,
        }
    }

    /// Grows by one with every snapshot that a source publishes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who we are.
    pub fn principal(&self) -> &SpiffeId {
        &self.own.id
    }

    /// Our own SVID's serial number in lower-case hex.
    pub fn serial(&self) -> &str {
        &self.own.serial
    }

    pub fn not_before(&self) -> SystemTime {
        self.own.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.own.not_after
    }

    /// The operator's label of our SVID, when it has one.
    pub fn hint(&self) -> Option<&str> {
        self.own.hint.as_deref()
    }

    /// Our chain and key, parsed once.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.own.certified_key
    }

    /// An expired SVID of ours authenticates nothing: fail closed.
    pub fn check_own_validity(&self, now: SystemTime) -> Result<(), SvidError> {
        if now > self.own.not_after {
            return Err(SvidError::OwnExpired {
                id: self.own.id.clone(),
                not_after: self.own.not_after,
                now,
            });
        }
        Ok(())
    }

    /// The authorities of one trust domain.
    pub fn bundle(&self, trust_domain: &str) -> Option<&Bundle> {
        self.bundles.get(trust_domain).map(Arc::as_ref)
    }

    /// All trust domains whose SVIDs we can verify, in no particular order.
    pub fn bundles(&self) -> impl Iterator<Item = (&TrustDomain, &Bundle)> {
        self.bundles
            .iter()
            .map(|(domain, bundle)| (domain, bundle.as_ref()))
    }

    /// Foreign bundles of this update that couldn't be used, and why.
    pub fn refused_bundles(&self) -> &[RefusedBundle] {
        &self.refused
    }

    /// The raw JWKS document of a trust domain.
    pub fn jwks(&self, trust_domain: &str) -> Option<&Arc<[u8]>> {
        self.jwks.get(trust_domain)
    }

    pub fn jwt_bundles(&self) -> &JwtBundles {
        &self.jwks
    }

    /// Whether the authorities of `trust_domain` differ from those of `other`: only then need
    /// that domain's connected peers be asked about with [`still_trusts`](Self::still_trusts).
    pub fn bundle_differs(&self, other: &TrustSnapshot, trust_domain: &str) -> bool {
        match (self.bundle(trust_domain), other.bundle(trust_domain)) {
            (Some(ours), Some(theirs)) => ours.digest() != theirs.digest(),
            (None, None) => false,
            _ => true,
        }
    }
}

// By hand, so that no key material can ever be printed.
impl fmt::Debug for TrustSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustSnapshot")
            .field("generation", &self.generation)
            .field("principal", &self.own.id)
            .field("serial", &self.own.serial)
            .field("not_after", &self.own.not_after)
            .field("trust_domains", &self.bundles.keys())
            .finish_non_exhaustive()
    }
}
