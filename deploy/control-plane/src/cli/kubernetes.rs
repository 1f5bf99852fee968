//! The flags of `serve --kubernetes`.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::address;
use crate::inject::Settings;
use crate::serve::{Kubernetes, Webhook};

/// Shorter, and API servers could not follow; longer, and a stolen key would be of use for long.
const CERTIFICATE_SECONDS: RangeInclusive<u64> = 10..=90 * 24 * 3600;
const A_WEEK: &str = "604800";

// Addresses stay text here, so that all mistakes can be told at once.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// With --kubernetes: accept Istio's AuthorizationPolicy, PeerAuthentication and RequestAuthentication as well.
    #[arg(long)]
    accept_istio: bool,
    /// With --kubernetes: how the API server is reached. Else $KUBECONFIG, else as a pod of the cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// With --kubernetes: the namespace this control plane runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kith-system")]
    namespace: String,
    /// With --kubernetes: the pod that this control plane is.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod_name: Option<String>,
    /// With --kubernetes: that pod's address.
    #[arg(long, value_name = "IP", env = "POD_IP")]
    pod_ip: Option<String>,
    /// With --kubernetes: where the API server asks the webhook; `off` for none.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15017")]
    webhook_listen: String,
    /// With --kubernetes: for how many seconds the webhook's certificate is valid, 10 to 7776000 (90 days); it is renewed at
    /// half of that.
    #[arg(long, value_name = "SECONDS", default_value = A_WEEK)]
    webhook_certificate_seconds: String,
    /// With --kubernetes: where /ready, /live and /metrics are, for the kubelet and Prometheus.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15021")]
    health_listen: String,
    /// With --kubernetes: the settings of the injection, needed by the webhook.
    #[arg(long, value_name = "FILE")]
    injection: Option<PathBuf>,
    /// With --kubernetes: what the cluster's names in DNS end in.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
}

fn injection_settings(file: &Path, mistakes: &mut Vec<String>) -> Option<Arc<Settings>> {
    let read = match std::fs::read_to_string(file) {
        Ok(text) => Settings::parse(file, &text),
        Err(error) => {
            mistakes.push(format!("--injection: `{}`: {error}", file.display()));
            return None;
        }
    };
    match read {
        Ok(settings) => Some(Arc::new(settings)),
        Err(problems) => {
            let problems = problems.iter();
            mistakes.extend(problems.map(|problem| format!("--injection: {problem}")));
            None
        }
    }
}

fn certificate_lifetime(text: &str, mistakes: &mut Vec<String>) -> Option<Duration> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| CERTIFICATE_SECONDS.contains(seconds));
    if seconds.is_none() {
        mistakes.push(format!(
            "--webhook-certificate-seconds: `{text}` is not a number from 10 to 7776000"
        ));
    }
    seconds.map(Duration::from_secs)
}

impl Flags {
    /// A flag that would have no effect is a mistake; one that a pod's environment sets is none.
    pub(super) fn refuse(&self, mistakes: &mut Vec<String>) {
        let given = [
            ("--accept-istio", self.accept_istio),
            ("--kubeconfig", self.kubeconfig.is_some()),
            ("--injection", self.injection.is_some()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        mistakes.extend(given.map(|(flag, _)| format!("{flag}: only with --kubernetes")));
    }

    pub(super) fn configure(self, mistakes: &mut Vec<String>) -> Option<Kubernetes> {
        let pod_ip = self.pod_ip.as_deref().filter(|text| !text.is_empty());
        let pod_ip: Option<IpAddr> = pod_ip.and_then(|text| {
            let parsed = text.parse();
            parsed
                .map_err(|_| mistakes.push(format!("--pod-ip: `{text}` is not an IP address")))
                .ok()
        });
        let webhook_listen: Option<SocketAddr> = match self.webhook_listen.as_str() {
            "off" => None,
            text => address("--webhook-listen", text, mistakes),
        };
        let lifetime = certificate_lifetime(&self.webhook_certificate_seconds, mistakes);
        let injection = self.injection.as_deref();
        let webhook = match (webhook_listen, injection) {
            (Some(listen), Some(file)) => {
                let injection = injection_settings(file, mistakes);
                injection
                    .zip(lifetime)
                    .map(|(injection, lifetime)| Webhook {
                        listen,
                        injection,
                        certificate_lifetime: lifetime,
                    })
            }
            (Some(_), None) => {
                mistakes.push(
                    "--injection: required, the settings that pods are injected with; without a webhook: \
                     --webhook-listen off"
                        .into(),
                );
                None
            }
            (None, _) => None,
        };
        let domain = self.cluster_domain.trim_matches('.').to_ascii_lowercase();
        if domain.is_empty() || domain.split('.').any(str::is_empty) {
            mistakes.push(format!(
                "--cluster-domain: `{}` is not a domain such as `cluster.local`",
                self.cluster_domain
            ));
        }
        let health_listen = address("--health-listen", &self.health_listen, mistakes)?;
        Some(Kubernetes {
            kubeconfig: self.kubeconfig,
            accept_istio: self.accept_istio,
            namespace: self.namespace,
            pod_name: self.pod_name.filter(|name| !name.is_empty()),
            pod_ip,
            webhook,
            health_listen,
            cluster_domain: domain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_for_a_week_unless_something_else_is_said() {
        for (text, expected) in [
            (A_WEEK, Some(7 * 24 * 3600)),
            ("10", Some(10)),
            ("9", None),
            ("7776001", None),
            ("168h", None),
            ("-1", None),
            ("", None),
        ] {
            let mut mistakes = Vec::new();
            let lifetime = certificate_lifetime(text, &mut mistakes);
            assert_eq!(lifetime.map(|it| it.as_secs()), expected, "{text}");
            assert_eq!(mistakes.len(), usize::from(expected.is_none()), "{text}");
        }
    }
}
