//! Certificate revocation lists, written byte by byte, so that they can be wrong.

use std::time::SystemTime;

use rcgen::SigningKey as _;
use time::OffsetDateTime;

use crate::forge::{Authority, DAY, der};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const OCTET_STRING: u8 = 4;
const GENERALIZED_TIME: u8 = 0x18;

/// ecdsa-with-SHA256 (RFC 5758 section 3.2).
const ECDSA_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// A list in the making. `id-ce` extensions are named by their last number (RFC 5280 appendix A.2).
pub(crate) struct List {
    pub(crate) issuer: Vec<u8>,
    pub(crate) serials: Vec<Vec<u8>>,
    pub(crate) this_update: SystemTime,
    pub(crate) next_update: Option<SystemTime>,
    pub(crate) version: Option<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
    /// Of every entry.
    pub(crate) entry_extensions: Vec<Vec<u8>>,
    /// What the part that isn't signed calls the algorithm.
    pub(crate) outer_algorithm: Vec<u8>,
}

pub(crate) fn list(issuer: &Authority, serials: &[Vec<u8>]) -> Vec<u8> {
    spoilt(issuer, serials, |_| {})
}

/// Signed by `issuer`'s key, whatever `change` makes of it.
pub(crate) fn spoilt(
    issuer: &Authority,
    serials: &[Vec<u8>],
    change: impl FnOnce(&mut List),
) -> Vec<u8> {
    let now = SystemTime::now();
    let mut list = List {
        issuer: issuer.name(),
        serials: serials.to_vec(),
        this_update: now,
        next_update: Some(now + DAY),
        version: Some(1),
        extensions: vec![extension(20, false, &der(INTEGER, &[1]))],
        entry_extensions: Vec::new(),
        outer_algorithm: ECDSA_SHA256.to_vec(),
    };
    change(&mut list);
    let signed = list.to_be_signed();
    let signature = issuer.key().sign(&signed).unwrap();
    let outer = [
        signed,
        der(SEQUENCE, &list.outer_algorithm),
        der(BIT_STRING, &[&[0][..], &signature].concat()),
    ];
    der(SEQUENCE, &outer.concat())
}

/// An extension of the arc id-ce, 2.5.29.
pub(crate) fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    let id = [6, 3, 0x55, 0x1d, number];
    der(
        SEQUENCE,
        &[&id[..], critical, &der(OCTET_STRING, value)].concat(),
    )
}

impl List {
    /// RFC 5280 section 5.1.
    fn to_be_signed(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        if let Some(version) = self.version {
            fields.push(der(INTEGER, &[version]));
        }
        fields.push(der(SEQUENCE, ECDSA_SHA256));
        fields.push(self.issuer.clone());
        fields.push(moment(self.this_update));
        fields.extend(self.next_update.map(moment));
        let since = moment(self.this_update);
        let entry_extensions = match self.entry_extensions.is_empty() {
            true => Vec::new(),
            false => der(SEQUENCE, &self.entry_extensions.concat()),
        };
        let mut entries = Vec::new();
        for serial in &self.serials {
            let mut entry = der(INTEGER, serial);
            entry.extend_from_slice(&since);
            entry.extend_from_slice(&entry_extensions);
            entries.extend(der(SEQUENCE, &entry));
        }
        if !entries.is_empty() {
            fields.push(der(SEQUENCE, &entries));
        }
        if !self.extensions.is_empty() {
            fields.push(der(0xa0, &der(SEQUENCE, &self.extensions.concat())));
        }
        der(SEQUENCE, &fields.concat())
    }
}

fn moment(time: SystemTime) -> Vec<u8> {
    let at = OffsetDateTime::from(time);
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    der(GENERALIZED_TIME, text.as_bytes())
}
