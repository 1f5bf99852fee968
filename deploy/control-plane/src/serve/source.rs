//! Where what is served comes from: bound first, followed then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kith_certs::IdentitySource;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, warn};

use super::{BindError, Config, StartError, listen};
use crate::admin::{self, Socket};
use crate::http::{self, Listener};
use crate::inject;
use crate::kubernetes::{self, Cluster, Settings, health};
use crate::problem::Problem;
use crate::status::{self, State};
use crate::watch::Folder;
use crate::webhook::{self, WebhookConfig};

/// The webhook configurations that the chart installs.
const MUTATING: &str = "kith-inject";
const VALIDATING: &str = "kith-validate";

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
        webhook: Option<TcpListener>,
        injection: Option<Arc<inject::Settings>>,
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
                let webhook = settings.webhook_listen;
                let webhook = webhook.map(|address| listen("--webhook-listen", address));
                let injection = settings.injection.as_deref().map(injection).transpose();
                let client = kubernetes::client(settings.kubeconfig.as_deref()).await;
                match (health, webhook.transpose(), injection, client) {
                    (Ok((health, _)), Ok(webhook), Ok(injection), Ok(client)) => {
                        Ok(Self::Kubernetes {
                            settings: settings.clone(),
                            client,
                            health,
                            webhook: webhook.map(|(webhook, _)| webhook),
                            injection: injection.map(Arc::new),
                        })
                    }
                    (health, webhook, injection, client) => {
                        let listening = [health.err(), webhook.err()].into_iter().flatten();
                        let mut errors: Vec<_> = listening.map(StartError::Listen).collect();
                        let injection = injection.err().into_iter().flatten();
                        errors.extend(injection.map(StartError::Injection));
                        errors.extend(client.err().map(StartError::Cluster));
                        Err(errors)
                    }
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

    /// Follows it, until `tasks` are ended. What comes back says why it keeps this control plane from being ready.
    pub(super) fn follow<I>(
        self,
        state: &Arc<State>,
        identity: &IdentitySource,
        no_identity: &I,
        stopping: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Followed
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
                Followed {
                    health: None,
                    operation: None,
                }
            }
            Self::Kubernetes {
                settings,
                client,
                health,
                webhook,
                injection,
            } => {
                let cluster = Cluster::follow(&client, &settings, state, tasks);
                if let (Some(listener), Some(injection)) = (webhook, injection) {
                    admit(&cluster, &client, &settings, listener, injection, tasks);
                }
                let operation = settings.pod_name.as_ref().map(|pod| {
                    let operation = cluster.operation(&client, &settings, pod, identity, state);
                    tokio::spawn(kubernetes::operate(operation, stopping.clone()))
                });
                if operation.is_none() {
                    warn!(
                        "no --pod-name: this replica cannot be elected to write the status of objects"
                    );
                }
                let (state, others) = (Arc::clone(state), no_identity.clone());
                let asked = Arc::clone(&cluster.health);
                tasks.spawn(http::serve(Listener::Tcp(health), move |request| {
                    std::future::ready(health::answer(&asked, &state, &others, &request))
                }));
                Followed {
                    health: Some(cluster.health),
                    operation,
                }
            }
        }
    }
}

fn injection(file: &Path) -> Result<inject::Settings, Vec<Problem>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        vec![Problem {
            file: file.to_path_buf(),
            line: 0,
            field: String::new(),
            message: format!("cannot be read: {error}"),
        }]
    })?;
    inject::Settings::parse(file, &text)
}

/// Serves the webhook. This replica is not ready before the API server trusts its certificate.
fn admit(
    cluster: &Cluster,
    client: &kube::Client,
    settings: &Settings,
    listener: TcpListener,
    injection: Arc<inject::Settings>,
    tasks: &mut JoinSet<()>,
) {
    let namespaces = cluster.published.namespaces.subscribe();
    let config = WebhookConfig {
        service: kubernetes::SERVICE.into(),
        namespace: settings.namespace.clone(),
        names: vec![format!(
            "{}.{}.svc.{}",
            kubernetes::SERVICE,
            settings.namespace,
            settings.cluster_domain
        )],
        replica: (settings.pod_name.clone()).unwrap_or_else(|| kubernetes::SERVICE.into()),
        mutating: Some(MUTATING.into()),
        validating: Some(VALIDATING.into()),
        client: client.clone(),
        settings: injection,
        namespaces: Arc::new(move |namespace| {
            let labels = namespaces.borrow().get(namespace).cloned();
            labels.map(|labels| (*labels).clone())
        }),
    };
    let (ready, mut registered) = watch::channel(false);
    let waiting = || {
        let why = "its certificate is not in the `caBundle` of both webhook configurations yet";
        Some(format!("{why} ({MUTATING}, {VALIDATING})"))
    };
    let (gate, not_ready) = watch::channel(waiting());
    cluster.health.wait_for("webhook", not_ready);
    tasks.spawn(async move {
        while registered.changed().await.is_ok() {
            let registered = *registered.borrow_and_update();
            gate.send_replace(if registered { None } else { waiting() });
        }
    });
    tasks.spawn(async move {
        if let Err(error) = webhook::serve(listener, config, ready).await {
            error!(%error, "the webhook cannot be served");
        }
    });
}

/// A source that is followed.
pub(super) struct Followed {
    health: Option<Arc<health::Health>>,
    /// Writing statuses; it ends by itself at a stop, so that another replica need not wait for the Lease.
    pub(super) operation: Option<JoinHandle<()>>,
}

impl Followed {
    /// Why the source is not ready to be served from.
    pub(super) fn not_ready(&self) -> impl Fn() -> Option<String> + Clone + Send + Sync + 'static {
        let health = self.health.clone();
        move || {
            let why = health.as_ref()?.not_ready();
            (!why.is_empty()).then(|| why.join("; "))
        }
    }
}
