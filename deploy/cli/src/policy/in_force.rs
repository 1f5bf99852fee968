//! The policies of one workload, on the way that they take to its sidecar: read, resolved, encoded, translated.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

use kith_control::catalog::Node;
use kith_control::check::{Warning, check};
use kith_control::jwks::KeySets;
use kith_control::resolve::{Resolved, resolve};
use kith_control::yaml::{Loaded, load_dir, load_str};
use kith_control::{Problem, yaml};
use kith_proxy::rehearse::Sidecar;
use kith_xds_client::api::mesh as wire;
use prost::Message;
use serde_json::{Value, json};

/// The one workload that there is, in its own namespace.
const WORKLOAD: &str = "workload";

/// The mesh and the workload as a test file states them.
pub(super) struct World {
    /// The `spec` of a MeshConfig.
    pub(super) mesh: Value,
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    /// As in the `spec` of a Workload.
    pub(super) ports: Value,
}

impl World {
    /// The sidecar of the workload, when these are the policies.
    ///
    /// # Errors
    /// Everything wrong with any of it; `mesh` and `workload` under the names that a test file has for them.
    pub(super) fn sidecar(
        &self,
        file: &Path,
        policies: Vec<Loaded>,
    ) -> Result<(Sidecar, Vec<Warning>), Vec<Problem>> {
        let workload = json!({
            "apiVersion": "kith.dev/v1alpha1",
            "kind": "Workload",
            "metadata": {"namespace": self.namespace, "name": WORKLOAD, "labels": self.labels},
            "spec": {"serviceAccount": WORKLOAD, "addresses": ["192.0.2.2"], "ports": self.ports},
        });
        // One namespace over the whole mesh: a policy test has no mTLS mode unless it brings one.
        let permissive = json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"namespace": self.namespace, "name": "permissive"},
            "spec": {"mtls": {"mode": "PERMISSIVE"}},
        });
        let workload = load_str(file, &workload.to_string()).map_err(|found| {
            let names = [("metadata.", "workload."), ("spec.", "workload.")];
            renamed(found, &names)
        });
        let (mesh, workload) = match (self.mesh_config(file), workload) {
            (Ok(mesh), Ok(workload)) => (mesh, workload),
            (mesh, workload) => {
                let mut problems = mesh.err().unwrap_or_default();
                problems.extend(workload.err().unwrap_or_default());
                return Err(problems);
            }
        };
        let mut parts = vec![mesh, workload];
        let has_modes = policies
            .iter()
            .flat_map(Loaded::files)
            .any(|documents| !documents.peer_authentications.is_empty());
        parts.extend(policies);
        if !has_modes {
            parts.push(load_str(file, &permissive.to_string())?);
        }
        let loaded = Loaded::join(file, parts);
        let Resolved { catalog, .. } = resolve(&loaded, &KeySets::default())?;
        let id = format!("{}/{WORKLOAD}", self.namespace);
        let node = catalog.node(&id).ok_or_else(|| vec![lost(file, &id)])?;
        let sidecar = sidecar_of(file, node)?;
        let found = check(&loaded, SystemTime::now());
        Ok((sidecar, told(found, &self.ports)))
    }

    fn mesh_config(&self, file: &Path) -> Result<Loaded, Vec<Problem>> {
        let document = json!({
            "apiVersion": "kith.dev/v1alpha1",
            "kind": "MeshConfig",
            "metadata": {"name": "mesh"},
            "spec": self.mesh,
        });
        load_str(file, &document.to_string()).map_err(|found| renamed(found, &[("spec.", "")]))
    }
}

/// The sidecar of a workload in a folder as `kith-control` serves it, or in one file of such documents.
///
/// # Errors
/// Why the folder cannot be served, or that there is no such workload in it.
pub(super) fn in_folder(path: &Path, workload: &str) -> Result<Sidecar, Vec<Problem>> {
    let loaded = if path.is_dir() {
        load_dir(path)?
    } else {
        load_str(path, &read(path)?)?
    };
    let resolved = resolve(&loaded, &KeySets::default())?;
    let Some(node) = resolved.catalog.node(workload) else {
        let mut known: Vec<&str> = resolved.catalog.nodes().map(|(id, _)| id).collect();
        known.sort_unstable();
        let message = match known.as_slice() {
            [] => format!("no workload `{workload}` with a sidecar, and no other either"),
            _ => format!(
                "no workload `{workload}` with a sidecar; there are {}",
                known.join(", ")
            ),
        };
        return Err(vec![about(path, message)]);
    };
    sidecar_of(path, node)
}

/// # Errors
/// That the file cannot be read.
pub(super) fn read(path: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(path)
        .map_err(|error| vec![about(path, format!("cannot be read: {error}"))])
}

/// What a policy test has no use for: there is nobody to serve, and tests say themselves what the mesh is like.
pub(super) fn not_policies(loaded: &Loaded) -> Vec<Problem> {
    fn refuse<T>(documents: &[yaml::Document<T>], message: &str, problems: &mut Vec<Problem>) {
        problems.extend(documents.iter().map(|it| it.place.problem("kind", message)));
    }
    let mut problems = Vec::new();
    for file in loaded.files() {
        let message =
            "a test file says itself what the mesh is like: use `trustDomain`, `defaultAction`, …";
        refuse(&file.mesh_configs, message, &mut problems);
        let message = "a test file says itself what the workload is like: use `workload`";
        refuse(&file.workloads, message, &mut problems);
        refuse(
            &file.services,
            "nothing in a policy test asks for a Service",
            &mut problems,
        );
        let message = "nothing is revoked in a policy test: expect the decision of the policies";
        refuse(&file.revocations, message, &mut problems);
    }
    problems
}

fn sidecar_of(file: &Path, node: &Node) -> Result<Sidecar, Vec<Problem>> {
    let broken = |error: prost::DecodeError| vec![about(file, error.to_string())];
    let config = wire::WorkloadConfig::decode(node.config().content()).map_err(broken)?;
    let mut policies = HashMap::new();
    for (name, policy) in node.policies() {
        let policy = wire::AuthorizationPolicy::decode(policy.content()).map_err(broken)?;
        policies.insert(name.to_owned(), policy);
    }
    // The control plane asked the same functions before it encoded them: this is for versions that differ.
    Sidecar::new(&node.id, &config, &policies).map_err(|errors| {
        errors
            .into_iter()
            .map(|error| about(file, format!("a sidecar refuses this: {error}")))
            .collect()
    })
}

/// By the names that a test file has for the fields of a synthetic document. Without a line: whoever knows the test
/// file finds it by the field.
fn renamed(problems: Vec<Problem>, names: &[(&str, &str)]) -> Vec<Problem> {
    let rename = |problem: Problem| {
        let field = names.iter().find_map(|(theirs, ours)| {
            let rest = problem.field.strip_prefix(theirs)?;
            Some(format!("{ours}{rest}"))
        });
        Problem {
            field: field.unwrap_or_default(),
            line: 0,
            ..problem
        }
    };
    problems.into_iter().map(rename).collect()
}

/// What `kith policy check` would say of the policies themselves. What depends on the rest of the mesh says nothing here,
/// where there is one workload and whatever callers a test names.
fn told(mut warnings: Vec<Warning>, ports: &Value) -> Vec<Warning> {
    let declares_ports = ports.as_array().is_some_and(|ports| !ports.is_empty());
    warnings.retain(|warning| match warning.code {
        "surprising" | "never-matches" | "shadowed" | "overlapping" => true,
        "wider-on-opaque-port" | "no-such-port" => declares_ports,
        _ => false,
    });
    warnings
}

fn lost(file: &Path, id: &str) -> Problem {
    about(file, format!("the workload `{id}` got no configuration"))
}

pub(super) fn about(file: &Path, message: String) -> Problem {
    Problem {
        file: file.to_path_buf(),
        line: 0,
        field: String::new(),
        message,
    }
}
