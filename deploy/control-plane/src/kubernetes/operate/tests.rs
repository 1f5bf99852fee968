//! Against a real API server, one for each test. The sidecars are entries of the state, as streams make them; where it is
//! replicas that are tested, who watches the cluster is a loop that reads one object.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kith_certs::{Endpoint, IdentitySource, SourceConfig};
use kube::Client;
use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::server::Server;
use super::{Numbers, Operation, operate};
use crate::catalog::{Catalog, Changed};
use crate::jwks::KeySets;
use crate::kubernetes::Settings;
use crate::kubernetes::client::client;
use crate::kubernetes::health::Health;
use crate::kubernetes::kind::{DocumentKind, Kind};
use crate::kubernetes::verdict::{Effect, ObjectKey, Verdict, Verdicts};
use crate::kubernetes::watch::Change;
use crate::resolve::resolve;
use crate::status::tests::sidecar;
use crate::status::{Enforced, Listed, Source, State};
use crate::yaml::load_str;

const DEADLINE: Duration = Duration::from_secs(40);

fn policy(namespace: &str, method: &str) -> Value {
    json!({
        "apiVersion": "kith.dev/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"namespace": namespace, "name": "p"},
        "spec": {"rules": [{"to": [{"operation": {"methods": [method]}}]}]},
    })
}

/// What a sidecar of the namespace gets once the policy says `method`.
fn catalog(namespace: &str, method: &str) -> Arc<Catalog> {
    let policy = policy(namespace, method);
    let text = format!(
        "{{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {{name: mesh}}, spec: {{trustDomain: example.org}}}}\n---\n\
         {{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {{namespace: {namespace}, name: w}}, spec: {{serviceAccount: a, addresses: [10.0.0.1]}}}}\n---\n{policy}\n"
    );
    let loaded = load_str(Path::new("f.yaml"), &text).unwrap();
    Arc::new(resolve(&loaded, &KeySets::default()).unwrap().catalog)
}

/// An API server that knows the kinds of `kith.dev`, and a namespace.
async fn installed(namespace: &str) -> Server {
    let server = Server::start().await;
    let texts = crate::crd::definitions().unwrap().into_iter();
    let mut texts: Vec<String> = texts.map(|definition| definition.text).collect();
    texts.push(format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"
    ));
    let apply = ["apply", "--server-side", "-f", "-"];
    server.kubectl(&apply, &texts.join("\n---\n")).await;
    let wait = ["wait", "--for=condition=Established", "crd", "--all"];
    server.kubectl(&wait, "").await;
    server
}

/// A cluster of its own, and everything that is the same for all replicas.
struct Cluster {
    server: Server,
    client: Client,
    namespace: String,
    verdicts: watch::Sender<Verdicts>,
    watching: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Cluster {
    async fn start() -> Self {
        let namespace = "conditions".to_owned();
        let server = installed(&namespace).await;
        let client = client(Some(&server.kubeconfig())).await.unwrap();
        let resource = DocumentKind::AuthorizationPolicy.resource();
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let (verdicts, _) = watch::channel(Verdicts::default());
        let said = verdicts.clone();
        let key = ObjectKey {
            kind: "AuthorizationPolicy",
            namespace: namespace.clone(),
            name: "p".into(),
        };
        let watching = tokio::spawn(async move {
            loop {
                let object = api.get_opt("p").await.unwrap();
                let verdict = object.map(|object| Verdict {
                    uid: object.metadata.uid.unwrap(),
                    generation: object.metadata.generation.unwrap(),
                    problems: Vec::new(),
                    warnings: Vec::new(),
                    effect: Effect::Decides,
                    status: object.data.get("status").cloned(),
                });
                let now = verdict.map(|verdict| (key.clone(), Arc::new(verdict)));
                let now: BTreeMap<_, _> = now.into_iter().collect();
                said.send_if_modified(|said| {
                    let changed = **said != now;
                    if changed {
                        *said = Arc::new(now);
                    }
                    changed
                });
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self {
            server,
            client,
            namespace,
            verdicts,
            watching,
        }
    }

    async fn apply(&self, method: &str) {
        let policy = policy(&self.namespace, method);
        let policy = policy.to_string();
        self.server.kubectl(&["apply", "-f", "-"], &policy).await;
    }

    async fn wait_enforced(&self, value: &str) {
        let condition = format!("--for=condition=Enforced={value}");
        let namespace = format!("--namespace={}", self.namespace);
        let object = "authorizationpolicies.kith.dev/p";
        let wait = ["wait", &condition, "--timeout=40s", &namespace, object];
        self.server.kubectl(&wait, "").await;
    }

    async fn until_refused(&self) -> Value {
        let namespace = format!("--namespace={}", self.namespace);
        let refused = "--for=jsonpath={.status.conditions[1].reason}=Refused";
        let object = "authorizationpolicies.kith.dev/p";
        let wait = ["wait", refused, "--timeout=40s", &namespace, object];
        self.server.kubectl(&wait, "").await;
        self.status().await
    }

    async fn status(&self) -> Value {
        let namespace = format!("--namespace={}", self.namespace);
        let object = [
            "get",
            "authorizationpolicies.kith.dev/p",
            "-ojson",
            &namespace,
        ];
        let object: Value = serde_json::from_str(&self.server.kubectl(&object, "").await).unwrap();
        object["status"].clone()
    }

    fn replica(&self, pod: &str, client: &Client) -> Replica {
        let state = Arc::new(State::default());
        let numbers = Arc::new(Numbers::default());
        let (_, replicas) = watch::channel(BTreeSet::new());
        let operation = Operation {
            client: client.clone(),
            namespace: self.namespace.clone(),
            pod: pod.into(),
            identity: nobody(),
            state: Arc::clone(&state),
            verdicts: self.verdicts.subscribe(),
            replicas,
            numbers: Arc::clone(&numbers),
        };
        let (stop, stopping) = watch::channel(false);
        let listed = state.list(sidecar(&format!("{}/w", self.namespace)));
        Replica {
            state,
            numbers,
            listed,
            stop,
            task: tokio::spawn(operate(operation, stopping)),
        }
    }
}

/// No other replica is asked, so that it is never used.
fn nobody() -> IdentitySource {
    let nowhere = Endpoint::unix("/nowhere/workload-api.sock");
    IdentitySource::start(SourceConfig::new(nowhere))
}

struct Replica {
    state: Arc<State>,
    numbers: Arc<Numbers>,
    listed: Listed,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Replica {
    fn serve(&self, catalog: &Arc<Catalog>) {
        let changed = Changed::default();
        self.state.publish(Arc::clone(catalog), &changed);
    }

    /// Its sidecar says that this is in force.
    fn enforce(&self, catalog: &Catalog) {
        let (_, node) = catalog.nodes().next().unwrap();
        let revision = node.revision;
        self.listed
            .update(|sidecar| sidecar.in_force = Some(revision));
        self.state.moved();
    }

    /// Its sidecar refused it.
    fn refuse(&self) {
        let why = (
            kith_xds_client::Kind::AuthorizationPolicy,
            "rules[0]: unknown".into(),
        );
        self.listed
            .update(|sidecar| sidecar.refused_configuration = Some(why));
        self.state.moved();
    }

    fn leads(&self) -> bool {
        let mut text = String::new();
        self.numbers.metrics(&mut text);
        text.contains("kith_control_leader 1")
    }

    async fn until_leading(&self) -> Duration {
        let begun = Instant::now();
        while !self.leads() {
            assert!(begun.elapsed() < DEADLINE, "never led");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }
}

#[tokio::test]
#[ignore = "needs etcd and an API server: make cluster-test"]
async fn one_of_several_replicas_writes_status_and_another_takes_over() {
    let cluster = Cluster::start().await;
    let (get, put) = (
        catalog(&cluster.namespace, "GET"),
        catalog(&cluster.namespace, "PUT"),
    );
    let replicas = ["a", "b", "c"].map(|pod| cluster.replica(pod, &cluster.client));
    replicas.iter().for_each(|replica| replica.serve(&get));
    let begun = Instant::now();
    while !replicas.iter().any(Replica::leads) {
        assert!(begun.elapsed() < DEADLINE, "nobody led");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("the first leads after {:?}", begun.elapsed());

    // From apply to a condition that people can wait for.
    cluster.apply("GET").await;
    cluster.wait_enforced("False").await;
    let waiting = cluster.status().await;
    assert_eq!(waiting["conditions"][1]["reason"], "Waiting", "{waiting}");
    replicas.iter().for_each(Replica::refuse);
    let refused = cluster.until_refused().await;
    let own = format!("{}/w", cluster.namespace);
    let expected = format!(
        "0 of 1 sidecar enforces generation 1; 1 refused an update: {own}: AuthorizationPolicy: rules[0]: unknown"
    );
    assert_eq!(refused["conditions"][1]["message"], expected, "{refused}");
    let begun = Instant::now();
    replicas.iter().for_each(|replica| replica.enforce(&get));
    cluster.wait_enforced("True").await;
    println!(
        "kubectl wait returned {:?} after the sidecar said so",
        begun.elapsed()
    );
    let status = cluster.status().await;
    assert_eq!(status["sidecars"], json!({"selected": 1, "enforced": 1}));
    assert_eq!(
        status["conditions"][1]["message"],
        "1 of 1 sidecar enforces generation 1"
    );

    // The leader dies without a word.
    let mut rest = Vec::from(replicas);
    assert_eq!(rest.iter().filter(|replica| replica.leads()).count(), 1);
    let leader = rest.iter().position(Replica::leads).unwrap();
    let dead = rest.remove(leader);
    dead.task.abort();
    cluster.apply("PUT").await;
    rest.iter().for_each(|replica| {
        replica.serve(&put);
        replica.enforce(&put);
    });
    let begun = Instant::now();
    // Nobody writes before the Lease has run out; kubectl does not take the old generation's condition.
    cluster.wait_enforced("True").await;
    let took = begun.elapsed();
    println!("after a leader's death: {took:?}");
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(20),
        "{took:?}"
    );
    let status = cluster.status().await;
    assert_eq!(status["observedGeneration"], 2);

    // The next one stops as told.
    assert_eq!(rest.iter().filter(|replica| replica.leads()).count(), 1);
    let leader = rest.iter().position(Replica::leads).unwrap();
    let stopped = rest.remove(leader);
    stopped.stop.send_replace(true);
    let begun = Instant::now();
    stopped.task.await.unwrap();
    println!("stopped in {:?}", begun.elapsed());
    let took = rest[0].until_leading().await;
    println!("after a leader's stop: {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");

    // Nothing differs, nothing is written.
    let namespace = format!("--namespace={}", cluster.namespace);
    let read = [
        "get",
        "authorizationpolicies.kith.dev/p",
        "-ojsonpath={.metadata.resourceVersion}",
        &namespace,
    ];
    let before = cluster.server.kubectl(&read, "").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.server.kubectl(&read, "").await, before);

    // Deleted while a status is to be written: fine.
    let delete = ["delete", &namespace, "authorizationpolicies.kith.dev/p"];
    cluster.server.kubectl(&delete, "").await;
    cluster.apply("GET").await;
    rest[0].serve(&get);
    rest[0].enforce(&get);
    cluster.wait_enforced("True").await;
    rest[0].stop.send_replace(true);
}

#[tokio::test]
#[ignore = "needs etcd and an API server: make cluster-test"]
async fn without_the_right_to_write_statuses_it_tries_seldom_and_recovers() {
    let cluster = Cluster::start().await;
    let namespace = &cluster.namespace;
    let allow = |name: &str, rules: &str| {
        format!(
            "---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{namespace: {namespace}, name: {name}}}, rules: [{rules}]}}\n\
             ---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{namespace: {namespace}, name: {name}}}, roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}, subjects: [{{kind: User, name: limited}}]}}\n"
        )
    };
    let mut config = kube::Config::from_custom_kubeconfig(
        kube::config::Kubeconfig::read_from(cluster.server.kubeconfig()).unwrap(),
        &Default::default(),
    )
    .await
    .unwrap();
    config.auth_info.impersonate = Some("limited".into());
    let limited = Client::try_from(config).unwrap();
    let get = catalog(namespace, "GET");
    let replica = cluster.replica("a", &limited);
    replica.serve(&get);
    cluster.apply("GET").await;
    replica.enforce(&get);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!replica.leads(), "without the right to the Lease");
    let leases =
        "{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}";
    let apply = ["apply", "-f", "-"];
    cluster
        .server
        .kubectl(&apply, &allow("leases", leases))
        .await;
    replica.until_leading().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut metrics = String::new();
    replica.numbers.metrics(&mut metrics);
    assert!(metrics.contains("{result=\"ok\"} 0\n"), "{metrics}");
    assert!(metrics.contains("{result=\"failed\"} 1\n"), "{metrics}");
    let statuses =
        "{apiGroups: [kith.dev], resources: [authorizationpolicies/status], verbs: [patch]}";
    let apply = ["apply", "-f", "-"];
    cluster
        .server
        .kubectl(&apply, &allow("statuses", statuses))
        .await;
    cluster.wait_enforced("True").await;
    replica.stop.send_replace(true);
    replica.task.await.unwrap();
}

/// Policies that cannot be read are not taken for policies that are not there.
#[tokio::test]
#[ignore = "needs etcd and an API server: make cluster-test"]
async fn kinds_of_istio_in_an_older_version_keep_it_from_being_ready() {
    let server = Server::start().await;
    let old = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: authorizationpolicies.security.istio.io}, \
               spec: {group: security.istio.io, scope: Namespaced, names: {kind: AuthorizationPolicy, plural: authorizationpolicies}, \
               versions: [{name: v1beta1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}";
    server.kubectl(&["apply", "-f", "-"], old).await;
    let wait = ["wait", "--for=condition=Established", "crd", "--all"];
    server.kubectl(&wait, "").await;
    let client = client(Some(&server.kubeconfig())).await.unwrap();
    let (changes, mut told) = tokio::sync::mpsc::channel(1);
    let mut tasks = JoinSet::new();
    crate::kubernetes::watch::start(&client, true, &changes, &mut tasks);
    let health = Health::new(DocumentKind::ISTIO.map(Kind::Document));
    let mut seen = BTreeSet::new();
    while seen.len() < DocumentKind::ISTIO.len() {
        let change = tokio::time::timeout(DEADLINE, told.recv()).await;
        let change = change.unwrap().unwrap();
        health.saw(&change);
        if let Change::Trouble(Kind::Document(kind), _) = &change
            && kind.is_istio()
        {
            seen.insert(*kind);
        }
    }
    let why = health.not_ready();
    assert_eq!(why.len(), 1, "the other two are not there: {why:?}");
    assert!(
        why[0].contains("has authorizationpolicies.security.istio.io as v1beta1 only"),
        "{why:?}"
    );
}

/// The sidecar of `shop/w`, which enforces whatever is served.
async fn obey(state: Arc<State>) {
    let listed = state.list(sidecar("shop/w"));
    let mut served = state.follow_served();
    loop {
        let now = served.borrow_and_update().clone();
        if let Some(now) = now {
            listed.update(|sidecar| {
                sidecar.in_force = now.catalog.node("shop/w").map(|node| node.revision);
                sidecar.revocations = Some(Enforced {
                    version: now.catalog.revocations.stamp(),
                    closed: None,
                    enforced_ms: None,
                    time: Some(SystemTime::now()),
                    heard: Instant::now(),
                });
            });
            state.moved();
        }
        if served.changed().await.is_err() {
            return;
        }
    }
}

#[tokio::test]
#[ignore = "needs etcd and an API server: make cluster-test"]
async fn a_revocation_can_be_waited_for_and_says_when_it_is_over() {
    let server = installed("shop").await;
    let client = client(Some(&server.kubeconfig())).await.unwrap();
    let settings = Settings {
        kubeconfig: None,
        accept_istio: false,
        namespace: "shop".into(),
        pod_name: Some("a".into()),
        pod_ip: None,
        webhook: None,
        health_listen: (Ipv4Addr::LOCALHOST, 0).into(),
        cluster_domain: "cluster.local".into(),
    };
    let state = Arc::new(State::new(Source::Cluster));
    let mut tasks = JoinSet::new();
    let followed = crate::kubernetes::Cluster::follow(&client, &settings, &state, &mut tasks);
    let operation = followed.operation(client, &settings, &state, &nobody());
    let (_stop, stopping) = watch::channel(false);
    tasks.spawn(operate(operation, stopping));

    let apply = async |document: Value| {
        let document = document.to_string();
        server.kubectl(&["apply", "-f", "-"], &document).await
    };
    let document = |kind: &str, metadata: Value, spec: Value| json!({"apiVersion": "kith.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
    let revocation = |seconds: i64| {
        let until = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
        let spec = json!({"principal": "spiffe://example.org/a", "until": until.to_string(), "reason": "r"});
        document("Revocation", json!({"name": "r"}), spec)
    };
    let until = async |what: &str| {
        let wait = [
            "wait",
            "revocations.kith.dev/r",
            "--timeout=40s",
            "--for",
            what,
        ];
        server.kubectl(&wait, "").await;
        let get = ["get", "revocations.kith.dev/r", "-ojsonpath={.status}"];
        let status = server.kubectl(&get, "").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        (
            status["conditions"][1]["reason"].clone(),
            status["sidecars"]["enforced"].clone(),
        )
    };

    // Without a MeshConfig nothing is served, and that is said.
    apply(revocation(3600)).await;
    let said = until("condition=Enforced=False").await;
    assert_eq!(said, ("NothingServed".into(), 0.into()));
    let mesh = document(
        "MeshConfig",
        json!({"name": "mesh"}),
        json!({"trustDomain": "example.org"}),
    );
    apply(mesh).await;
    let workload = json!({"serviceAccount": "w", "addresses": ["192.0.2.7"]});
    let named = json!({"namespace": "shop", "name": "w"});
    apply(document("Workload", named, workload)).await;
    let waiting = "jsonpath={.status.conditions[1].reason}=Waiting";
    assert_eq!(until(waiting).await, ("Waiting".into(), 0.into()));
    tasks.spawn(obey(Arc::clone(&state)));
    let enforced = ("AllSidecars".into(), 1.into());
    assert_eq!(until("condition=Enforced").await, enforced);

    // Nobody touches it, and it stops being true by itself.
    apply(revocation(10)).await;
    assert_eq!(until("condition=Enforced").await, enforced);
    let over = until("condition=Enforced=False").await;
    assert_eq!(over, ("Expired".into(), 0.into()));
    tasks.shutdown().await;
}
