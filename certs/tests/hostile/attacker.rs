//! The other end of a handshake with us: presents whatever it is given and accepts anything.

use std::sync::Arc;

use kith_certs::tls::{
    ClientAuth, client_config, peer_svid, server_config, server_name, svid_error_of_io,
};
use kith_certs::{IdentitySource, PeerSvid, SvidError, Usage};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    crypto::aws_lc_rs,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::forge::Forged;

/// How a handshake ended for us.
#[derive(Debug)]
pub(crate) enum Handshake {
    Authenticated(PeerSvid),
    Refused(SvidError),
    /// Without a verdict on the certificate.
    Failed(String),
}

/// Our two configurations, to be met more than once.
pub(crate) struct Ends {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Ends {
    pub(crate) fn new(source: &IdentitySource) -> Ends {
        Ends {
            acceptor: server_config(source, &[b"kith-tcp"], ClientAuth::Required).into(),
            connector: client_config(source, &[b"kith-tcp"]).into(),
        }
    }

    /// The attacker calls us.
    pub(crate) async fn as_client(&self, presented: &Forged) -> Handshake {
        let (ours, theirs) = connection().await;
        let attacker = TlsConnector::from(Arc::new(attacking_client(presented)));
        let attack = tokio::spawn(async move {
            if let Ok(mut stream) = attacker.connect(server_name(), theirs).await {
                // The client's handshake is done before the server judges: it learns by reading.
                let _ = stream.read(&mut [0]).await;
            }
        });
        let outcome = match self.acceptor.accept(ours).await {
            Ok(stream) => verdict(peer_svid(stream.get_ref().1, Usage::Client)),
            Err(error) => refusal(&error),
        };
        attack.await.unwrap();
        outcome
    }

    /// We call the attacker.
    pub(crate) async fn as_server(&self, presented: &Forged) -> Handshake {
        let (ours, theirs) = connection().await;
        let attacker = TlsAcceptor::from(Arc::new(attacking_server(presented)));
        let attack = tokio::spawn(async move {
            let _ = attacker.accept(theirs).await;
        });
        let outcome = match self.connector.connect(server_name(), ours).await {
            Ok(stream) => verdict(peer_svid(stream.get_ref().1, Usage::Server)),
            Err(error) => refusal(&error),
        };
        attack.await.unwrap();
        outcome
    }
}

pub(crate) async fn as_client(source: &IdentitySource, presented: &Forged) -> Handshake {
    Ends::new(source).as_client(presented).await
}

pub(crate) async fn as_server(source: &IdentitySource, presented: &Forged) -> Handshake {
    Ends::new(source).as_server(presented).await
}

/// Two of us, and what was agreed on.
pub(crate) async fn between_ours(source: &IdentitySource) -> String {
    let (ours, theirs) = connection().await;
    let acceptor = TlsAcceptor::from(server_config(
        source,
        &[b"kith-h2", b"h2"],
        ClientAuth::Required,
    ));
    let connector = TlsConnector::from(client_config(source, &[b"kith-h2", b"h2"]));
    let server = tokio::spawn(async move {
        let mut stream = acceptor.accept(ours).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream
            .get_ref()
            .1
            .server_name()
            .unwrap_or("none")
            .to_owned()
    });
    let mut stream = connector.connect(server_name(), theirs).await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    let connection = stream.get_ref().1;
    format!(
        "version {:?}\nsuite {:?}\ngroup {:?}\nalpn {}\ntickets {}\nserver name {}\n",
        connection.protocol_version().unwrap(),
        connection.negotiated_cipher_suite().unwrap().suite(),
        connection.negotiated_key_exchange_group().unwrap().name(),
        String::from_utf8_lossy(connection.alpn_protocol().unwrap()),
        connection.tls13_tickets_received(),
        server.await.unwrap(),
    )
}

/// What a client's hello of TLS 1.2 alone gets from our server. Our rustls speaks no TLS 1.2,
/// so the hello is canned: suites ECDHE-ECDSA-AES128-GCM and no supported_versions.
pub(crate) async fn tls12_client(source: &IdentitySource) -> String {
    let (ours, mut theirs) = connection().await;
    let acceptor = TlsAcceptor::from(server_config(source, &[b"kith-tcp"], ClientAuth::Required));
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
        0, 23, 0, 0, // extended_master_secret
    ];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8]);
    hello.extend_from_slice(extensions);
    let mut record = vec![
        22,
        3,
        1,
        0,
        hello.len() as u8 + 4,
        1,
        0,
        0,
        hello.len() as u8,
    ];
    record.extend_from_slice(&hello);
    theirs.write_all(&record).await.unwrap();
    acceptor
        .accept(ours)
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string()
}

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (accepted, client) = tokio::join!(listener.accept(), client);
    (accepted.unwrap().0, client.unwrap())
}

fn verdict(peer: Result<PeerSvid, SvidError>) -> Handshake {
    peer.map_or_else(Handshake::Refused, Handshake::Authenticated)
}

fn refusal(error: &std::io::Error) -> Handshake {
    match svid_error_of_io(error) {
        Some(svid) => Handshake::Refused(svid.clone()),
        None => Handshake::Failed(error.to_string()),
    }
}

fn attacking_client(presented: &Forged) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptsAnything));
    let mut config = if presented.chain.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(presented))))
    };
    config.alpn_protocols = vec![b"kith-tcp".to_vec()];
    config
}

fn attacking_server(presented: &Forged) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(AcceptsAnything))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(presented))));
    config.alpn_protocols = vec![b"kith-tcp".to_vec()];
    config
}

fn certified(presented: &Forged) -> CertifiedKey {
    let chain = presented
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(presented.key.serialize_der()));
    CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(&key).unwrap())
}

#[derive(Debug)]
struct AcceptsAnything;

impl AcceptsAnything {
    fn schemes() -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for AcceptsAnything {
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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        AcceptsAnything::schemes()
    }
}

impl ClientCertVerifier for AcceptsAnything {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        AcceptsAnything::schemes()
    }
}
