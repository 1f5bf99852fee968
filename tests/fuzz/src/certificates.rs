//! Certificates: what peers present, and what the Workload API hands over.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use kith_certs::workload_api::proto::{X509svid, X509svidResponse};
use kith_certs::{TrustSnapshot, Usage};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

struct Good {
    update: X509svidResponse,
    leaf: Vec<u8>,
    trust: TrustSnapshot,
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| make().unwrap_or_else(|error| panic!("{error}")))
}

fn make() -> Result<Good, Box<dyn std::error::Error>> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.subject_alt_names = vec![SanType::URI("spiffe://example.org".try_into()?)];
    root.distinguished_name.push(DnType::CommonName, "root");
    let root_der = root.self_signed(&root_key)?.der().to_vec();
    let root = Issuer::new(root, root_key);

    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(
        "spiffe://example.org/ns/shop/sa/web".try_into()?,
    )];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let leaf = leaf.signed_by(&key, &root)?.der().to_vec();
    let svid = X509svid {
        spiffe_id: "spiffe://example.org/ns/shop/sa/web".to_owned(),
        x509_svid: leaf.clone(),
        x509_svid_key: key.serialize_der(),
        bundle: root_der,
        hint: String::new(),
    };
    let update = X509svidResponse {
        svids: vec![svid],
        ..Default::default()
    };
    let trust = TrustSnapshot::from_update(&update, None, Arc::default(), 1, SystemTime::now())?;
    trust.verify(&leaf, &[] as &[Vec<u8>], SystemTime::now(), Usage::Client)?;
    Ok(Good {
        update,
        leaf,
        trust,
    })
}

/// The good bytes with some exchanged, as triples of place and byte say.
fn changed(good: &[u8], data: &[u8]) -> Vec<u8> {
    let mut changed = good.to_vec();
    for change in data.chunks_exact(3).take(8) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % changed.len();
        changed[at] = change[2];
    }
    changed
}

/// No certificate is somebody's but the one that was issued: neither arbitrary bytes nor the good one with bytes exchanged.
pub(crate) fn svid(data: &[u8]) {
    let good = good();
    let now = SystemTime::now();
    for leaf in [data.to_vec(), changed(&good.leaf, data)] {
        for usage in [Usage::Client, Usage::Server] {
            let verified = good.trust.verify(&leaf, &[data, &good.leaf], now, usage);
            if verified.is_ok() {
                assert_eq!(leaf, good.leaf, "a certificate verifies that nobody issued");
            }
        }
    }
}

/// Whatever the Workload API says is used or refused by name; parts of one message harm no others.
pub(crate) fn bundle(data: &[u8]) {
    let good = good();
    let now = SystemTime::now();
    let mut update = good.update.clone();
    update.crl = vec![data.to_vec()];
    let foreign = "spiffe://other.example".to_owned();
    update.federated_bundles = [(foreign, data.to_vec())].into_iter().collect();
    let trust = TrustSnapshot::from_update(&update, None, Arc::default(), 2, now);
    let trust = trust
        .unwrap_or_else(|error| panic!("a foreign bundle or a list refused the whole: {error}"));
    assert!(trust.bundle("example.org").is_some());

    let mut update = good.update.clone();
    if let Some(svid) = update.svids.first_mut() {
        svid.bundle = changed(&svid.bundle, data);
        svid.x509_svid = changed(&good.leaf, data.get(3..).unwrap_or_default());
    }
    let _ = TrustSnapshot::from_update(&update, None, Arc::default(), 3, now);
}
