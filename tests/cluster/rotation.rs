//! The webhook's certificates: who trusts only what stands in the caBundle can call every replica at every moment, while
//! certificates are renewed, a replica dies, and somebody deletes a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kith_tests::kube::node::Pod;
use kith_tests::kube::{Cluster, PATIENCE};
use kith_tests::wait::wait_for;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

const LIFETIME: Duration = Duration::from_secs(20);
const PORT: u16 = 15017;

#[test]
fn the_webhook_can_be_called_at_every_moment() {
    Cluster::run(async |cluster| {
        let flag = format!(
            "control.extraArgs[0]=--webhook-certificate-seconds={}",
            LIFETIME.as_secs()
        );
        cluster.install(&[&flag]).await;
        let mut caller = Caller::default();

        // Every certificate of the start has expired when each replica serves its third.
        caller.until_each_serves(&cluster, 3).await;

        // Without one of the configurations the other goes on, and so does what is not about webhooks.
        let validating = "validatingwebhookconfiguration/kith-validate";
        cluster.must(&["delete", validating]).await;
        caller.served.clear();
        caller.until_each_serves(&cluster, 3).await;
        assert_eq!(cluster.control_plane(2).await.len(), 2);

        // A replica that dies leaves its certificates behind, until they expire.
        let replicas = cluster.control_plane(2).await;
        let dead = replicas[0].name().to_owned();
        let force = ["--grace-period=0", "--force"];
        cluster
            .must(&[&["delete", "pod", "-n", "kith-system", &dead], &force[..]].concat())
            .await;
        let left = caller.served.remove(&dead).unwrap();
        wait_for("the node to hear of it", PATIENCE, async || {
            (!names(&cluster).contains(&dead)).then_some(())
        })
        .await;
        cluster.control_plane(2).await;
        caller.served.clear();
        caller.until_each_serves(&cluster, 3).await;
        let bundle = bundle(&cluster).await;
        assert!(bundle.iter().all(|der| !left.contains(der)));
        assert!(bundle.len() <= 4, "{} certificates", bundle.len());

        // And the API server can call it.
        cluster.namespace("shop").await;
        let pod = "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: a}, \
                   spec: {containers: [{name: a, image: kith}]}}";
        let file = cluster.file(pod);
        let file = file.to_str().unwrap();
        let arguments = ["create", "--dry-run=server", "-o", "yaml", "-f", file];
        assert!(
            cluster
                .must(&arguments)
                .await
                .contains("kith.dev/status: injected")
        );

        // Who may not write its certificate is not ready, however often it tries.
        let role = cluster
            .must(&["get", "clusterrole", "kith-control", "-o", "json"])
            .await;
        let mut role: Value = serde_json::from_str(&role).unwrap();
        role["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("resourceVersion");
        let allowed = cluster.file(&role.to_string());
        for rule in role["rules"].as_array_mut().unwrap() {
            if rule["apiGroups"][0] == "admissionregistration.k8s.io" {
                rule["verbs"] = json!(["get", "list", "watch"]);
            }
        }
        let forbidden = cluster.file(&role.to_string());
        cluster
            .must(&["replace", "-f", forbidden.to_str().unwrap()])
            .await;
        let before = names(&cluster);
        let one = before.first().unwrap();
        cluster
            .must(&[&["delete", "pod", "-n", "kith-system", one], &force[..]].concat())
            .await;
        let next = wait_for("the next replica", PATIENCE, async || {
            names(&cluster).difference(&before).next().cloned()
        })
        .await;
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            let next = cluster.node.pod("kith-system", &next);
            assert!(!next.is_some_and(|next| next.is_ready()));
            sleep(Duration::from_millis(100)).await;
        }
        cluster
            .must(&["replace", "-f", allowed.to_str().unwrap()])
            .await;
        cluster.control_plane(2).await;
    });
}

/// The replicas that run.
fn names(cluster: &Cluster) -> BTreeSet<String> {
    let label = ("app.kubernetes.io/name", "kith-control");
    let replicas = cluster.labelled("kith-system", label);
    replicas.iter().map(|pod| pod.name().to_owned()).collect()
}

/// Calls as an API server does, and remembers what it was shown.
#[derive(Default)]
struct Caller {
    /// By replica: its certificates.
    served: BTreeMap<String, BTreeSet<Vec<u8>>>,
    calls: usize,
}

impl Caller {
    /// Calls all ready replicas, again and again, until each has shown so many certificates.
    async fn until_each_serves(&mut self, cluster: &Cluster, certificates: usize) {
        let deadline = Instant::now() + 4 * LIFETIME;
        loop {
            let replicas = cluster.control_plane(2).await;
            for replica in &replicas {
                let shown = self.call(cluster, replica).await;
                let name = replica.name().to_owned();
                self.served.entry(name).or_default().insert(shown);
            }
            let shown = self.served.values().map(BTreeSet::len);
            if shown.clone().all(|shown| shown >= certificates) {
                println!("{} calls, none failed", self.calls);
                return;
            }
            let shown: Vec<_> = shown.collect();
            assert!(Instant::now() < deadline, "shown by each so far: {shown:?}");
        }
    }

    /// One handshake, with nothing trusted but what stands in the bundle now.
    async fn call(&mut self, cluster: &Cluster, replica: &Rc<Pod>) -> Vec<u8> {
        let mut roots = RootCertStore::empty();
        for der in bundle(cluster).await {
            roots.add(CertificateDer::from(der)).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = replica.workload.addresses.v4;
        let name = ServerName::try_from("kith-control.kith-system.svc").unwrap();
        let handshake = async {
            let stream = TcpStream::connect((address, PORT)).await.unwrap();
            TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await
        };
        let stream = timeout(Duration::from_secs(10), handshake).await.unwrap();
        let stream = stream.unwrap_or_else(|error| {
            panic!("call {} of {}: {error}", self.calls, replica.name());
        });
        self.calls += 1;
        let shown = stream.get_ref().1.peer_certificates().unwrap();
        shown[0].to_vec()
    }
}

/// What stands in the caBundle of the first webhook; it is the same in all.
async fn bundle(cluster: &Cluster) -> Vec<Vec<u8>> {
    let path = "jsonpath={range .webhooks[*]}{.clientConfig.caBundle}{\"\\n\"}{end}";
    let said = cluster
        .must(&[
            "get",
            "mutatingwebhookconfiguration",
            "kith-inject",
            "-o",
            path,
        ])
        .await;
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, lines[1]));
    let pem = BASE64_STANDARD.decode(lines[0]).unwrap();
    CertificateDer::pem_slice_iter(&pem)
        .map(|der| der.unwrap().to_vec())
        .collect()
}
