//! What holds in place of a document that cannot be honoured: as much as it can have meant to restrict, or more. Pure.
//!
//! | kind | in its place |
//! |---|---|
//! | AuthorizationPolicy, ALLOW | an ALLOW that matches nothing |
//! | AuthorizationPolicy, any other action but AUDIT | a DENY that matches everything |
//! | AuthorizationPolicy, AUDIT or dry-run | nothing: it never decides |
//! | PeerAuthentication | STRICT |
//! | RequestAuthentication | a DENY that matches everything |
//! | Revocation | what it names, for good |
//! | Workload | its addresses, with an identity that nobody can prove |
//! | Service | its addresses and hosts, with no endpoint |
//!
//! Each on the workloads that it selects; on its whole namespace when that cannot be read.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::kind::DocumentKind;
use crate::catalog::Version;
use crate::yaml::value::{Address, Host, Labels};
use crate::yaml::{Node, load_trees};

/// The longest name of an object.
const LONGEST_NAME: usize = 253;
/// As many addresses, and as many hosts, as one document may have.
const MOST: usize = 32;
/// RFC 2606 section 2: nobody's.
const NOBODY: &str = "unreadable.invalid";
/// Further than anything else that could be revoked: the end of a Timestamp's range.
const FOR_GOOD: &str = "9999-12-31T23:59:59Z";

/// What holds instead.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Substitute {
    pub(crate) documents: Vec<Value>,
    /// What that comes to, for the author of the broken one.
    pub(crate) effect: &'static str,
}

/// What holds in place of `document`. `attempt` 0 bears the name of the broken object; the ones after it have names that
/// nobody else's object has, for when that one is taken. None: there is no further attempt.
pub(crate) fn substitute(
    kind: DocumentKind,
    document: &Value,
    attempt: usize,
) -> Option<Substitute> {
    let spec = &document["spec"];
    let broken = Broken {
        kind,
        document,
        spec,
        attempt,
    };
    match kind.kind() {
        "AuthorizationPolicy" => broken.authorization_policy(),
        "PeerAuthentication" => broken.peer_authentication(),
        "RequestAuthentication" => broken.request_authentication(),
        "Revocation" => broken.revocation(),
        "Workload" => broken.workload(),
        "Service" => broken.service(),
        // Its last valid version stays, which is not known here.
        _ => None,
    }
}

struct Broken<'a> {
    kind: DocumentKind,
    document: &'a Value,
    spec: &'a Value,
    attempt: usize,
}

impl Broken<'_> {
    fn authorization_policy(&self) -> Option<Substitute> {
        let annotation = &self.document["metadata"]["annotations"]["istio.io/dry-run"];
        let dry_run = *annotation == "true" || self.spec["dryRun"] == true;
        let action = match &self.spec["action"] {
            // Not given: ALLOW.
            Value::Null => "ALLOW",
            Value::String(action) => action,
            _ => "",
        };
        let name = match self.attempt {
            0 => self.name().to_owned(),
            _ => self.another_name(self.attempt - 1)?,
        };
        Some(match action {
            _ if dry_run => Substitute::nothing(),
            "AUDIT" => Substitute::nothing(),
            "ALLOW" => Substitute {
                documents: vec![self.policy(&name, json!({"action": "ALLOW"}))],
                effect: "until it is corrected it allows nothing",
            },
            _ => self.deny_everything(&name),
        })
    }

    fn request_authentication(&self) -> Option<Substitute> {
        let name = self.another_name(self.attempt)?;
        Some(self.deny_everything(&name))
    }

    fn deny_everything(&self, name: &str) -> Substitute {
        let deny = json!({"action": "DENY", "rules": [{}]});
        Substitute {
            documents: vec![self.policy(name, deny)],
            effect: "until it is corrected everything is denied where it holds",
        }
    }

    fn policy(&self, name: &str, spec: Value) -> Value {
        self.where_selected("AuthorizationPolicy", name, spec)
    }

    fn peer_authentication(&self) -> Option<Substitute> {
        let spec = json!({"mtls": {"mode": "STRICT"}});
        let name = match self.attempt {
            0 => self.name().to_owned(),
            _ => self.another_name(self.attempt - 1)?,
        };
        Some(Substitute {
            documents: vec![self.where_selected("PeerAuthentication", &name, spec)],
            effect: "until it is corrected mTLS is STRICT where it holds",
        })
    }

    /// Each subject by itself: a second one may be what is wrong with it.
    fn revocation(&self) -> Option<Substitute> {
        if self.attempt > 0 {
            return None;
        }
        let subjects = ["principal", "certificate", "token"];
        let given = subjects
            .iter()
            .filter_map(|field| Some((*field, self.spec.get(field)?)));
        let documents = given.map(|(field, subject)| {
            let mut spec = Map::new();
            spec.insert(field.into(), subject.clone());
            spec.insert("until".into(), FOR_GOOD.into());
            let reason = format!("Revocation {} cannot be read in full", self.name());
            // As long as a reason may be.
            spec.insert(
                "reason".into(),
                reason.chars().take(256).collect::<String>().into(),
            );
            let name = bounded(format!("{}.{field}", self.name()));
            self.instead("Revocation", &name, &spec.into())
        });
        let documents: Vec<_> = documents.filter(readable).collect();
        let effect = if documents.is_empty() {
            "until it is corrected it revokes nothing, for nobody can say what"
        } else {
            "until it is corrected what can be read of what it names is revoked for good"
        };
        Some(Substitute { documents, effect })
    }

    fn workload(&self) -> Option<Substitute> {
        let addresses = self.addresses();
        if self.attempt > 0 || addresses.is_empty() {
            return None;
        }
        let spiffe_id = format!(
            "spiffe://{NOBODY}/workload/{}/{}",
            self.namespace(),
            self.name()
        );
        let part = |(number, addresses): (usize, &[&str])| {
            let spec = json!({
                "addresses": addresses,
                "serviceAccount": "unreadable",
                "spiffeId": spiffe_id,
            });
            self.instead("Workload", &self.name_of_part(number), &spec)
        };
        Some(Substitute {
            documents: addresses.chunks(MOST).enumerate().map(part).collect(),
            effect: "until it is corrected nobody can connect to its addresses",
        })
    }

    fn service(&self) -> Option<Substitute> {
        let addresses = self.addresses();
        let hosts = self.spec["hosts"].as_array().into_iter().flatten();
        let hosts: Vec<_> = hosts
            .filter_map(Value::as_str)
            .filter(|host| Host::try_from((*host).to_owned()).is_ok())
            .collect();
        if self.attempt > 0 || (addresses.is_empty() && hosts.is_empty()) {
            return None;
        }
        // No object of a cluster has a label whose value begins with a dash.
        let selector = json!({"kith.dev/unreadable": format!("-{NOBODY}")});
        let (mut addresses, mut hosts) = (addresses.chunks(MOST), hosts.chunks(MOST));
        let parts = std::iter::from_fn(|| match (addresses.next(), hosts.next()) {
            (None, None) => None,
            (addresses, hosts) => Some(json!({
                "addresses": addresses.unwrap_or_default(),
                "hosts": hosts.unwrap_or_default(),
                "selector": selector,
                "ports": [{"port": 1}],
            })),
        });
        let part = |(number, spec)| self.instead("Service", &self.name_of_part(number), &spec);
        Some(Substitute {
            documents: parts.enumerate().map(part).collect(),
            effect: "until it is corrected nobody can connect to it",
        })
    }

    /// Those that can be read. One that cannot be read has never been anybody's.
    fn addresses(&self) -> Vec<&str> {
        let addresses = self.spec["addresses"].as_array().into_iter().flatten();
        addresses
            .filter_map(Value::as_str)
            .filter(|address| Address::try_from((*address).to_owned()).is_ok())
            .collect()
    }

    /// The labels of the workloads that it is for. None: all of the namespace, because it says so, or because nobody can
    /// say which.
    fn selected(&self) -> Option<&Map<String, Value>> {
        let targeted = ["targetRef", "targetRefs"];
        if targeted.iter().any(|field| self.spec.get(field).is_some()) {
            return None;
        }
        let selector = self.spec.get("selector")?.as_object()?;
        let labels = selector.get("matchLabels")?.as_object()?;
        let pairs = labels.iter();
        let text: Option<BTreeMap<_, _>> = pairs
            .map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        (selector.len() == 1 && Labels::try_from(text?).is_ok()).then_some(labels)
    }

    /// Where the broken one holds; in all of the namespace when a document of kith.dev cannot select what it does, since
    /// Istio's may ask for more.
    fn where_selected(&self, kind: &str, name: &str, mut spec: Value) -> Value {
        let everywhere = self.instead(kind, name, &spec);
        let Some(labels) = self.selected() else {
            return everywhere;
        };
        spec["selector"] = json!({"matchLabels": labels});
        let there = self.instead(kind, name, &spec);
        if readable(&there) { there } else { everywhere }
    }

    fn instead(&self, kind: &str, name: &str, spec: &Value) -> Value {
        let mut metadata = json!({"name": name});
        if !self.namespace().is_empty() {
            metadata["namespace"] = self.namespace().into();
        }
        json!({"apiVersion": "kith.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    }

    /// The first has the name of the broken one.
    fn name_of_part(&self, number: usize) -> String {
        match number {
            0 => self.name().to_owned(),
            _ => bounded(format!("{}.unreadable.{number}", self.name())),
        }
    }

    fn name(&self) -> &str {
        self.document["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.document["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default()
    }

    /// Names that say whose substitute it is.
    fn another_name(&self, attempt: usize) -> Option<String> {
        let kind = self.kind.kind().to_ascii_lowercase();
        let kind = if self.kind.is_istio() {
            format!("istio-{kind}")
        } else {
            kind
        };
        let name = self.name();
        match attempt {
            0 => Some(bounded(format!("{name}.{kind}"))),
            1 => Some(format!(
                "{kind}.{}",
                Version::of(&[kind.as_bytes(), b"/", name.as_bytes()])
            )),
            _ => None,
        }
    }
}

impl Substitute {
    fn nothing() -> Self {
        Self {
            documents: Vec::new(),
            effect: "until it is corrected nothing is recorded for it",
        }
    }
}

/// What stands in for a document must hold, or nothing does.
fn readable(document: &Value) -> bool {
    load_trees(Path::new("substitute"), vec![Node::of_json(document)]).is_ok()
}

/// A name of at most the length that names have, still nobody else's.
fn bounded(name: String) -> String {
    if name.len() <= LONGEST_NAME {
        name
    } else {
        format!("unreadable.{}", Version::of(&[name.as_bytes()]))
    }
}

#[cfg(test)]
mod tests;
