//! What every injected sidecar of a mesh has in common.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::annotations::{self, Choices};
use super::quantity::Quantity;
use crate::problem::Problem;
use crate::yaml::trees;

/// The injection settings, a YAML file. Only the images and the trust domain have no default.
///
/// ```
/// use std::path::Path;
/// use kith_control::inject::Settings;
///
/// let text = "
/// image: registry.example/kith-proxy:0.1.0
/// captureImage: registry.example/kith-capture:0.1.0
/// trustDomain: example.org
/// defaults: {log-level: warn, memory-limit: 512Mi}
/// ";
/// let settings = Settings::parse(Path::new("injection.yaml"), text).unwrap();
/// assert_eq!(settings.control_plane.address(), "https://kith-control.kith-system.svc:15010");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Of the sidecar.
    pub image: String,
    /// Of the init container that installs the redirect rules.
    pub capture_image: String,
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// The mesh's, without `spiffe://`.
    pub trust_domain: String,
    #[serde(default)]
    pub control_plane: ControlPlane,
    #[serde(default)]
    pub workload_api: WorkloadApi,
    /// Of the volume, in memory, in which a sidecar keeps its last good configuration.
    #[serde(default = "state_size_limit")]
    pub state_size_limit: String,
    /// Of the annotation `kith.dev/injected-version`.
    #[serde(default = "version")]
    pub version: String,
    /// Values of annotations that a pod doesn't have, by their names without `kith.dev/`. Lists are in addition to the
    /// pod's own.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// Where sidecars get their configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// Its pods, and all others there, are never injected.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// `https://host:port`; else that of Service `kith-control` in the namespace.
    #[serde(default)]
    address: Option<String>,
    /// Else that of ServiceAccount `kith-control` in the namespace.
    #[serde(default)]
    spiffe_id: Option<String>,
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            namespace: namespace(),
            address: None,
            spiffe_id: None,
        }
    }
}

impl ControlPlane {
    pub fn address(&self) -> String {
        let default = || format!("https://kith-control.{}.svc:15010", self.namespace);
        self.address.clone().unwrap_or_else(default)
    }

    pub fn spiffe_id(&self, trust_domain: &str) -> String {
        let default = || {
            format!(
                "spiffe://{trust_domain}/ns/{}/sa/kith-control",
                self.namespace
            )
        };
        self.spiffe_id.clone().unwrap_or_else(default)
    }
}

/// How the SPIFFE Workload API comes into a pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadApi {
    pub csi_driver: String,
    /// The socket's file name in the driver's volume.
    pub socket_name: String,
}

impl Default for WorkloadApi {
    fn default() -> Self {
        Self {
            csi_driver: "csi.spiffe.io".into(),
            socket_name: "spire-agent.sock".into(),
        }
    }
}

fn namespace() -> String {
    "kith-system".into()
}

fn state_size_limit() -> String {
    "16Mi".into()
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

impl Settings {
    /// Reads the file's text; `file` only names it in problems.
    ///
    /// # Errors
    /// Everything wrong with it, down to the values that a sidecar would refuse at its start.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        let problem = |line, field: &str, message: String| Problem {
            file: file.into(),
            line,
            field: field.into(),
            message,
        };
        let mut documents = trees(file, text)?;
        let node = match (documents.pop(), documents.is_empty()) {
            (Some(node), true) => node,
            (None, _) => {
                return Err(vec![problem(
                    0,
                    "",
                    "is empty: needs image, captureImage and trustDomain".into(),
                )]);
            }
            (Some(_), false) => {
                return Err(vec![problem(0, "", "holds more than one document".into())]);
            }
        };
        let read = serde_path_to_error::deserialize::<_, Settings>(&node.to_json());
        let settings = read.map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { "" } else { &path };
            vec![problem(
                node.line_of(field),
                field,
                error.inner().to_string(),
            )]
        })?;
        let mistakes = settings.mistakes();
        if mistakes.is_empty() {
            return Ok(settings);
        }
        Err((mistakes.into_iter())
            .map(|(field, message)| problem(node.line_of(&field), &field, message))
            .collect())
    }

    fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut mistake = |field: &str, message: String| mistakes.push((field.to_owned(), message));
        for (field, image) in [
            ("image", &self.image),
            ("captureImage", &self.capture_image),
        ] {
            if image.is_empty() || image.contains(char::is_whitespace) {
                mistake(field, format!("`{image}` is not the name of an image"));
            }
        }
        if let Err(error) = kith_certs::TrustDomain::parse(&self.trust_domain) {
            mistake("trustDomain", format!("`{}` {error}", self.trust_domain));
        }
        if Quantity::parse(&self.state_size_limit).is_none_or(Quantity::is_zero) {
            let message = format!("`{}` is not a size such as 16Mi", self.state_size_limit);
            mistake("stateSizeLimit", message);
        }
        let WorkloadApi {
            csi_driver,
            socket_name,
        } = &self.workload_api;
        if csi_driver.is_empty() {
            mistake("workloadApi.csiDriver", "name the CSI driver".into());
        }
        if socket_name.is_empty() || socket_name.contains('/') || socket_name.starts_with("..") {
            let message =
                format!("`{socket_name}` is not the name of a file in the driver's volume");
            mistake("workloadApi.socketName", message);
        }
        // What sidecars refuse at their start is refused here, in their words.
        let control_plane = [
            (
                "controlPlane.address",
                "KITH_XDS_ADDRESS",
                self.control_plane.address(),
            ),
            (
                "controlPlane.spiffeId",
                "KITH_XDS_SPIFFE_ID",
                self.control_plane.spiffe_id(&self.trust_domain),
            ),
        ];
        for (field, variable, value) in control_plane {
            if let Err(expected) = annotations::accepted_by_the_sidecar(variable, &value) {
                mistake(field, format!("`{value}`: {expected}"));
            }
        }
        let mut problems = Vec::new();
        Choices::of_defaults(self, &mut problems);
        mistakes.extend(
            problems
                .into_iter()
                .map(|problem| (problem.field, problem.message)),
        );
        mistakes
    }
}
