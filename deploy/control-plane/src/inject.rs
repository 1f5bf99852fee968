//! The sidecar's way into a pod: a pod as JSON in, the same pod with its sidecar out. Pure, so that the webhook and
//! `kith inject` do exactly the same; only the keys of lifecycle hooks are random.
//!
//! ```text
//! asked for? ─► annotations ─► what was injected before, taken out ─► fits? ─► drain ─► probes ─► containers
//! ```
//!
//! `kith-capture` is the first init container and `kith-proxy` the second, a native sidecar. So the application's own
//! init containers start when the sidecar is ready, and their traffic is captured like the application's: what they may
//! reach is a matter of policy too, and nothing in the pod ever speaks without an identity.
//!
//! Injecting again gives the same result: what is ours is taken out first, probes get back what they said, and
//! everything is made anew. Containers that another webhook added in the meantime are treated like all others.

mod annotations;
mod containers;
mod drain;
pub mod manifest;
mod pod;
mod probes;
mod quantity;
mod requirements;
mod settings;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use self::annotations::Choices;
use self::pod::Pod;
pub use self::settings::{ControlPlane, PullPolicy, Settings, WorkloadApi};

/// Says for a namespace whether its pods get a sidecar: `enabled`, or `disabled`, which no pod can undo.
pub const NAMESPACE_LABEL: &str = "kith.dev/injection";
/// Says the same for one pod, `"true"` or `"false"`, and wins over a namespace that is enabled or says nothing.
pub const POD_LABEL: &str = "kith.dev/inject";

pub(crate) const DISABLED: &str = "disabled";

/// The sidecar's container: a pod that has it as a native sidecar is in the mesh.
pub const SIDECAR: &str = "kith-proxy";
/// The init container that installs the redirect rules.
pub const CAPTURE: &str = "kith-capture";

/// The sidecar's user and group, whose traffic is not captured.
const UID: i64 = 1337;
const HEALTH_PORT: u16 = 15021;
/// The sidecar's ports: outbound, inbound, health, admin.
const OWN_PORTS: [u16; 4] = [15001, 15006, HEALTH_PORT, 15000];

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It stays as it is, for this reason.
    Unchanged(String),
    Injected {
        pod: Value,
        /// What will work, and probably not as its author thinks.
        warnings: Vec<String>,
    },
}

/// A pod that asks for a sidecar and cannot have one: all reasons at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub problems: Vec<Mistake>,
}

/// One thing to change in a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where in the pod, e.g. `spec.hostNetwork`.
    pub field: String,
    pub message: String,
}

impl Mistake {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Gives a pod its sidecar, if it is asked for.
///
/// `namespace` is where the pod is going to be: the pod itself need not say so yet, nor have a name.
///
/// # Errors
/// The pod asks for a sidecar, and something about it is in the way.
pub fn inject(
    pod: &Value,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    settings: &Settings,
) -> Result<Outcome, Refusal> {
    match request(pod, namespace, Some(namespace_labels), settings) {
        Request::Left(reason) => return Ok(Outcome::Unchanged(reason)),
        Request::Unclear(problem) => {
            return Err(Refusal {
                problems: vec![problem],
            });
        }
        Request::Asked | Request::AskNamespace => {}
    }
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut pod = Pod::read(pod).map_err(|problems| Refusal { problems })?;
    let choices = Choices::read(&pod.annotations(), settings, &mut problems);
    pod.take_out_ours(&mut problems);
    requirements::check(&pod, settings, &mut problems, &mut warnings);
    let grace = match &choices {
        Some(choices) => drain::apply(&mut pod, choices, &mut warnings),
        // Nothing comes of it; what is wrong with probes is to be said all the same.
        None => drain::DEFAULT_GRACE,
    };
    let answered = match choices.as_ref().is_none_or(|it| it.rewrite_probes) {
        true => probes::rewrite(&mut pod, grace, &mut problems),
        false => probes::Answered::default(),
    };
    match choices {
        Some(choices) if problems.is_empty() => {
            containers::add(&mut pod, &choices, &answered, settings);
            Ok(Outcome::Injected {
                pod: pod.into_value(),
                warnings,
            })
        }
        _ => {
            problems.sort();
            problems.dedup();
            Err(Refusal { problems })
        }
    }
}

/// Looks at the ephemeral containers of a pod that has a sidecar, those it had `before` left aside. Answers with warnings.
///
/// # Errors
/// One of them could go past the sidecar.
pub(crate) fn check_ephemeral(pod: &Value, before: &Value) -> Result<Vec<String>, Refusal> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    requirements::check_ephemeral(pod, before, &mut problems, &mut warnings);
    if problems.is_empty() {
        Ok(warnings)
    } else {
        Err(Refusal { problems })
    }
}

/// Whether a pod asks for a sidecar.
pub(crate) enum Request {
    Asked,
    /// It says nothing; its namespace decides. Only without the namespace's labels.
    AskNamespace,
    /// It doesn't, for this reason.
    Left(String),
    /// It says something, and not what.
    Unclear(Mistake),
}

/// A namespace that is disabled decides, else the pod's label, else the namespace's. Anything unexpected in a pod that
/// doesn't ask is no business of ours.
pub(crate) fn request(
    pod: &Value,
    namespace: &str,
    namespace_labels: Option<&BTreeMap<String, String>>,
    settings: &Settings,
) -> Request {
    let metadata = &pod["metadata"];
    if namespace == "kube-system" || namespace == settings.control_plane.namespace {
        // The mesh itself, and what it runs on, must start without the mesh.
        return Request::Left(format!("namespace {namespace} is never injected"));
    }
    if metadata["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Request::Left("it mirrors a static pod, which only its node's files change".into());
    }
    let of_namespace = namespace_labels.map(|labels| labels.get(NAMESPACE_LABEL));
    if let Some(Some(label)) = of_namespace
        && label == DISABLED
    {
        return Request::Left(format!(
            "namespace {namespace} has label {NAMESPACE_LABEL}: {DISABLED}"
        ));
    }
    match &metadata["labels"][POD_LABEL] {
        Value::Null => {}
        Value::String(value) if value == "true" => return Request::Asked,
        Value::String(value) if value == "false" => {
            return Request::Left(format!("its label {POD_LABEL} is \"false\""));
        }
        other => {
            let said = match other {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            return Request::Unclear(Mistake::new(
                format!("metadata.labels.{POD_LABEL}"),
                format!("`{said}` is neither \"true\" nor \"false\""),
            ));
        }
    }
    let Some(of_namespace) = of_namespace else {
        return Request::AskNamespace;
    };
    match of_namespace.map(String::as_str) {
        Some("enabled") => Request::Asked,
        Some(other) => Request::Left(format!(
            "namespace {namespace} has label {NAMESPACE_LABEL}: {other}, which is neither enabled nor disabled"
        )),
        None => Request::Left(format!(
            "neither its namespace {namespace} (label {NAMESPACE_LABEL}: enabled) nor the pod (label {POD_LABEL}: \"true\") asks for a sidecar"
        )),
    }
}

#[cfg(test)]
mod tests;
