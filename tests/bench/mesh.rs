//! The contestants: for each a client and a server in namespaces of their own, nginx on the server, and what stands
//! between them.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};

use crate::envoy::{self, Envoys};
use crate::measure::Kind;
use crate::{Arguments, Failure, proc};

/// Ports of the servers: nginx, nginx with HTTP/2, an application that answers late, iperf3.
pub(crate) const HTTP1: u16 = 8080;
pub(crate) const HTTP2: u16 = 8081;
pub(crate) const LATE: u16 = 8082;
pub(crate) const TCP: u16 = 5201;
/// Opaque TCP, sent back as it comes.
pub(crate) const ECHO: [u16; 3] = [7000, 7001, 7002];

pub(crate) const NAMESPACE: &str = "bench";

/// One rule by principal, as Envoy gets it.
const POLICY: &str = "\
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: bench, name: server}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [example.org/ns/bench/sa/client]}}]
";

/// As little work for nginx as there can be, and no end of connections that are kept.
const NGINX: &str = "\
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
error_log stderr crit;
pid PREFIX/nginx.pid;
events { worker_connections 60000; }
http {
  access_log off;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  default_type text/plain;
  client_body_temp_path PREFIX/body;
  proxy_temp_path PREFIX/proxy;
  fastcgi_temp_path PREFIX/fastcgi;
  uwsgi_temp_path PREFIX/uwsgi;
  scgi_temp_path PREFIX/scgi;
  server {
    listen 8080 backlog=4096;
    listen 8081 http2 backlog=4096;
    location / { return 200 \"hello from nginx\\n\"; }
  }
}
";

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

impl Side {
    pub(crate) const BOTH: [Side; 2] = [Side::Server, Side::Client];
}

/// A client, a server, and what stands between.
pub(crate) struct Pair {
    pub(crate) kind: Kind,
    pub(crate) client: Arc<Workload>,
    pub(crate) server: Arc<Workload>,
    /// What the client dials.
    pub(crate) host: String,
    envoys: Option<Envoys>,
    _applications: Vec<Process>,
}

/// Everything that is up. Processes go before the lab that they are in.
pub(crate) struct Bench {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) wrk_script: PathBuf,
    pub(crate) lab: Lab,
}

impl Bench {
    pub(crate) async fn start(arguments: &Arguments, kith: &Path) -> Result<Self, Failure> {
        let options = LabOptions {
            kith: Some(kith.to_owned()),
            proxy: arguments.proxy.clone(),
            ..LabOptions::default()
        };
        let lab = Lab::new(options).await?;
        let wrk_script = lab.directory().join("report.lua");
        std::fs::write(&wrk_script, include_str!("report.lua"))?;
        lab.control().write("bench", POLICY)?;
        let mut pairs = Vec::new();
        for kind in arguments.kinds() {
            pairs.push(Pair::start(&lab, kith, kind).await?);
        }
        Ok(Bench {
            pairs,
            wrk_script,
            lab,
        })
    }

    /// Every process that works for the benchmark, itself included.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        let workloads = self
            .pairs
            .iter()
            .flat_map(|pair| [&pair.client, &pair.server]);
        let namespaces: BTreeSet<u64> = workloads
            .filter_map(|workload| workload.network().inode().ok())
            .collect();
        let inside = |pid: &u32| {
            let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net"));
            namespace.is_ok_and(|namespace| namespaces.contains(&namespace.ino()))
        };
        let mut processes: BTreeSet<u32> = proc::all().into_keys().filter(inside).collect();
        processes.extend([
            std::process::id(),
            self.lab.control().pid(),
            self.lab.authority().pid(),
        ]);
        processes
    }

    /// Access logs grow by some hundred megabytes in every round; nobody reads these.
    pub(crate) fn empty_logs(&self) {
        for pair in &self.pairs {
            for log in pair.logs() {
                let _ = OpenOptions::new()
                    .write(true)
                    .open(log)
                    .and_then(|file| file.set_len(0));
            }
        }
    }
}

impl Pair {
    async fn start(lab: &Lab, kith: &Path, kind: Kind) -> Result<Self, Failure> {
        let (client, server) = match kind {
            Kind::Kith => ("client".to_owned(), "server".to_owned()),
            other => (format!("{other}-client"), format!("{other}-server")),
        };
        let mut server = WorkloadSpec::new(NAMESPACE, &server);
        let mut client = WorkloadSpec::new(NAMESPACE, &client);
        let host;
        if kind == Kind::Kith {
            server = server
                .port(HTTP1, "HTTP")
                .port(HTTP2, "HTTP2")
                .port(LATE, "HTTP")
                .port(TCP, "TCP");
            server = ECHO
                .into_iter()
                .fold(server, |server, port| server.port(port, "TCP"));
            // The service, as applications do: Kith finds the workload behind it.
            host = format!("{}.{NAMESPACE}", server.name);
        } else {
            host = format!("{}.{NAMESPACE}.pod", server.name);
            server = server.without_sidecar().unannounced();
            client = client.without_sidecar().unannounced();
        }
        let workloads = lab.workloads([server, client]).await?;
        let [server, client] =
            <[_; 2]>::try_from(workloads).map_err(|_| "a workload is missing")?;
        for workload in [&server, &client] {
            let settings = workload.network().run(many_connections)?;
            settings.map_err(|error| format!("cannot prepare a network namespace: {error}"))?;
        }
        let applications = start_applications(&server).await?;
        let envoys = match kind {
            Kind::Envoy => Some(envoy::start(lab, kith, &client, &server).await?),
            Kind::Direct | Kind::Kith => None,
        };
        Ok(Pair {
            kind,
            client,
            server,
            host,
            envoys,
            _applications: applications,
        })
    }

    pub(crate) fn url(&self, port: u16) -> String {
        format!("http://{}:{port}/", self.host)
    }

    pub(crate) fn address(&self, port: u16) -> Result<SocketAddr, Failure> {
        Ok(self.client.resolve(&format!("{}:{port}", self.host))?)
    }

    pub(crate) fn sidecar(&self, side: Side) -> Option<&Process> {
        match (self.kind, side) {
            (Kind::Direct, _) => None,
            (Kind::Envoy, Side::Server) => self.envoys.as_ref().map(|envoys| &envoys.server),
            (Kind::Envoy, Side::Client) => self.envoys.as_ref().map(|envoys| &envoys.client),
            (Kind::Kith, Side::Server) => self.server.sidecar.as_deref(),
            (Kind::Kith, Side::Client) => self.client.sidecar.as_deref(),
        }
    }

    /// What the sidecar of a side has used so far.
    pub(crate) fn cpu_seconds(&self, side: Side) -> Option<f64> {
        proc::cpu(self.sidecar(side)?.pid()).map(|cpu| cpu.own)
    }

    /// How many records Kith's sidecars gave up so far: a request without its record would be cheaper than it is.
    pub(crate) async fn records_dropped(&self) -> Result<u64, Failure> {
        let mut dropped = 0;
        for workload in [&self.client, &self.server]
            .into_iter()
            .filter(|_| self.kind == Kind::Kith)
        {
            let metrics = workload.health("/metrics").await?.text();
            let counts = metrics.lines().filter_map(|line| {
                line.strip_prefix("kith_records_dropped_total")?
                    .rsplit(' ')
                    .next()
            });
            dropped += counts
                .filter_map(|count| count.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(dropped)
    }

    /// Starts both sidecars anew, so that nothing is left of what they did before, and waits until they are ready.
    pub(crate) async fn restart_sidecars(&self) -> Result<(), Failure> {
        for side in Side::BOTH {
            if let Some(sidecar) = self.sidecar(side) {
                sidecar.restart()?;
            }
        }
        match &self.envoys {
            Some(_) => envoy::ready(&self.client, &self.server).await,
            None => {
                for workload in [&self.server, &self.client] {
                    workload.ready(std::time::Duration::from_secs(30)).await?;
                }
                Ok(())
            }
        }
    }

    fn logs(&self) -> Vec<PathBuf> {
        let log = |workload: &Workload| match &workload.sidecar {
            Some(sidecar) => sidecar.records().to_owned(),
            None => envoy::access_log(workload),
        };
        vec![log(&self.client), log(&self.server)]
    }
}

/// Ephemeral ports for everyone's short connections; what is set here holds for the calling thread's namespace.
fn many_connections() -> std::io::Result<()> {
    // Not those that something listens on, or is to listen on again after a restart.
    std::fs::write(
        "/proc/sys/net/ipv4/ip_local_reserved_ports",
        "5201,7000-7002,8080-8082,15000-15021",
    )?;
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65000")?;
    std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")
}

async fn start_applications(server: &Workload) -> Result<Vec<Process>, Failure> {
    let prefix = server.directory().join("nginx");
    std::fs::create_dir(&prefix)?;
    let prefix = prefix.to_string_lossy().into_owned();
    let configuration = format!("{prefix}/nginx.conf");
    std::fs::write(&configuration, NGINX.replace("PREFIX", &prefix))?;
    let tcp = TCP.to_string();
    let mut applications = vec![
        server.spawn(&["nginx", "-p", &prefix, "-c", &configuration])?,
        server.spawn(&["iperf3", "-s", "-p", &tcp])?,
        server
            .app(&[
                "http",
                "--name",
                "late",
                "--listen",
                &format!("[::]:{LATE}"),
            ])
            .await?,
    ];
    for port in ECHO {
        applications.push(
            server
                .app(&["tcp", "--listen", &format!("[::]:{port}")])
                .await?,
        );
    }
    for port in [HTTP1, HTTP2, TCP] {
        server.listening(port).await?;
    }
    Ok(applications)
}
