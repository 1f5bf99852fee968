//! From documents, and the keys known now, to what each sidecar gets: pure, the same input gives the same bytes.
//!
//! A mistake that only shows when documents meet (a name or an address twice) refuses the whole load, like
//! a mistake inside one. A warning does not.

mod address;
mod authentication;
pub(crate) mod mtls;
pub(crate) mod revocation;
pub(crate) mod select;
mod workload;

use std::collections::{BTreeSet, HashMap};

use crate::catalog::{Catalog, Counts};
use crate::jwks::KeySets;
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

/// Resolves selectors, inheritance and addresses. An issuer whose keys are not among `keys` gets none, so that
/// no token of it is trusted.
///
/// # Errors
/// All contradictions between documents.
pub fn resolve(loaded: &Loaded, keys: &KeySets) -> Result<Resolved, Vec<Problem>> {
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
    refuse_repeated(
        loaded,
        "RequestAuthentication",
        |file| &file.request_authentications,
        &mut problems,
    );
    refuse_repeated(
        loaded,
        "Revocation",
        |file| &file.revocations,
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
    let tokens = authentication::resolve(loaded, mesh, &index, keys, &mut problems);
    let workloads = workload::resolve(loaded, mesh, &index, modes, tokens, &mut problems);
    let addresses = address::resolve(loaded, &index, &workloads, &mut problems);
    if !problems.is_empty() {
        problems.sort();
        return Err(problems);
    }
    warnings.extend(document_warnings(loaded));
    let count = |of: fn(&Documents) -> usize| loaded.files().map(of).sum();
    let counts = Counts {
        workloads: count(|file| file.workloads.len()),
        services: count(|file| file.services.len()),
        authorization_policies: count(|file| file.authorization_policies.len()),
        peer_authentications: count(|file| file.peer_authentications.len()),
        request_authentications: count(|file| file.request_authentications.len()),
        revocations: count(|file| file.revocations.len()),
    };
    let nodes = workloads.into_iter().filter_map(|workload| workload.node);
    let catalog = Catalog {
        nodes: nodes.map(|node| (node.id.clone(), node)).collect(),
        addresses,
        revocations: revocation::list([loaded]),
        counts,
    };
    Ok(Resolved {
        catalog,
        warnings: warnings.into_iter().collect(),
    })
}

pub(crate) fn the_mesh_config(loaded: &Loaded) -> Result<&MeshConfig, Problem> {
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

/// What is surprising in a document by itself, e.g. a DENY that gets wider on opaque TCP.
fn document_warnings(loaded: &Loaded) -> impl Iterator<Item = Problem> {
    loaded.files().flat_map(|file| {
        let policies = file.authorization_policies.iter();
        let policies = policies.map(|document| (&document.place, &document.spec.warnings));
        let tokens = file.request_authentications.iter();
        let tokens = tokens.map(|document| (&document.place, &document.spec.warnings));
        policies.chain(tokens).flat_map(|(place, warnings)| {
            let warnings = warnings.iter();
            warnings.map(|(field, message)| place.problem(field, message.as_str()))
        })
    })
}

#[cfg(test)]
mod tests;
