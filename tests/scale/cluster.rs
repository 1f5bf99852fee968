//! The API server with its etcd, and the control plane: real programs on loopback.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::program::{Folder, Program};
use crate::{Arguments, Failure, START};

/// A free port of loopback. Somebody else could take it before it is used; then the program says so.
fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A program that somebody wants to be used instead, as in tests/cluster/setup.sh.
fn named(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}

pub(crate) struct ApiServer {
    pub(crate) client: Client,
    pub(crate) kubeconfig: PathBuf,
    _server: Program,
    _etcd: Program,
}

impl ApiServer {
    pub(crate) async fn start(folder: &Folder, arguments: &Arguments) -> Result<Self, Failure> {
        let at = folder.path();
        let (etcd_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        let (etcd_url, peer_url) = (
            format!("http://127.0.0.1:{etcd_port}"),
            format!("http://127.0.0.1:{peer_port}"),
        );
        let etcd = Program::start(
            folder,
            "etcd",
            Command::new(named("KITH_TEST_ETCD").unwrap_or_else(|| "etcd".into()))
                .arg("--data-dir")
                .arg(at.join("etcd"))
                .args([
                    "--listen-client-urls",
                    &etcd_url,
                    "--advertise-client-urls",
                    &etcd_url,
                ])
                .args([
                    "--listen-peer-urls",
                    &peer_url,
                    "--initial-advertise-peer-urls",
                    &peer_url,
                ])
                .args(["--initial-cluster", &format!("default={peer_url}")]),
        )?;
        let (private, public) = (at.join("sa.key"), at.join("sa.pub"));
        let made = Command::new("sh")
            .arg("-c")
            .arg("openssl genrsa -out \"$0\" 2048 && openssl rsa -in \"$0\" -pubout -out \"$1\"")
            .args([&private, &public])
            .output()?;
        if !made.status.success() {
            return Err(format!("openssl: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let mut random = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| "no random bytes")?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let tokens = at.join("tokens.csv");
        std::fs::write(&tokens, format!("{token},admin,admin,system:masters\n"))?;
        let certificates = at.join("certificates");
        let mut server = Program::start(
            folder,
            "kube-apiserver",
            Command::new(
                named("KITH_TEST_APISERVER")
                    .unwrap_or_else(|| arguments.kubernetes.join("kube-apiserver")),
            )
            .arg(format!("--etcd-servers={etcd_url}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.2"])
            .arg(format!("--secure-port={port}"))
            .arg(format!("--cert-dir={}", certificates.display()))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", public.display()))
            .arg(format!(
                "--service-account-signing-key-file={}",
                private.display()
            ))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg("--service-cluster-ip-range=10.96.0.0/16,fd00:6b69:0:96::/108")
            .args([
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
            ]),
        )?;
        let kubeconfig = at.join("kubeconfig");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "scale",
            "clusters": [{"name": "scale", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": certificates.join("apiserver.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": "admin"}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;

        let deadline = Instant::now() + START;
        let client = loop {
            server.ended()?;
            if let Ok(client) = client(&kubeconfig).await
                && client.apiserver_version().await.is_ok()
                && ready(&client).await
            {
                break client;
            }
            if Instant::now() > deadline {
                return Err(format!("the API server is not ready; {}", server.last_words()).into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        Ok(Self {
            client,
            kubeconfig,
            _server: server,
            _etcd: etcd,
        })
    }
}

async fn client(kubeconfig: &PathBuf) -> Result<Client, Failure> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    client
        .request_text(request)
        .await
        .is_ok_and(|text| text == "ok")
}

/// The control plane that is measured.
pub(crate) struct Control {
    program: Program,
    pub(crate) started: Instant,
    /// Where sidecars connect.
    pub(crate) xds: SocketAddr,
}

#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Memory {
    pub(crate) resident_mib: f64,
    pub(crate) anonymous_mib: f64,
}

impl Control {
    /// Returns when it is ready.
    pub(crate) async fn start(
        folder: &Folder,
        arguments: &Arguments,
        api: &ApiServer,
    ) -> Result<Self, Failure> {
        let (xds, status, health) = (free_port()?, free_port()?, free_port()?);
        let on_loopback = |port: u16| format!("127.0.0.1:{port}");
        let socket = folder.path().join("control.sock");
        let started = Instant::now();
        let program = Program::start(
            folder,
            "kith-control",
            Command::new(&arguments.control)
                .args(["serve", "--kubernetes", "--kubeconfig"])
                .arg(&api.kubeconfig)
                .args(["--listen", &on_loopback(xds)])
                .args(["--status-listen", &on_loopback(status)])
                .args(["--health-listen", &on_loopback(health)])
                .args(["--webhook-listen", "off", "--pod-name", "kith-control-0"])
                // As the chart has it.
                .env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
                .env(
                    "SPIFFE_ENDPOINT_SOCKET",
                    format!("unix://{}", socket.display()),
                ),
        )?;
        let mut control = Self {
            program,
            started,
            xds: SocketAddr::from(([127, 0, 0, 1], xds)),
        };
        let deadline = started + START;
        loop {
            control.program.ended()?;
            if answers_ok(health, "/ready").await {
                return Ok(control);
            }
            if Instant::now() > deadline {
                let words = control.program.last_words();
                return Err(format!("the control plane is not ready; {words}").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Once it has stopped moving: what is freed is given back with some delay.
    pub(crate) async fn settled_memory(&self) -> Result<Memory, Failure> {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.program.id()))?;
        let mib = |field: &str| -> Result<f64, Failure> {
            let line = status.lines().find(|line| line.starts_with(field));
            let kib = line.and_then(|line| line.split_whitespace().nth(1));
            let kib: f64 = kib.ok_or("no such line in /proc")?.parse()?;
            Ok(kib / 1024.0)
        };
        Ok(Memory {
            resident_mib: mib("VmRSS:")?,
            anonymous_mib: mib("RssAnon:")?,
        })
    }

    /// CPU time so far, user and system.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.program.id()))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc")?;
        // proc(5), in hundredths of a second: utime and stime are fields 14 and 15; after the name comes field 3.
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Duration::from_millis(ticks * 10))
    }
}

async fn answers_ok(port: u16, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
}
