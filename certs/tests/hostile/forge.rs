//! Certificates that no honest authority issues.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use x509_parser::asn1_rs::FromDer as _;
use x509_parser::certificate::X509Certificate;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A chain, leaf first, with the leaf's key.
pub(crate) struct Forged {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: KeyPair,
    params: CertificateParams,
}

/// Somebody who signs, entitled or not.
pub(crate) struct Authority {
    forged: Forged,
    is_root: bool,
}

impl Authority {
    pub(crate) fn root(domain: &str) -> Authority {
        let mut params = signer(
            &format!("spiffe://{domain}"),
            BasicConstraints::Unconstrained,
        );
        // All roots of a domain have one name, as they do where an operator names them.
        params.distinguished_name = named(&format!("root of {domain}"));
        Authority::root_with(params)
    }

    pub(crate) fn root_with(params: CertificateParams) -> Authority {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Authority {
            forged: Forged {
                chain: vec![der],
                key,
                params,
            },
            is_root: true,
        }
    }

    pub(crate) fn intermediate(&self, params: &CertificateParams) -> Authority {
        Authority {
            forged: self.sign(params),
            is_root: false,
        }
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.forged.chain[0].clone()
    }

    /// The raw subject, which its certificates and lists name as issuer.
    pub(crate) fn name(&self) -> Vec<u8> {
        let (_, certificate) = X509Certificate::from_der(&self.forged.chain[0]).unwrap();
        certificate.subject().as_raw().to_vec()
    }

    pub(crate) fn key(&self) -> &KeyPair {
        &self.forged.key
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Forged {
        let key = KeyPair::generate().unwrap();
        let der = self.sign_key(params, &key);
        // Roots come from the bundle, everybody else is presented.
        let above = if self.is_root {
            &[][..]
        } else {
            &self.forged.chain
        };
        let chain = std::iter::once(der).chain(above.iter().cloned()).collect();
        Forged {
            chain,
            key,
            params: params.clone(),
        }
    }

    /// A certificate for a key that has one already.
    pub(crate) fn certify(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        self.sign_key(params, key)
    }

    fn sign_key(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        // `Issuer` refuses nothing by itself: it signs with any key usage.
        let mut issuer_params = self.forged.params.clone();
        issuer_params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = Issuer::new(issuer_params, &self.forged.key);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }
}

impl Forged {
    /// The leaf's raw serial number.
    pub(crate) fn serial(&self) -> Vec<u8> {
        serial(&self.chain[0])
    }
}

pub(crate) fn serial(certificate: &[u8]) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    certificate.raw_serial().to_vec()
}

impl From<Forged> for Authority {
    fn from(forged: Forged) -> Authority {
        Authority {
            forged,
            is_root: false,
        }
    }
}

/// A proper leaf, to be spoilt.
pub(crate) fn svid(id: &str) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = named("workload");
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(3600)).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params
}

/// A proper signer, to be spoilt.
pub(crate) fn signer(id: &str, constraints: BasicConstraints) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    static SIGNERS: AtomicU32 = AtomicU32::new(0);
    params.distinguished_name = named(&format!(
        "signer {}",
        SIGNERS.fetch_add(1, Ordering::Relaxed)
    ));
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY).into();
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params
}

/// A proper signer of certificates and of lists.
pub(crate) fn list_signer(id: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = signer(id, constraints);
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    params
}

pub(crate) fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A SAN extension with one URI of any bytes: what no builder lets through.
pub(crate) fn san(uri: &[u8]) -> CustomExtension {
    const URI: u8 = 0x86;
    const SEQUENCE: u8 = 0x30;
    let names = der(SEQUENCE, &der(URI, uri));
    CustomExtension::from_oid_content(&[2, 5, 29, 17], names)
}

pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut encoded = vec![tag];
    match content.len() {
        short @ 0..=127 => encoded.push(short as u8),
        long @ ..=0xff => encoded.extend([0x81, long as u8]),
        long @ ..=0xffff => encoded.extend([0x82, (long >> 8) as u8, long as u8]),
        long => encoded.extend([0x83, (long >> 16) as u8, (long >> 8) as u8, long as u8]),
    }
    encoded.extend_from_slice(content);
    encoded
}

/// A leaf under `count` intermediates that all have one name and sign each other, none of
/// them signed by `root`'s key although they name it: every path looks possible.
pub(crate) fn cross_signed(root: &Authority, count: usize) -> Forged {
    let mut params = signer("spiffe://example.org", BasicConstraints::Unconstrained);
    params.distinguished_name = root.forged.params.distinguished_name.clone();
    let keys: Vec<KeyPair> = (0..count).map(|_| KeyPair::generate().unwrap()).collect();
    let by = |index: usize| Issuer::new(params.clone(), &keys[index % count]);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf_params = svid("spiffe://example.org/web");
    let mut chain = vec![
        leaf_params
            .signed_by(&leaf_key, &by(0))
            .unwrap()
            .der()
            .to_vec(),
    ];
    for (index, key) in keys.iter().enumerate() {
        chain.push(
            params
                .signed_by(key, &by(index + 1))
                .unwrap()
                .der()
                .to_vec(),
        );
    }
    Forged {
        chain,
        key: leaf_key,
        params: leaf_params,
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
        .as_ref()
        .to_vec()
}
