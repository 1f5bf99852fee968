//! A thin client of the Workload API: transport, the mandatory metadata, limits.
//! Retrying and meaning are `source`'s.

use std::error::Error;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Uri};
use tonic::{Request, Status, Streaming};

use super::Endpoint;
use super::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use super::proto::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use crate::SpiffeId;

/// The longest message we take, gRPC's own default. A longer one ends the stream with an error.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// A client that connects when first used and again whenever the connection was lost.
/// Clones share the connection.
#[derive(Clone)]
pub struct WorkloadApiClient {
    inner: SpiffeWorkloadApiClient<InterceptedService<Channel, SecurityHeader>>,
}

impl WorkloadApiClient {
    /// `keepalive` is both the interval of HTTP/2 pings and how long an answer to one may
    /// take, so a frozen server is noticed within twice that time.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(endpoint: &Endpoint, keepalive: Duration) -> WorkloadApiClient {
        // The URI only fills `:authority`; the connector knows where to go.
        let transport = Channel::builder(Uri::from_static("http://localhost"))
            .connect_timeout(keepalive)
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .keep_alive_while_idle(true);
        let channel = match endpoint.clone() {
            Endpoint::Unix(path) => {
                transport.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                }))
            }
            Endpoint::Tcp(address) => {
                transport.connect_with_connector_lazy(tower::service_fn(move |_: Uri| async move {
                    TcpStream::connect(address).await.map(TokioIo::new)
                }))
            }
        };
        let inner = SpiffeWorkloadApiClient::with_interceptor(channel, SecurityHeader)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        WorkloadApiClient { inner }
    }

    /// X.509-SVIDs and bundles, the full state in every message (SPIFFE_Workload_API 5.2.1).
    pub async fn watch_x509_svids(&mut self) -> Result<Streaming<X509svidResponse>, Status> {
        Ok(self
            .inner
            .fetch_x509svid(X509svidRequest {})
            .await?
            .into_inner())
    }

    /// X.509 bundles alone (SPIFFE_Workload_API 5.2.2).
    pub async fn watch_x509_bundles(&mut self) -> Result<Streaming<X509BundlesResponse>, Status> {
        Ok(self
            .inner
            .fetch_x509_bundles(X509BundlesRequest {})
            .await?
            .into_inner())
    }

    /// JWKS documents per trust domain (SPIFFE_Workload_API 6.2.2).
    pub async fn watch_jwt_bundles(&mut self) -> Result<Streaming<JwtBundlesResponse>, Status> {
        Ok(self
            .inner
            .fetch_jwt_bundles(JwtBundlesRequest {})
            .await?
            .into_inner())
    }

    /// JWT-SVIDs for an audience, of one identity or of all (SPIFFE_Workload_API 6.2.1).
    pub async fn fetch_jwt_svids(
        &mut self,
        audience: &[String],
        id: Option<&SpiffeId>,
    ) -> Result<Vec<Jwtsvid>, Status> {
        let request = JwtsvidRequest {
            audience: audience.to_vec(),
            spiffe_id: id.map(ToString::to_string).unwrap_or_default(),
        };
        Ok(self.inner.fetch_jwtsvid(request).await?.into_inner().svids)
    }

    /// Asks the Workload API to validate a JWT-SVID (SPIFFE_Workload_API 6.2.3).
    pub async fn validate_jwt_svid(
        &mut self,
        audience: &str,
        token: &str,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let request = ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: token.to_owned(),
        };
        Ok(self.inner.validate_jwtsvid(request).await?.into_inner())
    }
}

/// SPIFFE_Workload_Endpoint section 3: every request carries `workload.spiffe.io: true`,
/// which a server-side request forgery could not add.
#[derive(Clone, Copy)]
struct SecurityHeader;

impl Interceptor for SecurityHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("workload.spiffe.io", MetadataValue::from_static("true"));
        Ok(request)
    }
}

/// A failed call in one line, down to the cause that an operator can act on
/// ("No such file or directory"), which tonic keeps in the chain of sources.
pub fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
