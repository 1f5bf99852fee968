use expect_test::{Expect, expect};
use kith_proxy::resolve::Destination;
use kith_xds_client::api::mesh as api;
use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::object::{Pod, Service, Slice};
use crate::kubernetes::read::Object;
use crate::kubernetes::watch::{Change, Event};

mod random;

/// A cluster with a mesh, `web` and `orders` in it, and what was served last.
struct Cluster {
    model: Model,
    last: Outcome,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            model: Model::new("cluster.local"),
            last: Outcome::default(),
        };
        cluster.document(
            DocumentKind::MeshConfig,
            "default",
            json!({"trustDomain": "example.org"}),
        );
        for account in ["web", "orders"] {
            cluster.take(Change::ServiceAccount(Event::Applied(
                format!("shop/{account}").into(),
                (),
            )));
        }
        cluster.pod("web-1", "10.0.0.1", json!({}));
        cluster.pod("orders-1", "10.0.0.2", json!({}));
        cluster.service("orders", json!({"clusterIP": "10.96.0.2", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}));
        cluster.slice(
            "orders-x",
            json!({"endpoints": [endpoint("orders-1", "10.0.0.2", true)]}),
        );
        cluster.settle();
        cluster
    }

    fn take(&mut self, change: Change) {
        self.model.take_in(change);
    }

    fn pod(&mut self, name: &str, address: &str, changes: Value) {
        let account = name.split('-').next().unwrap();
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": account}, "creationTimestamp": "2026-11-01T00:00:00Z"},
            "spec": {"serviceAccountName": account, "containers": [{"name": "app"}],
                "initContainers": [{"name": "kith-proxy", "restartPolicy": "Always"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]},
        });
        json_patch::merge(&mut pod, &changes);
        let id: Id = format!("shop/{name}").into();
        let event = match Pod::of(serde_json::from_value(pod).unwrap()) {
            Some(pod) => Event::Applied(id, pod),
            None => Event::Deleted(id),
        };
        self.take(Change::Pod(event));
    }

    fn no_pod(&mut self, name: &str) {
        self.take(Change::Pod(Event::Deleted(format!("shop/{name}").into())));
    }

    fn service(&mut self, name: &str, spec: Value) {
        let service = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
        let service = Service::of(serde_json::from_value(service).unwrap()).unwrap();
        let id = format!("shop/{name}").into();
        self.take(Change::Service(Event::Applied(id, service)));
    }

    /// Of the service that is called as the slice up to the dash.
    fn slice(&mut self, name: &str, changes: Value) {
        let service = name.split('-').next().unwrap();
        let mut slice = json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [],
        });
        json_patch::merge(&mut slice, &changes);
        let slice = Slice::of(serde_json::from_value(slice).unwrap()).unwrap();
        let id = format!("shop/{name}").into();
        self.take(Change::Slice(Event::Applied(id, slice)));
    }

    fn document(&mut self, kind: DocumentKind, name: &str, spec: Value) {
        let mut metadata = json!({"name": name});
        let id: Id = if matches!(kind, DocumentKind::MeshConfig) {
            name.into()
        } else {
            metadata["namespace"] = "shop".into();
            format!("shop/{name}").into()
        };
        let document = json!({"apiVersion": kind.api_version(), "kind": kind.kind(), "metadata": metadata, "spec": spec});
        let object = Object {
            uid: "u".into(),
            generation: 1,
            created: 0,
            status: None,
            document: Arc::new(document),
        };
        self.take(Change::Document(kind, Event::Applied(id, Box::new(object))));
    }

    fn settle(&mut self) {
        self.last = self.model.settle(&KeySets::default());
    }

    /// The names that changed by what was taken in since.
    fn changed(&mut self, expected: Expect) {
        self.settle();
        let changed = self
            .last
            .catalog
            .as_ref()
            .map(|(_, changed)| changed.clone());
        let changed = changed.unwrap_or_default();
        let sorted = |names: &HashSet<Arc<str>>| {
            let mut names: Vec<_> = names.iter().map(|it| &**it).collect();
            names.sort();
            names.join(" ")
        };
        expected.assert_eq(&format!(
            "nodes {}; addresses {}",
            sorted(&changed.nodes),
            sorted(&changed.addresses)
        ));
        // A refresh comes to the same as making everything anew.
        let refreshed = self.model.catalog.clone().unwrap();
        self.model.stale = true;
        let again = self.model.settle(&KeySets::default());
        if let Some((_, changed)) = again.catalog {
            panic!("a rebuild comes to something else: {changed:?}");
        }
        assert_eq!(refreshed, self.model.catalog.clone().unwrap());
    }

    fn node(&self, id: &str) -> Option<api::WorkloadConfig> {
        let catalog = self.model.catalog.as_ref().unwrap();
        let content = catalog.node(id)?.config().content().to_vec();
        Some(api::WorkloadConfig::decode(&*content).unwrap())
    }

    fn address(&self, name: &str) -> Option<api::address::Kind> {
        let catalog = self.model.catalog.as_ref().unwrap();
        let content = catalog.addresses.get(name)?.content().to_vec();
        api::Address::decode(&*content).unwrap().kind
    }

    /// What clients learn under a name: `workload@address principals port>target`, or `port!` where there is no target.
    fn check(&self, name: &str, expected: Expect) {
        let told = match self.address(name) {
            None => "nothing\n".to_owned(),
            Some(api::address::Kind::Workload(endpoint)) => told(&endpoint, &[]),
            Some(api::address::Kind::Service(service)) => {
                let mut text = format!("{}/{}\n", service.namespace, service.name);
                for endpoint in &service.endpoints {
                    text += &told(endpoint, &service.ports);
                }
                text
            }
        };
        expected.assert_eq(&told);
    }

    /// What is said of each document that is at fault.
    fn problems(&mut self, expected: Expect) {
        let verdicts = self.model.verdicts();
        let told = verdicts.iter().flat_map(|(key, verdict)| {
            let problems = verdict.problems.iter();
            problems.map(move |problem| format!("{key}: {problem}\n"))
        });
        expected.assert_eq(&told.collect::<String>());
    }
}

fn told(endpoint: &api::Endpoint, ports: &[api::ServicePort]) -> String {
    let mut text = format!(
        "{}@{} {}",
        endpoint.workload,
        endpoint.address,
        endpoint.spiffe_ids.join(" ")
    );
    for port in ports {
        let target = endpoint.target_ports.get(&port.number).copied();
        match target.unwrap_or(port.target_port) {
            0 => text += &format!(" {}!", port.number),
            target => text += &format!(" {}>{target}", port.number),
        }
    }
    text + "\n"
}

fn endpoint(pod: &str, address: &str, ready: bool) -> Value {
    json!({"addresses": [address], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}})
}

#[test]
fn pods_are_workloads_and_services_lead_to_them() {
    let cluster = Cluster::new();
    let web = cluster.node("shop/web-1").unwrap();
    assert_eq!(web.service_account, "web");
    assert_eq!(web.addresses, ["10.0.0.1"]);
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders 80>8080
        "#]],
    );
    cluster.check(
        "orders.shop.svc.cluster.local",
        expect![[r#"
            shop/orders
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders 80>8080
        "#]],
    );
    cluster.check(
        "10.0.0.2",
        expect![[r#"
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders
        "#]],
    );
    cluster.check("10.0.0.9", expect!["nothing\n"]);
}

#[test]
fn the_protocol_of_a_pods_port_is_what_services_say() {
    let mut cluster = Cluster::new();
    let protocol = |cluster: &Cluster| {
        let node = cluster.node("shop/orders-1").unwrap();
        node.ports
            .iter()
            .map(|it| (it.number, it.protocol()))
            .collect::<Vec<_>>()
    };
    assert_eq!(protocol(&cluster), [(8080, api::Protocol::Http1)]);
    // Another service says something else of the same port: nobody knows.
    let endpoints = json!([endpoint("orders-1", "10.0.0.2", true)]);
    cluster.slice(
        "other-x",
        json!({"ports": [{"name": "grpc", "port": 8080}], "endpoints": endpoints}),
    );
    cluster.changed(expect![
        "nodes shop/orders-1; addresses 10.0.0.2 10.96.0.2 orders.shop.svc.cluster.local"
    ]);
    assert_eq!(protocol(&cluster), [(8080, api::Protocol::Unspecified)]);
    cluster.slice("other-x", json!({"endpoints": []}));
    cluster.changed(expect![
        "nodes shop/orders-1; addresses 10.0.0.2 10.96.0.2 orders.shop.svc.cluster.local"
    ]);
    assert_eq!(protocol(&cluster), [(8080, api::Protocol::Http1)]);
}

#[test]
fn one_pod_changes_what_hangs_on_it_and_no_more() {
    let mut cluster = Cluster::new();
    cluster.pod("web-2", "10.0.0.3", json!({}));
    cluster.changed(expect!["nodes shop/web-2; addresses 10.0.0.3"]);
    cluster.pod("web-2", "10.0.0.3", json!({"status": {"message": "x"}}));
    cluster.changed(expect!["nodes ; addresses "]);
    cluster.pod(
        "web-2",
        "10.0.0.3",
        json!({"metadata": {"labels": {"x": "y"}}}),
    );
    cluster.changed(expect!["nodes shop/web-2; addresses "]);
    cluster.pod("web-2", "10.0.0.4", json!({}));
    cluster.changed(expect!["nodes shop/web-2; addresses 10.0.0.3 10.0.0.4"]);
    cluster.pod(
        "web-2",
        "10.0.0.4",
        json!({"status": {"phase": "Succeeded"}}),
    );
    cluster.changed(expect!["nodes shop/web-2; addresses 10.0.0.4"]);
    cluster.no_pod("orders-1");
    cluster.changed(expect![
        "nodes shop/orders-1; addresses 10.0.0.2 10.96.0.2 orders.shop.svc.cluster.local"
    ]);
    cluster.check(
        "10.96.0.2",
        expect![[r#"
        shop/orders
    "#]],
    );
}

#[test]
fn a_slice_that_comes_before_its_pod_leads_nowhere_until_it_is_known_who_that_is() {
    let mut cluster = Cluster::new();
    let endpoints = json!([
        endpoint("orders-1", "10.0.0.2", true),
        endpoint("orders-2", "10.0.0.3", true)
    ]);
    cluster.slice("orders-x", json!({"endpoints": endpoints}));
    cluster.changed(expect!["nodes ; addresses "]);
    cluster.pod("orders-2", "10.0.0.3", json!({}));
    cluster.changed(expect![
        "nodes shop/orders-2; addresses 10.0.0.3 10.96.0.2 orders.shop.svc.cluster.local"
    ]);
    // Another pod has the address now, and is not whom the slice means.
    cluster.no_pod("orders-2");
    cluster.pod("web-9", "10.0.0.3", json!({}));
    cluster.changed(expect![
        "nodes shop/orders-2 shop/web-9; addresses 10.0.0.3 10.96.0.2 orders.shop.svc.cluster.local"
    ]);
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders 80>8080
        "#]],
    );
}

#[test]
fn an_endpoint_that_is_no_pod_is_known_by_its_address() {
    let mut cluster = Cluster::new();
    cluster.document(
        DocumentKind::Workload,
        "vm",
        json!({"serviceAccount": "vm", "addresses": ["192.0.2.7"]}),
    );
    let endpoints = json!([
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["192.0.2.7"]},
        {"addresses": ["192.0.2.8"]},
    ]);
    cluster.slice("orders-x", json!({"endpoints": endpoints}));
    cluster.settle();
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
            shop/web-1@10.0.0.1 spiffe://example.org/ns/shop/sa/web 80>8080
            shop/vm@192.0.2.7 spiffe://example.org/ns/shop/sa/vm 80>8080
            @192.0.2.8  80>8080
        "#]],
    );
    // A pod there now: what is in the cluster goes before what a document says.
    cluster.pod("web-7", "192.0.2.7", json!({}));
    cluster.changed(expect![
        "nodes shop/web-7; addresses 10.96.0.2 192.0.2.7 orders.shop.svc.cluster.local"
    ]);
    cluster.problems(expect![[r#"
        Workload/shop/vm: spec.addresses[0]: `192.0.2.7` belongs to pod `shop/web-7`, and stays with it
    "#]]);
}

#[test]
fn a_pod_of_the_host_network_is_no_workload_and_outside_the_mesh() {
    let mut cluster = Cluster::new();
    cluster.pod(
        "orders-2",
        "192.0.2.1",
        json!({"spec": {"hostNetwork": true}}),
    );
    cluster.slice(
        "orders-x",
        json!({"endpoints": [endpoint("orders-2", "192.0.2.1", true)]}),
    );
    cluster.changed(expect![
        "nodes shop/orders-1; addresses 10.0.0.2 10.96.0.2 orders.shop.svc.cluster.local"
    ]);
    cluster.check(
        "192.0.2.1",
        expect![[r#"
        nothing
    "#]],
    );
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
            @192.0.2.1  80>8080
        "#]],
    );
    assert!(cluster.node("shop/orders-2").is_none());
    // Where a pod of the mesh is nobody is sent in plaintext.
    let elsewhere = endpoint("orders-2", "10.0.0.1", true);
    cluster.slice("orders-x", json!({"endpoints": [elsewhere]}));
    cluster.settle();
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
        "#]],
    );
}

#[test]
fn named_ports_differ_from_pod_to_pod() {
    let mut cluster = Cluster::new();
    cluster.pod("orders-2", "10.0.0.3", json!({}));
    cluster.slice(
        "orders-y",
        json!({"ports": [{"name": "http", "port": 9090}], "endpoints": [endpoint("orders-2", "10.0.0.3", true)]}),
    );
    cluster.settle();
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders 80>8080
            shop/orders-2@10.0.0.3 spiffe://example.org/ns/shop/sa/orders 80>9090
        "#]],
    );
}

#[test]
fn a_pod_without_a_port_of_that_name_gets_nothing_that_is_sent_there() {
    let mut cluster = Cluster::new();
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "admin", "port": 9090, "targetPort": "admin"},
    ]);
    cluster.service("orders", json!({"clusterIP": "10.96.0.2", "ports": ports}));
    cluster.pod("orders-2", "10.0.0.3", json!({}));
    let ports = json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 7070}]);
    let other = json!({"ports": ports, "endpoints": [endpoint("orders-2", "10.0.0.3", true)]});
    cluster.slice("orders-y", other);
    cluster.settle();
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders 80>8080 9090!
            shop/orders-2@10.0.0.3 spiffe://example.org/ns/shop/sa/orders 80>8080 9090>7070
        "#]],
    );
    // And so a sidecar has it.
    let address = api::Address {
        kind: cluster.address("10.96.0.2"),
    };
    let Ok(Destination::Service { ports, .. }) = kith_proxy::translate::destination(&address)
    else {
        panic!("refused");
    };
    let targets = |port: u16| -> Vec<_> {
        let targets = ports[&port].targets.iter();
        targets.map(|it| it.address.to_string()).collect()
    };
    assert_eq!(targets(80), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    assert_eq!(targets(9090), ["10.0.0.3:7070"]);
    // Another slice may name it for the same endpoint.
    let ports = json!([{"name": "admin", "port": 6060}]);
    let more = json!({"ports": ports, "endpoints": [endpoint("orders-1", "10.0.0.2", true)]});
    cluster.slice("orders-z", more);
    cluster.settle();
    cluster.check(
        "10.96.0.2",
        expect![[r#"
            shop/orders
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders 80>8080 9090>6060
            shop/orders-2@10.0.0.3 spiffe://example.org/ns/shop/sa/orders 80>8080 9090>7070
        "#]],
    );
}

#[test]
fn what_is_dialled_in_one_family_ends_in_the_same() {
    let mut cluster = Cluster::new();
    cluster.pod(
        "orders-1",
        "10.0.0.2",
        json!({"status": {"podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]}}),
    );
    cluster.service("orders", json!({"clusterIPs": ["10.96.0.2", "fd00:96::2"], "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}));
    cluster.slice(
        "orders-6",
        json!({"addressType": "IPv6", "endpoints": [endpoint("orders-1", "fd00::2", true)]}),
    );
    cluster.changed(expect!["nodes shop/orders-1; addresses fd00:96::2 fd00::2"]);
    cluster.check(
        "fd00:96::2",
        expect![[r#"
            shop/orders
            shop/orders-1@fd00::2 spiffe://example.org/ns/shop/sa/orders 80>8080
        "#]],
    );
    cluster.check(
        "orders.shop.svc.cluster.local",
        expect![[r#"
            shop/orders
            shop/orders-1@10.0.0.2 spiffe://example.org/ns/shop/sa/orders 80>8080
        "#]],
    );
}

#[test]
fn a_pod_whose_account_is_gone_gets_nothing() {
    let mut cluster = Cluster::new();
    cluster.take(Change::ServiceAccount(Event::Deleted("shop/orders".into())));
    cluster.changed(expect!["nodes shop/orders-1; addresses "]);
    assert!(cluster.node("shop/orders-1").is_none());
    cluster.take(Change::ServiceAccount(Event::Applied(
        "shop/orders".into(),
        (),
    )));
    cluster.changed(expect!["nodes shop/orders-1; addresses "]);
    assert!(cluster.node("shop/orders-1").is_some());
}

#[test]
fn a_pod_gets_nothing_before_it_has_an_address() {
    let mut cluster = Cluster::new();
    let pending = json!({"status": {"phase": "Pending", "podIPs": null}});
    cluster.pod("web-2", "", pending);
    cluster.changed(expect!["nodes ; addresses "]);
    cluster.pod("web-2", "10.0.0.3", json!({}));
    cluster.changed(expect!["nodes shop/web-2; addresses 10.0.0.3"]);
}

#[test]
fn of_two_pods_with_one_address_the_one_that_stays_has_it() {
    let mut cluster = Cluster::new();
    cluster.pod(
        "web-2",
        "10.0.0.1",
        json!({"metadata": {"creationTimestamp": "2026-11-02T00:00:00Z"}}),
    );
    cluster.changed(expect!["nodes shop/web-2; addresses 10.0.0.1"]);
    cluster.check(
        "10.0.0.1",
        expect![[r#"
            shop/web-2@10.0.0.1 spiffe://example.org/ns/shop/sa/web
        "#]],
    );
    cluster.no_pod("web-2");
    cluster.changed(expect!["nodes shop/web-2; addresses 10.0.0.1"]);
    cluster.check(
        "10.0.0.1",
        expect![[r#"
            shop/web-1@10.0.0.1 spiffe://example.org/ns/shop/sa/web
        "#]],
    );
}

#[test]
fn what_a_new_listing_does_not_have_is_gone_when_it_ends_and_not_before() {
    let mut cluster = Cluster::new();
    cluster.take(Change::Pod(Event::Listing));
    cluster.pod("web-1", "10.0.0.1", json!({}));
    cluster.changed(expect!["nodes ; addresses "]);
    // It ends half-way and begins again: still nothing is gone.
    cluster.take(Change::Pod(Event::Listing));
    cluster.changed(expect!["nodes ; addresses "]);
    cluster.pod("orders-1", "10.0.0.2", json!({}));
    cluster.take(Change::Pod(Event::Listed));
    cluster.changed(expect!["nodes shop/web-1; addresses 10.0.0.1"]);
}

#[test]
fn a_policy_reaches_the_pods_that_it_selects() {
    let mut cluster = Cluster::new();
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]});
    cluster.document(DocumentKind::AuthorizationPolicy, "allow", spec);
    cluster.changed(expect!["nodes shop/web-1; addresses "]);
    assert_eq!(cluster.node("shop/web-1").unwrap().policies, ["shop/allow"]);
    // One that cannot be read denies, and says whose fault it is.
    let spec = json!({"action": "DENY", "rules": []});
    cluster.document(DocumentKind::AuthorizationPolicy, "deny", spec);
    cluster.changed(expect!["nodes shop/orders-1 shop/web-1; addresses "]);
    assert_eq!(
        cluster.node("shop/web-1").unwrap().policies,
        ["shop/allow", "shop/deny"]
    );
    cluster.problems(expect![[r#"
        AuthorizationPolicy/shop/deny: spec.rules: a DENY without rules denies nothing; to deny everything, write one empty rule
        AuthorizationPolicy/shop/deny: until it is corrected everything is denied where it holds
    "#]]);
}

#[test]
fn a_document_that_says_what_held_already_is_counted_where_it_holds() {
    let mut cluster = Cluster::new();
    let spec = json!({"mtls": {"mode": "STRICT"}});
    cluster.document(DocumentKind::PeerAuthentication, "strict", spec);
    cluster.settle();
    let (catalog, changed) = cluster.last.catalog.clone().unwrap();
    assert!(changed.is_empty(), "{changed:?}");
    let strict = ("PeerAuthentication", Arc::from("shop/strict"));
    for (id, node) in catalog.nodes() {
        assert_eq!(
            node.authentications.as_ref(),
            std::slice::from_ref(&strict),
            "{id}"
        );
    }
    assert_eq!(catalog.counts.peer_authentications, 1);
    // Another status of it is nothing new.
    cluster.model.stale = true;
    cluster.settle();
    assert!(cluster.last.catalog.is_none());
}

#[test]
fn tokens_that_contradict_each_other_at_a_pod_are_refused_there_until_it_is_gone() {
    let mut cluster = Cluster::new();
    let rules = |header: &str| json!([{"issuer": "https://a.example", "jwks": KEYS, "fromHeaders": [{"name": "x-token"}], "outputPayloadToHeader": header}]);
    for (name, labels, header) in [
        ("one", json!({"app": "web"}), "x-a"),
        ("two", json!({"both": "yes"}), "x-b"),
    ] {
        let spec = json!({"selector": {"matchLabels": labels}, "jwtRules": rules(header)});
        cluster.document(DocumentKind::RequestAuthentication, name, spec);
    }
    cluster.settle();
    cluster.problems(expect![""]);
    cluster.pod(
        "web-2",
        "10.0.0.3",
        json!({"metadata": {"labels": {"both": "yes"}}}),
    );
    cluster.settle();
    cluster.problems(expect![[r#"
        RequestAuthentication/shop/two: spec.jwtRules[0].issuer: where `shop/one` and `shop/two` hold together, this is the second rule about "https://a.example"; put both into one
        RequestAuthentication/shop/two: until it is corrected everything is denied where it holds
    "#]]);
    assert_eq!(cluster.node("shop/web-2").unwrap().policies.len(), 1);
    // No pod has both any more.
    cluster.no_pod("web-2");
    cluster.settle();
    cluster.problems(expect![""]);
}

const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

#[test]
fn without_a_mesh_config_nothing_is_served() {
    let mut model = Model::new("cluster.local");
    let outcome = model.settle(&KeySets::default());
    assert!(outcome.catalog.is_none());
    let problems = outcome.problems.unwrap();
    assert_eq!(
        problems[0].message,
        "no valid MeshConfig: apply one with the mesh's `spec.trustDomain`"
    );
}
