//! What rustls asks during a handshake, answered from the current snapshot.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};

use super::verified::{ChainDigest, VerifiedChains};
use crate::{IdentitySource, SvidError, Usage};

/// Presents our SVID of the moment. No SVID or an expired one: presents nothing, which
/// fails the handshake.
pub(super) struct CurrentIdentity {
    source: IdentitySource,
}

impl CurrentIdentity {
    pub(super) fn new(source: IdentitySource) -> Self {
        CurrentIdentity { source }
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.source.current()?;
        snapshot.check_own_validity(SystemTime::now()).ok()?;
        Some(snapshot.certified_key().clone())
    }
}

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for CurrentIdentity {
    // Whatever authorities the server hints at: we have one identity, and the server decides.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies the peer's chain with the bundles of the moment.
pub(super) struct PeerVerifier {
    source: IdentitySource,
    algorithms: WebPkiSupportedAlgorithms,
    /// One verifier serves one direction, so the peer's usage is always the same.
    verified: VerifiedChains,
}

impl PeerVerifier {
    pub(super) fn new(source: IdentitySource) -> Self {
        PeerVerifier {
            source,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
            verified: VerifiedChains::default(),
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), Error> {
        let snapshot = self.source.current().ok_or_else(|| {
            Error::General("we have no SVID; look at the Workload API, which gave none".to_owned())
        })?;
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        snapshot.check_own_validity(now).map_err(refused)?;
        let chain = ChainDigest::of(leaf, intermediates);
        if self.verified.holds(&chain, snapshot.generation(), now) {
            return Ok(());
        }
        let verified = snapshot
            .check(leaf, intermediates, now, usage)
            .map_err(refused)?;
        self.verified
            .insert(chain, snapshot.generation(), verified.window);
        Ok(())
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// The reason must survive until the record, so it travels as rustls' open variant. To the
/// peer that is the alert certificate_unknown (RFC 8446 section 6.2), whatever the reason.
fn refused(error: SvidError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

// The configurations offer TLS 1.3 only.
fn tls12_is_not_spoken() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

impl ClientCertVerifier for PeerVerifier {
    // No hints: they would tell every caller whom we trust, and cost bytes in each handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Usage::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_is_not_spoken()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Usage::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_is_not_spoken()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for CurrentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentIdentity")
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerVerifier")
    }
}
