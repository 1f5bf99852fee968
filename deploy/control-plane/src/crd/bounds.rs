//! How long the lists and texts of `kith.dev` documents may be, wherever they come from: as the schema has it, so that a
//! folder takes what a cluster takes. Istio's kinds are bounded by their own CustomResourceDefinitions.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::KINDS;

static SPECS: LazyLock<BTreeMap<&'static str, Value>> =
    LazyLock::new(|| KINDS.iter().map(|it| (it.kind, it.spec())).collect());

/// The fields that are longer than they may be, and what to say of each; in the API server's words.
pub(crate) fn exceeded(kind: &str, spec: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(schema) = SPECS.get(kind) {
        walk("spec", spec, schema, &mut found);
    }
    found
}

fn walk(at: &str, value: &Value, schema: &Value, found: &mut Vec<(String, String)>) {
    let bound = |name| schema.get(name).and_then(Value::as_u64);
    let mut limit = |name, length: usize, say: fn(u64) -> String| {
        if let Some(most) =
            bound(name).filter(|most| u64::try_from(length).unwrap_or(u64::MAX) > *most)
        {
            found.push((at.to_owned(), say(most)));
        }
    };
    match value {
        Value::String(text) => limit("maxLength", text.chars().count(), |most| {
            format!("may not be more than {most} bytes")
        }),
        Value::Array(items) => {
            limit("maxItems", items.len(), |most| {
                format!("must have at most {most} items")
            });
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    walk(&format!("{at}[{index}]"), item, schema, found);
                }
            }
        }
        Value::Object(fields) => {
            limit("maxProperties", fields.len(), |most| {
                format!("must have at most {most} items")
            });
            for (name, field) in fields {
                let property = schema.get("properties").and_then(|it| it.get(name));
                if let Some(schema) = property.or_else(|| schema.get("additionalProperties")) {
                    walk(&format!("{at}.{name}"), field, schema, found);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
