//! rustls configurations for both directions: TLS 1.3 between workloads, authenticated by
//! the snapshot that is current at the moment of the handshake.
//!
//! A configuration is built once and serves across rotations. Key and chain come from one
//! snapshot, roots from one snapshot, so a rotation fails no handshake. Who the peer is gets
//! settled here; whether it may do anything is not.

mod identity;
mod verified;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, CommonState, Error, OtherError, ServerConfig};

use crate::verify::profile::Leaf;
use crate::{IdentitySource, PeerSvid, SvidError, Usage};
use identity::{CurrentIdentity, PeerVerifier};

/// Whether a server asks for the client's certificate. Mesh servers always do: a client
/// without a certificate gets no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Required,
}

/// The server's side of mesh TLS. `alpn` in the server's order of preference.
pub fn server_config(
    source: &IdentitySource,
    alpn: &[&[u8]],
    client_auth: ClientAuth,
) -> Arc<ServerConfig> {
    let ClientAuth::Required = client_auth;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites and groups")
        .with_client_cert_verifier(Arc::new(PeerVerifier::new(source.clone())))
        .with_cert_resolver(Arc::new(CurrentIdentity::new(source.clone())));
    // No resumption and no 0-RTT: every connection proves both identities anew, against the
    // snapshot of now, and nothing can be replayed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

/// The client's side of mesh TLS. `alpn` in the client's order of preference.
pub fn client_config(source: &IdentitySource, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites and groups")
        // Not less than the usual verifier but other: names in SVIDs are SPIFFE IDs, not hosts.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(source.clone())))
        .with_client_cert_resolver(Arc::new(CurrentIdentity::new(source.clone())));
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

/// What rustls wants as the server's name. It is never sent (an address never is, RFC 6066
/// section 3) and never compared.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}

/// The peer of a connection whose handshake, under one of the configurations above, is done.
///
/// The handshake verified the chain; this only reads the leaf. `usage` is the peer's side:
/// [`Usage::Client`] when we are the server.
pub fn peer_svid(connection: &CommonState, usage: Usage) -> Result<PeerSvid, SvidError> {
    let absent = SvidError::Malformed {
        fault: "is absent: the handshake isn't done",
    };
    if connection.is_handshaking() {
        return Err(absent);
    }
    let (leaf, intermediates) = connection
        .peer_certificates()
        .and_then(<[_]>::split_first)
        .ok_or(absent)?;
    Ok(PeerSvid::new(
        Leaf::parse(leaf)?,
        leaf,
        intermediates,
        usage,
    ))
}

/// Why our side refused the peer's certificate, out of the error of a failed handshake.
pub fn svid_error(error: &Error) -> Option<&SvidError> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))
        | Error::Other(OtherError(inner)) => inner.downcast_ref(),
        _ => None,
    }
}

/// [`svid_error`] for the `io::Error` that tokio-rustls wraps it in.
pub fn svid_error_of_io(error: &io::Error) -> Option<&SvidError> {
    error
        .get_ref()?
        .downcast_ref::<Error>()
        .and_then(svid_error)
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        // AES-128 and SHA-256 first: the cheapest per handshake and per byte where AES is in hardware.
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}
