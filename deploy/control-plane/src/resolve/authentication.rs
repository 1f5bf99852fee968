//! RequestAuthentication: which tokens count at a workload, with the keys that are known now.

use std::collections::BTreeSet;

use kith_xds_client::api::mesh as api;

use super::select::{Index, Scope};
use crate::jwks::KeySets;
use crate::problem::Problem;
use crate::yaml::schema::MeshConfig;
use crate::yaml::{Document, Loaded, RequestAuthentication, field_in_yaml};

/// The request authentication of every workload, in the index's order; by name, so that the order of files
/// is no content.
pub(super) fn resolve(
    loaded: &Loaded,
    mesh: &MeshConfig,
    index: &Index<'_>,
    keys: &KeySets,
    problems: &mut Vec<Problem>,
) -> Vec<Vec<api::RequestAuthentication>> {
    let documents = loaded
        .files()
        .flat_map(|file| &file.request_authentications);
    let mut documents: Vec<_> = documents
        .filter(|document| !document.spec.rules().is_empty())
        .collect();
    documents.sort_by_cached_key(|document| document.id());
    let resources: Vec<_> = (documents.iter())
        .map(|document| to_wire(document, keys))
        .collect();

    let mut selected_by = vec![Vec::new(); index.workloads.len()];
    for (number, document) in documents.iter().enumerate() {
        let scope = Scope::of(&document.metadata.namespace, &mesh.root_namespace);
        for position in index.select(scope, &document.spec.selector.match_labels.0) {
            selected_by[position].push(number);
        }
    }

    // Each by itself, whether it selects anybody or not; then those that meet at some workload.
    let alone = (0..documents.len()).map(|number| vec![number]);
    let together = (selected_by.iter()).filter(|numbers| numbers.len() > 1);
    let combinations: BTreeSet<Vec<usize>> = alone.chain(together.cloned()).collect();
    let mut refused = BTreeSet::new();
    for numbers in combinations {
        // What is wrong with one alone is wrong with it in company too.
        if numbers.len() > 1 && numbers.iter().any(|number| refused.contains(number)) {
            continue;
        }
        let combined: Vec<_> = numbers.iter().map(|number| documents[*number]).collect();
        let found = refusals(&combined);
        if !found.is_empty() {
            refused.extend(numbers);
            problems.extend(found);
        }
    }

    let of_workload = |numbers: &Vec<usize>| {
        let numbers = numbers.iter();
        numbers.map(|number| resources[*number].clone()).collect()
    };
    selected_by.iter().map(of_workload).collect()
}

fn to_wire(
    document: &Document<RequestAuthentication>,
    keys: &KeySets,
) -> api::RequestAuthentication {
    api::RequestAuthentication {
        namespace: document.metadata.namespace.clone(),
        name: document.metadata.name.clone(),
        rules: document.spec.to_wire(keys),
    }
}

/// What a sidecar would refuse of these, for one workload. Keys that were fetched do not matter: they were
/// judged when they came, and somebody else's mistake there must not refuse the folder.
fn refusals(documents: &[&Document<RequestAuthentication>]) -> Vec<Problem> {
    let none = KeySets::default();
    let nobody = api::WorkloadConfig {
        revision: "any".into(),
        namespace: "any".into(),
        name: "any".into(),
        trust_domain: "any".into(),
        addresses: vec!["127.0.0.1".into()],
        default_mtls_mode: api::MtlsMode::Strict.into(),
        default_action: api::DefaultAction::Deny.into(),
        egress_mode: api::EgressMode::Refuse.into(),
        request_authentication: documents.iter().map(|it| to_wire(it, &none)).collect(),
        ..api::WorkloadConfig::default()
    };
    let Err(errors) = kith_proxy::translate::workload("any/any", &nobody) else {
        return Vec::new();
    };
    let problem = |error: kith_policy::FieldError| {
        let (document, field) = place(documents, &error.field)?;
        let message = match documents {
            [_] => error.message.to_string(),
            _ => {
                let all: Vec<_> = documents
                    .iter()
                    .map(|it| format!("`{}`", it.id()))
                    .collect();
                format!(
                    "where {} hold together, this {}",
                    all.join(" and "),
                    error.message
                )
            }
        };
        Some(document.place.problem(&field, message))
    };
    errors.into_iter().filter_map(problem).collect()
}

/// `request_authentication[1].rules[0].from_headers[2]` is `spec.jwtRules[0].fromHeaders[2]` of the second document.
fn place<'a>(
    documents: &[&'a Document<RequestAuthentication>],
    field: &str,
) -> Option<(&'a Document<RequestAuthentication>, String)> {
    let at = field
        .strip_prefix("request_authentication[")
        .and_then(|rest| rest.split_once(']'))
        .and_then(|(index, rest)| Some((documents.get(index.parse::<usize>().ok()?)?, rest)));
    match at {
        Some((document, rest)) => {
            let field = field_in_yaml(rest).replacen("spec.rules[", "spec.jwtRules[", 1);
            Some((document, field))
        }
        // What is wrong with all of them is said of the last, which brought it about.
        None => Some((documents.last()?, "spec.jwtRules".to_owned())),
    }
}
