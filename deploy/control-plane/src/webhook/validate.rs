//! `kith.dev` documents, read as the control plane reads them, before they are stored: refused with the same words. And
//! containers that are added to a running pod.

use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use super::review::{Request, Verdict};
use crate::inject::check_ephemeral;
use crate::problem::Problem;
use crate::yaml::{Loaded, Node, load_trees};

pub(super) fn verdict(request: &Request) -> Verdict {
    let is_pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
    if is_pod && request.sub_resource == "ephemeralcontainers" {
        return match check_ephemeral(&request.object, &request.old_object) {
            Ok(warnings) => Verdict::Allowed {
                instead: None,
                warnings,
            },
            Err(refusal) => Verdict::Refused {
                code: 422,
                message: format!(
                    "this pod has a sidecar, and cannot have that container: {refusal}"
                ),
            },
        };
    }
    // What is on its way out may always go, whatever it says.
    let leaving = !request.object["metadata"]["deletionTimestamp"].is_null();
    if request.kind.group != "kith.dev"
        || !request.sub_resource.is_empty()
        || !["CREATE", "UPDATE"].contains(&request.operation.as_str())
        || leaving
    {
        return Verdict::as_it_is();
    }
    let object = complete(request);
    let file = format!(
        "{}/{}/{}",
        request.kind.kind, request.namespace, request.name
    );
    match load_trees(Path::new(&file), vec![Node::of_json(&object)]) {
        Ok(loaded) => Verdict::Allowed {
            instead: None,
            warnings: warnings(&loaded),
        },
        Err(problems) => Verdict::Refused {
            code: 422,
            message: problems.iter().map(in_words).collect::<Vec<_>>().join("; "),
        },
    }
}

/// With the name that it is going to have, which a document that only says `generateName` doesn't know.
fn complete(request: &Request) -> Value {
    let mut object = request.object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let absent = |value: Option<&Value>| value.is_none_or(|it| it.as_str() == Some(""));
        if absent(metadata.get("name")) {
            let name = match request.name.as_str() {
                "" => format!(
                    "{}x",
                    metadata
                        .get("generateName")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                ),
                name => name.to_owned(),
            };
            metadata.insert("name".into(), name.into());
        }
        if absent(metadata.get("namespace")) && !request.namespace.is_empty() {
            metadata.insert("namespace".into(), request.namespace.as_str().into());
        }
    }
    object
}

fn in_words(problem: &Problem) -> String {
    match problem.field.as_str() {
        "" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    }
}

/// What is surprising in the document by itself.
fn warnings(loaded: &Loaded) -> Vec<String> {
    let said = loaded.files().flat_map(|file| {
        let policies = file.authorization_policies.iter();
        let policies = policies.flat_map(|it| &it.spec.warnings);
        let tokens = file.request_authentications.iter();
        policies.chain(tokens.flat_map(|it| &it.spec.warnings))
    });
    let said = said.map(|(field, message)| format!("{field}: {message}"));
    // Not refused: what was in force once may be applied again, from wherever it is kept.
    let now = SystemTime::now();
    let revocations = loaded.files().flat_map(|file| &file.revocations);
    let over = revocations.filter(|it| it.spec.until <= now).map(|_| {
        "spec.until: that time is over, so this revokes nothing; to revoke now, give a time to come".to_owned()
    });
    said.chain(over).collect()
}
