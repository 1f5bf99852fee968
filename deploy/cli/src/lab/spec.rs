//! What a workload is to be, and how the control plane is told of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::network::Addresses;

/// A port that a workload's application listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// `HTTP`, `HTTP2`, `GRPC`, `TCP`, `TLS`, or not declared.
    pub protocol: Option<String>,
}

/// What a workload is to be.
#[derive(Clone, Debug)]
pub struct WorkloadSpec {
    /// Its namespace, in the mesh's sense.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// What its SPIFFE ID is made of; as the name, unless said otherwise.
    pub service_account: String,
    /// Its SPIFFE ID, where it isn't the one that the mesh's trust domain, namespace and service account make.
    pub spiffe_id: Option<String>,
    /// For selectors; `app: NAME` is there already.
    pub labels: BTreeMap<String, String>,
    /// Ports of its application, as declared to the control plane.
    pub ports: Vec<Port>,
    /// Whether it has a sidecar and a capture.
    pub sidecar: bool,
    /// Whether the control plane is told of it.
    pub announced: bool,
    /// Whether there is a service of the same name, with the same ports, that selects `app: NAME`.
    pub service: bool,
    /// Further variables of the sidecar.
    pub environment: Vec<(String, String)>,
    /// Further arguments of `kith-proxy capture`.
    pub capture: Vec<String>,
    /// Where its sidecar gets its SVID, if not from the lab's authority.
    pub attested: Option<Attested>,
}

/// A sidecar whose SVID comes from another Workload API than the lab's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The socket of that Workload API.
    pub workload_api: PathBuf,
    /// A copy of the `kith` binary that the sidecar runs from: to who attests by path, copies are different programs.
    pub kith: PathBuf,
}

impl WorkloadSpec {
    /// A workload with sidecar, without ports.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: name.to_owned(),
            spiffe_id: None,
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            sidecar: true,
            announced: true,
            service: true,
            environment: Vec::new(),
            capture: Vec::new(),
            attested: None,
        }
    }

    /// Adds a port: `HTTP`, `HTTP2`, `GRPC`, `TCP`, `TLS`, or `""` for one that is not declared.
    #[must_use]
    pub fn port(mut self, number: u16, protocol: &str) -> Self {
        let protocol = (!protocol.is_empty()).then(|| protocol.to_owned());
        self.ports.push(Port { number, protocol });
        self
    }

    /// Sets the service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Sets the SPIFFE ID whole.
    #[must_use]
    pub fn spiffe_id(mut self, id: &str) -> Self {
        self.spiffe_id = Some(id.to_owned());
        self
    }

    /// Has its sidecar attested by another Workload API than the lab's own.
    #[must_use]
    pub fn attested(mut self, by: Attested) -> Self {
        self.attested = Some(by);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets a variable of the sidecar.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument to `kith-proxy capture`.
    #[must_use]
    pub fn capture(mut self, argument: &str) -> Self {
        self.capture.push(argument.to_owned());
        self
    }

    /// A machine without sidecar: announced with `mesh: false`.
    #[must_use]
    pub fn without_sidecar(mut self) -> Self {
        self.sidecar = false;
        self
    }

    /// Nobody tells the control plane of it.
    #[must_use]
    pub fn unannounced(mut self) -> Self {
        self.announced = false;
        self.service = false;
        self
    }

    /// No service of its own: another workload's may select it by label.
    #[must_use]
    pub fn without_service(mut self) -> Self {
        self.service = false;
        self
    }

    /// `namespace/name`, the node id.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn ports_json(&self) -> Vec<Value> {
        let entry = |port: &Port| match &port.protocol {
            Some(protocol) => json!({"port": port.number, "protocol": protocol}),
            None => json!({"port": port.number}),
        };
        self.ports.iter().map(entry).collect()
    }

    /// The documents that tell the control plane of it.
    pub(crate) fn documents(&self, addresses: Addresses, service: Option<Addresses>) -> Vec<Value> {
        let mut documents = Vec::new();
        if self.announced {
            let mut workload = json!({
                "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
                "metadata": {"namespace": self.namespace, "name": self.name, "labels": self.labels},
                "spec": {
                    "serviceAccount": self.service_account, "addresses": addresses.both(), "mesh": self.sidecar,
                    "ports": self.ports_json(),
                },
            });
            if let Some(id) = &self.spiffe_id {
                workload["spec"]["spiffeId"] = id.clone().into();
            }
            documents.push(workload);
        }
        if let Some(service) = service {
            documents.push(json!({
                "apiVersion": "kith.dev/v1alpha1", "kind": "Service",
                "metadata": {"namespace": self.namespace, "name": self.name},
                "spec": {
                    "addresses": service.both(), "hosts": [format!("{}.{}", self.name, self.namespace)],
                    "selector": {"app": self.name}, "ports": self.ports_json(),
                },
            }));
        }
        documents
    }
}
