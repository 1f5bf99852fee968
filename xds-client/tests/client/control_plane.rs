//! A control plane without a mind of its own: tests read its requests and write its responses.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::thread::JoinHandle;

use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use kith_xds_client::api::mesh;
use prost::Message;
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{NODE, patient};

/// Has a thread and a runtime of its own, so that dropping it is what `kill -9` is: every socket closes at once.
pub(crate) struct ControlPlane {
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
    sessions: mpsc::UnboundedReceiver<Session>,
}

/// One stream of one client.
pub(crate) struct Session {
    requests: mpsc::UnboundedReceiver<DeltaDiscoveryRequest>,
    responses: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
}

impl ControlPlane {
    pub(crate) fn start(socket: &Path) -> ControlPlane {
        ControlPlane::start_with(socket, Headers::AtOnce)
    }

    /// Sends the response headers only together with the first response, as gRPC servers in Go do.
    pub(crate) fn start_with_late_headers(socket: &Path) -> ControlPlane {
        ControlPlane::start_with(socket, Headers::Late)
    }

    fn start_with(socket: &Path, headers: Headers) -> ControlPlane {
        let _ = std::fs::remove_file(socket);
        let (announce, sessions) = mpsc::unbounded_channel();
        let (kill, killed) = oneshot::channel::<()>();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let path = socket.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::bind(path).unwrap();
                bound.send(()).unwrap();
                let service = AggregatedDiscoveryServiceServer::new(Service { announce, headers });
                let serving = tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming(UnixListenerStream::new(listener));
                tokio::select! {
                    result = serving => result.unwrap(),
                    _ = killed => {}
                }
            });
        });
        is_bound.recv().unwrap();
        ControlPlane {
            kill: Some(kill),
            thread: Some(thread),
            socket: socket.to_owned(),
            sessions,
        }
    }

    /// The next stream that a client opens.
    pub(crate) async fn session(&mut self) -> Session {
        patient("a stream", self.sessions.recv()).await.unwrap()
    }

    /// The next stream, its first two requests read, the RevocationList's first: (stream, WorkloadConfig, RevocationList).
    pub(crate) async fn greeted_session(
        &mut self,
    ) -> (Session, DeltaDiscoveryRequest, DeltaDiscoveryRequest) {
        let mut session = self.session().await;
        let revocations = session.request().await;
        let config = session.request().await;
        assert_eq!(
            revocations.node.as_ref().unwrap().id,
            NODE,
            "xDS: the first request says who asks"
        );
        assert_eq!(config.type_url, Kind::WorkloadConfig.type_url());
        assert_eq!(config.resource_names_subscribe, [NODE]);
        assert_eq!(config.node, None);
        assert_eq!(revocations.type_url, Kind::RevocationList.type_url());
        assert_eq!(revocations.resource_names_subscribe, ["mesh"]);
        (session, config, revocations)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Session {
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        patient("a request", self.requests.recv()).await.unwrap()
    }

    pub(crate) fn send(
        &self,
        kind: Kind,
        nonce: &str,
        resources: Vec<WireResource>,
        removed: &[&str],
    ) {
        self.send_raw(DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce: nonce.to_owned(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        });
    }

    pub(crate) fn send_raw(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).unwrap();
    }

    /// Ends the stream with a status; dropping the session ends it without an error.
    pub(crate) fn fail(self, status: Status) {
        self.responses.send(Err(status)).unwrap();
    }

    /// The next request, or none when the client has ended the stream.
    pub(crate) async fn end(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.requests.recv().await
    }

    /// Proves that the client has nothing else to say: what it answers to a type that does not exist is
    /// the next thing that comes.
    pub(crate) async fn expect_silence(&mut self) {
        let type_url = "type.googleapis.com/test.Nothing".to_owned();
        let nonce = "silence".to_owned();
        self.send_raw(DeltaDiscoveryResponse {
            type_url,
            nonce,
            ..Default::default()
        });
        let answer = self.request().await;
        assert_eq!(answer.response_nonce, "silence", "{answer:?}");
        assert!(answer.error_detail.is_some(), "an unknown type is a NACK");
    }

    /// The next request is an ACK.
    pub(crate) async fn expect_ack(&mut self, kind: Kind, nonce: &str) {
        let answer = self.answer(kind, nonce).await;
        assert_eq!(answer.error_detail, None);
    }

    /// The next request is a NACK; returns what it says.
    pub(crate) async fn expect_nack(&mut self, kind: Kind, nonce: &str) -> String {
        let answer = self.answer(kind, nonce).await;
        let detail = answer.error_detail.expect("a NACK");
        assert_eq!(detail.code, 3, "INVALID_ARGUMENT");
        detail.message
    }

    /// The next request changes a subscription.
    pub(crate) async fn expect_subscription(
        &mut self,
        kind: Kind,
        subscribe: &[&str],
        unsubscribe: &[&str],
    ) {
        let request = self.request().await;
        assert_eq!(request.type_url, kind.type_url());
        assert_eq!(request.resource_names_subscribe, subscribe);
        assert_eq!(request.resource_names_unsubscribe, unsubscribe);
        assert_eq!(
            request.response_nonce, "",
            "xDS: only answers carry a nonce"
        );
        assert!(request.initial_resource_versions.is_empty());
    }

    async fn answer(&mut self, kind: Kind, nonce: &str) -> DeltaDiscoveryRequest {
        let answer = self.request().await;
        assert_eq!(
            (answer.type_url.as_str(), answer.response_nonce.as_str()),
            (kind.type_url(), nonce)
        );
        assert!(
            answer.resource_names_subscribe.is_empty()
                && answer.resource_names_unsubscribe.is_empty()
        );
        answer
    }
}

pub(crate) fn resource(
    kind: Kind,
    name: &str,
    version: &str,
    message: &impl Message,
) -> WireResource {
    raw_resource(kind, name, version, message.encode_to_vec())
}

pub(crate) fn raw_resource(kind: Kind, name: &str, version: &str, value: Vec<u8>) -> WireResource {
    WireResource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(prost_types::Any {
            type_url: kind.type_url().to_owned(),
            value,
        }),
        aliases: Vec::new(),
    }
}

pub(crate) fn config(version: &str) -> WireResource {
    let config = mesh::WorkloadConfig {
        revision: version.to_owned(),
        ..Default::default()
    };
    resource(Kind::WorkloadConfig, NODE, version, &config)
}

pub(crate) fn policy(name: &str, version: &str) -> WireResource {
    let policy = mesh::AuthorizationPolicy {
        name: name.to_owned(),
        action: 1,
        ..Default::default()
    };
    resource(Kind::AuthorizationPolicy, name, version, &policy)
}

/// The Address of a workload.
pub(crate) fn address(name: &str, workload: &str) -> WireResource {
    let endpoint = mesh::Endpoint {
        workload: workload.to_owned(),
        ..Default::default()
    };
    let address = mesh::Address {
        kind: Some(mesh::address::Kind::Workload(endpoint)),
    };
    resource(Kind::Address, name, workload, &address)
}

#[derive(Clone, Copy, PartialEq)]
enum Headers {
    AtOnce,
    Late,
}

struct Service {
    announce: mpsc::UnboundedSender<Session>,
    headers: Headers,
}

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (forward, requests) = mpsc::unbounded_channel();
        let (responses, mut outgoing) = mpsc::unbounded_channel();
        let _ = self.announce.send(Session {
            requests,
            responses,
        });
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = incoming.message().await {
                if forward.send(request).is_err() {
                    return;
                }
            }
        });
        if self.headers == Headers::AtOnce {
            return Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
                outgoing,
            ))));
        }
        let first = outgoing
            .recv()
            .await
            .ok_or_else(|| Status::cancelled("the test is over"))?;
        let rest = UnboundedReceiverStream::new(outgoing);
        Ok(Response::new(Box::pin(tokio_stream::StreamExt::chain(
            tokio_stream::once(first),
            rest,
        ))))
    }
}
