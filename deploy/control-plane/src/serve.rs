//! `kith-control serve`: binds, wires, and owns every task until the end.
//!
//! ```text
//! folder ─► watch ─► yaml ─► resolve ┐
//! cluster ─► kubernetes ──────────────┴► Catalog ─► one stream a sidecar ─► subscriptions ─► responses
//! ```

mod admit;
mod discovery;
mod facts;
mod grpc;
mod peer;
pub(crate) mod replica;
mod source;
mod stream;
mod subscriptions;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kith_certs::tls::{ClientAuth, server_config};
use kith_certs::{Endpoint, IdentitySource, SourceConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{error, info, warn};

use self::discovery::Discovery;
use self::replica::api::replica_server::ReplicaServer;
use self::source::Bound;
pub use self::source::Source;
pub(crate) use self::stream::identity_lost;
use crate::http::{self, Listener};
use crate::jwks::{Fetcher, Web};
pub use crate::kubernetes::{ClientError, Settings as Kubernetes, Webhook};
use crate::status::{self, State};

/// Connections whose handshake is done, waiting to be served.
const WAITING_CONNECTIONS: usize = 16;
/// A sidecar that vanished without a word is noticed after twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What a sidecar may say before it is listened to, in bytes: it says little, and many may speak at once.
const WINDOW: u32 = 64 * 1024;
/// How long streams may take to end at a stop.
const STOP: Duration = Duration::from_secs(5);
/// How long the webhook answers after that began: the API server asks a replica until it has heard that it goes, and
/// refuses what somebody applies when nobody answers.
const LAST_REVIEWS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    /// Where sidecars connect.
    pub listen: SocketAddr,
    /// Where `/status` and `/ready` are; loopback.
    pub status_listen: SocketAddr,
    /// Where `kith revoke` and `kith status` speak to it: a Unix socket that only its own user may open. With a folder only.
    pub admin_socket: Option<PathBuf>,
    /// The Workload API that gives this control plane its own SVID.
    pub workload_api: Endpoint,
    /// How the keys of issuers are fetched.
    pub web: Web,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({flag}): {source}; free it or choose another")]
pub struct BindError {
    flag: &'static str,
    address: String,
    source: io::Error,
}

/// Why nothing could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(BindError),
    #[error(transparent)]
    Cluster(ClientError),
}

/// Bound, not yet serving.
pub struct Server {
    config: Config,
    xds: TcpListener,
    status: TcpListener,
    source: Bound,
    addresses: Addresses,
}

/// Where the server listens, with the ports that were chosen if 0 was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub xds: SocketAddr,
    pub status: SocketAddr,
}

impl Server {
    /// Takes the ports, so that failing to is the first thing that happens.
    ///
    /// # Errors
    /// Every address that cannot be listened on, and why the cluster cannot be reached.
    pub async fn bind(config: Config) -> Result<Self, Vec<StartError>> {
        let xds = listen("--listen", config.listen);
        let status = listen("--status-listen", config.status_listen);
        let source = Bound::new(&config).await;
        match (xds, status, source) {
            (Ok((xds, xds_address)), Ok((status, status_address)), Ok(source)) => {
                let addresses = Addresses {
                    xds: xds_address,
                    status: status_address,
                };
                Ok(Self {
                    config,
                    xds,
                    status,
                    source,
                    addresses,
                })
            }
            (xds, status, source) => {
                let listening = [xds.err(), status.err()].into_iter().flatten();
                let mut errors: Vec<_> = listening.map(StartError::Listen).collect();
                errors.extend(source.err().into_iter().flatten());
                Err(errors)
            }
        }
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `stop` resolves, then ends every stream with a reason.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self {
            config,
            xds,
            status,
            source,
            addresses,
        } = self;
        let state = Arc::new(State::new(source.kind()));
        let identity = IdentitySource::start(SourceConfig::new(config.workload_api));
        let tls = server_config(&identity, &[b"h2"], ClientAuth::Required);

        let (stopping, stop_seen) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let readiness = identity.clone();
        let no_identity = move || no_identity(&readiness);
        let (source, operating, reviews) =
            source.follow(&state, &identity, &no_identity, &stop_seen, &mut tasks);
        let asked = Arc::clone(&state);
        let not_ready = move || match (source.why(), no_identity()) {
            (Some(source), Some(identity)) => Some(format!("{source}; {identity}")),
            (source, identity) => source.or(identity),
        };
        tasks.spawn(http::serve(Listener::Tcp(status), move |request| {
            std::future::ready(status::answer(&asked, &not_ready, &request))
        }));
        tasks.spawn(Fetcher::new(config.web).follow(Arc::clone(&state)));
        let (accepted, connections) = mpsc::channel(WAITING_CONNECTIONS);
        let accepting = tasks.spawn(peer::accept(xds, tls, accepted));

        let replica = replica::Replica {
            state: Arc::clone(&state),
            identity: identity.clone(),
            stopping: stop_seen.clone(),
        };
        let service = Discovery {
            state,
            identity: identity.clone(),
            stopping: stop_seen.clone(),
        };
        let mut server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(Some(4));
        let serving = server
            .add_service(service)
            .add_service(ReplicaServer::new(replica))
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), async {
                let mut stop_seen = stop_seen;
                // An error means that the sender is gone, which is a stop as well.
                _ = stop_seen.wait_for(|stopping| *stopping).await;
            });
        tokio::pin!(serving);
        info!(listen = %addresses.xds, status = %addresses.status, "serving");
        tokio::select! {
            served = &mut serving => if let Err(error) = served {
                error!(%error, "the server ended by itself");
            },
            () = stop => {
                info!("stopping");
                let begun = tokio::time::Instant::now();
                accepting.abort();
                stopping.send_replace(true);
                if tokio::time::timeout(STOP, serving).await.is_err() {
                    warn!("some streams did not end in time and were cut");
                }
                // It gives its Lease up, which takes a bounded time.
                if let Some(operating) = operating
                    && let Err(error) = operating.await
                {
                    error!(%error, "writing statuses ended badly");
                }
                if reviews {
                    tokio::time::sleep_until(begun + LAST_REVIEWS).await;
                }
            }
        }
        identity.shutdown();
        tasks.shutdown().await;
    }
}

fn listen(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let bound = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        // `[::]` means IPv4 as well, whatever net.ipv6.bindv6only says.
        if address.ip() == Ipv6Addr::UNSPECIFIED {
            socket.set_only_v6(false)?;
        }
        // A restart must not wait for connections of the one before.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from_std(socket.into())?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|source| BindError {
        flag,
        address: address.to_string(),
        source,
    })
}

fn no_identity(identity: &IdentitySource) -> Option<String> {
    let status = identity.status();
    (identity.current().is_none() || status.expired).then(|| status.to_string())
}
