//! A Workload API server that says exactly what a test tells it to.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kith_certs::workload_api::proto::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use kith_certs::workload_api::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

type Script =
    Box<dyn Fn(mpsc::Sender<Result<X509svidResponse, Status>>) -> Result<(), Status> + Send + Sync>;
type Stream<M> = ReceiverStream<Result<M, Status>>;

pub(crate) struct Scripted {
    pub(crate) calls: Arc<AtomicUsize>,
}

struct Service {
    script: Script,
    calls: Arc<AtomicUsize>,
}

/// Serves `script`, which gets the sending end of every X.509 stream.
pub(crate) fn serve(
    socket: &Path,
    script: impl Fn(mpsc::Sender<Result<X509svidResponse, Status>>) -> Result<(), Status>
    + Send
    + Sync
    + 'static,
) -> Scripted {
    let calls = Arc::new(AtomicUsize::new(0));
    let listener = UnixListener::bind(socket).unwrap();
    let service = SpiffeWorkloadApiServer::new(Service {
        script: Box::new(script),
        calls: calls.clone(),
    });
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    Scripted { calls }
}

impl Scripted {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Stream<X509svidResponse>;
    type FetchX509BundlesStream = Stream<X509BundlesResponse>;
    type FetchJWTBundlesStream = Stream<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Stream<X509svidResponse>>, Status> {
        assert_eq!(
            request.metadata().get("workload.spiffe.io").unwrap(),
            "true"
        );
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = mpsc::channel(1);
        (self.script)(sender)?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Stream<X509BundlesResponse>>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Stream<JwtBundlesResponse>>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}
