//! The CA: roots that overlap, and the SVIDs they sign.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::AuthorityError;
use super::jwt::JwtKey;
use crate::{SpiffeId, TrustDomain};

/// Clocks of callers may be behind ours.
const BACKDATED: Duration = Duration::from_secs(10);
const ROOTS: &str = "roots.json";

/// An X.509-SVID with its key, as issued.
pub struct IssuedSvid {
    pub id: SpiffeId,
    /// The certificate's serial number in lower-case hex.
    pub serial: String,
    pub certificate_der: Vec<u8>,
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    pub certificate_pem: String,
    pub key_pem: Zeroizing<String>,
    /// The roots in force when it was issued.
    pub bundle_pem: String,
    pub not_after: SystemTime,
}

/// All roots in force, oldest first, and which of them signs.
pub(super) struct Ca {
    trust_domain: TrustDomain,
    root_ttl: Duration,
    roots: Vec<Root>,
}

pub(super) struct Root {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    pub(super) jwt: JwtKey,
    not_after: SystemTime,
    /// It signs from then on.
    signs_from: SystemTime,
    /// When the last SVID that it signed expires: until then it must stay in the bundle.
    needed_until: SystemTime,
}

/// A root as it is kept on disk.
#[derive(Serialize, Deserialize)]
struct StoredRoot {
    certificate: String,
    key: String,
    jwt_key: String,
    not_after: SystemTime,
    signs_from: SystemTime,
    needed_until: SystemTime,
}

impl Ca {
    /// Takes up the roots kept in `state_dir`, or starts with a fresh one.
    pub(super) fn open(
        trust_domain: TrustDomain,
        root_ttl: Duration,
        state_dir: Option<&Path>,
        now: SystemTime,
    ) -> Result<Ca, AuthorityError> {
        let mut ca = Ca {
            trust_domain,
            root_ttl,
            roots: Vec::new(),
        };
        if let Some(dir) = state_dir {
            ca.load(&dir.join(ROOTS))?;
            ca.roots.retain(|root| now < root.not_after);
        }
        if ca.roots.is_empty() {
            ca.add_root(now, now)?;
            ca.save(state_dir)?;
        }
        Ok(ca)
    }

    /// A new root, in the bundle from now on, signing from `signs_from` on.
    fn add_root(&mut self, now: SystemTime, signs_from: SystemTime) -> Result<(), AuthorityError> {
        let key = KeyPair::generate()?;
        let serial = random_serial();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Kith dev authority");
        // A name of its own for every root, so that a path is found without trying keys.
        params
            .distinguished_name
            .push(DnType::CommonName, crate::lower_hex(&serial[..8]));
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = (now - BACKDATED).into();
        let not_after = now + self.root_ttl;
        params.not_after = not_after.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // X.509-SVID 3.2 and 4.3.
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(self.trust_domain.id().try_into()?)];
        let certificate = params.self_signed(&key)?;
        self.roots.push(Root {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            jwt: JwtKey::generate()?,
            not_after,
            signs_from,
            needed_until: now,
        });
        Ok(())
    }

    /// The next root: published now, signing after `overlap`. SVIDs of up to `ttl` that the
    /// present one still signs are provided for, also across a restart.
    pub(super) fn rotate(
        &mut self,
        now: SystemTime,
        overlap: Duration,
        ttl: Duration,
    ) -> Result<(), AuthorityError> {
        let signs_from = now + overlap;
        let signing = self.signing_index(now);
        for root in &mut self.roots[signing..] {
            root.needed_until = root.needed_until.max(signs_from.max(root.signs_from) + ttl);
        }
        self.add_root(now, signs_from)
    }

    /// Whether the newest root is past half of its life, so that the next must follow.
    pub(super) fn needs_successor(&self, now: SystemTime) -> bool {
        self.roots
            .last()
            .is_none_or(|newest| now + self.root_ttl / 2 > newest.not_after)
    }

    /// Drops roots that neither sign nor are needed. Says whether the bundle changed.
    pub(super) fn prune(&mut self, now: SystemTime) -> bool {
        let signing = self.signing_index(now);
        let before = self.roots.len();
        let mut index = 0;
        self.roots.retain(|root| {
            // A moment longer, for connections that were made in its last second.
            let keep = index >= signing || now <= root.needed_until + Duration::from_secs(2);
            index += 1;
            keep
        });
        self.roots.len() != before
    }

    /// Drops roots that sign no more, whatever they signed.
    pub(super) fn revoke_old_roots(&mut self, now: SystemTime) {
        self.roots.drain(..self.signing_index(now));
    }

    /// Identifies the root that signs at `now`, to notice when that changes.
    pub(super) fn signer(&self, now: SystemTime) -> &[u8] {
        &self.roots[self.signing_index(now)].certificate
    }

    pub(super) fn signing_jwt_key(&mut self, now: SystemTime, needed_until: SystemTime) -> &JwtKey {
        let index = self.signing_index(now);
        let root = &mut self.roots[index];
        root.needed_until = root.needed_until.max(needed_until);
        &root.jwt
    }

    pub(super) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// X.509-SVID sections 2 to 4, for a leaf.
    pub(super) fn issue(
        &mut self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedSvid, AuthorityError> {
        let key = KeyPair::generate()?;
        let signing = self.signing_index(now);
        let not_after = (now + ttl).min(self.roots[signing].not_after);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Kith dev authority");
        let serial = random_serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = (now - BACKDATED).into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.use_authority_key_identifier_extension = true;
        let root = &mut self.roots[signing];
        let certificate = params.signed_by(&key, &root.issuer)?;
        root.needed_until = root.needed_until.max(not_after);
        Ok(IssuedSvid {
            id: id.clone(),
            serial: crate::lower_hex(&serial),
            certificate_pem: certificate.pem(),
            certificate_der: certificate.der().to_vec(),
            key_pkcs8: Zeroizing::new(key.serialize_der()),
            key_pem: Zeroizing::new(key.serialize_pem()),
            bundle_pem: self.bundle_pem(),
            not_after,
        })
    }

    pub(super) fn bundle_der(&self) -> Vec<u8> {
        self.roots
            .iter()
            .flat_map(|root| root.certificate.iter().copied())
            .collect()
    }

    pub(super) fn bundle_pem(&self) -> String {
        self.roots.iter().map(|root| root.pem.as_str()).collect()
    }

    /// The newest root whose time to sign has come; the oldest before that.
    fn signing_index(&self, now: SystemTime) -> usize {
        self.roots
            .iter()
            .rposition(|root| root.signs_from <= now)
            .unwrap_or(0)
    }

    /// Keeps roots and keys for the next start.
    pub(super) fn save(&self, state_dir: Option<&Path>) -> Result<(), AuthorityError> {
        let Some(dir) = state_dir else { return Ok(()) };
        let stored: Vec<StoredRoot> = self
            .roots
            .iter()
            .map(|root| StoredRoot {
                certificate: root.pem.clone(),
                key: root.issuer.key().serialize_pem(),
                jwt_key: root.jwt.to_text(),
                not_after: root.not_after,
                signs_from: root.signs_from,
                needed_until: root.needed_until,
            })
            .collect();
        keep(dir, ROOTS, &stored)
    }

    fn load(&mut self, file: &Path) -> Result<(), AuthorityError> {
        let Some(stored) = read::<Vec<StoredRoot>>(file)? else {
            return Ok(());
        };
        for root in stored {
            let key = KeyPair::from_pem(&root.key)?;
            let certificate = CertificateDer::from_pem_slice(root.certificate.as_bytes())
                .map_err(|e| AuthorityError::Key(format!("{}: {e}", file.display())))?;
            self.roots.push(Root {
                issuer: Issuer::from_ca_cert_der(&certificate, key)?,
                certificate,
                pem: root.certificate,
                jwt: JwtKey::from_text(&root.jwt_key)?,
                not_after: root.not_after,
                signs_from: root.signs_from,
                needed_until: root.needed_until,
            });
        }
        Ok(())
    }
}

impl Root {
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn common_name(&self) -> String {
        use x509_parser::prelude::FromDer as _;
        x509_parser::certificate::X509Certificate::from_der(&self.certificate)
            .ok()
            .and_then(|(_, c)| {
                c.subject()
                    .iter_common_name()
                    .next()
                    .and_then(|n| n.as_str().ok().map(str::to_owned))
            })
            .unwrap_or_default()
    }
}

/// Keeps something for the next start, readable for its owner alone. Written aside and renamed, so that a kill
/// in the middle loses nothing.
pub(super) fn keep(dir: &Path, name: &str, what: &impl Serialize) -> Result<(), AuthorityError> {
    let json =
        serde_json::to_vec_pretty(what).map_err(|e| AuthorityError::Config(e.to_string()))?;
    let write = || {
        fs::create_dir_all(dir)?;
        let aside = dir.join(format!(".{name}"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(&json)?;
        file.sync_all()?;
        fs::rename(&aside, dir.join(name))
    };
    write().map_err(|error| AuthorityError::Io {
        what: "cannot keep the state in",
        path: dir.display().to_string(),
        error,
    })
}

/// What [`keep`] kept; None when there is nothing.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, AuthorityError> {
    let json = match fs::read(file) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(AuthorityError::Io {
                what: "cannot read the state in",
                path: file.display().to_string(),
                error,
            });
        }
    };
    serde_json::from_slice(&json).map(Some).map_err(|e| {
        AuthorityError::Config(format!(
            "{} can't be used: {e}; remove it to start anew",
            file.display()
        ))
    })
}

/// RFC 5280 section 4.1.2.2: positive, at most 20 bytes; random, so that it can't be guessed.
fn random_serial() -> [u8; 16] {
    let mut serial = [0; 16];
    if aws_lc_rs::rand::fill(&mut serial).is_err() {
        fastrand::fill(&mut serial);
    }
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}
