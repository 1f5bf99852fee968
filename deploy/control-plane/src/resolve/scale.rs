//! What the size of a mesh costs: ten thousand workloads, a thousand policies, two thousand services.
//!
//! Times are printed, and asserted with much room: this is also run without optimisation and beside other tests. To
//! measure: `cargo test -p kith-control --lib --config 'profile.test.package.kith-control.opt-level=3' scale --
//! --nocapture --test-threads=1`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::{Backend, ServicePort, of_service, of_workload};
use super::rules::{Placed, Rules, Subject};
use crate::catalog::{Catalog, Changed, Encoded, Node};
use crate::interest::Listener;
use crate::jwks::KeySets;
use crate::status::{Source, State};
use crate::yaml::load_str;
use crate::yaml::schema::{EncodedSlash, Protocol, WorkloadPort};

const PODS: usize = 10_000;
const APPS: usize = 1000;
const SERVICES: usize = 2000;
const POLICIES: usize = 1000;
/// What each sidecar's application talks to.
const SUBSCRIBED: usize = 20;

/// As much as a test without optimisation, on a machine that does other things, may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Pod {
    name: String,
    labels: BTreeMap<String, String>,
    account: String,
    addresses: [IpAddr; 1],
}

struct Mesh {
    pods: Vec<Pod>,
    ports: Vec<WorkloadPort>,
    rules: Rules,
    placed: Vec<Placed>,
    catalog: Catalog,
}

fn pod(i: usize) -> Pod {
    let app = i % APPS;
    let labels = [
        ("app.kubernetes.io/name", format!("app-{app}")),
        ("app", format!("app-{app}")),
        ("team", format!("team-{}", app % 20)),
        ("pod-template-hash", format!("{:08x}", app * 7919)),
        ("version", "v1".into()),
    ];
    Pod {
        name: format!("app-{app}-{:08x}-{i:05}", app * 7919),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        account: format!("app-{app}"),
        addresses: [IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i as u32))],
    }
}

fn policies() -> String {
    let mut text = "{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org}}\n".to_owned();
    for i in 0..POLICIES {
        let selector = match i {
            0 => "",
            _ => &format!(
                "selector: {{matchLabels: {{team: team-{}, app: app-{i}}}}}, ",
                i % 20
            ),
        };
        text += &format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{namespace: shop, name: p{i}}}, spec: {{{selector}rules: [{{from: [{{source: {{principals: [example.org/ns/shop/sa/app-{}]}}}}], to: [{{operation: {{methods: [GET], paths: [\"/api/*\"]}}}}]}}]}}}}\n",
            i + 1
        );
    }
    text
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    println!("{what}: {:.3} ms", took.as_secs_f64() * 1e3);
    (done, took)
}

impl Mesh {
    fn new() -> Self {
        let loaded = load_str(Path::new("f.yaml"), &policies()).unwrap();
        let pods: Vec<Pod> = (0..PODS).map(pod).collect();
        let ports = vec![WorkloadPort {
            port: 8080.try_into().unwrap(),
            protocol: Some(Protocol::Http),
            encoded_slash: EncodedSlash::Refuse,
        }];
        let (rules, _) = timed("Rules of 1,000 policies", || {
            Rules::new(&loaded, &KeySets::default()).unwrap()
        });
        let (placed, took) = timed("10,000 workloads", || {
            let placed = pods.iter().map(|pod| place(&rules, pod, &ports));
            placed.collect::<Vec<_>>()
        });
        assert!(took < PATIENCE, "{took:?}");
        let mut mesh = Self {
            catalog: Catalog {
                nodes: Default::default(),
                addresses: Default::default(),
                revocations: Arc::clone(rules.revocations()),
                counts: rules.counts(),
            },
            pods,
            ports,
            rules,
            placed,
        };
        timed("14,000 addresses, and the catalog", || {
            for at in 0..PODS {
                let node = mesh.placed[at].node.clone().unwrap();
                mesh.catalog.nodes.insert(Arc::clone(&node.id), node);
                let address = of_workload(&mesh.backend(at));
                mesh.catalog.addresses.insert(address.key(), address);
            }
            for service in 0..SERVICES {
                for address in mesh.service(service) {
                    mesh.catalog.addresses.insert(address.key(), address);
                }
            }
        });
        mesh
    }

    fn backend(&self, at: usize) -> Backend<'_> {
        Backend {
            workload: &self.placed[at].node.as_ref().unwrap().id,
            address: self.pods[at].addresses[0],
            principals: self.placed[at].principal.as_slice(),
            ports: &self.placed[at].ports,
            target_ports: &[],
        }
    }

    /// By address and by host; two services have the pods of one app.
    fn service(&self, number: usize) -> [Arc<Encoded>; 2] {
        let port = ServicePort {
            number: 80,
            protocol: Some(Protocol::Http),
            target: 8080,
        };
        let name = format!("service-{number}");
        let address = Ipv4Addr::from(0x0ac0_0000 + number as u32).to_string();
        [address, format!("{name}.shop.svc.cluster.local")].map(|dialled| {
            let behind = (number % APPS..PODS).step_by(APPS);
            let behind = behind.map(|at| self.backend(at));
            of_service(dialled, "shop", &name, &[port], behind)
        })
    }
}

fn place(rules: &Rules, pod: &Pod, ports: &[WorkloadPort]) -> Placed {
    let subject = Subject {
        namespace: "shop",
        name: &pod.name,
        labels: &pod.labels,
        service_account: &pod.account,
        addresses: &pod.addresses,
        mesh: true,
        spiffe_id: None,
        ports,
    };
    rules.workload(&subject).unwrap()
}

/// One after the other: what is measured should have the machine for itself.
#[test]
fn a_change_of_one_pod_costs_what_depends_on_it() {
    let mut mesh = Mesh::new();
    let entries = (mesh.catalog.nodes.len(), mesh.catalog.addresses.len());
    assert_eq!(entries, (PODS, PODS + 2 * SERVICES));
    let bytes = memory(&mesh.catalog);
    println!(
        "memory: {bytes} bytes, {} for each of {} entries",
        bytes / (PODS + PODS + 2 * SERVICES),
        PODS + PODS + 2 * SERVICES
    );
    assert!(bytes < 60 << 20, "{bytes}");

    let state = State::new(Source::Cluster);
    timed("first publication", || {
        state.publish(Arc::new(mesh.catalog.clone()), &Changed::all(&mesh.catalog));
    });
    let listeners = listeners(&state, &mesh);
    for listener in &listeners {
        listener.take();
    }

    let mut times = Vec::new();
    for round in 0..200 {
        let at = round * 37 % PODS;
        let begun = Instant::now();
        // Another address, as if it had been started again.
        let before = mesh.pods[at].addresses[0];
        mesh.pods[at].addresses = [IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + round as u32))];
        mesh.placed[at] = place(&mesh.rules, &mesh.pods[at], &mesh.ports);
        let mut catalog = Catalog::clone(&state.catalog().unwrap());
        let mut changed = Changed::default();
        let node: Arc<Node> = mesh.placed[at].node.clone().unwrap();
        changed.nodes.insert(Arc::clone(&node.id));
        catalog.nodes.insert(Arc::clone(&node.id), node);
        catalog.addresses.remove(&before.to_string());
        changed.addresses.insert(before.to_string().into());
        let own = of_workload(&mesh.backend(at));
        let of_services = [at % APPS, at % APPS + APPS].map(|number| mesh.service(number));
        for address in [own].into_iter().chain(of_services.into_iter().flatten()) {
            changed.addresses.insert(address.key());
            catalog.addresses.insert(address.key(), address);
        }
        state.publish(Arc::new(catalog), &changed);
        times.push(begun.elapsed());

        // Those that said that they want to know, of ten thousand.
        let dialled = [at % APPS, at % APPS + APPS];
        let wants = |i: usize| i == at || subscribed(i).any(|number| dialled.contains(&number));
        for (i, listener) in listeners.iter().enumerate() {
            assert_eq!(!listener.take().is_empty(), wants(i), "{i}");
        }
    }
    times.sort_unstable();
    println!(
        "one pod changed, catalog published to {PODS} streams: median {:?}, 99th percentile {:?}, worst {:?}",
        times[100], times[198], times[199]
    );
    // Half of them: of the rest, each may have waited for a processor that others had. What it costs to look at the whole
    // mesh, all of them would show.
    assert!(times[100] < Duration::from_millis(100), "{:?}", times[100]);
    let (_, took) = timed("all 10,000 streams leave", || drop(listeners));
    assert!(took < PATIENCE, "{took:?}");
}

/// The numbers of the services that a sidecar's application talks to.
fn subscribed(sidecar: usize) -> impl Iterator<Item = usize> {
    (0..SUBSCRIBED).map(move |k| (sidecar + k * 97) % SERVICES)
}

/// Each is interested in [`SUBSCRIBED`] addresses that others are interested in too.
fn listeners(state: &State, mesh: &Mesh) -> Vec<Listener> {
    let (listeners, took) = timed("10,000 streams register", || {
        let mut listeners = Vec::with_capacity(PODS);
        for (i, placed) in mesh.placed.iter().enumerate() {
            let mut listener = state.interest.listen(&placed.node.as_ref().unwrap().id);
            let names: Vec<String> = subscribed(i)
                .map(|number| format!("service-{number}.shop.svc.cluster.local"))
                .collect();
            listener.add_addresses(names.iter().map(String::as_str));
            listener.set_revocations(true);
            listeners.push(listener);
        }
        listeners
    });
    assert!(took < PATIENCE, "{took:?}");
    listeners
}

/// What the catalog's entries take on the heap, with the counters of their `Arc`s.
fn memory(catalog: &Catalog) -> usize {
    const COUNTERS: usize = 16;
    let encoded = |it: &Arc<Encoded>| {
        COUNTERS + size_of::<Encoded>() + it.content().len() + COUNTERS + it.name().len()
    };
    let nodes = catalog.nodes.iter().map(|(_, node)| {
        let lists = node.policies.len() * size_of::<Arc<Encoded>>()
            + node.authentications.len() * size_of::<(&str, Arc<str>)>();
        // The principal is parsed: its text, and the parts.
        let principal = COUNTERS + 2 * node.principal.to_string().len() + 64;
        COUNTERS + size_of::<Node>() + encoded(&node.config) + lists + principal
    });
    let addresses = catalog.addresses.iter().map(|(_, it)| encoded(it));
    let entry = size_of::<(Arc<str>, Arc<Encoded>)>();
    // A list that grew has room for as much again.
    nodes.chain(addresses).map(|bytes| bytes + 2 * entry).sum()
}
