//! What the control plane makes of each object of the cluster: honoured exactly, or not and why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Which object of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    /// `AuthorizationPolicy` of `kith.dev/v1alpha1`; a kind of Istio's with its group, `AuthorizationPolicy.security.istio.io`.
    pub(crate) kind: &'static str,
    /// Empty for kinds of cluster scope.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What was found when one generation of an object was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// `field: message` each. Empty: the object is honoured exactly.
    pub(crate) problems: Vec<String>,
    /// `field: message` each: honoured, but perhaps not what its author meant.
    pub(crate) warnings: Vec<String>,
    pub(crate) effect: Effect,
    /// As the API has it now, so that a status that already says this is not written again.
    pub(crate) status: Option<serde_json::Value>,
}

/// What it comes to that sidecars have the object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It decides.
    #[default]
    Decides,
    /// A dry run, or AUDIT: it is recorded what it would have decided.
    Records,
    /// It decides, and from then on it does not.
    Until(SystemTime),
}

/// Published on a watch channel, always after the catalog that contains what it says.
pub(crate) type Verdicts = Arc<BTreeMap<ObjectKey, Arc<Verdict>>>;

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}
