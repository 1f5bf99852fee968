//! An API server of a test's own, and its etcd.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kube::Client;
use rcgen::KeyPair;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::kubernetes::client::client;

/// Four seconds on an idle machine.
const START: Duration = Duration::from_secs(90);

/// Both end with it.
pub(super) struct Server {
    directory: TempDir,
    _etcd: Child,
    _server: Child,
}

impl Server {
    pub(super) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let key = KeyPair::generate().unwrap();
        std::fs::write(path("accounts.key"), key.serialize_pem()).unwrap();
        std::fs::write(path("accounts.pub"), key.public_key_pem()).unwrap();
        let token: String = std::iter::repeat_with(fastrand::alphanumeric)
            .take(32)
            .collect();
        let admin = format!("{token},admin,admin,\"system:masters\"\n");
        std::fs::write(path("tokens.csv"), admin).unwrap();

        let [port, clients, peers] = free_ports();
        let start = |variable: &str, name: &str, arguments: &[String]| {
            let said = File::create(path(name)).unwrap();
            Command::new(tool(variable, name))
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(said.try_clone().unwrap())
                .stderr(said)
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        };
        let store = format!("http://127.0.0.1:{clients}");
        let etcd = [
            format!("--data-dir={}", path("store")),
            format!("--listen-client-urls={store}"),
            format!("--advertise-client-urls={store}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let mut etcd = start("KITH_TEST_ETCD", "etcd", &etcd);
        let server = [
            format!("--etcd-servers={store}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            // It may not be a loopback address (RFC 5737: this one is nobody's), and nobody dials it.
            "--advertise-address=192.0.2.1".to_owned(),
            format!("--cert-dir={}", path("certificates")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("accounts.pub")),
            format!(
                "--service-account-signing-key-file={}",
                path("accounts.key")
            ),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        ];
        let mut server = start("KITH_TEST_APISERVER", "kube-apiserver", &server);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": path("certificates/apiserver.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        });
        std::fs::write(path("kubeconfig"), kubeconfig.to_string()).unwrap();

        let begun = Instant::now();
        while !ready(&directory.path().join("kubeconfig")).await {
            let ended = etcd.try_wait().unwrap().or(server.try_wait().unwrap());
            if ended.is_some() || begun.elapsed() > START {
                let said = ["etcd", "kube-apiserver"].map(|name| {
                    let text = std::fs::read_to_string(path(name)).unwrap();
                    let from = text.len().saturating_sub(2000);
                    text.get(from..).unwrap_or_default().to_owned()
                });
                panic!("no API server ({ended:?}): {}", said.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Self {
            directory,
            _etcd: etcd,
            _server: server,
        }
    }

    /// The file that makes a client cluster-admin.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// What kubectl prints, which must succeed.
    pub(super) async fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new(tool("KITH_TEST_KUBECTL", "kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.directory.path().join("cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

async fn ready(kubeconfig: &Path) -> bool {
    // Its certificate may not be there yet.
    let Ok(client): Result<Client, _> = client(Some(kubeconfig)).await else {
        return false;
    };
    let request = hyper::Request::get("/readyz").body(Vec::new()).unwrap();
    let answer = client.request_text(request);
    let answer = tokio::time::timeout(Duration::from_secs(2), answer).await;
    matches!(answer, Ok(Ok(text)) if text == "ok")
}

/// Held all at once, so that they differ.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A program of Kubernetes: named by a variable, else built by tests/cluster/setup.sh, else of the system.
fn tool(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/cluster/bin")
        .join(name);
    if built.is_file() { built } else { name.into() }
}
