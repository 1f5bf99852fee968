//! What is made bit by bit against what is made at once of the same cluster, after every one of many random changes.

mod compare;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::watch::Change;

const NAMESPACES: [&str; 3] = ["shop", "bank", "kith-system"];
const LABELS: [&str; 3] = ["web", "orders", "db"];

/// All that is in the API, as objects; and what follows it, change by change.
struct World {
    random: fastrand::Rng,
    pods: BTreeMap<Id, Value>,
    services: BTreeMap<Id, Value>,
    slices: BTreeMap<Id, Value>,
    accounts: BTreeMap<Id, Value>,
    documents: BTreeMap<(DocumentKind, Id), (i64, Value)>,
    model: Model,
    /// As whoever serves has it, who is told of what changed and of nothing else.
    served: Option<Arc<Catalog>>,
    said: Verdicts,
}

fn pod(id: &Id, object: &Value) -> Change {
    Change::Pod(
        match Pod::of(serde_json::from_value(object.clone()).unwrap()) {
            Some(pod) => Event::Applied(id.clone(), pod),
            None => Event::Deleted(id.clone()),
        },
    )
}

fn service(id: &Id, object: &Value) -> Change {
    Change::Service(
        match Service::of(serde_json::from_value(object.clone()).unwrap()) {
            Some(service) => Event::Applied(id.clone(), service),
            None => Event::Deleted(id.clone()),
        },
    )
}

fn slice(id: &Id, object: &Value) -> Change {
    Change::Slice(
        match Slice::of(serde_json::from_value(object.clone()).unwrap()) {
            Some(slice) => Event::Applied(id.clone(), slice),
            None => Event::Deleted(id.clone()),
        },
    )
}

fn account(id: &Id, _: &Value) -> Change {
    Change::ServiceAccount(Event::Applied(id.clone(), ()))
}

fn document(kind: DocumentKind, id: &Id, (created, object): &(i64, Value)) -> Change {
    let object = Object {
        uid: format!("{id} {created}"),
        generation: 1,
        created: *created,
        status: None,
        document: Arc::new(object.clone()),
    };
    Change::Document(kind, Event::Applied(id.clone(), Box::new(object)))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            accounts: BTreeMap::new(),
            documents: BTreeMap::new(),
            model: Model::new("cluster.local"),
            served: None,
            said: Verdicts::default(),
        };
        world.mesh();
        world
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.usize(..all.len())]
    }

    fn often(&mut self) -> bool {
        self.random.u8(..8) > 0
    }

    fn seldom(&mut self) -> bool {
        self.random.u8(..8) == 0
    }

    fn address(&mut self) -> String {
        match self.random.u8(..5) {
            0 => format!("fd00::{}", self.random.u8(1..6)),
            _ => format!("10.0.0.{}", self.random.u8(1..8)),
        }
    }

    fn id(&mut self, name: &str, most: u8) -> Id {
        let namespace = self.one_of(&NAMESPACES);
        format!("{namespace}/{name}-{}", self.random.u8(..most)).into()
    }

    fn mesh(&mut self) {
        let spec = json!({
            "trustDomain": self.one_of(&["example.org", "example.org", "other.org"]),
            "defaultAction": self.one_of(&["ALLOW", "DENY"]),
        });
        self.put_document(DocumentKind::MeshConfig, "default".into(), spec);
    }

    fn put_document(&mut self, kind: DocumentKind, id: Id, spec: Value) {
        let (namespace, name) = crate::kubernetes::object::namespace_and_name(&id);
        let mut metadata = json!({"name": name});
        if !namespace.is_empty() {
            metadata["namespace"] = namespace.into();
        }
        let object = json!({"apiVersion": kind.api_version(), "kind": kind.kind(), "metadata": metadata, "spec": spec});
        let created = i64::from(self.random.u8(..4));
        let known = self.documents.get(&(kind, id.clone()));
        let created = known.map_or(created, |(created, _)| *created);
        let object = (created, object);
        self.model.take_in(document(kind, &id, &object));
        self.documents.insert((kind, id), object);
    }

    fn labels(&mut self) -> Value {
        let mut labels = json!({"app": self.one_of(&LABELS)});
        if self.random.bool() {
            labels["team"] = self.one_of(&["a", "b"]).into();
        }
        labels
    }

    fn selector(&mut self) -> Value {
        match self.random.u8(..3) {
            0 => json!({}),
            1 => json!({"matchLabels": {"app": self.one_of(&LABELS)}}),
            _ => json!({"matchLabels": {"team": self.one_of(&["a", "b"])}}),
        }
    }

    fn put_pod(&mut self) {
        let id = self.id("p", 4);
        let (namespace, name) = crate::kubernetes::object::namespace_and_name(&id);
        let mut metadata = json!({"namespace": namespace, "name": name, "labels": self.labels()});
        metadata["creationTimestamp"] =
            format!("2026-11-0{}T00:00:00Z", self.random.u8(1..4)).into();
        if self.seldom() {
            metadata["deletionTimestamp"] = "2026-11-09T00:00:00Z".into();
        }
        let mut spec = json!({
            "serviceAccountName": self.one_of(&["a", "b", "under score"]),
            "containers": [{"name": "app"}],
        });
        if self.often() {
            spec["initContainers"] = json!([{"name": "kith-proxy", "restartPolicy": "Always"}]);
        }
        if self.random.bool() {
            spec["containers"][0]["ports"] =
                json!([{"containerPort": self.one_of(&[8080, 9090, 7070])}]);
        }
        if self.seldom() {
            spec["hostNetwork"] = true.into();
        }
        let ips: Vec<_> = (0..self.random.u8(..3))
            .map(|_| json!({"ip": self.address()}))
            .collect();
        let phase = self.one_of(&["Running", "Running", "Running", "Pending", "Failed"]);
        let status = json!({"phase": phase, "podIPs": ips});
        let object = json!({"metadata": metadata, "spec": spec, "status": status});
        self.model.take_in(pod(&id, &object));
        self.pods.insert(id, object);
    }

    fn put_service(&mut self) {
        let id = self.id("s", 2);
        let (namespace, name) = crate::kubernetes::object::namespace_and_name(&id);
        // No two Services have one address.
        let number = usize::from(name == "s-1") * 3
            + NAMESPACES.iter().position(|it| *it == namespace).unwrap();
        let target = match self.random.u8(..3) {
            0 => json!("web"),
            1 => json!(9090),
            _ => json!(8080),
        };
        let mut spec = json!({
            "ports": [{"name": "http", "port": 80, "targetPort": target}],
            "publishNotReadyAddresses": self.seldom(),
        });
        match self.random.u8(..5) {
            0 => spec["clusterIP"] = "None".into(),
            1 => {
                spec["clusterIPs"] =
                    json!([format!("10.96.0.{number}"), format!("fd00:96::{number}")])
            }
            2 if self.seldom() => {
                spec = json!({"type": "ExternalName", "externalName": "example.com"})
            }
            _ => spec["clusterIP"] = format!("10.96.0.{number}").into(),
        }
        if self.random.bool()
            && let Some(ports) = spec["ports"].as_array_mut()
        {
            ports.push(json!({"name": "admin", "port": 81, "targetPort": "admin"}));
        }
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        self.model.take_in(service(&id, &object));
        self.services.insert(id, object);
    }

    fn put_slice(&mut self) {
        let id = self.id("x", 4);
        let (namespace, name) = crate::kubernetes::object::namespace_and_name(&id);
        let mut endpoints = Vec::new();
        for _ in 0..self.random.u8(..4) {
            let mut endpoint = json!({
                "addresses": [self.address()],
                "conditions": {"ready": self.often(), "serving": self.often()},
            });
            if self.often() {
                let name = format!("p-{}", self.random.u8(..4));
                let object = self.pods.get(&*format!("{namespace}/{name}"));
                let own = object.map(|object| object["status"]["podIPs"][0]["ip"].clone());
                endpoint["targetRef"] = json!({"kind": "Pod", "name": name});
                if let Some(own) = own.filter(Value::is_string)
                    && self.often()
                {
                    endpoint["addresses"] = json!([own]);
                }
            }
            endpoints.push(endpoint);
        }
        let mut ports = Vec::new();
        if self.often() {
            ports.push(json!({"name": "http", "port": self.one_of(&[8080, 9090])}));
        }
        if self.random.bool() {
            ports.push(json!({"name": "admin", "port": self.one_of(&[8080, 7070]), "appProtocol": self.one_of(&["http", "grpc"])}));
        }
        let service = self.one_of(&["s-0", "s-1", "none"]);
        let object = json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": self.one_of(&["IPv4", "IPv4", "IPv6"]),
            "ports": ports,
            "endpoints": endpoints,
        });
        self.model.take_in(slice(&id, &object));
        self.slices.insert(id, object);
    }

    fn put_account(&mut self) {
        let namespace = self.one_of(&NAMESPACES);
        let id: Id = format!("{namespace}/{}", self.one_of(&["a", "b", "under score"])).into();
        self.model.take_in(account(&id, &Value::Null));
        self.accounts.insert(id, Value::Null);
    }

    fn put_a_document(&mut self) {
        let kind = self.one_of(&[
            DocumentKind::AuthorizationPolicy,
            DocumentKind::IstioAuthorizationPolicy,
            DocumentKind::PeerAuthentication,
            DocumentKind::RequestAuthentication,
            DocumentKind::RequestAuthentication,
            DocumentKind::Workload,
            DocumentKind::Service,
            DocumentKind::Revocation,
        ]);
        let selector = self.selector();
        let mut id = self.id("d", 3);
        let spec = match kind.kind() {
            "AuthorizationPolicy" => json!({
                "selector": selector,
                "action": self.one_of(&["ALLOW", "DENY", "CUSTOM", "AUDIT"]),
                "rules": self.one_of(&[r#"[{}]"#, "[]", r#"[{"to": [{"operation": {"methods": ["GET"]}}]}]"#])
                    .parse::<Value>().unwrap(),
            }),
            "PeerAuthentication" => json!({
                "selector": selector,
                "mtls": {"mode": self.one_of(&["STRICT", "PERMISSIVE", "DISABLE", "LAX"])},
            }),
            "RequestAuthentication" => json!({
                "selector": selector,
                "jwtRules": [{
                    "issuer": self.one_of(&["https://a.example", "https://a.example", "https://b.example"]),
                    "jwks": KEYS,
                    "outputPayloadToHeader": self.one_of(&["x-a", "x-b"]),
                }],
            }),
            "Workload" => {
                if self.random.bool() {
                    id = self.id("p", 4);
                }
                json!({
                    "serviceAccount": self.one_of(&["vm", "under score"]),
                    "addresses": [self.address()],
                    "mesh": self.often(),
                })
            }
            "Service" => json!({
                "addresses": [self.address()],
                "hosts": [self.one_of(&["db.example.org", "s-0.shop.svc.cluster.local"])],
                "selector": {"app": self.one_of(&LABELS)},
                "ports": [{"port": 80}],
            }),
            _ => {
                id = format!("r-{}", self.random.u8(..3)).into();
                json!({
                    "principal": self.one_of(&["spiffe://example.org/ns/shop/sa/a", "spiffe://example.org/ns/shop/sa/b"]),
                    "until": self.one_of(&["2099-01-01T00:00:00Z", "tomorrow"]),
                    "reason": "lost",
                })
            }
        };
        self.put_document(kind, id, spec);
    }

    fn remove(&mut self) {
        fn any<K: Clone + Ord, V>(
            random: &mut fastrand::Rng,
            all: &mut BTreeMap<K, V>,
        ) -> Option<K> {
            let key = all.keys().nth(random.usize(..all.len().max(1))).cloned()?;
            all.remove(&key);
            Some(key)
        }
        let random = &mut self.random;
        let gone = match random.u8(..5) {
            0 => any(random, &mut self.pods).map(|id| Change::Pod(Event::Deleted(id))),
            1 => any(random, &mut self.services).map(|id| Change::Service(Event::Deleted(id))),
            2 => any(random, &mut self.slices).map(|id| Change::Slice(Event::Deleted(id))),
            3 => {
                any(random, &mut self.accounts).map(|id| Change::ServiceAccount(Event::Deleted(id)))
            }
            _ => {
                let mesh = self
                    .documents
                    .remove(&(DocumentKind::MeshConfig, "default".into()));
                let gone = any(random, &mut self.documents);
                let key = (DocumentKind::MeshConfig, "default".into());
                self.documents.extend(mesh.map(|mesh| (key, mesh)));
                gone.map(|(kind, id)| Change::Document(kind, Event::Deleted(id)))
            }
        };
        if let Some(gone) = gone {
            self.model.take_in(gone);
        }
    }

    /// The watch of pods begins anew, breaks off at times, and finds that one is gone.
    fn list_anew(&mut self) {
        if self.seldom() {
            self.model.take_in(Change::Pod(Event::Listing));
            for (id, object) in self.pods.iter().take(2) {
                self.model.take_in(pod(id, object));
            }
        }
        self.model.take_in(Change::Pod(Event::Listing));
        let gone = self.pods.keys().next().cloned();
        if let Some(gone) = gone.filter(|_| self.random.bool()) {
            self.pods.remove(&gone);
        }
        for (id, object) in &self.pods {
            self.model.take_in(pod(id, object));
        }
        self.model.take_in(Change::Pod(Event::Listed));
    }

    fn change(&mut self) {
        match self.random.u8(..24) {
            0..=6 => self.put_pod(),
            7..=9 => self.put_slice(),
            10..=11 => self.put_service(),
            12..=13 => self.put_account(),
            14..=16 => self.put_a_document(),
            17 => self.list_anew(),
            18 if self.seldom() => self.mesh(),
            _ => self.remove(),
        }
    }
}

#[test]
fn any_sequence_of_changes_comes_to_what_reading_all_at_once_does() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        for step in 0..150 {
            for _ in 0..world.random.u8(1..3) {
                world.change();
            }
            world.settle();
            world.compare(step);
        }
    }
}
