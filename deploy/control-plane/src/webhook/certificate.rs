//! This replica's serving certificate: self-signed, short-lived, its key in memory only.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;

/// Marks the certificates in a bundle that are ours to remove.
pub(super) const ORGANIZATION: &str = "kith-control webhook";
/// RFC 5280, appendix A: ub-common-name.
const LONGEST_COMMON_NAME: usize = 64;
/// The API server's clock may be behind ours.
const BACKDATED: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the webhook's certificate cannot be made: {0}")]
    Made(#[from] rcgen::Error),
    #[error("the webhook's certificate cannot be used: {0}")]
    Used(#[from] rustls::Error),
}

/// A certificate, and what serves with it.
pub(super) struct Certificate {
    pub(super) pem: String,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) renew_at: SystemTime,
}

/// What every certificate of this replica says.
pub(super) struct Issue {
    pub(super) names: Vec<String>,
    pub(super) replica: String,
    /// How long each is valid; at half of it the next one is made.
    pub(super) lifetime: Duration,
}

impl Issue {
    /// The name of this replica in its certificates: a newer one takes the place of an older one by it.
    pub(super) fn common_name(&self) -> String {
        self.replica.chars().take(LONGEST_COMMON_NAME).collect()
    }

    pub(super) fn certificate(&self) -> Result<Certificate, CertificateError> {
        let now = SystemTime::now();
        let mut params = CertificateParams::new(self.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        (params.distinguished_name).push(DnType::OrganizationName, ORGANIZATION);
        (params.distinguished_name).push(DnType::CommonName, self.common_name());
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + self.lifetime).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Certificate {
            pem: certificate.pem(),
            tls: Arc::new(tls),
            renew_at: now + self.lifetime / 2,
        })
    }
}
