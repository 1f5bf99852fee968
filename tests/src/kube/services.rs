//! What makes a service's name and address work on the node: the name in every pod's hosts file, and redirects of its
//! address to pods in every pod's network, as kube-proxy has them on the machine. What a sidecar captures never gets
//! this far: its capture comes first. What the sidecar itself dials by a service's address, the control plane, does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kith::lab::privileges;
use kube::ResourceExt;

use super::node::Pod;
use super::objects::{Key, Objects};

/// Ends the line of each service in the hosts file.
const MARK: &str = "# service";

/// Services on the node.
pub(super) struct Services {
    hosts: PathBuf,
    nft: PathBuf,
    /// EndpointSlices as the API server has them from here.
    pub(super) written: RefCell<BTreeMap<Key, EndpointSlice>>,
    names: RefCell<String>,
    /// The rules that each pod's network has.
    rules: RefCell<BTreeMap<String, String>>,
}

impl Services {
    pub(super) fn new(hosts: PathBuf) -> Self {
        Self {
            hosts,
            nft: privileges::tool("nft", "nftables").unwrap(),
            written: RefCell::default(),
            names: RefCell::default(),
            rules: RefCell::default(),
        }
    }

    /// Brings names and redirects in line with what is.
    pub(super) fn show(&self, objects: &Objects, slices: &[EndpointSlice], pods: &[Rc<Pod>]) {
        let services = objects.services.all();
        self.name(&services, slices);
        let rules = rules(&services, slices);
        let mut known = self.rules.borrow_mut();
        for pod in pods {
            if known.get(pod.uid()) != Some(&rules) {
                let network = pod.workload.network();
                let nft = &self.nft;
                network.run(|| install(nft, &rules)).unwrap();
                known.insert(pod.uid().to_owned(), rules.clone());
            }
        }
        known.retain(|uid, _| pods.iter().any(|pod| pod.uid() == uid));
    }

    fn name(&self, services: &[Rc<core::Service>], slices: &[EndpointSlice]) {
        let mut names = String::new();
        for service in services {
            let full = format!(
                "{}.{}",
                service.name_any(),
                service.namespace().unwrap_or_default()
            );
            for address in addresses(service, slices) {
                let _ = writeln!(
                    names,
                    "{address} {full} {full}.svc {full}.svc.cluster.local {MARK}"
                );
            }
        }
        if *self.names.borrow() == names {
            return;
        }
        // In place: pods have this very file as their /etc/hosts.
        let text = std::fs::read_to_string(&self.hosts).unwrap();
        let others = text.lines().filter(|line| !line.ends_with(MARK));
        let others: String = others.map(|line| format!("{line}\n")).collect();
        std::fs::write(&self.hosts, others + &names).unwrap();
        *self.names.borrow_mut() = names;
    }
}

fn install(nft: &Path, rules: &str) {
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(rules.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft: {said}\n{rules}");
}

/// The service's own, or those of the pods behind a headless one.
fn addresses(service: &core::Service, slices: &[EndpointSlice]) -> Vec<String> {
    let own = cluster_addresses(service);
    if own.iter().any(|address| address != "None") {
        return own;
    }
    let ready = of(service, slices)
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.is_some_and(|conditions| conditions.ready == Some(true))
        });
    ready
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect()
}

fn cluster_addresses(service: &core::Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ips.clone())
        .unwrap_or_default()
}

fn of<'a>(
    service: &'a core::Service,
    slices: &'a [EndpointSlice],
) -> impl Iterator<Item = &'a EndpointSlice> {
    let name = service.name_any();
    slices.iter().filter(move |slice| {
        let owners = slice.owner_references();
        slice.namespace() == service.namespace() && owners.iter().any(|owner| owner.name == name)
    })
}

/// One table, replaced whole: an address and port of a service become those of a pod, chosen at random.
fn rules(services: &[Rc<core::Service>], slices: &[EndpointSlice]) -> String {
    let (mut redirects, mut refusals) = (String::new(), String::new());
    for service in services {
        let ports = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten());
        let ports: Vec<&core::ServicePort> = ports.collect();
        let selects = service
            .spec
            .as_ref()
            .is_some_and(|spec| spec.selector.is_some());
        for address in cluster_addresses(service) {
            let (family, kind) = match address.as_str() {
                "None" => continue,
                six if six.contains(':') => ("ip6", "IPv6"),
                _ => ("ip", "IPv4"),
            };
            for port in ports.iter().filter(|_| selects) {
                let number = port.port;
                let targets = targets(service, slices, kind, port);
                let target = |(index, (address, port)): (usize, &(String, i32))| {
                    format!("{index} : {address} . {port}")
                };
                let map: Vec<String> = targets.iter().enumerate().map(target).collect();
                let dialled = format!("{family} daddr {address} tcp dport {number}");
                if map.is_empty() {
                    let _ = writeln!(refusals, "    {dialled} reject with tcp reset");
                } else {
                    let _ = writeln!(
                        redirects,
                        "    {dialled} dnat {family} to numgen random mod {} map {{ {} }}",
                        map.len(),
                        map.join(", ")
                    );
                }
            }
        }
    }
    format!(
        "table inet node\ndelete table inet node\ntable inet node {{\n  \
         chain pods {{\n    type nat hook output priority -90;\n{redirects}  }}\n  \
         chain nobody {{\n    type filter hook output priority 0;\n{refusals}  }}\n}}\n"
    )
}

fn targets(
    service: &core::Service,
    slices: &[EndpointSlice],
    kind: &str,
    port: &core::ServicePort,
) -> Vec<(String, i32)> {
    let mut found = Vec::new();
    for slice in of(service, slices).filter(|slice| slice.address_type == kind) {
        let mut ports = slice.ports.iter().flatten();
        let same = ports.find(|entry| {
            entry.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
        });
        let Some(number) = same.and_then(|entry| entry.port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            if conditions.is_some_and(|conditions| conditions.ready == Some(true)) {
                found.extend(endpoint.addresses.iter().map(|one| (one.clone(), number)));
            }
        }
    }
    found
}
