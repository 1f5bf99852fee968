//! The kinds of `kith.dev/v1alpha1` as a cluster knows them: CustomResourceDefinitions made from the Rust types that read
//! documents, so that neither can know a field that the other does not.
//!
//! What the engine refuses, the API server refuses on apply, in the same words (`kith_policy::words`, `yaml::words`), as
//! far as its rules go: they can't compile expressions, parse keys or look at other objects, and each costs by the longest
//! list that it may see. The validating webhook reads a whole document as the control plane does; and what got into the
//! cluster past both is `Accepted=False`.
//!
//! In reading order: [`rule`] (one rule and its message), `policy`, `strings`, `authentication`, `mesh`, `revocation`,
//! `values` (what is demanded of which type), `structural` (the shape that the API server wants, and what becomes of
//! unknown keys), `status`, `bounds` (the same lengths for files).

pub(crate) mod authentication;
pub(crate) mod bounds;
pub(crate) mod mesh;
pub(crate) mod policy;
pub(crate) mod revocation;
mod rule;
mod status;
pub(crate) mod strings;
mod structural;
mod values;

use std::io;
use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use crate::yaml::authentication::Spec as RequestAuthentication;
use crate::yaml::revocation::Spec as Revocation;
use crate::yaml::schema::{AuthorizationPolicy, MeshConfig, PeerAuthentication, Service, Workload};

const GROUP: &str = "kith.dev";
const VERSION: &str = "v1alpha1";

struct Kind {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
    namespaced: bool,
    /// Without a spec it says nothing.
    needs_spec: bool,
    /// Sidecars enforce it by itself.
    enforced: bool,
    columns: &'static [Column],
    schema: fn(SchemaGenerator) -> schemars::Schema,
}

/// Name, type, where it is.
type Column = (&'static str, &'static str, &'static str);

fn schema_of<T: JsonSchema>(generator: SchemaGenerator) -> schemars::Schema {
    generator.into_root_schema_for::<T>()
}

/// In the order of their plurals, which is that of the files.
static KINDS: [Kind; 7] = [
    Kind {
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        singular: "authorizationpolicy",
        short: "kap",
        namespaced: true,
        needs_spec: false,
        enforced: true,
        columns: &[
            ("Action", "string", ".spec.action"),
            ("Dry-Run", "boolean", ".spec.dryRun"),
        ],
        schema: schema_of::<AuthorizationPolicy>,
    },
    Kind {
        kind: "MeshConfig",
        plural: "meshconfigs",
        singular: "meshconfig",
        short: "kmc",
        namespaced: false,
        needs_spec: true,
        enforced: true,
        columns: &[
            ("Trust-Domain", "string", ".spec.trustDomain"),
            ("Root-Namespace", "string", ".spec.rootNamespace"),
            ("Default-Action", "string", ".spec.defaultAction"),
        ],
        schema: schema_of::<MeshConfig>,
    },
    Kind {
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        singular: "peerauthentication",
        short: "kpa",
        namespaced: true,
        needs_spec: false,
        enforced: true,
        columns: &[("Mode", "string", ".spec.mtls.mode")],
        schema: schema_of::<PeerAuthentication>,
    },
    Kind {
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        singular: "requestauthentication",
        short: "kra",
        namespaced: true,
        needs_spec: false,
        enforced: true,
        columns: &[("Issuer", "string", ".spec.jwtRules[*].issuer")],
        schema: schema_of::<RequestAuthentication>,
    },
    Kind {
        kind: "Revocation",
        plural: "revocations",
        singular: "revocation",
        short: "krev",
        namespaced: false,
        needs_spec: true,
        enforced: true,
        columns: &[
            ("Until", "string", ".spec.until"),
            ("Reason", "string", ".spec.reason"),
        ],
        schema: schema_of::<Revocation>,
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short: "ksvc",
        namespaced: true,
        needs_spec: true,
        enforced: false,
        columns: &[
            ("Addresses", "string", ".spec.addresses"),
            ("Hosts", "string", ".spec.hosts"),
        ],
        schema: schema_of::<Service>,
    },
    Kind {
        kind: "Workload",
        plural: "workloads",
        singular: "workload",
        short: "kwl",
        namespaced: true,
        needs_spec: true,
        enforced: false,
        columns: &[
            ("Service-Account", "string", ".spec.serviceAccount"),
            ("Addresses", "string", ".spec.addresses"),
        ],
        schema: schema_of::<Workload>,
    },
];

/// One file: its name, and the CustomResourceDefinition in it.
#[derive(Debug)]
pub struct Definition {
    /// `<plural>.yaml`.
    pub file: String,
    /// The document, with a line that says where it comes from.
    pub text: String,
}

/// All of them, in a stable order.
///
/// # Errors
/// A schema cannot be written as YAML, which is a mistake in the program.
pub fn definitions() -> io::Result<Vec<Definition>> {
    let definitions = KINDS.iter().map(|kind| {
        let yaml = serde_saphyr::to_string(&kind.definition()).map_err(io::Error::other)?;
        Ok(Definition {
            file: format!("{}.yaml", kind.plural),
            text: format!(
                "# Made from the types that read it, by `kith-control crds`: change those.\n{yaml}"
            ),
        })
    });
    definitions.collect()
}

/// Writes each into a file of its own in `dir`, and says which.
///
/// # Errors
/// A file cannot be written.
pub fn write(dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let files = definitions()?.into_iter().map(|Definition { file, text }| {
        let path = dir.join(file);
        std::fs::write(&path, text)?;
        Ok(path)
    });
    files.collect()
}

impl Kind {
    fn definition(&self) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{GROUP}", self.plural)},
            "spec": {
                "group": GROUP,
                "names": {
                    "kind": self.kind,
                    "listKind": format!("{}List", self.kind),
                    "plural": self.plural,
                    "singular": self.singular,
                    "shortNames": [self.short],
                    "categories": ["kith"],
                },
                "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
                "versions": [{
                    "name": VERSION,
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": self.columns(),
                    "schema": {"openAPIV3Schema": self.object()},
                }],
            },
        })
    }

    fn object(&self) -> Value {
        let mut spec = self.spec();
        let description = match spec.as_object_mut().and_then(|it| it.remove("description")) {
            Some(description) => description,
            None => Value::Null,
        };
        let text = |description: &str| json!({"type": "string", "description": description});
        let mut object = json!({
            "type": "object",
            "description": description,
            "properties": {
                "apiVersion": text("`kith.dev/v1alpha1`."),
                "kind": text(&format!("`{}`.", self.kind)),
                "metadata": {"type": "object"},
                "spec": spec,
                "status": status::status(),
            },
            // A key beside `spec` that belongs into it is no less of a restriction.
            "x-kubernetes-preserve-unknown-fields": true,
        });
        if self.needs_spec {
            object["required"] = json!(["spec"]);
        }
        object
    }

    fn spec(&self) -> Value {
        let settings = SchemaSettings::draft2020_12().with(|it| it.inline_subschemas = true);
        let mut spec = (self.schema)(settings.into_generator()).to_value();
        structural::structural(&mut spec);
        spec
    }

    fn columns(&self) -> Value {
        let accepted = r#".status.conditions[?(@.type=="Accepted")]"#;
        let (status, message) = (format!("{accepted}.status"), format!("{accepted}.message"));
        let mut columns = self.columns.to_vec();
        columns.push(("Accepted", "string", &status));
        if self.enforced {
            columns.push(("Enforced", "integer", ".status.sidecars.enforced"));
            columns.push(("Sidecars", "integer", ".status.sidecars.selected"));
        }
        columns.push(("Age", "date", ".metadata.creationTimestamp"));
        let mut columns: Vec<Value> = columns
            .into_iter()
            .map(|(name, kind, path)| json!({"name": name, "type": kind, "jsonPath": path}))
            .collect();
        // With `-o wide`.
        columns
            .push(json!({"name": "Message", "type": "string", "jsonPath": message, "priority": 1}));
        Value::Array(columns)
    }
}

#[cfg(test)]
mod tests;
