//! TLS with an application that is asked how it is, not who it is: as the kubelet does, certificates are not verified.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

static CONFIG: LazyLock<Option<Arc<ClientConfig>>> = LazyLock::new(|| {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    // An address is no server name.
    config.enable_sni = false;
    Some(Arc::new(config))
});

pub(super) async fn handshake(tcp: TcpStream, ip: IpAddr) -> Result<TlsStream<TcpStream>, String> {
    let Some(config) = &*CONFIG else {
        return Err("the sidecar's cryptography has no TLS 1.3; please report it".into());
    };
    let name = ServerName::IpAddress(ip.into());
    TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await
        .map_err(|error| explain(&error))
}

fn explain(error: &io::Error) -> String {
    let hint = "is it HTTPS with TLS 1.3? The sidecar has no TLS 1.2; \
        let the application offer 1.3, or probe it by tcpSocket";
    format!("no TLS handshake with the application: {error}; {hint}")
}

/// Nothing that is said on such a connection is trusted or secret: not who answers, and what is asked was no secret of
/// the kubelet's either.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // By a certificate that proves nothing; of which some are of a kind that could not even be parsed.
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
