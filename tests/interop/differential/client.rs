//! Clients of Envoy: TLS with an SVID or without, from an address and with a server name of the test's choice.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kith_certs::authority::IssuedSvid;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::generate::Call;

const PATIENCE: Duration = Duration::from_secs(20);

/// The configuration of a client that shows this SVID, or none.
pub(crate) fn config(svid: Option<&IssuedSvid>) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let config = match svid {
        None => builder.with_no_client_auth(),
        Some(svid) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key_pkcs8.to_vec()));
            let chain = vec![CertificateDer::from(svid.certificate_der.clone())];
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    Arc::new(config)
}

/// Who the server is doesn't matter here: it is the only one in its namespace.
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
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to Envoy.
pub(crate) struct Client(TlsStream<TcpStream>);

impl Client {
    pub(crate) async fn connect(
        config: &Arc<ClientConfig>,
        source: IpAddr,
        to: SocketAddr,
        sni: Option<&str>,
    ) -> io::Result<Self> {
        let socket = match source {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind(SocketAddr::new(source, 0))?;
        let tcp = socket.connect(to).await?;
        tcp.set_nodelay(true)?;
        // For an address rustls sends no server name.
        let name = match sni {
            Some(name) => ServerName::try_from(name.to_owned()).map_err(io::Error::other)?,
            None => ServerName::from(to.ip()),
        };
        let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
        Ok(Self(timeout(PATIENCE, tls).await??))
    }

    /// Does an answer other than 403 come?
    pub(crate) async fn allowed(&mut self, call: &Call) -> io::Result<bool> {
        let mut request = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n",
            call.method, call.target, call.host
        );
        for (name, value) in &call.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("content-length: 0\r\n\r\n");
        self.0.write_all(request.as_bytes()).await?;
        let mut heard = Vec::new();
        let response = async {
            loop {
                if let Some(end) = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&heard[..end]).to_ascii_lowercase();
                    let length = head
                        .split("\r\n")
                        .find_map(|line| line.strip_prefix("content-length: "))
                        .and_then(|length| length.parse::<usize>().ok());
                    let whole = end + 4 + length.unwrap_or_default();
                    if heard.len() >= whole {
                        return io::Result::Ok((head, whole));
                    }
                }
                if self.0.read_buf(&mut heard).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        let (head, whole) = timeout(PATIENCE, response).await??;
        let body = &heard[head.len() + 4..];
        match (head.split(' ').nth(1), body) {
            (Some("200"), b"ok") if whole == heard.len() => Ok(true),
            (Some("403"), b"RBAC: access denied") => Ok(false),
            _ => Err(io::Error::other(format!(
                "{head}\n{}",
                String::from_utf8_lossy(body)
            ))),
        }
    }

    /// Does an echo come, and not the end?
    pub(crate) async fn echoes(mut self) -> io::Result<bool> {
        self.0.write_all(b"ping").await?;
        let mut heard = [0; 4];
        match timeout(PATIENCE, self.0.read_exact(&mut heard)).await? {
            Ok(_) if heard == *b"ping" => Ok(true),
            Ok(_) => Err(io::Error::other(format!("heard {heard:?}"))),
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    || error.kind() == io::ErrorKind::ConnectionReset =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
