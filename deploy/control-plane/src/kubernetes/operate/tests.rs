//! Against a real API server. The sidecars are entries of the state, as streams make them; who watches the cluster is a
//! loop that reads one object.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_certs::{Endpoint, IdentitySource, SourceConfig};
use kube::Client;
use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Numbers, Operation, operate};
use crate::catalog::{Catalog, Changed};
use crate::jwks::KeySets;
use crate::kubernetes::client::client;
use crate::kubernetes::kind::DocumentKind;
use crate::kubernetes::verdict::{Effect, ObjectKey, Verdict, Verdicts};
use crate::resolve::resolve;
use crate::status::tests::sidecar;
use crate::status::{Listed, State};
use crate::yaml::load_str;

const DEADLINE: Duration = Duration::from_secs(40);

/// `KITH_TEST_KUBECONFIG`: a cluster-admin at an API server that is there for tests.
fn kubeconfig() -> PathBuf {
    std::env::var_os("KITH_TEST_KUBECONFIG")
        .expect("KITH_TEST_KUBECONFIG names the kubeconfig of a test API server")
        .into()
}

async fn kubectl(arguments: &[&str], input: &str) -> String {
    let program = std::env::var_os("KITH_TEST_KUBECTL").unwrap_or("kubectl".into());
    let mut child = Command::new(program)
        .arg("--kubeconfig")
        .arg(kubeconfig())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes())
        .await
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: authorizationpolicies.kith.dev}
spec:
  group: kith.dev
  scope: Namespaced
  names: {kind: AuthorizationPolicy, plural: authorizationpolicies}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              observedGeneration: {type: integer, format: int64}
              conditions:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items:
                  type: object
                  required: [type, status, lastTransitionTime, reason, message]
                  properties:
                    type: {type: string}
                    status: {type: string, enum: ['True', 'False', Unknown]}
                    observedGeneration: {type: integer, format: int64}
                    lastTransitionTime: {type: string, format: date-time}
                    reason: {type: string}
                    message: {type: string}
              sidecars:
                type: object
                properties: {selected: {type: integer}, enforced: {type: integer}}
";

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

/// A namespace of its own, and everything that is the same for all replicas.
struct Cluster {
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
        let client = client(Some(&kubeconfig())).await.unwrap();
        let namespace = format!("conditions-{}", fastrand::u64(..));
        let names = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}");
        kubectl(&["apply", "-f", "-"], &format!("{CRD}---\n{names}\n")).await;
        let wait = [
            "wait",
            "--for=condition=Established",
            "crd/authorizationpolicies.kith.dev",
        ];
        kubectl(&wait, "").await;
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
            client,
            namespace,
            verdicts,
            watching,
        }
    }

    async fn apply(&self, method: &str) {
        let policy = policy(&self.namespace, method);
        kubectl(&["apply", "-f", "-"], &policy.to_string()).await;
    }

    async fn wait_enforced(&self, value: &str) {
        let condition = format!("--for=condition=Enforced={value}");
        let namespace = format!("--namespace={}", self.namespace);
        let object = "authorizationpolicies.kith.dev/p";
        kubectl(
            &["wait", &condition, "--timeout=40s", &namespace, object],
            "",
        )
        .await;
    }

    async fn status(&self) -> Value {
        let namespace = format!("--namespace={}", self.namespace);
        let object = [
            "get",
            "authorizationpolicies.kith.dev/p",
            "-ojson",
            &namespace,
        ];
        let object: Value = serde_json::from_str(&kubectl(&object, "").await).unwrap();
        object["status"].clone()
    }

    fn replica(&self, pod: &str, client: &Client) -> Replica {
        let state = Arc::new(State::default());
        let numbers = Arc::new(Numbers::default());
        let (_, replicas) = watch::channel(BTreeSet::new());
        // Nobody is asked, so that it is never used.
        let nowhere = Endpoint::unix("/nowhere/workload-api.sock");
        let operation = Operation {
            client: client.clone(),
            namespace: self.namespace.clone(),
            pod: pod.into(),
            identity: IdentitySource::start(SourceConfig::new(nowhere)),
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
#[ignore = "needs a real API server: KITH_TEST_KUBECONFIG, KITH_TEST_KUBECTL"]
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
    let before = kubectl(&read, "").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(kubectl(&read, "").await, before);

    // Deleted while a status is to be written: fine.
    kubectl(
        &["delete", &namespace, "authorizationpolicies.kith.dev/p"],
        "",
    )
    .await;
    cluster.apply("GET").await;
    rest[0].serve(&get);
    rest[0].enforce(&get);
    cluster.wait_enforced("True").await;
    rest[0].stop.send_replace(true);
}

#[tokio::test]
#[ignore = "needs a real API server: KITH_TEST_KUBECONFIG, KITH_TEST_KUBECTL"]
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
        kube::config::Kubeconfig::read_from(kubeconfig()).unwrap(),
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
    kubectl(&["apply", "-f", "-"], &allow("leases", leases)).await;
    replica.until_leading().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut metrics = String::new();
    replica.numbers.metrics(&mut metrics);
    assert!(metrics.contains("{result=\"ok\"} 0\n"), "{metrics}");
    assert!(metrics.contains("{result=\"failed\"} 1\n"), "{metrics}");
    let statuses =
        "{apiGroups: [kith.dev], resources: [authorizationpolicies/status], verbs: [patch]}";
    kubectl(&["apply", "-f", "-"], &allow("statuses", statuses)).await;
    cluster.wait_enforced("True").await;
    replica.stop.send_replace(true);
    replica.task.await.unwrap();
}
