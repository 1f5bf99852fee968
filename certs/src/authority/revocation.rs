//! What the authority has revoked: one CRL per root, made anew with every change.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};

use super::AuthorityError;
use super::ca::{Ca, keep, read};

/// How long until the next list is promised. There is one whenever anything changes.
const NEXT_UPDATE: Duration = Duration::from_secs(24 * 3600);
const FILE: &str = "revoked.json";

#[derive(Default)]
pub(super) struct Revocations {
    /// Serial numbers in lower-case hex, and since when.
    serials: BTreeMap<String, SystemTime>,
    /// CRLs of others, handed over as they are.
    foreign: Vec<Vec<u8>>,
    /// What the Workload API says.
    lists: Vec<Vec<u8>>,
    number: u64,
}

impl Revocations {
    /// Takes up what was revoked before a restart.
    pub(super) fn open(
        ca: &Ca,
        state_dir: Option<&Path>,
        now: SystemTime,
    ) -> Result<Revocations, AuthorityError> {
        let mut revocations = Revocations::default();
        if let Some(dir) = state_dir
            && let Some(serials) = read(&dir.join(FILE))?
        {
            revocations.serials = serials;
        }
        revocations.reissue(ca, now)?;
        Ok(revocations)
    }

    /// DER, one list each.
    pub(super) fn lists(&self) -> Vec<Vec<u8>> {
        [self.lists.as_slice(), &self.foreign].concat()
    }

    /// Those of our own roots.
    pub(super) fn own(&self) -> &[Vec<u8>] {
        &self.lists
    }

    pub(super) fn serials(&self) -> impl Iterator<Item = &str> {
        self.serials.keys().map(String::as_str)
    }

    pub(super) fn set_foreign(&mut self, lists: Vec<Vec<u8>>) {
        self.foreign = lists;
    }

    /// Revokes, or takes it back. Says whether that changed anything.
    pub(super) fn set(
        &mut self,
        serial: &str,
        revoked: bool,
        ca: &Ca,
        now: SystemTime,
        state_dir: Option<&Path>,
    ) -> Result<bool, AuthorityError> {
        let serial = serial.to_ascii_lowercase();
        from_hex(&serial)?;
        let changed = match revoked {
            true => self.serials.insert(serial, now).is_none(),
            false => self.serials.remove(&serial).is_some(),
        };
        self.reissue(ca, now)?;
        if let Some(dir) = state_dir {
            keep(dir, FILE, &self.serials)?;
        }
        Ok(changed)
    }

    /// One list of every root, all with the same entries: a serial number is random, so it is nobody else's.
    /// Without entries there is no list, as with most authorities.
    pub(super) fn reissue(&mut self, ca: &Ca, now: SystemTime) -> Result<(), AuthorityError> {
        self.lists.clear();
        if self.serials.is_empty() {
            return Ok(());
        }
        self.number += 1;
        for root in ca.roots() {
            let mut revoked_certs = Vec::with_capacity(self.serials.len());
            for (serial, since) in &self.serials {
                revoked_certs.push(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&from_hex(serial)?),
                    revocation_time: (*since).into(),
                    reason_code: Some(RevocationReason::KeyCompromise),
                    invalidity_date: None,
                });
            }
            let list = CertificateRevocationListParams {
                this_update: now.into(),
                next_update: (now + NEXT_UPDATE).into(),
                crl_number: SerialNumber::from(self.number),
                issuing_distribution_point: None,
                revoked_certs,
                key_identifier_method: KeyIdMethod::Sha256,
            }
            .signed_by(root.issuer())?;
            self.lists.push(list.der().to_vec());
        }
        Ok(())
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>, AuthorityError> {
    let wrong = || {
        AuthorityError::Config(format!(
            "{text:?} is no serial number; write it in hex, as records have it"
        ))
    };
    // `from_str_radix` would take a sign.
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.is_empty() || text.len() > 40 || !text.len().is_multiple_of(2) || !is_hex {
        return Err(wrong());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong()))
        .collect()
}
