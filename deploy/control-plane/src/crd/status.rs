//! The status of every kind: what the control plane says of an object, and how far it has come.

use serde_json::{Value, json};

/// Written by the control plane alone.
pub(super) fn status() -> Value {
    json!({
        "type": "object",
        "description": "What the control plane says of it. Nobody else writes it.",
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The generation (metadata.generation) that the rest is about."
            },
            "conditions": {
                "type": "array",
                "description": "`Accepted`: it is understood whole, and holds; if not, what it meant to restrict stays \
                    denied. `Enforced`: every sidecar that it is for enforces it.",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": condition()
            },
            "sidecars": {
                "type": "object",
                "description": "The connected sidecars that it is for.",
                "properties": {
                    "selected": count("How many there are."),
                    "enforced": count("How many of them acknowledged that they enforce this generation.")
                }
            }
        }
    })
}

fn count(description: &str) -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0, "description": description})
}

/// As `metav1.Condition` has it.
fn condition() -> Value {
    json!({
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": {
                "type": "string",
                "maxLength": 316,
                "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                "description": "`Accepted` or `Enforced`."
            },
            "status": {
                "type": "string",
                "enum": ["True", "False", "Unknown"],
                "description": "Whether it is so."
            },
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "minimum": 0,
                "description": "The generation (metadata.generation) that the condition is about."
            },
            "lastTransitionTime": {
                "type": "string",
                "format": "date-time",
                "description": "When `status` was another last."
            },
            "reason": {
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                "description": "Why, in one word, for programs."
            },
            "message": {
                "type": "string",
                "maxLength": 32768,
                "description": "Why, for people: everything that is wrong with it, field by field."
            }
        }
    })
}
