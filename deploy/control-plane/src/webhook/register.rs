//! Keeping this replica's certificates in the webhook configurations. They are watched, so that what somebody overwrites
//! (a chart that is applied again, another controller) is put right at once.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use rustls::ServerConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::bundle::{self, Wish};
use super::certificate::{Certificate, Issue};

const FIELD_MANAGER: &str = "kith-control";
/// Others write too: of so many attempts in a row, one succeeds.
const ATTEMPTS: usize = 10;
const RETRY: Duration = Duration::from_secs(5);
/// Between a certificate being in all bundles and its being served: API servers see the change a moment later. No more than
/// this part of the certificate's life.
const PROPAGATION: Duration = Duration::from_secs(30);
const PART_OF_LIFE: u32 = 10;
/// A machine that slept has a clock that jumped.
const CLOCK: Duration = Duration::from_secs(600);

/// Certificates that must be trusted now, counted up with every change.
#[derive(Debug, Clone)]
struct Wanted {
    generation: u64,
    /// The one that is served, then the one that is going to be.
    pems: Vec<String>,
    /// Served once, and not any more.
    retired: Vec<String>,
}

/// What a configuration says of this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It lacks the certificate that is served, or nobody has looked yet.
    Lacking,
    /// It isn't there: the API server asks nobody by it, so it needs nothing.
    Absent,
    /// It has what was wanted at this generation, the served certificate among it.
    Complete(u64),
}

/// A configuration whose bundles are ours.
pub(super) trait Registered:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static
{
    /// For which of the two; each has its place among what is registered.
    const PLACE: usize;
    fn clients(&mut self) -> Vec<&mut WebhookClientConfig>;
}

impl Registered for MutatingWebhookConfiguration {
    const PLACE: usize = 0;
    fn clients(&mut self) -> Vec<&mut WebhookClientConfig> {
        let webhooks = self.webhooks.iter_mut().flatten();
        webhooks.map(|webhook| &mut webhook.client_config).collect()
    }
}

impl Registered for ValidatingWebhookConfiguration {
    const PLACE: usize = 1;
    fn clients(&mut self) -> Vec<&mut WebhookClientConfig> {
        let webhooks = self.webhooks.iter_mut().flatten();
        webhooks.map(|webhook| &mut webhook.client_config).collect()
    }
}

/// Owns what is wanted, and knows what is there.
pub(super) struct Registrar {
    issue: Issue,
    first_renewal: SystemTime,
    wanted: watch::Sender<Wanted>,
    /// By place.
    registered: watch::Sender<[State; 2]>,
}

impl Registrar {
    pub(super) fn new(first: Certificate, issue: Issue) -> Self {
        Self {
            issue,
            first_renewal: first.renew_at,
            wanted: watch::Sender::new(Wanted {
                generation: 1,
                pems: vec![first.pem],
                retired: Vec::new(),
            }),
            registered: watch::Sender::new([State::Lacking; 2]),
        }
    }

    /// Tells whether no configuration lacks what it needs. One that somebody has deleted is no reason not to be ready:
    /// sidecars need this replica, and so does the other configuration. Never ends.
    pub(super) async fn tell(&self, ready: &watch::Sender<bool>) {
        let mut registered = self.registered.subscribe();
        loop {
            let all = !registered.borrow_and_update().contains(&State::Lacking);
            let changed = ready.send_if_modified(|ready| std::mem::replace(ready, all) != all);
            if changed && all {
                info!("the API server can call the webhook");
            }
            // Never closed: the sender is ours.
            if registered.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps one configuration. Never ends.
    pub(super) async fn keep<K: Registered>(&self, client: Client, name: Option<String>) {
        let Some(name) = name else {
            self.note::<K>(State::Absent);
            return std::future::pending().await;
        };
        let api: Api<K> = Api::all(client);
        let mut seen = std::pin::pin!(watcher::watch_object(api.clone(), &name).default_backoff());
        let mut wanted = self.wanted.subscribe();
        let mut current = None;
        let mut retry = false;
        let mut first = true;
        loop {
            tokio::select! {
                event = seen.next() => match event {
                    Some(Ok(Some(configuration))) => current = Some(configuration),
                    Some(Ok(None)) => {
                        current = None;
                        self.note::<K>(State::Absent);
                        warn!(kind = %K::kind(&()), name, "is not there, so the API server doesn't call this webhook: install the chart");
                    }
                    // What was there is still there, as far as is known.
                    Some(Err(error)) => {
                        warn!(kind = %K::kind(&()), name, %error, "cannot be watched");
                        continue;
                    }
                    None => return,
                },
                changed = wanted.changed() => if changed.is_err() { return },
                () = sleep(RETRY), if retry => {}
            }
            let now = wanted.borrow_and_update().clone();
            let Some(configuration) = &mut current else {
                retry = false;
                continue;
            };
            let put = self.put::<K>(&api, &name, configuration, &now, first).await;
            retry = put.is_err();
            first &= retry;
        }
    }

    /// Adds what is wanted, on whatever others have written in the meantime. What was seen may be of a moment ago, so
    /// nothing is said to be missing before it could not be put there; and `configuration` stays what the API server has.
    async fn put<K: Registered>(
        &self,
        api: &Api<K>,
        name: &str,
        configuration: &mut K,
        wanted: &Wanted,
        first: bool,
    ) -> Result<(), ()> {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        for _ in 0..ATTEMPTS {
            let mut completed = configuration.clone();
            if !self.complete(&mut completed, wanted, first) {
                self.note::<K>(State::Complete(wanted.generation));
                return Ok(());
            }
            let written = match api.replace(name, &params, &completed).await {
                // Somebody was faster: their version, with ours added.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    debug!(kind = %K::kind(&()), name, "was changed by another; again");
                    api.get(name).await
                }
                written => written,
            };
            match written {
                Ok(written) => *configuration = written,
                Err(error) => {
                    error!(kind = %K::kind(&()), name, %error, "this replica's certificate cannot be added, so the API server can't call it");
                    return self.failed(configuration, wanted);
                }
            }
        }
        warn!(kind = %K::kind(&()), name, "others keep changing it");
        self.failed(configuration, wanted)
    }

    /// What could not be added may be the next certificate alone: with the one that is served all goes on.
    fn failed<K: Registered>(&self, configuration: &mut K, wanted: &Wanted) -> Result<(), ()> {
        let served = wanted.pems.first().map_or("", String::as_str);
        let mut clients = configuration.clients().into_iter();
        let trusted = clients.all(|client| {
            let bundle = client.ca_bundle.as_ref();
            bundle.is_some_and(|bundle| bundle::contains(&bundle.0, served))
        });
        if !trusted {
            self.note::<K>(State::Lacking);
        }
        Err(())
    }

    /// Completes the bundles; true when something had to change.
    fn complete<K: Registered>(&self, configuration: &mut K, wanted: &Wanted, first: bool) -> bool {
        let replica = self.issue.common_name();
        let mut changed = false;
        for client in configuration.clients() {
            let current = client
                .ca_bundle
                .as_ref()
                .map_or(&[][..], |bundle| &bundle.0);
            let wish = Wish {
                own: &wanted.pems,
                retired: &wanted.retired,
                predecessor: first.then_some(&replica),
            };
            let merged = bundle::merged(current, &wish, SystemTime::now());
            if let Some(merged) = merged {
                client.ca_bundle = Some(ByteString(merged));
                changed = true;
            }
        }
        changed
    }

    fn note<K: Registered>(&self, state: State) {
        self.registered.send_if_modified(|registered| {
            std::mem::replace(&mut registered[K::PLACE], state) != state
        });
    }

    /// Renews the certificate at half its life: the next one is trusted everywhere before it is served, and the one before
    /// until it isn't any more. Never ends.
    pub(super) async fn rotate(&self, tls: &watch::Sender<Arc<ServerConfig>>) {
        let mut renew_at = self.first_renewal;
        loop {
            while let Ok(left) = renew_at.duration_since(SystemTime::now()) {
                sleep(left.min(CLOCK)).await;
            }
            let next = match self.issue.certificate() {
                Ok(next) => next,
                Err(error) => {
                    error!(%error, "the certificate that is served stays");
                    sleep(CLOCK).await;
                    continue;
                }
            };
            let generation = self.want(|wanted| wanted.pems.push(next.pem.clone()));
            let mut registered = self.registered.subscribe();
            let everywhere = |registered: &[State; 2]| {
                registered.iter().all(|it| match it {
                    State::Lacking => false,
                    State::Absent => true,
                    State::Complete(has) => *has >= generation,
                })
            };
            if registered.wait_for(everywhere).await.is_err() {
                return;
            }
            sleep(PROPAGATION.min(self.issue.lifetime / PART_OF_LIFE)).await;
            tls.send_replace(Arc::clone(&next.tls));
            self.want(|wanted| {
                let before = std::mem::replace(&mut wanted.pems, vec![next.pem.clone()]);
                wanted.retired = before.into_iter().filter(|pem| *pem != next.pem).collect();
            });
            renew_at = next.renew_at;
            info!("the webhook serves with a new certificate");
        }
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) -> u64 {
        self.wanted.send_modify(|wanted| {
            wanted.generation += 1;
            change(wanted);
        });
        self.wanted.borrow().generation
    }
}
