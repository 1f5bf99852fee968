//! etcd and the API server, as processes on the node's machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kith::app::client::Call;
use kith::lab::child::Birth;
use kith::lab::process::{Process, Recipe};
use kith::lab::{Authority, Lab, Output, Workload, privileges};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::wait::wait_for;

/// Its port.
pub const PORT: u16 = 6443;

const ETCD: &str = "http://127.0.0.1:2379";

/// Time to get ready; four seconds on an idle machine.
const START: Duration = Duration::from_secs(90);

/// The control plane of the cluster itself.
pub struct ApiServer {
    /// Its store.
    pub etcd: Process,
    /// The API server.
    pub server: Process,
    address: String,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
}

impl ApiServer {
    /// Starts both and waits until the API server says that it is ready.
    ///
    /// # Panics
    /// When a program is missing or does not get ready.
    pub async fn start(lab: &Lab, machine: &Workload, authority: &Authority) -> Self {
        let directory = lab.directory().join("kube");
        std::fs::create_dir(&directory).unwrap();
        let address = machine.addresses.v4.to_string();
        // Any key will do for signing service account tokens; the authority makes good ones.
        let keys = directory.join("service-accounts");
        let id = "spiffe://example.org/kube/service-accounts";
        authority.issue(id, &keys).await.unwrap();
        let token: String = std::iter::repeat_with(fastrand::alphanumeric)
            .take(32)
            .collect();
        let tokens = directory.join("tokens.csv");
        std::fs::write(&tokens, format!("{token},admin,admin,\"system:masters\"\n")).unwrap();

        let start = |name: &str, program: Vec<OsString>| {
            Process::start(Recipe {
                name: name.to_owned(),
                kith: privileges::kith_binary().unwrap(),
                birth: Birth {
                    net: Some(machine.network().path()),
                    ..Birth::default()
                },
                program,
                environment: Vec::new(),
                logs: lab.directory().join("log"),
            })
            .unwrap()
        };
        let mut program: Vec<OsString> = vec![tool("KITH_TEST_ETCD", "etcd").into()];
        program.extend(
            [
                format!("--data-dir={}", directory.join("etcd").display()),
                format!("--listen-client-urls={ETCD}"),
                format!("--advertise-client-urls={ETCD}"),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
                // Nothing here must survive a crash of the machine.
                "--unsafe-no-fsync".to_owned(),
            ]
            .map(OsString::from),
        );
        let etcd = start("etcd", program);
        let certificates = directory.join("certificates");
        let mut program: Vec<OsString> = vec![tool("KITH_TEST_APISERVER", "kube-apiserver").into()];
        program.extend(
            [
                format!("--etcd-servers={ETCD}"),
                format!("--secure-port={PORT}"),
                format!("--bind-address={address}"),
                format!("--advertise-address={address}"),
                format!("--cert-dir={}", certificates.display()),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!(
                    "--service-account-key-file={}",
                    keys.join("svid.pem").display()
                ),
                format!(
                    "--service-account-signing-key-file={}",
                    keys.join("key.pem").display()
                ),
                "--authorization-mode=RBAC".to_owned(),
                format!("--token-auth-file={}", tokens.display()),
                // Where the lab's captures look for services.
                "--service-cluster-ip-range=10.96.0.0/16,fd00:6b69:0:96::/108".to_owned(),
                // Webhooks are dialled by their pods' addresses: no kube-proxy runs here.
                "--enable-aggregator-routing=true".to_owned(),
                "--profiling=false".to_owned(),
            ]
            .map(OsString::from),
        );
        let server = start("kube-apiserver", program);
        let kubeconfig = directory.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{address}:{PORT}"),
                "certificate-authority": certificates.join("apiserver.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        let this = Self {
            etcd,
            server,
            address,
            kubeconfig,
            kubectl: tool("KITH_TEST_KUBECTL", "kubectl"),
            helm: tool("KITH_TEST_HELM", "helm"),
        };
        this.ready().await;
        this
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The file that makes a client cluster-admin.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The certificate that it shows, which is its own CA.
    ///
    /// # Panics
    /// Before it is ready.
    #[must_use]
    pub fn certificate(&self) -> String {
        let folder = self.kubeconfig.with_file_name("certificates");
        std::fs::read_to_string(folder.join("apiserver.crt")).unwrap()
    }

    /// A client of cluster-admin, to be used on the node's own thread.
    ///
    /// # Panics
    /// Before it is ready.
    pub async fn client(&self) -> kube::Client {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let file: Kubeconfig = serde_json::from_str(&text).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        kube::Client::try_from(config.unwrap()).unwrap()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// When it ends or never is.
    pub async fn ready(&self) {
        wait_for("the API server to be ready", START, || async {
            if self.server.ended().is_some() || self.etcd.ended().is_some() {
                panic!(
                    "{}{}",
                    self.etcd.not_ready("etcd, beside an API server"),
                    self.server.not_ready("the API server ended early")
                );
            }
            if !self.certificate_is_there() {
                return None;
            }
            let client = self.client().await;
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            let answer =
                tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await;
            matches!(answer, Ok(Ok(text)) if text == "ok").then_some(())
        })
        .await;
    }

    fn certificate_is_there(&self) -> bool {
        let folder = self.kubeconfig.with_file_name("certificates");
        folder.join("apiserver.crt").exists() && folder.join("apiserver.key").exists()
    }

    /// Ends it, without grace, and starts it again; ready on return.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn restart(&self) {
        self.server.restart().unwrap();
        self.ready().await;
    }

    /// Has etcd forget every version of every object but the last, so that nobody can go on watching from an earlier one.
    ///
    /// # Panics
    /// When etcd refuses.
    pub async fn compact(&self) {
        let head = self
            .etcd_call("/v3/kv/range", &json!({"key": "AA=="}))
            .await;
        let revision = head["header"]["revision"].clone();
        let answer = self
            .etcd_call(
                "/v3/kv/compaction",
                &json!({"revision": revision, "physical": true}),
            )
            .await;
        assert!(answer["error"].is_null(), "etcd: {answer}");
    }

    async fn etcd_call(&self, path: &str, body: &Value) -> Value {
        let mut call = Call::get(format!("{ETCD}{path}").parse().unwrap());
        call.data = Some(body.to_string());
        call.run().await.unwrap().json()
    }

    /// Where kubectl is, for whoever runs it inside the node's network by themselves.
    #[must_use]
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// Runs kubectl on a machine of the lab.
    ///
    /// # Panics
    /// When it cannot be run, or does not end.
    pub async fn kubectl(&self, machine: &Arc<Workload>, arguments: &[&str]) -> Output {
        let cache = self.kubeconfig.with_file_name("kubectl-cache");
        let mut program = vec![
            self.kubectl.to_str().unwrap(),
            "--kubeconfig",
            self.kubeconfig.to_str().unwrap(),
            "--cache-dir",
            cache.to_str().unwrap(),
        ];
        program.extend(arguments);
        machine.exec(&program).await.unwrap()
    }

    /// Runs helm on a machine of the lab.
    ///
    /// # Panics
    /// When it cannot be run, or does not end.
    pub async fn helm(&self, machine: &Arc<Workload>, arguments: &[&str]) -> Output {
        let mut program = vec![self.helm.to_str().unwrap()];
        program.extend(arguments);
        machine.exec(&program).await.unwrap()
    }
}

/// A program of Kubernetes: named by a variable, else built by tests/cluster/setup.sh, else of the system.
fn tool(variable: &str, name: &str) -> PathBuf {
    // Empty is not set, as for tests/cluster/setup.sh.
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return path.into();
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/cluster/bin")
        .join(name);
    let system = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(built)
        .chain(std::env::split_paths(&system).map(|folder| folder.join(name)))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is missing: run tests/cluster/setup.sh, or name it in {variable}")
        })
}
