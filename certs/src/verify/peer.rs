//! The other end of a connection, as its certificate proves it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::Usage;
use super::profile::Leaf;
use crate::SpiffeId;

/// A verified X.509-SVID of a peer. Only verification makes one. Cheap to clone.
#[derive(Clone)]
pub struct PeerSvid(Arc<Facts>);

struct Facts {
    id: SpiffeId,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    thumbprint: [u8; 32],
    usage: Usage,
    /// Leaf first, for checking again when a bundle changes.
    leaf: Box<[u8]>,
    intermediates: Box<[CertificateDer<'static>]>,
}

impl PeerSvid {
    pub(crate) fn new(
        parsed: Leaf,
        leaf: &[u8],
        intermediates: &[impl AsRef<[u8]>],
        usage: Usage,
    ) -> PeerSvid {
        PeerSvid(Arc::new(Facts {
            id: parsed.id,
            serial: parsed.serial,
            not_before: parsed.not_before,
            not_after: parsed.not_after,
            thumbprint: crate::sha256(leaf),
            usage,
            leaf: leaf.into(),
            intermediates: intermediates
                .iter()
                .map(|der| CertificateDer::from(der.as_ref().to_vec()))
                .collect(),
        }))
    }

    /// The principal.
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// The principal's text, `spiffe://…`.
    pub fn as_str(&self) -> &str {
        self.0.id.as_str()
    }

    pub fn trust_domain(&self) -> &str {
        self.0.id.trust_domain()
    }

    /// The certificate's serial number in lower-case hex.
    pub fn serial(&self) -> &str {
        &self.0.serial
    }

    pub fn not_before(&self) -> SystemTime {
        self.0.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// SHA-256 of the DER leaf: `Hash=` of XFCC, `x5t#S256` (RFC 8705 section 3.1).
    pub fn thumbprint(&self) -> &[u8; 32] {
        &self.0.thumbprint
    }

    /// Which end of the connection it authenticated.
    pub fn usage(&self) -> Usage {
        self.0.usage
    }

    pub(super) fn chain(&self) -> (&[u8], &[CertificateDer<'static>]) {
        (&self.0.leaf, &self.0.intermediates)
    }
}

impl fmt::Debug for PeerSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSvid")
            .field("id", self.id())
            .field("serial", &self.serial())
            .finish_non_exhaustive()
    }
}
