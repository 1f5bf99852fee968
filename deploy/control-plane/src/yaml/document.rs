//! One document: which kind it is, and that kind's fields.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::authentication::{self, RequestAuthentication};
use super::node::Node;
use super::policy::{self, AuthorizationPolicy};
use super::revocation::{self, Revocation};
use super::schema::{self, Envelope, MeshConfig, Metadata, PeerAuthentication, Service, Workload};
use super::shape;
use super::value::{Port, is_name, is_path_segment};
use super::words;
use crate::crd::bounds;
use crate::problem::Problem;

const ISTIO: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];
const KITH: &str = "kith.dev/v1alpha1";
/// Kinds that are in no namespace.
const MESH_WIDE: [&str; 2] = ["MeshConfig", "Revocation"];

/// The documents of one file.
#[derive(Debug, Default)]
pub struct Documents {
    pub mesh_configs: Vec<Document<MeshConfig>>,
    pub workloads: Vec<Document<Workload>>,
    pub services: Vec<Document<Service>>,
    pub authorization_policies: Vec<Document<AuthorizationPolicy>>,
    pub peer_authentications: Vec<Document<PeerAuthentication>>,
    pub request_authentications: Vec<Document<RequestAuthentication>>,
    pub revocations: Vec<Document<Revocation>>,
}

#[derive(Debug)]
pub struct Document<T> {
    pub place: Place,
    pub metadata: Metadata,
    pub spec: T,
}

impl<T> Document<T> {
    /// `namespace/name`; of a kind that is in no namespace, its name.
    pub fn id(&self) -> String {
        if self.metadata.namespace.is_empty() {
            return self.metadata.name.clone();
        }
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

/// Where a document stands, for whoever finds out later that something is wrong with it.
#[derive(Debug, Clone)]
pub struct Place {
    file: Arc<Path>,
    node: Arc<Node>,
}

impl Place {
    pub fn problem(&self, field: &str, message: impl Into<String>) -> Problem {
        let line = self.node.line_of(field);
        Problem {
            file: self.file.to_path_buf(),
            line,
            field: field.into(),
            message: message.into(),
        }
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        self.node.to_json()
    }

    /// As the document says it.
    pub(crate) fn kind(&self) -> &str {
        self.node
            .get("kind")
            .and_then(Node::as_str)
            .unwrap_or_default()
    }

    /// `file:line`, to point at a document from another's problem.
    pub fn describe(&self) -> String {
        match self.node.line {
            0 => self.file.display().to_string(),
            line => format!("{}:{line}", self.file.display()),
        }
    }
}

/// The documents in a `kind: List`, as `kubectl get` writes them, or the document itself.
fn items(mut node: Node) -> Vec<Node> {
    let kind = node.get("kind").and_then(Node::as_str);
    if kind.is_some_and(|kind| kind.ends_with("List"))
        && node.get("items").is_some_and(Node::is_list)
    {
        node.take_list("items")
    } else {
        vec![node]
    }
}

impl Documents {
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        Self::read(file, super::trees(file, text)?)
    }

    pub(super) fn read(file: &Path, nodes: Vec<Node>) -> Result<Self, Vec<Problem>> {
        let file: Arc<Path> = file.into();
        let mut documents = Self::default();
        let mut problems = Vec::new();
        for node in nodes.into_iter().flat_map(items) {
            let place = Place {
                file: Arc::clone(&file),
                node: Arc::new(node),
            };
            if let Err(found) = documents.add(&place) {
                problems.extend(found);
            }
        }
        if problems.is_empty() {
            Ok(documents)
        } else {
            Err(problems)
        }
    }

    fn add(&mut self, place: &Place) -> Result<(), Vec<Problem>> {
        let node = Arc::clone(&place.node);
        if !node.is_map() {
            return Err(vec![place.problem(
                "",
                "expected a document with `apiVersion`, `kind` and `metadata`",
            )]);
        }
        let text = |field| {
            let found = node.get(field).and_then(Node::as_str);
            found.ok_or_else(|| {
                vec![place.problem(field, "required: say what kind of document this is")]
            })
        };
        let (version, kind) = (text("apiVersion")?, text("kind")?);
        let istio = ISTIO.contains(&version);
        if !istio && version != KITH {
            let message = format!(
                "`{version}` is not known; known are `{KITH}`, `{}` and `{}`",
                ISTIO[0], ISTIO[1]
            );
            return Err(vec![place.problem("apiVersion", message)]);
        }
        match kind {
            "AuthorizationPolicy" => {
                let document = read(place, Some(schema::AuthorizationPolicy::default()))?;
                self.authorization_policies.push(policy::convert(document)?);
            }
            "RequestAuthentication" => {
                let document = read(place, Some(authentication::Spec::default()))?;
                let document = authentication::convert(document)?;
                self.request_authentications.push(document);
            }
            "PeerAuthentication" => {
                let document = read::<PeerAuthentication>(place, Some(Default::default()))?;
                // As Istio has it: which workloads' port would be meant?
                if document.spec.selector.match_labels.0.is_empty()
                    && !document.spec.port_level_mtls.is_empty()
                {
                    return Err(vec![
                        place.problem("spec.portLevelMtls", words::NEEDS_SELECTOR),
                    ]);
                }
                self.peer_authentications.push(document);
            }
            "MeshConfig" if !istio => {
                let document = read::<MeshConfig>(place, None)?;
                let root = &document.spec.root_namespace;
                if !is_namespace(root) {
                    let message = format!("`{root}`{}", words::NOT_A_NAMESPACE);
                    return Err(vec![place.problem("spec.rootNamespace", message)]);
                }
                self.mesh_configs.push(document);
            }
            "Workload" if !istio => {
                let document = read(place, None)?;
                check_workload(&document)?;
                self.workloads.push(document);
            }
            "Service" if !istio => {
                let document = read(place, None)?;
                check_service(&document)?;
                self.services.push(document);
            }
            "Revocation" if !istio => {
                self.revocations
                    .push(revocation::convert(read(place, None)?)?);
            }
            _ => {
                return Err(vec![place.problem(
                    "kind",
                    format!("`{kind}` is not a kind of `{version}` known here"),
                )]);
            }
        }
        Ok(())
    }
}

/// Reads the typed document, and names the field where that fails. `default` stands for an absent spec,
/// if the kind allows that.
fn read<S: DeserializeOwned>(
    place: &Place,
    default: Option<S>,
) -> Result<Document<S>, Vec<Problem>> {
    no_empties(place)?;
    within_bounds(place)?;
    let envelope: Envelope<S> = shape::read(place)?;
    let spec = envelope
        .spec
        .or(default)
        .ok_or_else(|| vec![place.problem("spec", "required")])?;
    let document = Document {
        place: place.clone(),
        metadata: envelope.metadata,
        spec,
    };
    check_metadata(&document)?;
    Ok(document)
}

/// A key whose values were commented out, or that a template left without any, is no absent key: taken for one, it
/// would drop the restriction that somebody meant to be there. A cluster refuses it too.
fn no_empties(place: &Place) -> Result<(), Vec<Problem>> {
    let spec = place.node.get("spec").filter(|spec| spec.is_map());
    let empties = spec.map_or_else(Vec::new, |spec| spec.empties("spec"));
    if empties.is_empty() {
        return Ok(());
    }
    let message = "nothing is behind it: say what is meant, or remove the key";
    Err((empties.iter())
        .map(|field| place.problem(field, message))
        .collect())
}

/// What a cluster would not take is not taken from a file either.
fn within_bounds(place: &Place) -> Result<(), Vec<Problem>> {
    let version = place.node.get("apiVersion").and_then(Node::as_str);
    let Some(spec) = place.node.get("spec").filter(|_| version == Some(KITH)) else {
        return Ok(());
    };
    let exceeded = bounds::exceeded(place.kind(), &spec.to_json());
    if exceeded.is_empty() {
        return Ok(());
    }
    Err((exceeded.into_iter())
        .map(|(field, message)| place.problem(&field, message))
        .collect())
}

/// RFC 1123 label, as Kubernetes has it.
fn is_namespace(text: &str) -> bool {
    is_name(text) && !text.contains('.')
}

fn check_metadata<S>(document: &Document<S>) -> Result<(), Vec<Problem>> {
    let Metadata {
        namespace, name, ..
    } = &document.metadata;
    let mut problems = Vec::new();
    if !is_name(name) {
        let message = format!("`{name}` is not a name: use a-z, 0-9, `-` and `.`");
        problems.push(document.place.problem("metadata.name", message));
    }
    let kind = document.place.kind();
    let mesh_wide = MESH_WIDE.contains(&kind);
    if mesh_wide && !namespace.is_empty() {
        let message = format!("a {kind} is in no namespace: remove it");
        problems.push(document.place.problem("metadata.namespace", message));
    } else if !mesh_wide && namespace.is_empty() {
        problems.push(document.place.problem("metadata.namespace", "required"));
    } else if !mesh_wide && !is_namespace(namespace) {
        let message = format!("`{namespace}`{}", words::NOT_A_NAMESPACE);
        problems.push(document.place.problem("metadata.namespace", message));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

fn check_workload(document: &Document<Workload>) -> Result<(), Vec<Problem>> {
    let Document { place, spec, .. } = document;
    let mut problems = Vec::new();
    if spec.addresses.is_empty() {
        problems.push(place.problem("spec.addresses", words::NO_ADDRESS));
    }
    if spec.mesh && !is_path_segment(&spec.service_account) {
        let message = match spec.service_account.as_str() {
            "" => words::NO_SERVICE_ACCOUNT.into(),
            other => format!("`{other}`{}", words::NOT_IN_SPIFFE_ID),
        };
        problems.push(place.problem("spec.serviceAccount", message));
    }
    if !spec.mesh && spec.spiffe_id.is_some() {
        problems.push(place.problem("spec.spiffeId", words::NO_IDENTITY));
    }
    repeated(
        place,
        "spec.ports",
        spec.ports.iter().map(|port| port.port),
        &mut problems,
    );
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

fn check_service(document: &Document<Service>) -> Result<(), Vec<Problem>> {
    let Document { place, spec, .. } = document;
    let mut problems = Vec::new();
    if spec.addresses.is_empty() && spec.hosts.is_empty() {
        problems.push(place.problem("spec", words::NOTHING_TO_DIAL));
    }
    if spec.selector.0.is_empty() {
        problems.push(place.problem("spec.selector", words::SELECTS_NOTHING));
    }
    if spec.ports.is_empty() {
        problems.push(place.problem("spec.ports", words::NO_PORT));
    }
    repeated(
        place,
        "spec.ports",
        spec.ports.iter().map(|port| port.port),
        &mut problems,
    );
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

fn repeated(
    place: &Place,
    list: &str,
    ports: impl Iterator<Item = Port>,
    problems: &mut Vec<Problem>,
) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.map(Port::get).enumerate() {
        if !seen.insert(port) {
            problems.push(place.problem(
                &format!("{list}[{index}].port"),
                format!("port {port}{}", words::NAMED_TWICE),
            ));
        }
    }
}
