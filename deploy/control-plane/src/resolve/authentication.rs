//! RequestAuthentication: which tokens count at a workload, with the keys that are known now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kith_xds_client::api::mesh as api;

use super::select::Scope;
use super::selectors::Selectors;
use crate::jwks::KeySets;
use crate::problem::Problem;
use crate::yaml::{Document, Loaded, Place, RequestAuthentication, field_in_yaml};

/// All of them, by name, so that the order of files is no content.
#[derive(Debug)]
pub(super) struct Tokens {
    rules: Selectors<Token>,
    #[allow(
        dead_code,
        reason = "a folder is always read as a whole; what changes bit by bit needs it"
    )]
    /// What was found of those that met at some workload already.
    met: Mutex<HashMap<Vec<usize>, Arc<[Problem]>>>,
}

/// One document.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) id: Arc<str>,
    place: Place,
    /// With the keys that are known now.
    pub(super) wire: api::RequestAuthentication,
    /// Without keys that were fetched.
    written: api::RequestAuthentication,
}

impl Tokens {
    pub(super) fn new(loaded: &Loaded, root_namespace: &str, keys: &KeySets) -> Self {
        let documents = loaded
            .files()
            .flat_map(|file| &file.request_authentications);
        let mut documents: Vec<_> = documents
            .filter(|document| !document.spec.rules().is_empty())
            .collect();
        documents.sort_by_cached_key(|document| document.id());
        let rules = documents.into_iter().map(|document| {
            let scope = Scope::of(&document.metadata.namespace, root_namespace);
            let labels = &document.spec.selector.match_labels.0;
            (scope, labels, Token::new(document, keys))
        });
        Self {
            rules: Selectors::new(rules),
            met: Mutex::default(),
        }
    }

    /// Those that hold for a workload with these labels.
    pub(super) fn of(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<usize> {
        self.rules.positions(namespace, labels)
    }

    pub(super) fn get(&self, number: usize) -> &Token {
        self.rules.get(number)
    }

    /// What is wrong with each by itself, whether it selects anybody or not, and then with those of `together` that
    /// meet at some workload.
    pub(super) fn refused(&self, together: impl IntoIterator<Item = Vec<usize>>) -> Vec<Problem> {
        let alone = (0..self.rules.len()).map(|number| vec![number]);
        let together = together.into_iter().filter(|numbers| numbers.len() > 1);
        let combinations: BTreeSet<Vec<usize>> = alone.chain(together).collect();
        let mut problems = Vec::new();
        let mut refused = BTreeSet::new();
        for numbers in combinations {
            // What is wrong with one alone is wrong with it in company too.
            if numbers.len() > 1 && numbers.iter().any(|number| refused.contains(number)) {
                continue;
            }
            let found = self.refusals(&numbers);
            if !found.is_empty() {
                refused.extend(numbers);
                problems.extend(found);
            }
        }
        problems
    }

    #[allow(
        dead_code,
        reason = "a folder is always read as a whole; what changes bit by bit needs it"
    )]
    /// What is wrong with those that meet at one workload; each of them is good by itself. Many workloads have the same.
    pub(super) fn refused_together(&self, numbers: &[usize]) -> Arc<[Problem]> {
        if numbers.len() < 2 {
            return Arc::default();
        }
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = met.get(numbers) {
            return Arc::clone(found);
        }
        let found: Arc<[Problem]> = self.refusals(numbers).into();
        met.insert(numbers.to_vec(), Arc::clone(&found));
        found
    }

    /// What a sidecar would refuse of these, for one workload. Keys that were fetched do not matter: they were
    /// judged when they came, and somebody else's mistake there must not refuse the folder.
    fn refusals(&self, numbers: &[usize]) -> Vec<Problem> {
        let tokens: Vec<&Token> = numbers.iter().map(|number| self.get(*number)).collect();
        let nobody = api::WorkloadConfig {
            revision: "any".into(),
            namespace: "any".into(),
            name: "any".into(),
            trust_domain: "any".into(),
            addresses: vec!["127.0.0.1".into()],
            default_mtls_mode: api::MtlsMode::Strict.into(),
            default_action: api::DefaultAction::Deny.into(),
            egress_mode: api::EgressMode::Refuse.into(),
            request_authentication: tokens.iter().map(|token| token.written.clone()).collect(),
            ..api::WorkloadConfig::default()
        };
        let Err(errors) = kith_proxy::translate::workload("any/any", &nobody) else {
            return Vec::new();
        };
        let problem = |error: kith_policy::FieldError| {
            let (token, field) = place(&tokens, &error.field)?;
            let message = match &*tokens {
                [_] => error.message.to_string(),
                _ => {
                    let all: Vec<_> = tokens.iter().map(|it| format!("`{}`", it.id)).collect();
                    format!(
                        "where {} hold together, this {}",
                        all.join(" and "),
                        error.message
                    )
                }
            };
            Some(token.place.problem(&field, message))
        };
        errors.into_iter().filter_map(problem).collect()
    }
}

impl Token {
    fn new(document: &Document<RequestAuthentication>, keys: &KeySets) -> Self {
        Self {
            id: document.id().into(),
            place: document.place.clone(),
            wire: to_wire(document, keys),
            written: to_wire(document, &KeySets::default()),
        }
    }
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

/// `request_authentication[1].rules[0].from_headers[2]` is `spec.jwtRules[0].fromHeaders[2]` of the second document.
fn place<'a>(tokens: &[&'a Token], field: &str) -> Option<(&'a Token, String)> {
    let at = field
        .strip_prefix("request_authentication[")
        .and_then(|rest| rest.split_once(']'))
        .and_then(|(index, rest)| Some((tokens.get(index.parse::<usize>().ok()?)?, rest)));
    match at {
        Some((token, rest)) => {
            let field = field_in_yaml(rest).replacen("spec.rules[", "spec.jwtRules[", 1);
            Some((token, field))
        }
        // What is wrong with all of them is said of the last, which brought it about.
        None => Some((tokens.last()?, "spec.jwtRules".to_owned())),
    }
}
