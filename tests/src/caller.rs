//! A SPIFFE client of the test's own: dials with an SVID of the lab's authority, without a sidecar, and says any
//! bytes inside of mutual TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kith::lab::{Lab, Workload};
use kith_certs::{
    ClientAuth, Endpoint, IdentitySource, SourceConfig, client_config, server_config, server_name,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::wire::{Heard, say};

/// Who calls.
#[derive(Clone)]
pub struct Caller {
    identity: IdentitySource,
}

impl Caller {
    /// Gets an SVID for `id` from the lab's authority.
    pub async fn new(lab: &Lab, id: &str) -> Self {
        let name: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
        let socket = lab.directory().join(format!("caller-{name}.sock"));
        lab.authority().add_entry(id, &socket).await.unwrap();
        Self::with(IdentitySource::start(SourceConfig::new(Endpoint::unix(
            &socket,
        ))))
        .await
    }

    /// With an identity from elsewhere, once it is there.
    pub async fn with(identity: IdentitySource) -> Self {
        while identity.current().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { identity }
    }

    /// Connects and shakes hands. To be called inside a workload's namespace.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(
        &self,
        to: SocketAddr,
        alpn: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(client_config(&self.identity, alpn))
            .connect(server_name(), tcp)
            .await
    }

    /// A conversation from `from`, as [`crate::wire::raw`], inside of mutual TLS.
    ///
    /// # Errors
    /// When the connection cannot be made.
    pub async fn raw(
        &self,
        from: &Workload,
        to: SocketAddr,
        alpn: &'static [u8],
        bytes: impl Into<Vec<u8>>,
    ) -> io::Result<Heard> {
        let (caller, bytes) = (self.clone(), bytes.into());
        let talk = move || async move {
            let mut stream = caller.connect(to, &[alpn]).await?;
            io::Result::Ok(say(&mut stream, &bytes, Duration::from_millis(1500)).await)
        };
        from.enter(talk).await?
    }

    /// The client's side, to be changed to a test's taste.
    #[must_use]
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        client_config(&self.identity, alpn)
    }

    /// The server's side of HTTPS as anybody has it: who calls is not asked.
    #[must_use]
    pub fn https(&self) -> TlsAcceptor {
        let key = CertifiedKey::clone(self.identity.current().unwrap().certified_key());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        Arc::new(config).into()
    }

    /// The server's side, for servers that a test plays itself.
    #[must_use]
    pub fn acceptor(&self, alpn: &[&[u8]]) -> TlsAcceptor {
        server_config(&self.identity, alpn, ClientAuth::Required).into()
    }
}
