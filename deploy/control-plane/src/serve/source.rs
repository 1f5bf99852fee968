//! Where what is served comes from: bound first, followed then.

use std::path::PathBuf;
use std::sync::Arc;

use kith_certs::IdentitySource;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{BindError, Config, StartError, listen};
use crate::admin::{self, Socket};
use crate::http::{self, Listener};
use crate::kubernetes::{self, Cluster, Settings, health};
use crate::status::{self, State};
use crate::watch::Folder;

/// Where what is served comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A folder of YAML.
    Files(PathBuf),
    /// The Kubernetes API.
    Kubernetes(Settings),
}

/// What of it had to be there before anything starts.
pub(super) enum Bound {
    Files {
        dir: PathBuf,
        admin: Option<Socket>,
    },
    Kubernetes {
        settings: Settings,
        client: kube::Client,
        health: TcpListener,
    },
}

impl Bound {
    pub(super) async fn new(config: &Config) -> Result<Self, Vec<StartError>> {
        match &config.source {
            Source::Files(dir) => {
                let admin = config.admin_socket.as_deref().map(|path| {
                    Socket::bind(path).map_err(|source| {
                        vec![StartError::Listen(BindError {
                            flag: "--admin-socket",
                            address: path.display().to_string(),
                            source,
                        })]
                    })
                });
                Ok(Self::Files {
                    dir: dir.clone(),
                    admin: admin.transpose()?,
                })
            }
            Source::Kubernetes(settings) => {
                let health = listen("--health-listen", settings.health_listen);
                let client = kubernetes::client(settings.kubeconfig.as_deref()).await;
                match (health, client) {
                    (Ok((health, _)), Ok(client)) => Ok(Self::Kubernetes {
                        settings: settings.clone(),
                        client,
                        health,
                    }),
                    (health, client) => Err([
                        health.err().map(StartError::Listen),
                        client.err().map(StartError::Cluster),
                    ]
                    .into_iter()
                    .flatten()
                    .collect()),
                }
            }
        }
    }

    pub(super) fn kind(&self) -> status::Source {
        match self {
            Self::Files { .. } => status::Source::Files,
            Self::Kubernetes { .. } => status::Source::Cluster,
        }
    }

    /// Follows it, until `tasks` are ended. What comes back says why it keeps this control plane from being ready, and is
    /// what has to be waited for after `stopping`.
    pub(super) fn follow<I>(
        self,
        state: &Arc<State>,
        identity: &IdentitySource,
        no_identity: &I,
        stopping: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> (NotReady, Option<JoinHandle<()>>)
    where
        I: Fn() -> Option<String> + Clone + Send + Sync + 'static,
    {
        match self {
            Self::Files { dir, admin } => {
                if let Some(admin) = admin {
                    let orders =
                        admin::Orders::new(Arc::clone(state), dir.clone(), no_identity.clone());
                    tasks.spawn(admin::serve(admin, orders));
                }
                tasks.spawn(Folder::new(dir).follow(Arc::clone(state)));
                (NotReady(None), None)
            }
            Self::Kubernetes {
                settings,
                client,
                health,
            } => {
                let cluster = Cluster::follow(&client, &settings, state, tasks);
                let operation = cluster.operation(client, &settings, state, identity);
                let operating = tokio::spawn(kubernetes::operate(operation, stopping.clone()));
                let (state, others) = (Arc::clone(state), no_identity.clone());
                let asked = Arc::clone(&cluster.health);
                tasks.spawn(http::serve(Listener::Tcp(health), move |request| {
                    std::future::ready(health::answer(&asked, &state, &others, &request))
                }));
                (NotReady(Some(cluster.health)), Some(operating))
            }
        }
    }
}

/// Why the source is not ready to be served from.
#[derive(Clone)]
pub(super) struct NotReady(Option<Arc<health::Health>>);

impl NotReady {
    pub(super) fn why(&self) -> Option<String> {
        let why = self.0.as_ref()?.not_ready();
        (!why.is_empty()).then(|| why.join("; "))
    }
}
