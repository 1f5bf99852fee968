//! Two replicas as they are: a whole control plane with a sidecar's own client on one side, and the asking side here,
//! with identities from a dev authority and real TLS between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_certs::authority::{Authority, AuthorityConfig, Entry};
use kith_certs::tls::{client_config, server_name};
use kith_certs::{Endpoint, IdentitySource, SourceConfig, SpiffeId, TrustDomain};
use kith_xds_client::{AsyncIo, Backoff, Client, Kind, Rejection, Resource};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{Own, Replies, Reply, follow, open};
use crate::jwks::{KeySets, Web};
use crate::kubernetes::object::Slice;
use crate::resolve::resolve;
use crate::serve::{Config, Server, Source};
use crate::yaml::load_str;

const DEADLINE: Duration = Duration::from_secs(10);
const NODE: &str = "shop/orders-1";
const MESH: &str = "
{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org}}
---
{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {namespace: shop, name: orders-1, labels: {app: orders}}, spec: {serviceAccount: orders, addresses: [10.9.0.2]}}
";

fn policy(method: &str) -> String {
    format!(
        "{MESH}---\n{{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{namespace: shop, name: p}}, spec: {{rules: [{{to: [{{operation: {{methods: [{method}]}}}}]}}]}}}}\n"
    )
}

/// The revision of the sidecar's configuration, and the version of the revocation list.
fn versions(text: &str) -> (String, String) {
    let loaded = load_str(Path::new("f.yaml"), text).unwrap();
    let catalog = resolve(&loaded, &KeySets::default()).unwrap().catalog;
    let revision = catalog.node(NODE).unwrap().revision.to_string();
    (revision, catalog.revocations.version().to_owned())
}

struct World {
    dir: TempDir,
    _authority: Authority,
    address: SocketAddr,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl World {
    async fn start(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let domain: TrustDomain = "example.org".parse().unwrap();
        let entries = ["control", "orders"].map(|account| {
            let id = format!("spiffe://example.org/ns/shop/sa/{account}");
            let id: SpiffeId = id.parse().unwrap();
            Entry::for_socket(id, dir.path().join(format!("{account}.sock")))
        });
        let config = AuthorityConfig {
            entries: entries.into(),
            ..AuthorityConfig::new(domain)
        };
        let mut world = Self {
            _authority: Authority::start(config).unwrap(),
            dir,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            server: None,
        };
        world.write(text);
        world.start_server().await;
        world
    }

    fn socket(&self, account: &str) -> PathBuf {
        self.dir.path().join(format!("{account}.sock"))
    }

    fn write(&self, text: &str) {
        let new = self.dir.path().join("files/.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.dir.path().join("files/mesh.yaml")).unwrap();
    }

    /// Again at the same address, if it ran before.
    async fn start_server(&mut self) {
        let config = Config {
            source: Source::Files(self.dir.path().join("files")),
            listen: self.address,
            status_listen: (Ipv4Addr::LOCALHOST, 0).into(),
            admin_socket: None,
            workload_api: Endpoint::unix(self.socket("control")),
            web: Web::new(None).unwrap(),
        };
        let server = Server::bind(config)
            .await
            .map_err(|errors| format!("{errors:?}"))
            .unwrap();
        self.address = server.addresses().xds;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { _ = stopped.await }));
        self.server = Some((stop, running));
    }

    async fn stop_server(&mut self) {
        let (stop, running) = self.server.take().unwrap();
        stop.send(()).unwrap();
        running.await.unwrap();
    }

    async fn identity(&self, account: &str) -> IdentitySource {
        let source = IdentitySource::start(SourceConfig::new(Endpoint::unix(self.socket(account))));
        let mut snapshots = source.subscribe();
        let ready = snapshots.wait_for(Option::is_some);
        tokio::time::timeout(DEADLINE, ready)
            .await
            .unwrap()
            .unwrap();
        source
    }

    /// A sidecar's client that puts everything in force at once, until it is aborted, but for policies on PATCH.
    async fn sidecar(&self) -> JoinHandle<()> {
        let tls = TlsConnector::from(client_config(&self.identity("orders").await, &[b"h2"]));
        let address = self.address;
        let connector = move || {
            let tls = tls.clone();
            let connecting = async move {
                let stream = TcpStream::connect(address).await?;
                let stream: Box<dyn AsyncIo> = Box::new(tls.connect(server_name(), stream).await?);
                Ok(stream)
            };
            Box::pin(connecting) as kith_xds_client::BoxFuture<_>
        };
        let (client, mut deliveries) = Client::start(kith_xds_client::Config {
            authority: address.to_string(),
            node_id: NODE.into(),
            user_agent_version: "test".into(),
            state_dir: None,
            connector: Arc::new(connector),
            identity: None,
            backoff: Backoff::default(),
        });
        tokio::spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                let mut rejected = Vec::new();
                for changed in &delivery.changed {
                    match &changed.resource {
                        Resource::WorkloadConfig(config) => {
                            let names: BTreeSet<String> = config.policies.iter().cloned().collect();
                            client.set_subscription(Kind::AuthorizationPolicy, names);
                        }
                        Resource::AuthorizationPolicy(policy)
                            if format!("{policy:?}").contains("PATCH") =>
                        {
                            rejected.push(Rejection {
                                name: "shop/p".into(),
                                field: "rules[0]".into(),
                                message: "too new".into(),
                            });
                        }
                        _ => {}
                    }
                }
                delivery.finish(rejected);
            }
        })
    }

    async fn ask(&self, account: &str) -> Asking {
        let (addresses, known) = watch::channel(BTreeSet::from([self.address]));
        let (said, replies) = watch::channel(BTreeMap::new());
        let identity = self.identity(account).await;
        Asking {
            addresses,
            replies,
            task: tokio::spawn(follow(identity, known, said)),
        }
    }
}

/// The replica that asks.
struct Asking {
    addresses: watch::Sender<BTreeSet<SocketAddr>>,
    replies: watch::Receiver<Replies>,
    task: JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asking {
    /// Waits for replies that read like this, and says how long that took.
    async fn until(&mut self, expected: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let read = reading(&self.replies.borrow_and_update());
            if read == expected {
                return begun.elapsed();
            }
            let changed = tokio::time::timeout(DEADLINE, self.replies.changed()).await;
            assert!(
                matches!(changed, Ok(Ok(()))),
                "{expected:?} never came: {read:?}"
            );
        }
    }
}

/// Without addresses, since there is one at most.
fn reading(replies: &Replies) -> String {
    let each = replies.values().map(|reply| match reply {
        Reply::Silent(reason) => format!("silent: {reason}"),
        Reply::Says(nodes) => {
            let nodes = nodes.iter().map(|(node, said)| {
                let or = |text: &Option<String>| text.clone().unwrap_or("none".into());
                let refused =
                    (said.refused_configuration.iter()).map(|why| format!(", refused {why}"));
                let refused: String = refused.collect();
                format!(
                    "{node} {} {}{refused}",
                    or(&said.revision),
                    or(&said.revocations)
                )
            });
            format!("says: {}", nodes.collect::<Vec<_>>().join(", "))
        }
    });
    each.collect::<Vec<_>>().join("\n")
}

fn enforcing(text: &str) -> String {
    let (revision, list) = versions(text);
    format!("says: {NODE} {revision} {list}")
}

#[tokio::test]
async fn a_replica_tells_another_what_its_sidecars_enforce() {
    let mut world = World::start(&policy("GET")).await;
    let mut asking = world.ask("control").await;
    asking.until("says: ").await;
    let sidecar = world.sidecar().await;
    asking.until(&enforcing(&policy("GET"))).await;

    world.write(&policy("PUT"));
    let took = asking.until(&enforcing(&policy("PUT"))).await;
    println!("from an edited file to another replica that knows it enforced: {took:?}");

    // What a sidecar refuses is told with its words, until it has taken something else.
    world.write(&policy("PATCH"));
    let (_, list) = versions(&policy("PATCH"));
    let refused = "refused AuthorizationPolicy: shop/p: rules[0]: too new";
    asking
        .until(&format!("says: {NODE} none {list}, {refused}"))
        .await;
    world.write(&policy("PUT"));
    asking.until(&enforcing(&policy("PUT"))).await;

    // The other replica stops, and comes back.
    world.stop_server().await;
    let silent = |reply: &Reply| matches!(reply, Reply::Silent(_));
    let gone = asking
        .replies
        .wait_for(|replies| replies.values().all(silent));
    tokio::time::timeout(DEADLINE, gone).await.unwrap().unwrap();
    world.start_server().await;
    asking.until(&enforcing(&policy("PUT"))).await;

    // The sidecar goes.
    sidecar.abort();
    asking.until("says: ").await;

    // There is no such replica any more.
    asking.addresses.send_replace(BTreeSet::new());
    asking.until("").await;
    asking
        .addresses
        .send_replace(BTreeSet::from([world.address]));
    asking.until("says: ").await;
    world.stop_server().await;
}

#[tokio::test]
async fn only_the_control_planes_own_identity_asks_and_answers() {
    let mut world = World::start(MESH).await;
    // Who answers is not who asks: nothing is asked.
    let mut asking = world.ask("orders").await;
    asking
        .until("silent: spiffe://example.org/ns/shop/sa/control answers there, which is not this control plane")
        .await;
    // A sidecar that asks all the same is refused by the replica.
    let identity = world.identity("orders").await;
    let tls = TlsConnector::from(client_config(&identity, &[b"h2"]));
    let stream = TcpStream::connect(world.address).await.unwrap();
    let stream = tls.connect(server_name(), stream).await.unwrap();
    let refused = open(stream).await.unwrap_err();
    assert!(
        refused.contains("only replicas of this control plane may ask"),
        "{refused}"
    );
    world.stop_server().await;
}

/// Never as enforced, and not for long without a word.
#[tokio::test]
async fn an_address_where_nothing_answers_is_silent() {
    let world = World::start(MESH).await;
    let mut asking = world.ask("control").await;
    asking.until("says: ").await;
    // Accepts, and says nothing.
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.await.unwrap();
    let mute = listener.local_addr().unwrap();
    asking.addresses.send_replace(BTreeSet::from([mute]));
    asking.until("silent: not asked yet").await;
    asking.until("silent: no answer in 5 s").await;
    drop(listener);
}

fn slice(family: &str, port: &str, endpoints: &[(&str, &str)]) -> Slice {
    let endpoints = endpoints.iter().map(|(pod, address)| {
        let target = match *pod {
            "" => serde_json::Value::Null,
            pod => serde_json::json!({"kind": "Pod", "namespace": "kith-system", "name": pod}),
        };
        serde_json::json!({"addresses": [address], "targetRef": target, "conditions": {"ready": false}})
    });
    let slice = serde_json::json!({
        "metadata": {"namespace": "kith-system", "name": "s", "labels": {"kubernetes.io/service-name": "kith-control"}},
        "addressType": family,
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "https-webhook", "port": 15017}, {"name": port, "port": 15010}],
    });
    Slice::of(serde_json::from_value(slice).unwrap()).unwrap()
}

#[test]
fn the_other_replicas_are_asked_once_each_and_this_one_never() {
    let own = |pod: Option<&str>, address: Option<&str>| Own {
        service: "kith-system/kith-control".into(),
        pod: pod.map(Into::into),
        address: address.map(|address| address.parse().unwrap()),
    };
    let check = |own: &Own, slices: &[Slice], expected: &str| {
        let others = own.others(slices.iter());
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        assert_eq!(others.join(" "), expected, "{own:?}");
    };
    let slices = [
        slice(
            "IPv6",
            "grpc-xds",
            &[("a", "fd00::1"), ("b", "fd00::2"), ("c", "fd00::3")],
        ),
        slice(
            "IPv4",
            "grpc-xds",
            &[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("", "10.0.0.9")],
        ),
    ];
    let (b, c, outside) = ("10.0.0.2:15010", "[fd00::3]:15010", "10.0.0.9:15010");
    let all = format!("10.0.0.1:15010 {b} {outside} {c}");
    check(
        &own(Some("kith-system/a"), None),
        &slices,
        &format!("{b} {outside} {c}"),
    );
    check(
        &own(None, Some("10.0.0.9")),
        &slices,
        &format!("10.0.0.1:15010 {b} {c}"),
    );
    check(&own(Some("other/a"), None), &slices, &all);
    check(
        &own(None, None),
        &[slice("IPv4", "other", &[("a", "10.0.0.1")])],
        "",
    );
    check(&own(None, None), &[], "");
}
