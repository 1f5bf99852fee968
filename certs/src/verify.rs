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
use x509_parser::asn1_rs::{Any, FromDer as _};

pub use error::{SvidError, SvidReason};
pub use peer::PeerSvid;
use profile::Leaf;

use crate::trust::{Bundle, Crls, TrustSnapshot};

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
        let trust = Trust {
            bundle,
            crls: self.crls(),
        };
        let signers = verify_path(&parsed, leaf, intermediates, trust, now, usage)?;
        Ok(Verified {
            window: signers.and(parsed.not_before, parsed.not_after),
            leaf: parsed,
        })
    }

    /// Whether a CRL of this update is about our own SVID. For telling people: it isn't our affair to stop using
    /// it, and nobody who knows accepts it.
    pub(crate) fn is_own_svid_revoked(&self, now: SystemTime) -> bool {
        if self.crls().is_empty() {
            return false;
        }
        self.certified_key()
            .cert
            .split_first()
            .is_some_and(|(leaf, above)| {
                matches!(
                    self.check(leaf, above, now, Usage::Client),
                    Err(SvidError::Revoked { .. })
                )
            })
    }

    /// Would a connected peer's chain still be trusted? For re-checking live connections when
    /// a bundle or a CRL changed: a rotation with overlap passes, removal of the signing root or of the
    /// whole bundle and revocation don't.
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

/// What a path is judged by.
#[derive(Clone, Copy)]
struct Trust<'a> {
    bundle: &'a Bundle,
    crls: &'a Crls,
}

/// Why a path that RFC 5280 section 6.1 allows isn't good enough.
#[derive(Clone)]
enum Fault {
    Signer(&'static str),
    Revoked { serial: String, signer: bool },
}

/// X.509-SVID section 5.1: RFC 5280 path validation.
fn verify_path(
    parsed: &Leaf,
    leaf: &[u8],
    intermediates: &[impl AsRef<[u8]>],
    trust: Trust<'_>,
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
    let anchors = trust.bundle.anchors_at(now);
    let id = parsed.id.clone();
    if anchors.is_empty() {
        return Err(SvidError::NoAnchor { id });
    }
    let key_usage = match usage {
        Usage::Client => webpki::KeyUsage::client_auth(),
        Usage::Server => webpki::KeyUsage::server_auth(),
    };
    // webpki stops by itself after 100 signature checks, so that a pile of cross-signed
    // intermediates costs bounded time; its errors carry no text of ours, hence the cell.
    let verdict = RefCell::new(None);
    let check_path = |path: &VerifiedPath<'_>| {
        let checked = check_signers(path, trust.bundle, now)
            .map_err(Fault::Signer)
            .and_then(|window| check_revocation(path, trust).map(|()| window));
        let accepted = checked.is_ok();
        let mut verdict = verdict.borrow_mut();
        // Revocation says more than what is wrong with another way up.
        if accepted || !matches!(*verdict, Some(Err(Fault::Revoked { .. }))) {
            *verdict = Some(checked);
        }
        match accepted {
            true => Ok(()),
            false => Err(webpki::Error::UnknownIssuer),
        }
    };
    let unix_now =
        UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
    let verified = leaf_certificate.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        unix_now,
        key_usage,
        // Not webpki's way with CRLs: it hashes the whole list again for every certificate, and
        // takes the first list of the issuer's name for the issuer's.
        None,
        Some(&check_path),
    );
    match (verified, verdict.into_inner()) {
        // The last path looked at is the one that was accepted.
        (Ok(_), Some(Ok(window))) => Ok(window),
        (_, Some(Err(Fault::Revoked { serial, signer }))) => {
            Err(SvidError::Revoked { id, serial, signer })
        }
        (_, Some(Err(Fault::Signer(fault)))) => Err(SvidError::Signer { id, fault }),
        (Err(error), _) => Err(SvidError::from_webpki(&error, parsed, now)),
        // webpki accepts no path without asking; if it did, nobody vouched for the signers.
        (Ok(_), None) => Err(SvidError::Signer {
            id,
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

/// RFC 5280 section 6.3: nobody on the path was revoked by the one right above. An anchor isn't asked about:
/// it leaves the bundle. Without a list of its issuer a certificate isn't revoked; most issuers of SVIDs
/// publish none, and let them expire.
fn check_revocation(path: &VerifiedPath<'_>, trust: Trust<'_>) -> Result<(), Fault> {
    if trust.crls.is_empty() {
        return Ok(());
    }
    let check = |name: &[u8], spki: &[u8], below: &webpki::Cert<'_>, signer: bool| {
        if trust.crls.revokes(name, spki, below.serial()) {
            let serial = profile::serial_text(below.serial());
            return Err(Fault::Revoked { serial, signer });
        }
        Ok(())
    };
    let mut below: &webpki::Cert<'_> = path.end_entity();
    let mut is_signer = false;
    for certificate in path.intermediate_certificates() {
        let may_sign_lists = profile::Signer::parse(&certificate.der())
            .map_err(Fault::Signer)?
            .crl_sign;
        if may_sign_lists {
            let spki = certificate.subject_public_key_info();
            let (_, spki) = Any::from_der(&spki)
                .map_err(|_| Fault::Signer("its key is malformed (RFC 5280 4.1.2.7)"))?;
            check(certificate.subject(), spki.data, below, is_signer)?;
        }
        (below, is_signer) = (certificate, true);
    }
    let anchor = path.anchor();
    if trust.bundle.crl_sign(anchor) {
        let spki = &anchor.subject_public_key_info;
        check(&anchor.subject, spki, below, is_signer)?;
    }
    Ok(())
}
