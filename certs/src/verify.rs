//! Is this certificate chain an X.509-SVID of a trust domain that we trust?
//!
//! Two halves: what X.509-SVID asks of a leaf and its signers (`profile`), and RFC 5280
//! path validation (rustls-webpki) against the bundle of the leaf's own trust domain, never
//! any other. Free of IO and clocks: `now` is passed in.

mod error;
mod peer;
pub(crate) mod profile;

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, VerifiedPath};

pub use error::{SvidError, SvidReason};
pub use peer::PeerSvid;
use profile::Leaf;

use crate::trust::{Bundle, TrustSnapshot};

/// Which end of the connection the certificate authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    Client,
    Server,
}

impl TrustSnapshot {
    /// Verifies a peer's chain as the X.509-SVID standard, sections 2 to 5, has it.
    ///
    /// The leaf is judged by itself first, because its SPIFFE ID says which bundle applies.
    pub fn verify(
        &self,
        leaf: &[u8],
        intermediates: &[impl AsRef<[u8]>],
        now: SystemTime,
        usage: Usage,
    ) -> Result<PeerSvid, SvidError> {
        let verified = self.check(leaf, intermediates, now, usage)?;
        Ok(PeerSvid::new(verified.leaf, leaf, intermediates, usage))
    }

    /// `verify` without keeping the chain: what a handshake needs.
    pub(crate) fn check(
        &self,
        leaf: &[u8],
        intermediates: &[impl AsRef<[u8]>],
        now: SystemTime,
        usage: Usage,
    ) -> Result<Verified, SvidError> {
        let parsed = Leaf::parse(leaf)?;
        // SPIFFE_Workload_API 4.6: the bundle is chosen by the trust domain that the SVID
        // presents; without it the peer is untrusted.
        let bundle =
            self.bundle(parsed.id.trust_domain())
                .ok_or_else(|| SvidError::TrustDomainUnknown {
                    id: parsed.id.clone(),
                })?;
        if now < parsed.not_before || now > parsed.not_after {
            return Err(parsed.outside_validity(now));
        }
        let signers = verify_path(&parsed, leaf, intermediates, bundle, now, usage)?;
        Ok(Verified {
            window: signers.and(parsed.not_before, parsed.not_after),
            leaf: parsed,
        })
    }

    /// Would a connected peer's chain still be trusted? For re-checking live connections when
    /// a bundle changed: a rotation with overlap passes, removal of the signing root or of the
    /// whole bundle doesn't.
    ///
    /// How long a connection may outlive its SVID is its lease's affair, so the chain is
    /// judged at the time within the SVID's validity that is nearest to `now`.
    pub fn still_trusts(&self, peer: &PeerSvid, now: SystemTime) -> Result<(), SvidError> {
        let at = now.max(peer.not_before()).min(peer.not_after());
        let (leaf, intermediates) = peer.chain();
        self.check(leaf, intermediates, at, peer.usage())
            .map(|_| ())
    }
}

/// A chain that passed.
pub(crate) struct Verified {
    pub(crate) leaf: Leaf,
    /// When the leaf and everything above it, the anchor included, is valid.
    pub(crate) window: Window,
}

/// A time span, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    from: SystemTime,
    to: SystemTime,
}

impl Window {
    pub(crate) fn new(from: SystemTime, to: SystemTime) -> Window {
        Window { from, to }
    }

    pub(crate) fn holds(&self, now: SystemTime) -> bool {
        self.from <= now && now <= self.to
    }

    pub(crate) fn to(&self) -> SystemTime {
        self.to
    }

    fn and(self, from: SystemTime, to: SystemTime) -> Window {
        Window {
            from: self.from.max(from),
            to: self.to.min(to),
        }
    }
}

/// X.509-SVID section 5.1: RFC 5280 path validation.
fn verify_path(
    parsed: &Leaf,
    leaf: &[u8],
    intermediates: &[impl AsRef<[u8]>],
    bundle: &Bundle,
    now: SystemTime,
    usage: Usage,
) -> Result<Window, SvidError> {
    let leaf_der = CertificateDer::from(leaf);
    let leaf_certificate =
        EndEntityCert::try_from(&leaf_der).map_err(|e| SvidError::from_webpki(&e, parsed, now))?;
    let intermediates: Vec<CertificateDer<'_>> = intermediates
        .iter()
        .map(|der| CertificateDer::from(der.as_ref()))
        .collect();
    let anchors = bundle.anchors_at(now);
    if anchors.is_empty() {
        return Err(SvidError::NoAnchor {
            id: parsed.id.clone(),
        });
    }
    let key_usage = match usage {
        Usage::Client => webpki::KeyUsage::client_auth(),
        Usage::Server => webpki::KeyUsage::server_auth(),
    };
    // webpki stops by itself after 100 signature checks, so that a pile of cross-signed
    // intermediates costs bounded time; its errors carry no text of ours, hence the cell.
    let signers = RefCell::new(None);
    let check_signers = |path: &VerifiedPath<'_>| {
        let checked = check_signers(path, bundle, now);
        signers.replace(Some(checked));
        checked.map(drop).map_err(|_| webpki::Error::UnknownIssuer)
    };
    let unix_now =
        UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
    let verified = leaf_certificate.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        unix_now,
        key_usage,
        None,
        Some(&check_signers),
    );
    match (verified, signers.into_inner()) {
        // The last path looked at is the one that was accepted.
        (Ok(_), Some(Ok(window))) => Ok(window),
        (_, Some(Err(fault))) => Err(SvidError::Signer {
            id: parsed.id.clone(),
            fault,
        }),
        (Err(error), _) => Err(SvidError::from_webpki(&error, parsed, now)),
        // webpki accepts no path without asking; if it did, nobody vouched for the signers.
        (Ok(_), None) => Err(SvidError::Signer {
            id: parsed.id.clone(),
            fault: "its signers weren't checked",
        }),
    }
}

/// What X.509-SVID asks of signers beyond RFC 5280, and the anchor's own path length, which
/// webpki doesn't look at. Gives the time that all of them are valid.
fn check_signers(
    path: &VerifiedPath<'_>,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Window, &'static str> {
    let mut window = bundle
        .window(path.anchor(), now)
        .ok_or("the bundle's authority isn't valid now")?;
    let mut below_anchor = 0;
    for certificate in path.intermediate_certificates() {
        let der = certificate.der();
        let signer = profile::Signer::parse(&der)?;
        window = window.and(signer.not_before, signer.not_after);
        // RFC 5280 section 6.1.4 (l): self-issued certificates don't count.
        if !signer.self_issued {
            below_anchor += 1;
        }
    }
    match bundle.path_len(path.anchor()) {
        Some(limit) if below_anchor > limit => {
            Err("the bundle's authority allows fewer intermediates (RFC 5280 4.2.1.9)")
        }
        _ => Ok(window),
    }
}
