//! A `caBundle` that several replicas write: each adds its own certificates, and removes those that are of no more use.
//! Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::ORGANIZATION;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Certificates of replicas in a bundle: of those that live, and of those that went without a word. Beyond it the oldest
/// go; a replica that lives and misses its own adds it again, so that more replicas than half of this (each has two when it
/// renews) would never come to an end. A hundred kilobytes.
const MOST: usize = 128;

/// A certificate in a bundle, and what decides whether it stays.
struct Entry {
    pem: String,
    /// Whose it is, if it is a replica's.
    replica: Option<String>,
    not_before: i64,
    not_after: i64,
}

/// What one replica wants of a bundle.
pub(super) struct Wish<'a> {
    /// This replica's certificates, to be there.
    pub(super) own: &'a [String],
    /// Those it had before, to be gone.
    pub(super) retired: &'a [String],
    /// This replica's name, when those of the process that had it before are to go too. Only once, at its start: two
    /// that share a name by mistake would otherwise remove each other's for ever.
    pub(super) predecessor: Option<&'a str>,
}

/// The bundle as it is wished. None: it is so already.
///
/// What no replica made stays until it expires; what isn't a certificate goes, because the API server refuses all of a
/// bundle for it.
pub(super) fn merged(current: &[u8], wish: &Wish<'_>, now: SystemTime) -> Option<Vec<u8>> {
    let own = wish.own;
    let now = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let current_text = String::from_utf8_lossy(current);
    let is_own = |pem: &str| {
        let mut known = own.iter().chain(wish.retired);
        known.any(|own| own.trim() == pem.trim())
    };
    let mut entries: Vec<Entry> = blocks(&current_text).filter_map(entry).collect();
    entries.retain(|entry| {
        let predecessors =
            wish.predecessor.is_some() && entry.replica.as_deref() == wish.predecessor;
        entry.not_after > now && !predecessors && !is_own(&entry.pem)
    });
    let others = entries.iter().filter(|entry| entry.replica.is_some());
    // Replicas start together: of one age, any order will do that is the same for all of them.
    let mut ages: Vec<(i64, String)> = others
        .map(|entry| (entry.not_before, entry.pem.clone()))
        .collect();
    ages.sort_unstable_by(|a, b| b.cmp(a));
    if let Some((oldest, pem)) = ages.get(MOST.saturating_sub(own.len())) {
        entries.retain(|entry| {
            entry.replica.is_none() || (entry.not_before, &entry.pem) > (*oldest, pem)
        });
    }
    let kept = entries.len() + own.len();
    if own.iter().all(|own| contains(current, own)) && blocks(&current_text).count() == kept {
        return None;
    }
    let pems = entries.iter().map(|entry| &entry.pem).chain(own);
    let merged: String = pems.map(|pem| format!("{}\n", pem.trim())).collect();
    Some(merged.into_bytes())
}

/// Whether a certificate is in a bundle.
pub(super) fn contains(bundle: &[u8], pem: &str) -> bool {
    blocks(&String::from_utf8_lossy(bundle)).any(|block| block.trim() == pem.trim())
}

fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(BEGIN)?;
        let end = start + rest[start..].find(END)? + END.len();
        let block = &rest[start..end];
        rest = &rest[end..];
        Some(block)
    })
}

fn entry(pem: &str) -> Option<Entry> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let subject = certificate.subject();
    let first = |mut names: Vec<&str>| (!names.is_empty()).then(|| names.remove(0).to_owned());
    let organization = first(
        subject
            .iter_organization()
            .filter_map(|it| it.as_str().ok())
            .collect(),
    );
    let common_name = first(
        subject
            .iter_common_name()
            .filter_map(|it| it.as_str().ok())
            .collect(),
    );
    let validity = certificate.validity();
    Some(Entry {
        pem: pem.to_owned(),
        replica: common_name.filter(|_| organization.as_deref() == Some(ORGANIZATION)),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}
