//! The xDS service: a task for each stream.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};
use kith_certs::IdentitySource;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::grpc::{Answers, Requests};
use super::peer::Peer;
use super::stream;
use crate::status::State;

/// Responses waiting for a sidecar that reads slowly.
const WAITING_RESPONSES: usize = 16;
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

#[derive(Clone)]
pub(super) struct Discovery {
    pub(super) state: Arc<State>,
    pub(super) identity: IdentitySource,
    pub(super) stopping: watch::Receiver<bool>,
}

impl NamedService for Discovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<Request<Body>> for Discovery {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Ok(self.start(request).unwrap_or_else(Status::into_http)))
    }
}

impl Discovery {
    fn start(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        if request.uri().path() != DELTA {
            return Err(Status::unimplemented(
                "only DeltaAggregatedResources is served: use the delta variant of xDS",
            ));
        }
        let encoding = request.headers().get("grpc-encoding");
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(Status::unimplemented(
                "requests are not decompressed here: send them as they are (grpc-encoding: identity)",
            ));
        }
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("connect with an SVID"))?;
        let (responses, answers) = mpsc::channel(WAITING_RESPONSES);
        // Ends by itself with the connection, the peer's SVID or the server: all three are watched inside.
        tokio::spawn(stream::run(
            peer,
            Requests::new(request.into_body()),
            responses,
            Arc::clone(&self.state),
            self.identity.clone(),
            self.stopping.clone(),
        ));
        let mut response = Response::new(Body::new(Answers::new(answers)));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        Ok(response)
    }
}
