//! What is allowed and surely surprises someone: said before anything is served, to whoever writes policies.
//!
//! Pure: documents and the time of now give warnings. Each is so whatever the traffic; not all that could be
//! said is found.

mod authentication;
mod policy;

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::catalog::Counts;
use crate::jwks::KeySets;
use crate::problem::Problem;
use crate::resolve::mtls::{self, Modes};
use crate::resolve::select::{Index, Scope};
use crate::resolve::{resolve, the_mesh_config};
use crate::yaml::schema::{MeshConfig, Selector, Workload};
use crate::yaml::{Document, Loaded, Place, load_dir};

/// One thing that probably isn't what its author meant. Ordered by file and line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    #[serde(flatten)]
    pub problem: Problem,
    /// The document: kind and name, e.g. `AuthorizationPolicy shop/orders`.
    pub object: String,
    /// What kind of warning it is; never renamed.
    pub code: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            file,
            line,
            field,
            message,
        } = &self.problem;
        write!(f, "{}:{line}: {}: ", file.display(), self.object)?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(message)
    }
}

/// A folder that can be served.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    pub counts: Counts,
    pub warnings: Vec<Warning>,
}

/// Reads a folder as `serve` would, and says what is surprising in it.
///
/// # Errors
/// Why it cannot be served.
pub fn check_dir(dir: &Path, now: SystemTime) -> Result<Checked, Vec<Problem>> {
    let loaded = load_dir(dir)?;
    let resolved = resolve(&loaded, &KeySets::default())?;
    Ok(Checked {
        counts: resolved.catalog.counts,
        warnings: check(&loaded, now),
    })
}

/// What is surprising in documents that can be served; nothing is said of others.
pub fn check(loaded: &Loaded, now: SystemTime) -> Vec<Warning> {
    let Ok(mesh) = the_mesh_config(loaded) else {
        return Vec::new();
    };
    let index = Index::new(loaded.files().flat_map(|file| &file.workloads));
    let mut overlapping = std::collections::BTreeSet::new();
    let modes = mtls::resolve(loaded, mesh, &index, &mut overlapping);
    let mut found = Found::default();
    let documents = Meaning::new(loaded, mesh, index, modes);
    policy::check(&documents, &mut found);
    authentication::check(&documents, now, &mut found);
    // These name the place alone.
    let peers = || {
        loaded
            .files()
            .flat_map(|file| &file.peer_authentications)
            .map(|document| (&document.place, document.id()))
    };
    for problem in overlapping {
        let stands_at = |place: &Place| {
            let there = place.problem("spec", "");
            (there.file, there.line) == (problem.file.clone(), problem.line)
        };
        let found_at = peers().find(|(place, _)| stands_at(place));
        let object =
            found_at.map_or_else(String::new, |(_, id)| format!("PeerAuthentication {id}"));
        found.warnings.push(Warning {
            problem,
            object,
            code: "overlapping",
        });
    }
    found.warnings.sort();
    found.warnings.dedup();
    found.warnings
}

#[derive(Default)]
struct Found {
    warnings: Vec<Warning>,
}

impl Found {
    fn add<T>(
        &mut self,
        code: &'static str,
        document: &Document<T>,
        field: &str,
        message: impl Into<String>,
    ) {
        self.warnings.push(Warning {
            problem: document.place.problem(field, message),
            object: format!("{} {}", document.place.kind(), document.id()),
            code,
        });
    }
}

/// The documents, and what they mean to each other.
struct Meaning<'a> {
    loaded: &'a Loaded,
    mesh: &'a MeshConfig,
    index: Index<'a>,
    /// In the index's order.
    modes: Vec<Modes>,
    /// Whether tokens are looked at, in the index's order.
    tokens: Vec<bool>,
}

impl<'a> Meaning<'a> {
    fn new(loaded: &'a Loaded, mesh: &'a MeshConfig, index: Index<'a>, modes: Vec<Modes>) -> Self {
        let mut meaning = Self {
            loaded,
            mesh,
            tokens: vec![false; index.workloads.len()],
            index,
            modes,
        };
        for document in loaded
            .files()
            .flat_map(|file| &file.request_authentications)
        {
            if document.spec.rules().is_empty() {
                continue;
            }
            for position in meaning.selected(document, &document.spec.selector) {
                meaning.tokens[position] = true;
            }
        }
        meaning
    }

    /// The workloads with a sidecar that a policy is for.
    fn selected<T>(&self, document: &Document<T>, selector: &Selector) -> Vec<usize> {
        let scope = Scope::of(&document.metadata.namespace, &self.mesh.root_namespace);
        let mut found = self.index.select(scope, &selector.match_labels.0);
        found.retain(|position| self.workload(*position).spec.mesh);
        found
    }

    fn workload(&self, position: usize) -> &'a Document<Workload> {
        self.index.workloads[position]
    }

    /// A policy for nobody. Without any workload in the folder, that is nobody's mistake.
    fn selects_nothing<T>(
        &self,
        document: &Document<T>,
        selector: &Selector,
        found: &mut Found,
    ) -> bool {
        if !self.selected(document, selector).is_empty() {
            return false;
        }
        if self.index.workloads.is_empty() {
            return true;
        }
        let scope = Scope::of(&document.metadata.namespace, &self.mesh.root_namespace);
        let labels = &selector.match_labels.0;
        let without_sidecar = self.index.select(scope, labels);
        let (field, message) = if let Some(position) = without_sidecar.first() {
            let message = format!(
                "is only for workloads without a sidecar (`mesh: false`), such as {}: nothing enforces it there",
                self.workload(*position).id()
            );
            ("spec", message)
        } else if labels.is_empty() {
            let message = format!(
                "no workload is in namespace `{}`: this has no effect",
                document.metadata.namespace
            );
            ("metadata.namespace", message)
        } else {
            let within = match scope {
                Scope::Mesh => String::new(),
                Scope::Namespace(namespace) => format!(" in namespace `{namespace}`"),
            };
            let message = format!("no workload{within} has these labels: this has no effect");
            ("spec.selector.matchLabels", message)
        };
        found.add("selects-nothing", document, field, message);
        true
    }

    /// Some of them by name.
    fn names(&self, positions: &[usize]) -> String {
        const NAMED: usize = 3;
        let named = positions.iter().take(NAMED);
        let named: Vec<_> = named
            .map(|position| self.workload(*position).id())
            .collect();
        let more = match positions.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more}", named.join(", "))
    }
}

#[cfg(test)]
mod tests;
