//! One object that is a document: read as a file's would be, and what is wrong with it.

use std::path::Path;
use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use super::kind::DocumentKind;
use super::object::{Id, namespace_and_name};
use super::verdict::ObjectKey;
use crate::problem::Problem;
use crate::yaml::{Loaded, Node, load_trees};

/// What kubectl remembers for itself: as large as the object, and nothing that anybody means.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object without what its author did not write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) status: Option<Value>,
    pub(crate) document: Arc<Value>,
}

impl Object {
    pub(crate) fn of(kind: DocumentKind, object: DynamicObject) -> Self {
        let DynamicObject { metadata, data, .. } = object;
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        let mut written = Map::new();
        let mut field = |name: &str, value: Value| {
            written.insert(name.into(), value);
        };
        field("name", metadata.name.unwrap_or_default().into());
        if let Some(namespace) = metadata.namespace {
            field("namespace", namespace.into());
        }
        field("labels", json!(metadata.labels.unwrap_or_default()));
        field("annotations", json!(annotations));
        // Whatever else somebody put there stays, to be refused by name.
        let mut document = match data {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            other => Map::from_iter([("spec".to_owned(), other)]),
        };
        let status = document.remove("status");
        document.insert("apiVersion".into(), kind.api_version().into());
        document.insert("kind".into(), kind.kind().into());
        document.insert("metadata".into(), written.into());
        Self {
            uid: metadata.uid.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            created: (metadata.creation_timestamp).map_or(0, |time| time.0.as_second()),
            status,
            document: Arc::new(document.into()),
        }
    }
}

/// Which object it is.
pub(crate) fn key(kind: DocumentKind, id: &Id) -> ObjectKey {
    let (namespace, name) = namespace_and_name(id);
    ObjectKey {
        kind: kind.key(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// Reads one document; `key` names it in problems.
///
/// # Errors
/// Everything wrong with it.
pub(crate) fn read(key: &ObjectKey, document: &Value) -> Result<Loaded, Vec<Problem>> {
    let file = key.to_string();
    load_trees(Path::new(&file), vec![Node::of_json(document)])
}

/// `field: message`, as a status says it.
pub(crate) fn told(problem: &Problem) -> String {
    if problem.field.is_empty() {
        problem.message.clone()
    } else {
        format!("{}: {}", problem.field, problem.message)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(kind: DocumentKind, object: Value, expected: Expect) {
        let object = Object::of(kind, serde_json::from_value(object).unwrap());
        let key = key(kind, &"shop/web".into());
        let found = match read(&key, &object.document) {
            Ok(_) => "good".to_owned(),
            Err(problems) => problems.iter().map(|it| format!("{it}\n")).collect(),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn what_a_cluster_adds_is_no_part_of_a_document() {
        let object = json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 3, "managedFields": [],
                "finalizers": ["x"], "selfLink": "/", "annotations": {LAST_APPLIED: "{}"}},
            "spec": {"action": "ALLOW", "rules": [{}]},
            "status": {"conditions": []},
        });
        let read = Object::of(
            DocumentKind::AuthorizationPolicy,
            serde_json::from_value(object.clone()).unwrap(),
        );
        assert_eq!((read.uid.as_str(), read.generation), ("u", 3));
        assert_eq!(read.status, Some(json!({"conditions": []})));
        assert!(!read.document.to_string().contains(LAST_APPLIED));
        check(DocumentKind::AuthorizationPolicy, object, expect!["good"]);
    }

    #[test]
    fn problems_name_the_object_and_no_line() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"action": "DENY"},
        });
        check(
            DocumentKind::AuthorizationPolicy,
            object,
            expect![[r#"
                AuthorizationPolicy/shop/web: spec.rules: a DENY without rules denies nothing; to deny everything, write one empty rule
            "#]],
        );
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"mtls": {"mode": "LAX"}}, "extra": 1});
        check(
            DocumentKind::IstioPeerAuthentication,
            object,
            expect![[r#"
                PeerAuthentication.security.istio.io/shop/web: extra: unknown field `extra`, expected one of `apiVersion`, `kind`, `metadata`, `spec`, `status`
                PeerAuthentication.security.istio.io/shop/web: spec.mtls.mode: unknown variant `LAX`, expected one of `UNSET`, `STRICT`, `PERMISSIVE`, `DISABLE`
            "#]],
        );
    }
}
