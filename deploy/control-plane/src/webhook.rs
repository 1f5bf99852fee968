//! Admission: pods get their sidecar, and documents that cannot be honoured are refused, over HTTPS with a certificate of
//! our own.
//!
//! ```text
//! certificate ─► register: in the webhook configurations' caBundle? ─► ready
//! API server ─► http ─► review ─► inject | validate
//! ```
//!
//! Every replica makes its certificate and its key in memory, and nothing but the certificate ever leaves the process: the
//! API server trusts all replicas' certificates, since they stand beside each other in `caBundle`. There is no CA
//! whose key could be stolen, no Secret, and nothing to install.
//!
//! What the chart's MutatingWebhookConfiguration (`kith-inject`, path `/inject`) must say:
//! - two webhooks, both for CREATE of pods, neither for `kube-system` or the control plane's own namespace
//!   (`kubernetes.io/metadata.name`), because what the mesh needs to start must not wait for it:
//!   one for namespaces with `kith.dev/injection: enabled` and pods without `kith.dev/inject: "false"`, one for pods
//!   with `kith.dev/inject` and any other value in namespaces that are neither enabled nor disabled;
//! - `failurePolicy: Fail`: a pod without a sidecar where one is asked for would be a pod without protection;
//! - `reinvocationPolicy: IfNeeded`: another webhook may add containers, whose probes then have to be rewritten;
//! - `sideEffects: None`, so that `--dry-run=server` works, and `timeoutSeconds: 10`;
//! - no `caBundle`: that field is ours.
//!
//! The ValidatingWebhookConfiguration (`kith-validate`, path `/validate`) is for CREATE and UPDATE of `kith.dev` kinds,
//! and for what `kubectl debug` adds to pods that have a sidecar (UPDATE of `pods/ephemeralcontainers`).

mod bundle;
mod certificate;
mod http;
mod register;
mod review;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::certificate::CertificateError;
use self::register::Registrar;
use self::review::Reviewer;
use crate::inject::Settings;

/// The labels of a namespace, as far as they are known; they may be those of a moment ago.
pub(crate) type NamespaceLabels =
    Arc<dyn Fn(&str) -> Option<BTreeMap<String, String>> + Send + Sync>;

pub(crate) struct WebhookConfig {
    /// The Service by which the API server finds the webhook, and its namespace.
    pub(crate) service: String,
    pub(crate) namespace: String,
    /// Other names and addresses in the certificate, for `clientConfig.url`.
    pub(crate) names: Vec<String>,
    /// This replica's own name: its pod's.
    pub(crate) replica: String,
    /// How long its certificate is valid. It is renewed at half of that.
    pub(crate) certificate_lifetime: Duration,
    /// The configurations that are to trust this replica. None: somebody else sees to it.
    pub(crate) mutating: Option<String>,
    pub(crate) validating: Option<String>,
    pub(crate) client: kube::Client,
    pub(crate) settings: Arc<Settings>,
    pub(crate) namespaces: NamespaceLabels,
}

/// Serves until dropped. `ready` says whether the API server can trust this replica, as far as the configurations tell.
///
/// # Errors
/// No certificate can be made. While it serves, nothing ends it.
pub(crate) async fn serve(
    listener: TcpListener,
    config: WebhookConfig,
    ready: watch::Sender<bool>,
) -> Result<(), CertificateError> {
    let WebhookConfig {
        service,
        namespace,
        names,
        replica,
        certificate_lifetime,
        mutating,
        validating,
        client,
        settings,
        namespaces,
    } = config;
    // The API server asks for `<service>.<namespace>.svc`; people who try it, for the rest.
    let own = [
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
        format!("{service}.{namespace}"),
    ];
    let issue = certificate::Issue {
        names: own.into_iter().chain(names).collect(),
        replica,
        lifetime: certificate_lifetime,
    };
    let first = issue.certificate()?;
    let (tls, serving) = watch::channel(Arc::clone(&first.tls));
    let reviewer = Arc::new(Reviewer {
        settings,
        namespaces,
        client: client.clone(),
    });
    let registrar = Registrar::new(first, issue);
    let inject = registrar.keep::<MutatingWebhookConfiguration>(client.clone(), mutating);
    let validate = registrar.keep::<ValidatingWebhookConfiguration>(client, validating);
    tokio::select! {
        () = http::serve(listener, serving, reviewer) => {}
        () = inject => {}
        () = validate => {}
        () = registrar.rotate(&tls) => {}
        () = registrar.tell(&ready) => {}
    }
    Ok(())
}
