//! From what schemars makes of a type to a structural schema, as the API server wants it: no references, a `type`
//! everywhere, and nothing about types in `anyOf` and its like.
//!
//! **Unknown keys are kept, and so is `null`.** The API server drops both unless its client asks for strict validation:
//! kubectl does, other clients don't. A dropped key may have been a restriction (`principal:` for `principals:`), and then
//! the policy that remains allows more than its author meant. Kept, the control plane sees it, says so
//! (`Accepted=False`), and what the policy restricts stays denied. The price is that kubectl's strict validation has
//! nothing to report: unknown keys are refused on apply by the validating webhook, which reads as the control plane does.

use serde_json::{Map, Value};

/// A default that the API server writes into objects: only of what its tables show. Every other one is the engine's, and
/// an object stays as its author wrote it.
pub(super) const DEFAULT: &str = "x-kith-default";

const KEEPS: &str = "x-kubernetes-preserve-unknown-fields";

/// Of one object of a resource, all that is below it too.
pub(super) fn structural(schema: &mut Value) {
    let Value::Object(schema) = schema else {
        return;
    };
    for gone in ["$schema", "title", "default"] {
        schema.remove(gone);
    }
    if let Some(default) = schema.remove(DEFAULT) {
        schema.insert("default".into(), default);
    }
    without_null(schema);
    one_enum(schema);
    one_line(schema);
    number(schema);
    let required: Vec<Value> = match schema.get("required") {
        Some(Value::Array(required)) => required.clone(),
        _ => Vec::new(),
    };
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        schema.remove("additionalProperties");
        schema.insert(KEEPS.into(), true.into());
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties.iter_mut() {
            structural(property);
            if let Value::Object(property) = property
                && !required.iter().any(|it| it == name.as_str())
            {
                property.insert("nullable".into(), true.into());
            }
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner) {
            structural(inner);
        }
    }
}

/// An `Option` is a field that may be absent.
fn without_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|it| it != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(variants)) = schema.get_mut("enum") {
        variants.retain(|it| !it.is_null());
    }
    if let Some(Value::Array(mut either)) = schema.remove("anyOf") {
        either.retain(|it| it.get("type") != Some(&Value::String("null".into())));
        for (key, value) in either
            .into_iter()
            .filter_map(|it| match it {
                Value::Object(it) => Some(it),
                _ => None,
            })
            .flatten()
        {
            // What the field says of itself is nearer than what its type says.
            schema.entry(key).or_insert(value);
        }
        without_null(schema);
    }
}

/// A variant with a description of its own stands alone in schemars' `oneOf`.
fn one_enum(schema: &mut Map<String, Value>) {
    let Some(Value::Array(either)) = schema.remove("oneOf") else {
        return;
    };
    let mut variants = Vec::new();
    for it in &either {
        match (it.get("const"), it.get("enum")) {
            (Some(only), _) => variants.push(only.clone()),
            (None, Some(Value::Array(several))) => variants.extend(several.iter().cloned()),
            (None, _) => {}
        }
    }
    variants.retain(|it| !it.is_null());
    schema.insert("type".into(), "string".into());
    schema.insert("enum".into(), variants.into());
}

/// Line breaks of the source are none of the text's.
fn one_line(schema: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

/// The API server knows signed formats only.
fn number(schema: &mut Map<String, Value>) {
    if schema.get("type").is_some_and(|it| it == "integer") {
        if schema.get("format").is_some_and(|it| it == "uint32") {
            schema.insert("maximum".into(), u32::MAX.into());
        }
        schema.insert("format".into(), "int64".into());
    }
}
