//! The certificate revocation lists of one update: which of them can be used, and for whose certificates.
//!
//! A list speaks for one issuer, a name with a key. It counts for a certificate when the path that was just
//! validated has that very name and key above the certificate, so that no list of one trust domain can
//! revoke anything in another, whatever names it uses.

mod list;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use x509_parser::asn1_rs::{Any, FromDer as _};

use super::bundle::Bundles;
use crate::TrustDomain;
pub use list::Crl;

/// The most lists that are read: each costs the check of a signature or more with every update.
const MAX_LISTS: usize = 1024;

/// The lists of one update. Each message is the full state: what it doesn't have is revoked no longer.
#[derive(Debug, Default)]
pub struct Crls {
    by_issuer: HashMap<Box<[u8]>, Vec<Arc<Crl>>>,
    refused: Vec<RefusedCrl>,
    /// What the lists mean for the certificates of one trust domain.
    effects: HashMap<TrustDomain, [u8; 32]>,
    /// What those mean that no bundle's authority signed: perhaps something for any of them.
    effect_elsewhere: [u8; 32],
}

/// A list that was left out, and why. What it revokes stays in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCrl {
    /// The name of its issuer, or where it stood in the message if it can't be read so far.
    pub issuer: String,
    pub why: String,
}

impl Crls {
    /// SPIFFE_Workload_API 5.2.1: `crl` is a list of DER CRLs. Several in one element are taken too: a list
    /// that is overlooked is worse than one that is oddly wrapped. An unusable one harms no other.
    pub(super) fn collect(messages: &[Vec<u8>], bundles: &Bundles) -> Crls {
        let mut crls = Crls::default();
        let mut effects: HashMap<&TrustDomain, BTreeSet<[u8; 32]>> = HashMap::new();
        let mut elsewhere = BTreeSet::new();
        let pieces = messages.iter().flat_map(|message| split(message));
        for (index, der) in pieces.enumerate() {
            if index == MAX_LISTS {
                crls.refused.push(RefusedCrl {
                    issuer: format!("CRL {index} and all after it"),
                    why: format!("there are more than {MAX_LISTS}"),
                });
                break;
            }
            let mut crl = match Crl::parse(der, index) {
                Ok(crl) => crl,
                Err(refused) => {
                    crls.refused.push(refused);
                    continue;
                }
            };
            match find_authorities(&crl, bundles) {
                Authorities::MayNotSign => crls.refused.push(RefusedCrl {
                    issuer: crl.issuer().to_owned(),
                    why: "the authority that signed it has no cRLSign in its keyUsage (RFC 5280 4.2.1.3)"
                        .to_owned(),
                }),
                Authorities::Of(authorities) => {
                    if authorities.is_empty() {
                        elsewhere.insert(*crl.contents());
                    }
                    for (domain, key) in &authorities {
                        let effect = sha256(&[crl.contents(), key]);
                        effects.entry(domain).or_default().insert(effect);
                    }
                    crl.vouch(authorities.into_iter().map(|(domain, _)| domain.clone()));
                    let issuer = crl.raw_issuer().into();
                    crls.by_issuer
                        .entry(issuer)
                        .or_default()
                        .push(Arc::new(crl));
                }
            }
        }
        crls.effects = effects
            .into_iter()
            .map(|(domain, effects)| (domain.clone(), sha256_of_all(&effects)))
            .collect();
        crls.effect_elsewhere = sha256_of_all(&elsewhere);
        crls
    }

    /// The lists that are honoured, in no particular order.
    pub fn lists(&self) -> impl Iterator<Item = &Crl> {
        self.by_issuer.values().flatten().map(Arc::as_ref)
    }

    /// Lists of this update that couldn't be used, and why.
    pub fn refused(&self) -> &[RefusedCrl] {
        &self.refused
    }

    /// Whether no certificate is revoked, so that paths needn't be asked about.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    /// Whether `issuer`, a raw name without its tag, has revoked the certificate with this raw serial number
    /// by a list that the issuer's key (`spki`, without its tag) signed.
    pub(crate) fn revokes(&self, issuer: &[u8], spki: &[u8], serial: &[u8]) -> bool {
        self.by_issuer
            .get(issuer)
            .into_iter()
            .flatten()
            .any(|crl| crl.lists(serial) && crl.is_signed_by(spki))
    }

    /// Whether certificates of `trust_domain` may be revoked otherwise than under `other`.
    pub(super) fn differ(&self, other: &Crls, trust_domain: &str) -> bool {
        self.effect_elsewhere != other.effect_elsewhere
            || self.effects.get(trust_domain) != other.effects.get(trust_domain)
    }
}

/// Whose authorities signed a list.
enum Authorities<'a> {
    /// Trust domain, and SHA-256 of the key. None: perhaps an intermediate's, that only a peer will show.
    Of(Vec<(&'a TrustDomain, [u8; 32])>),
    MayNotSign,
}

/// RFC 5280 section 6.3.3 (f) and (g): the issuer's key signed the list and may do so.
fn find_authorities<'a>(crl: &Crl, bundles: &'a Bundles) -> Authorities<'a> {
    let mut found = Vec::new();
    let mut may_not_sign = false;
    for (domain, bundle) in bundles {
        for (spki, may_sign) in bundle.authorities_named(crl.raw_issuer()) {
            if crl.is_signed_by(spki) {
                match may_sign {
                    true => found.push((domain, sha256(&[spki]))),
                    false => may_not_sign = true,
                }
            }
        }
    }
    if found.is_empty() && may_not_sign {
        return Authorities::MayNotSign;
    }
    Authorities::Of(found)
}

/// Concatenated DER, one value at a time; what is no DER is one last piece.
fn split(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let input = rest?;
        let tail = Any::from_der(input).map_or(&[][..], |(tail, _)| tail);
        rest = Some(tail).filter(|tail| !tail.is_empty());
        Some(&input[..input.len() - tail.len()])
    })
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    sha256
}

fn sha256_of_all(digests: &BTreeSet<[u8; 32]>) -> [u8; 32] {
    let parts: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    sha256(&parts)
}
