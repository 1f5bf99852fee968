//! From documents to what each sidecar gets: pure, the same documents give the same bytes.
//!
//! A mistake that only shows when documents meet (a name or an address twice) refuses the whole load, like
//! a mistake inside one. A warning does not.

mod address;
mod mtls;
mod select;
mod workload;

use std::collections::{BTreeSet, HashMap};

use crate::catalog::{Catalog, Counts};
use crate::problem::Problem;
use crate::yaml::schema::MeshConfig;
use crate::yaml::{Document, Documents, Loaded};

/// What [`resolve`] makes.
#[derive(Debug)]
pub struct Resolved {
    pub catalog: Catalog,
    /// What is allowed and surely surprises someone.
    pub warnings: Vec<Problem>,
}

/// Resolves selectors, inheritance and addresses.
///
/// # Errors
/// All contradictions between documents.
pub fn resolve(loaded: &Loaded) -> Result<Resolved, Vec<Problem>> {
    let mut problems = Vec::new();
    refuse_repeated(loaded, "Workload", |file| &file.workloads, &mut problems);
    refuse_repeated(loaded, "Service", |file| &file.services, &mut problems);
    refuse_repeated(
        loaded,
        "AuthorizationPolicy",
        |file| &file.authorization_policies,
        &mut problems,
    );
    refuse_repeated(
        loaded,
        "PeerAuthentication",
        |file| &file.peer_authentications,
        &mut problems,
    );
    let mesh = match the_mesh_config(loaded) {
        Ok(mesh) => mesh,
        Err(problem) => {
            problems.push(problem);
            return Err(problems);
        }
    };

    let mut warnings = BTreeSet::new();
    let index = select::Index::new(loaded.files().flat_map(|file| &file.workloads));
    let modes = mtls::resolve(loaded, mesh, &index, &mut warnings);
    let workloads = workload::resolve(loaded, mesh, &index, modes, &mut problems);
    let addresses = address::resolve(loaded, &index, &workloads, &mut problems);
    if !problems.is_empty() {
        problems.sort();
        return Err(problems);
    }
    warnings.extend(policy_warnings(loaded));
    let count = |of: fn(&Documents) -> usize| loaded.files().map(of).sum();
    let counts = Counts {
        workloads: count(|file| file.workloads.len()),
        services: count(|file| file.services.len()),
        authorization_policies: count(|file| file.authorization_policies.len()),
        peer_authentications: count(|file| file.peer_authentications.len()),
    };
    let nodes = workloads.into_iter().filter_map(|workload| workload.node);
    let catalog = Catalog {
        nodes: nodes.map(|node| (node.id.clone(), node)).collect(),
        addresses,
        revocations: Catalog::no_revocations(),
        counts,
    };
    Ok(Resolved {
        catalog,
        warnings: warnings.into_iter().collect(),
    })
}

fn the_mesh_config(loaded: &Loaded) -> Result<&MeshConfig, Problem> {
    let mut all = loaded.files().flat_map(|file| &file.mesh_configs);
    let Some(first) = all.next() else {
        return Err(Problem {
            file: loaded.root().to_path_buf(),
            line: 0,
            field: String::new(),
            message: "no MeshConfig: add one with the mesh's `spec.trustDomain`".into(),
        });
    };
    match all.next() {
        Some(second) => {
            let message = format!(
                "a second MeshConfig; there is one already at {}",
                first.place.describe()
            );
            Err(second.place.problem("kind", message))
        }
        None => Ok(&first.spec),
    }
}

fn refuse_repeated<'a, T: 'a>(
    loaded: &'a Loaded,
    kind: &str,
    of: impl Fn(&'a Documents) -> &'a Vec<Document<T>>,
    problems: &mut Vec<Problem>,
) {
    let mut seen: HashMap<(&str, &str), &Document<T>> = HashMap::new();
    for document in loaded.files().flat_map(of) {
        let name = (
            document.metadata.namespace.as_str(),
            document.metadata.name.as_str(),
        );
        match seen.get(&name) {
            None => _ = seen.insert(name, document),
            Some(first) => {
                let message = format!(
                    "{kind} `{}` exists already at {}",
                    first.id(),
                    first.place.describe()
                );
                problems.push(document.place.problem("metadata.name", message));
            }
        }
    }
}

/// What the engine finds surprising in policies it accepts, e.g. a DENY that gets wider on opaque TCP.
fn policy_warnings(loaded: &Loaded) -> impl Iterator<Item = Problem> {
    let policies = loaded.files().flat_map(|file| &file.authorization_policies);
    policies.flat_map(|document| {
        let warnings = document.spec.warnings.iter();
        warnings.map(|(field, message)| document.place.problem(field, message.as_str()))
    })
}

#[cfg(test)]
mod tests;
