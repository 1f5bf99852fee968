//! Kith, installed as people install it: `helm template | kubectl apply`, the CRDs first.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use kith::lab::Output;

use super::Cluster;
use super::node::Pod;

/// Where it is installed.
pub const NAMESPACE: &str = "kith-system";

/// The chart.
#[must_use]
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart")
}

impl Cluster {
    /// The chart's manifests, CRDs included, with some values.
    ///
    /// # Panics
    /// When helm refuses.
    pub async fn template(&self, values: &[&str]) -> String {
        let chart = chart();
        let mut arguments = vec![
            "template",
            "kith",
            chart.to_str().unwrap(),
            "--namespace",
            NAMESPACE,
            // Without a cluster to ask, helm has to be told.
            "--kube-version",
            "1.36.3",
        ];
        arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
        let output = self.api.helm(&self.machine, &arguments).await;
        assert!(output.status.success(), "helm: {}", output.stderr);
        output.stdout
    }

    /// Applies the chart's CRDs and waits until the API server serves them.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn install_crds(&self) {
        let folder = chart().join("crds");
        let folder = folder.to_str().unwrap();
        self.must(&["apply", "--server-side", "-f", folder]).await;
        self.must(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "-f",
            folder,
        ])
        .await;
    }

    /// Installs Kith with some values of the chart, and waits until every replica of the control plane is ready.
    ///
    /// # Panics
    /// When something is refused, or never is ready.
    pub async fn install(&self, values: &[&str]) {
        self.install_crds().await;
        let output = self.apply_chart(values).await;
        assert!(output.status.success(), "{}", output.stderr);
        let replicas = values
            .iter()
            .find_map(|value| value.strip_prefix("control.replicas="));
        let replicas = replicas.map_or(2, |number| number.parse().unwrap());
        self.control_plane(replicas).await;
    }

    /// Applies the chart's manifests. A bad exit code is no error.
    ///
    /// # Panics
    /// When helm refuses.
    pub async fn apply_chart(&self, values: &[&str]) -> Output {
        let manifests = self.template(values).await;
        let namespace =
            format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}");
        self.apply(&namespace).await;
        let file = self.file(&manifests);
        let file = file.to_str().unwrap();
        // The namespace is for what is in one and does not say which.
        self.kubectl(&["apply", "--server-side", "-n", NAMESPACE, "-f", file])
            .await
    }

    /// The ready replicas of the control plane, of which there must be as many.
    ///
    /// # Panics
    /// When there never are.
    pub async fn control_plane(&self, replicas: usize) -> Vec<Rc<Pod>> {
        let label = ("app.kubernetes.io/name", "kith-control");
        self.ready_by(NAMESPACE, label, replicas).await
    }
}
