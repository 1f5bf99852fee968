//! From documents, and the keys known now, to what each sidecar gets: pure, the same input gives the same bytes.
//!
//! A mistake that only shows when documents meet (a name or an address twice) refuses the whole load, like
//! a mistake inside one. A warning does not.

pub(crate) mod address;
mod authentication;
pub(crate) mod mtls;
pub(crate) mod revocation;
pub(crate) mod rules;
pub(crate) mod select;
mod selectors;
mod services;
mod workload;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use self::rules::Rules;
use self::select::Index;
use crate::catalog::Catalog;
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
    let Some(rules) = Rules::compile(loaded, keys, &mut problems) else {
        return Err(problems);
    };
    let index = Index::new(loaded.files().flat_map(|file| &file.workloads));
    let mut warnings: BTreeSet<Problem> = rules.warnings().iter().cloned().collect();
    let mut tokens_that_meet = BTreeSet::new();
    let mut placed = Vec::with_capacity(index.workloads.len());
    for document in &index.workloads {
        let addresses = rules::addresses_of(document);
        let subject = rules::subject(document, &addresses);
        let principal = rules.principal(&subject).unwrap_or_else(|misplaced| {
            let message = misplaced.to_string();
            problems.push(document.place.problem("spec.serviceAccount", message));
            None
        });
        let tokens = rules.tokens().of(subject.namespace, subject.labels);
        placed.push(rules.place(&subject, principal, &tokens));
        warnings.extend(rules.overlapping(&subject));
        tokens_that_meet.insert(tokens);
    }
    problems.extend(rules.tokens().refused(tokens_that_meet));
    let services = rules.declared_services();
    let addresses = services::resolve(loaded, services, &index, &placed, &mut problems);
    if !problems.is_empty() {
        problems.sort();
        return Err(problems);
    }
    let nodes = placed.into_iter().filter_map(|workload| workload.node);
    let catalog = Catalog {
        nodes: nodes.map(|node| (Arc::clone(&node.id), node)).collect(),
        addresses,
        revocations: Arc::clone(rules.revocations()),
        counts: rules.counts(),
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

fn refuse_all_repeated(loaded: &Loaded, problems: &mut Vec<Problem>) {
    refuse_repeated(loaded, "Workload", |file| &file.workloads, problems);
    refuse_repeated(loaded, "Service", |file| &file.services, problems);
    refuse_repeated(
        loaded,
        "AuthorizationPolicy",
        |file| &file.authorization_policies,
        problems,
    );
    refuse_repeated(
        loaded,
        "PeerAuthentication",
        |file| &file.peer_authentications,
        problems,
    );
    refuse_repeated(
        loaded,
        "RequestAuthentication",
        |file| &file.request_authentications,
        problems,
    );
    refuse_repeated(loaded, "Revocation", |file| &file.revocations, problems);
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
mod scale;
#[cfg(test)]
mod tests;
