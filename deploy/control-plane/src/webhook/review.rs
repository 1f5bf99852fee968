//! An AdmissionReview, asked and answered (`admission.k8s.io/v1`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::debug;

use super::{NamespaceLabels, validate};
use crate::inject::{self, DISABLED, NAMESPACE_LABEL, Outcome, Request as Wish, Settings};
use crate::problem::printable;

const VERSION: &str = "admission.k8s.io/v1";
/// The API server cuts a warning that is longer, and drops all beyond a few kilobytes.
const LONGEST_WARNING: usize = 240;
const MOST_WARNINGS: usize = 16;

/// By which path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Inject,
    Validate,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

/// Only what is looked at; a newer API server may say more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    uid: String,
    pub(super) kind: Kind,
    #[serde(default)]
    pub(super) sub_resource: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    pub(super) operation: String,
    #[serde(default)]
    pub(super) object: Value,
    /// What is there, of an UPDATE.
    #[serde(default)]
    pub(super) old_object: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) kind: String,
}

/// What the API server is told.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Allowed {
        /// Instead of the object, if it is to be another.
        instead: Option<Value>,
        warnings: Vec<String>,
    },
    /// Whoever made the request has to change something, or (503) to try again.
    Refused { code: u16, message: String },
}

impl Verdict {
    pub(super) fn as_it_is() -> Self {
        Self::Allowed {
            instead: None,
            warnings: Vec::new(),
        }
    }
}

pub(super) struct Reviewer {
    pub(super) settings: Arc<Settings>,
    pub(super) namespaces: NamespaceLabels,
    pub(super) client: kube::Client,
}

impl Reviewer {
    /// # Errors
    /// It is no AdmissionReview: then there is no request to answer.
    pub(super) async fn review(&self, asked: Asked, body: &[u8]) -> Result<Value, String> {
        let review: Review = serde_json::from_slice(body).map_err(|error| {
            format!(
                "not an AdmissionReview: {}",
                printable(&error.to_string(), 200)
            )
        })?;
        if review.api_version != VERSION || review.kind != "AdmissionReview" {
            let what = format!("{} {}", review.api_version, review.kind);
            return Err(format!(
                "expected {VERSION} AdmissionReview, not {}",
                printable(&what, 100)
            ));
        }
        let request = review.request;
        let verdict = match asked {
            Asked::Inject => self.inject(&request).await,
            Asked::Validate => validate::verdict(&request),
        };
        debug!(uid = request.uid, ?asked, "reviewed");
        Ok(answer(&request, verdict))
    }

    async fn inject(&self, request: &Request) -> Verdict {
        let is_pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
        if !is_pod || request.operation != "CREATE" || !request.sub_resource.is_empty() {
            return Verdict::as_it_is();
        }
        let (pod, namespace) = (&request.object, request.namespace.as_str());
        let labels = match inject::request(pod, namespace, None, &self.settings) {
            Wish::AskNamespace => match self.labels(namespace).await {
                Ok(labels) => labels,
                Err(message) => return Verdict::Refused { code: 503, message },
            },
            Wish::Asked | Wish::Unclear(_) => self.unless_disabled(namespace).await,
            Wish::Left(_) => BTreeMap::new(),
        };
        match inject::inject(pod, namespace, &labels, &self.settings) {
            Ok(Outcome::Unchanged(reason)) => {
                debug!(namespace, reason, "pod left alone");
                Verdict::as_it_is()
            }
            Ok(Outcome::Injected { pod, warnings }) => Verdict::Allowed {
                instead: Some(pod),
                warnings,
            },
            Err(refusal) => Verdict::Refused {
                code: 422,
                message: format!("this pod cannot have a sidecar: {refusal}"),
            },
        }
    }

    /// Of a pod that has said itself what it wants. The API server doesn't send those of a disabled namespace: so one that
    /// cannot be read now is not disabled, as far as the API server knows.
    async fn unless_disabled(&self, namespace: &str) -> BTreeMap<String, String> {
        let known = (self.namespaces)(namespace).unwrap_or_default();
        if known.get(NAMESPACE_LABEL).is_some_and(|it| it == DISABLED) {
            return self.labels(namespace).await.unwrap_or_default();
        }
        BTreeMap::new()
    }

    /// What is known may be of a moment ago: a namespace that was labelled just before its first pods were created is
    /// asked about anew, because a pod without its sidecar stays so.
    async fn labels(&self, namespace: &str) -> Result<BTreeMap<String, String>, String> {
        let known = (self.namespaces)(namespace);
        if let Some(known) =
            known.filter(|it| it.get(NAMESPACE_LABEL).is_some_and(|it| it == "enabled"))
        {
            return Ok(known);
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.get_opt(namespace).await {
            Ok(found) => Ok(found.and_then(|it| it.metadata.labels).unwrap_or_default()),
            Err(error) => Err(format!(
                "whether namespace {namespace} has its pods injected could not be read: {}",
                printable(&error.to_string(), 300)
            )),
        }
    }
}

fn answer(request: &Request, verdict: Verdict) -> Value {
    let mut response = json!({ "uid": request.uid, "allowed": true });
    match verdict {
        Verdict::Allowed { instead, warnings } => {
            if let Some(instead) = instead {
                let patch = json_patch::diff(&request.object, &instead);
                let patch = serde_json::to_vec(&patch).map(ByteString);
                match patch.and_then(serde_json::to_value) {
                    Ok(patch) => {
                        response["patchType"] = "JSONPatch".into();
                        response["patch"] = patch;
                    }
                    // Unchanged it would have no sidecar.
                    Err(error) => refuse(
                        &mut response,
                        500,
                        &format!("the change cannot be written: {error}"),
                    ),
                }
            }
            if !warnings.is_empty() {
                let warnings = warnings.iter().take(MOST_WARNINGS);
                let warnings =
                    warnings.map(|it| printable(&format!("kith: {it}"), LONGEST_WARNING));
                response["warnings"] = warnings.collect();
            }
        }
        Verdict::Refused { code, message } => refuse(&mut response, code, &message),
    }
    json!({ "apiVersion": VERSION, "kind": "AdmissionReview", "response": response })
}

fn refuse(response: &mut Value, code: u16, message: &str) {
    let reason = match code {
        422 => "Invalid",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    response["allowed"] = false.into();
    response["status"] = json!({ "code": code, "reason": reason, "message": message });
}
