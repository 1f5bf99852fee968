//! The Workload API, one gRPC server per Unix socket.

mod messages;
mod pseudo_authority;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};
use tracing::{debug, error};

use super::caller::Caller;
use super::state::State;
use super::{AuthorityError, Entry};
use crate::workload_api::proto::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use crate::workload_api::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use messages::Answer;
use pseudo_authority::AnyAuthority;

/// Opens every socket of the configuration.
pub(super) fn open_sockets(state: &Arc<State>) -> Result<(), AuthorityError> {
    let sockets: Vec<PathBuf> = state.lock().sockets.iter().cloned().collect();
    sockets.iter().try_for_each(|socket| serve(state, socket))
}

/// Adds an entry, and its socket if that isn't served yet.
pub(super) fn add_entry(state: &Arc<State>, entry: Entry) -> Result<(), AuthorityError> {
    let served = |socket: &PathBuf| state.lock().sockets.contains(socket);
    if let Some(socket) = entry.socket.as_ref().filter(|socket| !served(socket)) {
        serve(state, socket)?;
        state.lock().sockets.insert(socket.clone());
    }
    state.add_entry(entry)
}

/// Binds a socket that everyone may connect to: who gets what is decided per caller.
pub(super) fn bind(socket: &Path, mode: u32) -> Result<UnixListener, AuthorityError> {
    let bind = || {
        if let Some(parent) = socket.parent() {
            fs::create_dir_all(parent)?;
        }
        // Left behind by a killed authority.
        if fs::symlink_metadata(socket).is_ok() {
            fs::remove_file(socket)?;
        }
        let listener = StdUnixListener::bind(socket)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    };
    bind().map_err(|error| AuthorityError::Io {
        what: "cannot listen on",
        path: socket.display().to_string(),
        error,
    })
}

fn serve(state: &Arc<State>, socket: &Path) -> Result<(), AuthorityError> {
    let listener = bind(socket, 0o777)?;
    let service = WorkloadApi {
        state: state.clone(),
        socket: socket.to_owned(),
    };
    let service = SpiffeWorkloadApiServer::with_interceptor(service, require_security_header);
    let mut closed = state.closed();
    // Not aborted but ended, so that callers see their connection close.
    tokio::spawn(async move {
        let until_closed = async move {
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let serving = Server::builder().add_service(service);
        if let Err(problem) = serving
            .serve_with_incoming_shutdown(accept(listener), until_closed)
            .await
        {
            error!(error = %problem, "a Workload API socket is no longer served");
        }
    });
    Ok(())
}

fn accept(listener: UnixListener) -> impl Stream<Item = io::Result<AnyAuthority>> {
    UnixListenerStream::new(listener).map(|accepted| accepted.map(AnyAuthority::new))
}

/// SPIFFE_Workload_Endpoint section 3.
fn require_security_header(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get("workload.spiffe.io") {
        Some(value) if value == "true" => Ok(request),
        _ => Err(Status::invalid_argument(
            "the metadata `workload.spiffe.io: true` is missing",
        )),
    }
}

struct WorkloadApi {
    state: Arc<State>,
    socket: PathBuf,
}

type Push<M> = ReceiverStream<Result<M, Status>>;

impl WorkloadApi {
    fn caller<T>(&self, request: &Request<T>) -> Caller {
        let credentials = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred);
        let caller = Caller::new(&self.socket, credentials);
        debug!(?caller, "Workload API call");
        caller
    }

    /// A stream that says the full state now, at every change of it, and when it must be renewed.
    fn push<T, M>(
        &self,
        request: &Request<T>,
        answer: fn(&State, &Caller) -> Result<Answer<M>, Status>,
    ) -> Result<Response<Push<M>>, Status>
    where
        M: PartialEq + Clone + Send + 'static,
    {
        let caller = self.caller(request);
        let state = self.state.clone();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut changes = state.changes();
            let mut said = None;
            loop {
                changes.borrow_and_update();
                if *state.closed().borrow() {
                    return;
                }
                let mut renew_at = None;
                let frozen = state.lock().switches.freeze;
                if !frozen {
                    match answer(&state, &caller) {
                        Ok(answer) => {
                            renew_at = answer.renew_at;
                            if said.as_ref() != Some(&answer.message) {
                                said = Some(answer.message.clone());
                                if sender.send(Ok(answer.message)).await.is_err() {
                                    return;
                                }
                            }
                        }
                        Err(status) => {
                            let _ = sender.send(Err(status)).await;
                            return;
                        }
                    }
                }
                let until =
                    renew_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = sleep(until.unwrap_or_default()), if until.is_some() => {}
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn until_not_frozen(&self) {
        let mut changes = self.state.changes();
        while self.state.lock().switches.freeze {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Push<X509svidResponse>;
    type FetchX509BundlesStream = Push<X509BundlesResponse>;
    type FetchJWTBundlesStream = Push<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.push(&request, messages::x509_svids)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.push(&request, messages::x509_bundles)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.push(&request, messages::jwt_bundles)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.until_not_frozen().await;
        let caller = self.caller(&request);
        messages::jwt_svids(&self.state, &caller, &request.into_inner()).map(Response::new)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.until_not_frozen().await;
        let caller = self.caller(&request);
        messages::validate_jwt_svid(&self.state, &caller, &request.into_inner()).map(Response::new)
    }
}

/// The sockets that are served, for the reply of a command.
pub(super) fn sockets(state: &State) -> serde_json::Value {
    json!(state.lock().sockets)
}
