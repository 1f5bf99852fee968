//! The authorities of one trust domain, and which of them anchor trust at a given time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::certificate::X509Certificate;

use super::own::UpdateError;
use crate::TrustDomain;
use crate::verify::Window;
use crate::verify::profile::Signer;
use crate::workload_api::proto::{X509svid, X509svidResponse};

/// The CA certificates of one trust domain.
#[derive(Debug)]
pub struct Bundle {
    anchors: Vec<TrustAnchor<'static>>,
    /// `limits[i]` belongs to `anchors[i]`.
    limits: Vec<Limits>,
    /// Certificates that can't anchor trust: not authorities by X.509-SVID's rules.
    ignored: Vec<&'static str>,
    digest: [u8; 32],
}

#[derive(Debug)]
struct Limits {
    window: Window,
    path_len: Option<u32>,
    crl_sign: bool,
}

pub(super) type Bundles = HashMap<TrustDomain, Arc<Bundle>>;

/// A bundle that was left out of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedBundle {
    /// As the Workload API wrote it.
    pub trust_domain: String,
    pub why: String,
}

impl Bundle {
    /// From concatenated DER. A certificate that is no authority is no anchor and harms
    /// nothing else; bytes that are no certificate make the whole bundle unusable.
    pub fn from_der(der: &[u8]) -> Result<Bundle, String> {
        let certificates = split_der(der).ok_or("it is no concatenated DER")?;
        if certificates.is_empty() {
            return Err("it is empty".to_owned());
        }
        let mut anchors = Vec::with_capacity(certificates.len());
        let mut limits = Vec::with_capacity(certificates.len());
        let mut ignored = Vec::new();
        for certificate in certificates {
            let signer = match Signer::parse(certificate) {
                Ok(signer) => signer,
                Err(why) => {
                    ignored.push(why);
                    continue;
                }
            };
            let der = CertificateDer::from(certificate);
            match webpki::anchor_from_trusted_cert(&der) {
                Ok(anchor) => anchors.push(anchor.to_owned()),
                Err(_) => {
                    ignored.push("it is no well-formed X.509 v3 certificate");
                    continue;
                }
            }
            limits.push(Limits {
                window: Window::new(signer.not_before, signer.not_after),
                path_len: signer.path_len,
                crl_sign: signer.crl_sign,
            });
        }
        if anchors.is_empty() {
            return Err(format!(
                "none of its certificates is an authority: {}",
                ignored.join("; ")
            ));
        }
        Ok(Bundle {
            anchors,
            limits,
            ignored,
            digest: crate::sha256(der),
        })
    }

    /// How many authorities it has, expired ones included.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// How many of its authorities are valid at `now`.
    pub fn valid_at(&self, now: SystemTime) -> usize {
        self.limits
            .iter()
            .filter(|limits| limits.window.holds(now))
            .count()
    }

    /// When the last of its authorities expires.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.limits.iter().map(|limits| limits.window.to()).max()
    }

    /// Why certificates of it are no anchors, one text per certificate.
    pub fn ignored(&self) -> &[&'static str] {
        &self.ignored
    }

    /// The anchors that are valid at `now`: SPIRE leaves expired roots in a bundle for a day,
    /// and webpki doesn't look at an anchor's validity.
    pub(crate) fn anchors_at(&self, now: SystemTime) -> Cow<'_, [TrustAnchor<'static>]> {
        if self.limits.iter().all(|limits| limits.window.holds(now)) {
            return Cow::Borrowed(&self.anchors);
        }
        let valid = self
            .anchors
            .iter()
            .zip(&self.limits)
            .filter(|(_, limits)| limits.window.holds(now));
        Cow::Owned(valid.map(|(anchor, _)| anchor.clone()).collect())
    }

    /// When an anchor is valid, if it is now.
    pub(crate) fn window(&self, anchor: &TrustAnchor<'_>, now: SystemTime) -> Option<Window> {
        self.limits_of(anchor)
            .map(|limits| limits.window)
            .find(|window| window.holds(now))
    }

    /// The pathLenConstraint of an anchor; of several with the same name and key, the strictest.
    pub(crate) fn path_len(&self, anchor: &TrustAnchor<'_>) -> Option<u32> {
        self.limits_of(anchor)
            .filter_map(|limits| limits.path_len)
            .min()
    }

    /// Whether an anchor may sign CRLs; of several with the same name and key, whether one may.
    pub(crate) fn crl_sign(&self, anchor: &TrustAnchor<'_>) -> bool {
        self.limits_of(anchor).any(|limits| limits.crl_sign)
    }

    /// The keys (SubjectPublicKeyInfo without its tag) of the authorities with this raw name, and whether each
    /// may sign CRLs.
    pub(super) fn authorities_named(&self, name: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
        self.anchors
            .iter()
            .zip(&self.limits)
            .filter(move |(anchor, _)| anchor.subject.as_ref() == name)
            .map(|(anchor, limits)| (anchor.subject_public_key_info.as_ref(), limits.crl_sign))
    }

    /// An authority may be listed twice, e.g. with its validity extended.
    fn limits_of(&self, anchor: &TrustAnchor<'_>) -> impl Iterator<Item = &Limits> {
        self.anchors
            .iter()
            .zip(&self.limits)
            .filter(|(other, _)| {
                other.subject == anchor.subject
                    && other.subject_public_key_info == anchor.subject_public_key_info
            })
            .map(|(_, limits)| limits)
    }

    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// All bundles of an update. Our own domain's must be usable; a bad one of another domain is
/// left out and reported, so that one federated neighbour can't cut us off from all others.
pub(super) fn collect(
    update: &X509svidResponse,
    chosen: &X509svid,
    own_domain: &str,
) -> Result<(Bundles, Vec<RefusedBundle>), UpdateError> {
    let own = Bundle::from_der(&chosen.bundle).map_err(UpdateError::Bundle)?;
    let own_domain = TrustDomain::parse(own_domain).map_err(|fault| UpdateError::Id {
        id: own_domain.to_owned(),
        fault,
    })?;
    let mut bundles = HashMap::from([(own_domain, Arc::new(own))]);
    let mut refused = Vec::new();

    // Our other identities may live in other trust domains, whose bundles come with them.
    for svid in update
        .svids
        .iter()
        .filter(|svid| !std::ptr::eq(*svid, chosen))
    {
        let domain = crate::SpiffeId::parse(&svid.spiffe_id)
            .and_then(|id| TrustDomain::parse(id.trust_domain()));
        match domain {
            Ok(domain) if bundles.contains_key(&domain) => {}
            domain => add(
                &mut bundles,
                &mut refused,
                &svid.spiffe_id,
                domain,
                &svid.bundle,
            ),
        }
    }
    for (id, der) in &update.federated_bundles {
        let domain = TrustDomain::from_id(id);
        match domain {
            // A neighbour's bundle must not widen whom we take for one of ours.
            Ok(domain) if bundles.contains_key(&domain) => refused.push(RefusedBundle {
                trust_domain: id.clone(),
                why: "it is federated, but the domain's bundle came with our own SVID".to_owned(),
            }),
            domain => add(&mut bundles, &mut refused, id, domain, der),
        }
    }
    Ok((bundles, refused))
}

fn add(
    bundles: &mut Bundles,
    refused: &mut Vec<RefusedBundle>,
    id: &str,
    domain: Result<TrustDomain, crate::SpiffeIdError>,
    der: &[u8],
) {
    let parsed = domain
        .map_err(|fault| format!("its name {fault}"))
        .and_then(|domain| Ok((domain, Bundle::from_der(der)?)));
    match parsed {
        Ok((domain, bundle)) => {
            bundles.insert(domain, Arc::new(bundle));
        }
        Err(why) => refused.push(RefusedBundle {
            trust_domain: id.to_owned(),
            why,
        }),
    }
}

/// Splits concatenated DER certificates; None when the bytes are anything else.
pub fn split_der(mut der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).ok()?;
        let (certificate, tail) = der.split_at(der.len() - rest.len());
        certificates.push(certificate);
        der = tail;
    }
    Some(certificates)
}
