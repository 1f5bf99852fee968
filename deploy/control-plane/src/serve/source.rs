//! Where what is served comes from: bound first, followed then.

use std::path::PathBuf;
use std::sync::Arc;

use kith_certs::IdentitySource;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::error;

use super::{BindError, Config, StartError, listen};
use crate::admin::{self, Socket};
use crate::http::{self, Listener};
use crate::kubernetes::{self, Cluster, Settings, health};
use crate::status::{self, State};
use crate::watch::Folder;
use crate::webhook::{self, WebhookConfig};

/// The Service of the control plane, as the chart has it.
const SERVICE: &str = "kith-control";

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
        settings: Box<Settings>,
        client: kube::Client,
        health: TcpListener,
        webhook: Option<TcpListener>,
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
                let webhook = settings.webhook.as_ref();
                let webhook = webhook.map(|webhook| listen("--webhook-listen", webhook.listen));
                let client = kubernetes::client(settings.kubeconfig.as_deref()).await;
                match (health, webhook.transpose(), client) {
                    (Ok((health, _)), Ok(webhook), Ok(client)) => Ok(Self::Kubernetes {
                        settings: Box::new(settings.clone()),
                        client,
                        health,
                        webhook: webhook.map(|(webhook, _)| webhook),
                    }),
                    (health, webhook, client) => Err([
                        health.err().map(StartError::Listen),
                        webhook.err().map(StartError::Listen),
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

    /// Follows it, until `tasks` are ended. What comes back says why it keeps this control plane from being ready, is what
    /// has to be waited for after `stopping`, and whether the API server asks this program about what somebody applies.
    pub(super) fn follow<I>(
        self,
        state: &Arc<State>,
        identity: &IdentitySource,
        no_identity: &I,
        stopping: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> (NotReady, Option<JoinHandle<()>>, bool)
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
                (NotReady(None), None, false)
            }
            Self::Kubernetes {
                settings,
                client,
                health,
                webhook,
            } => {
                let cluster = Cluster::follow(&client, &settings, state, tasks);
                let reviews = webhook.is_some();
                if let Some(listener) = webhook {
                    admit(listener, client.clone(), &settings, &cluster, tasks);
                }
                let operation = cluster.operation(client, &settings, state, identity);
                let operating = tokio::spawn(kubernetes::operate(operation, stopping.clone()));
                let (state, others) = (Arc::clone(state), no_identity.clone());
                let asked = Arc::clone(&cluster.health);
                tasks.spawn(http::serve(Listener::Tcp(health), move |request| {
                    std::future::ready(health::answer(&asked, &state, &others, &request))
                }));
                (NotReady(Some(cluster.health)), Some(operating), reviews)
            }
        }
    }
}

/// The API server asks this program about what somebody applies. Not ready before it can.
fn admit(
    listener: TcpListener,
    client: kube::Client,
    settings: &Settings,
    cluster: &Cluster,
    tasks: &mut JoinSet<()>,
) {
    let Some(webhook) = &settings.webhook else {
        return;
    };
    let namespaces = cluster.published.namespaces.subscribe();
    let config = WebhookConfig {
        service: SERVICE.into(),
        namespace: settings.namespace.clone(),
        names: settings.pod_ip.iter().map(ToString::to_string).collect(),
        replica: settings.pod_name.clone().unwrap_or_else(|| SERVICE.into()),
        certificate_lifetime: webhook.certificate_lifetime,
        mutating: Some("kith-inject".into()),
        validating: Some("kith-validate".into()),
        client,
        settings: Arc::clone(&webhook.injection),
        namespaces: Arc::new(move |name| {
            let labels = namespaces.borrow().get(name).cloned()?;
            Some((*labels).clone())
        }),
    };
    let (ready, gate) = watch::channel(false);
    let why = "the API server does not trust the webhook yet: its certificate is not in the caBundle of kith-inject and \
               kith-validate";
    cluster.health.wait_for(why, gate);
    tasks.spawn(async move {
        if let Err(error) = webhook::serve(listener, config, ready).await {
            error!("the webhook cannot serve: {error}");
        }
    });
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
