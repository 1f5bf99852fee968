//! One certificate revocation list (RFC 5280 section 5).

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use webpki::{BorrowedCertRevocationList, CertRevocationList, Error};
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::{RefusedCrl, sha256};
use crate::TrustDomain;

/// Keys whose verdict is remembered. Only those count that sit above a certificate in a validated path.
const REMEMBERED_KEYS: usize = 64;

/// A complete list of one issuer. Kept as it came, with the places of its serial numbers in order: a hundred
/// thousand cost four bytes each beyond the list itself, and are searched in seventeen steps.
pub struct Crl {
    der: Box<[u8]>,
    raw_issuer: Range<usize>,
    signed: Range<usize>,
    algorithm: Range<usize>,
    signature: Range<usize>,
    /// Where the contents of each serial number begin, sorted by number. Its length is the byte before.
    serials: Box<[u32]>,
    issuer: String,
    trust_domains: Vec<TrustDomain>,
    next_update: SystemTime,
    contents: [u8; 32],
    /// By SHA-256 of a key: whether it made the signature.
    signers: Mutex<Vec<([u8; 32], bool)>>,
}

impl Crl {
    pub(super) fn parse(der: &[u8], index: usize) -> Result<Crl, RefusedCrl> {
        let refused = |why: &str| RefusedCrl {
            issuer: issuer_text(der).unwrap_or_else(|| format!("CRL {index} of the message")),
            why: why.to_owned(),
        };
        if u32::try_from(der.len()).is_err() {
            return Err(refused("it is longer than 4 GiB"));
        }
        // Version 2, one signature algorithm, no duplicate or unknown critical extension, in entries neither;
        // complete, direct, for all reasons.
        let read = BorrowedCertRevocationList::from_der(der).map_err(|e| refused(fault(&e)))?;
        let mut serials = Vec::new();
        for entry in &read {
            let entry = entry.map_err(|e| refused(fault(&e)))?;
            let place = place(der, entry.serial_number);
            // RFC 5280 section 4.1.2.2: at most 20 bytes; longer ones exist. Up to 255 DER's length ends in one
            // byte that says it all.
            match place
                .start
                .checked_sub(1)
                .and_then(|before| der.get(before))
            {
                Some(length) if usize::from(*length) == entry.serial_number.len() => {}
                _ => return Err(refused("it has a serial number of more than 255 bytes")),
            }
            // Can't truncate: it is below the length, which was compared.
            serials.push(place.start as u32);
        }
        serials.sort_unstable_by(|a, b| serial_at(der, *a).cmp(serial_at(der, *b)));
        serials.dedup_by(|a, b| serial_at(der, *a) == serial_at(der, *b));
        let outline = Outline::of(der).ok_or_else(|| refused("it is no well-formed CRL"))?;
        let raw_issuer = place(der, CertRevocationList::Borrowed(read).issuer());
        let mut contents = Context::new(&SHA256);
        contents.update(&sha256(&[&der[raw_issuer.clone()]]));
        for serial in &serials {
            let serial = serial_at(der, *serial);
            contents.update(&[serial.len() as u8]);
            contents.update(serial);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(contents.finish().as_ref());
        Ok(Crl {
            raw_issuer,
            signed: outline.signed,
            algorithm: outline.algorithm,
            signature: outline.signature,
            serials: serials.into_boxed_slice(),
            issuer: issuer_text(der).unwrap_or_default(),
            trust_domains: Vec::new(),
            next_update: outline.next_update,
            contents: digest,
            signers: Mutex::default(),
            der: der.into(),
        })
    }

    /// The name of the issuer, for people.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whose authorities signed it. None: no authority of any bundle did, so it counts only for peers that
    /// present an intermediate which did.
    pub fn trust_domains(&self) -> &[TrustDomain] {
        &self.trust_domains
    }

    /// How many certificates it revokes.
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// When its issuer promised the next one (RFC 5280 section 5.1.2.5).
    pub fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// Whether the next one is overdue. It is honoured all the same: who is revoked stays so, and to refuse
    /// everybody else because somebody forgot to publish would be an outage of our making.
    pub fn is_stale(&self, now: SystemTime) -> bool {
        now > self.next_update
    }

    pub(super) fn vouch(&mut self, trust_domains: impl Iterator<Item = TrustDomain>) {
        self.trust_domains = trust_domains.collect();
        self.trust_domains.sort();
        self.trust_domains.dedup();
    }

    pub(super) fn raw_issuer(&self) -> &[u8] {
        &self.der[self.raw_issuer.clone()]
    }

    /// Identifies issuer and serial numbers: a list that was only renewed has the same.
    pub(super) fn contents(&self) -> &[u8; 32] {
        &self.contents
    }

    pub(super) fn lists(&self, serial: &[u8]) -> bool {
        let wanted = significant(serial);
        self.serials
            .binary_search_by(|place| serial_at(&self.der, *place).cmp(wanted))
            .is_ok()
    }

    /// Whether this key made the signature; looked at once per key, since it means hashing the whole list.
    pub(super) fn is_signed_by(&self, spki: &[u8]) -> bool {
        let key = sha256(&[spki]);
        let mut signers = self.signers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, verdict)) = signers.iter().find(|(known, _)| *known == key) {
            return *verdict;
        }
        let verdict = self.verify(spki);
        if signers.len() == REMEMBERED_KEYS {
            signers.clear();
        }
        signers.push((key, verdict));
        verdict
    }

    fn verify(&self, spki: &[u8]) -> bool {
        let Some((key_algorithm, key)) = split_key(spki) else {
            return false;
        };
        let (algorithm, signed) = (
            &self.der[self.algorithm.clone()],
            &self.der[self.signed.clone()],
        );
        webpki::ALL_VERIFICATION_ALGS.iter().any(|verification| {
            verification.signature_alg_id().as_ref() == algorithm
                && verification.public_key_alg_id().as_ref() == key_algorithm
                && verification
                    .verify_signature(key, signed, &self.der[self.signature.clone()])
                    .is_ok()
        })
    }
}

/// Where the parts are that webpki reads but doesn't give.
struct Outline {
    signed: Range<usize>,
    algorithm: Range<usize>,
    signature: Range<usize>,
    next_update: SystemTime,
}

impl Outline {
    /// RFC 5280 section 5.1.
    fn of(der: &[u8]) -> Option<Outline> {
        let (_, list) = Any::from_der(der).ok()?;
        let (after, to_be_signed) = Any::from_der(list.data).ok()?;
        let signed = &list.data[..list.data.len() - after.len()];
        let (after, algorithm) = Any::from_der(after).ok()?;
        let (_, signature) = Any::from_der(after).ok()?;
        let after_issuer = skip(to_be_signed.data, 3)?;
        let (after_this_update, _) = ASN1Time::from_der(after_issuer).ok()?;
        let (_, next_update) = ASN1Time::from_der(after_this_update).ok()?;
        let seconds = u64::try_from(next_update.timestamp()).unwrap_or(0);
        Some(Outline {
            signed: place(der, signed),
            algorithm: place(der, algorithm.data),
            // The first byte counts unused bits; a signature has none.
            signature: place(der, signature.data.strip_prefix(&[0])?),
            next_update: UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }
}

/// The issuer for people, of anything that looks like a list so far.
fn issuer_text(der: &[u8]) -> Option<String> {
    const LIMIT: usize = 200;
    let (_, list) = Any::from_der(der).ok()?;
    let (_, to_be_signed) = Any::from_der(list.data).ok()?;
    let (_, issuer) = X509Name::from_der(skip(to_be_signed.data, 2)?).ok()?;
    Some(issuer.to_string().chars().take(LIMIT).collect())
}

fn skip(mut der: &[u8], values: usize) -> Option<&[u8]> {
    for _ in 0..values {
        der = Any::from_der(der).ok()?.0;
    }
    Some(der)
}

/// Algorithm and key of a SubjectPublicKeyInfo without its tag (RFC 5280 section 4.1).
fn split_key(spki: &[u8]) -> Option<(&[u8], &[u8])> {
    let (after, algorithm) = Any::from_der(spki).ok()?;
    let (_, key) = Any::from_der(after).ok()?;
    Some((algorithm.data, key.data.strip_prefix(&[0])?))
}

/// Where `part`, a slice of `whole`, lies in it.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

fn serial_at(der: &[u8], place: u32) -> &[u8] {
    let start = place as usize;
    let length = usize::from(der[start - 1]);
    significant(&der[start..start + length])
}

/// Without leading zeros, so that an issuer which writes more of them than DER has it revokes all the same.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

fn fault(error: &Error) -> &'static str {
    match error {
        Error::UnsupportedDeltaCrl => {
            "it is a delta CRL (RFC 5280 5.2.4), of use only with its base; publish complete ones"
        }
        Error::UnsupportedIndirectCrl => {
            "it is indirect (RFC 5280 5.2.5), speaking for other issuers than its own; publish one per issuer"
        }
        Error::UnsupportedRevocationReasonsPartitioning => {
            "it is for some reasons only (RFC 5280 5.2.5); publish one for all"
        }
        Error::UnsupportedCrlIssuingDistributionPoint => {
            "its issuingDistributionPoint has no full name (RFC 5280 5.2.5)"
        }
        Error::UnsupportedCriticalExtension => {
            "it has a critical extension that isn't understood (RFC 5280 5.2)"
        }
        Error::UnsupportedCrlVersion => "it isn't of version 2 (RFC 5280 5.1.2.1)",
        Error::SignatureAlgorithmMismatch => {
            "it names two different signature algorithms (RFC 5280 5.1.1.2)"
        }
        Error::ExtensionValueInvalid => "it has the same extension twice (RFC 5280 4.2)",
        _ => "it is no well-formed CRL with nextUpdate and extensions (RFC 5280 5.1)",
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("issuer", &self.issuer)
            .field("trust_domains", &self.trust_domains)
            .field("revoked", &self.serials.len())
            .field("next_update", &self.next_update)
            .finish_non_exhaustive()
    }
}
