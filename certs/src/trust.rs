//! One update of the Workload API as one immutable snapshot: who we are and whom we trust.

mod bundle;
pub(crate) mod crl;
pub(crate) mod jwt;
mod own;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use bundle::Bundles;
pub use bundle::{Bundle, RefusedBundle, split_der};
pub use crl::{Crl, Crls, RefusedCrl};
pub use jwt::JwtBundle;
use own::OwnSvid;
pub use own::UpdateError;

use crate::jwt::Jwks;
use crate::workload_api::proto::X509svidResponse;
use crate::{SpiffeId, SvidError, TrustDomain};

/// Everything that a handshake needs, of one update. Swapped whole, never changed.
pub struct TrustSnapshot {
    generation: u64,
    own: OwnSvid,
    bundles: Bundles,
    refused: Vec<RefusedBundle>,
    crls: Arc<Crls>,
    jwt_bundles: Arc<JwtBundles>,
}

/// The JWT bundle of each trust domain.
pub type JwtBundles = BTreeMap<TrustDomain, JwtBundle>;

impl TrustSnapshot {
    /// Builds a snapshot from one message, which is the full state: nothing is filled in from
    /// an older one (SPIFFE_Workload_API 4.4). A bad foreign bundle is left out and named in
    /// [`refused_bundles`](Self::refused_bundles), a bad CRL in [`crls`](Self::crls); an unusable SVID of our own is an error.
    pub fn from_update(
        update: &X509svidResponse,
        hint: Option<&str>,
        jwt_bundles: Arc<JwtBundles>,
        generation: u64,
        now: SystemTime,
    ) -> Result<TrustSnapshot, UpdateError> {
        let chosen = own::choose(&update.svids, hint)?;
        let own = OwnSvid::parse(chosen, now)?;
        let (bundles, refused) = bundle::collect(update, chosen, own.id.trust_domain())?;
        Ok(TrustSnapshot {
            generation,
            own,
            crls: Arc::new(Crls::collect(&update.crl, &bundles)),
            bundles,
            refused,
            jwt_bundles,
        })
    }

    /// The same SVID and bundles with other JWT bundles.
    pub(crate) fn with_jwt_bundles(
        &self,
        jwt_bundles: Arc<JwtBundles>,
        generation: u64,
    ) -> TrustSnapshot {
        TrustSnapshot {
            generation,
            own: self.own.clone(),
            bundles: self.bundles.clone(),
            refused: self.refused.clone(),
            crls: Arc::clone(&self.crls),
            jwt_bundles,
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

    /// The certificate revocation lists of this update, honoured for leaves and intermediates alike.
    pub fn crls(&self) -> &Crls {
        &self.crls
    }

    /// The JWKS document of a trust domain, byte for byte as the Workload API sent it.
    pub fn jwks(&self, trust_domain: &str) -> Option<&Arc<[u8]>> {
        self.jwt_bundles.get(trust_domain).map(JwtBundle::document)
    }

    /// The keys that JWT-SVIDs of a trust domain are verified with. None: nobody's token of that domain
    /// is good (SPIFFE_Workload_API 6.3).
    pub fn jwt_keys(&self, trust_domain: &str) -> Option<&Arc<Jwks>> {
        self.jwt_bundles.get(trust_domain).map(JwtBundle::keys)
    }

    /// Whether the keys for JWT-SVIDs of `trust_domain` differ from those of `other`: only then may a token
    /// of it that was verified before be good no longer.
    pub fn jwt_keys_differ(&self, other: &TrustSnapshot, trust_domain: &str) -> bool {
        self.jwt_bundles.get(trust_domain) != other.jwt_bundles.get(trust_domain)
    }

    pub fn jwt_bundles(&self) -> &JwtBundles {
        &self.jwt_bundles
    }

    /// Whether the authorities of `trust_domain`, or what they revoked, differ from those of `other`: only
    /// then need that domain's connected peers be asked about with [`still_trusts`](Self::still_trusts).
    pub fn bundle_differs(&self, other: &TrustSnapshot, trust_domain: &str) -> bool {
        match (self.bundle(trust_domain), other.bundle(trust_domain)) {
            (Some(ours), Some(theirs)) => {
                ours.digest() != theirs.digest() || self.crls.differ(&other.crls, trust_domain)
            }
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
