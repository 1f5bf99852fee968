//! A SPIRE server and its agent, as an operator would set them up: configuration files, a join token, entries.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kith::lab::{Attested, Lab, Output, Process, Workload, WorkloadSpec, privileges};
use kith_tests::wait::wait_for;
use serde_json::Value;

use crate::expect;
use crate::programs;

/// One trust domain's SPIRE. Its processes end when it is dropped, and with the lab.
pub(crate) struct Spire {
    pub(crate) trust_domain: String,
    pub(crate) agent: Process,
    _server: Process,
    host: Arc<Workload>,
    /// The agent's SPIFFE ID, the parent of all entries.
    parent: String,
    copies: AtomicU32,
}

/// What a registration entry says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Entry<'a> {
    /// Path of the SPIFFE ID, `/ns/…`.
    pub(crate) path: &'a str,
    /// The only program that is it (selector `unix:path`).
    pub(crate) program: &'a str,
    /// Lifetime of its SVIDs in seconds; 0: an hour.
    pub(crate) ttl: u32,
    /// Trust domain whose bundle it gets too.
    pub(crate) federates_with: Option<&'a str>,
}

impl Spire {
    /// Starts both in a namespace of the lab, and waits until the agent serves the Workload API.
    pub(crate) async fn start(lab: &Lab, trust_domain: &str) -> Self {
        let spec = WorkloadSpec::new("spire", trust_domain).without_sidecar();
        let host = lab.workload(spec.unannounced()).await.unwrap();
        let directory = host.directory().display().to_string();
        let write = |name: &str, text: &str| {
            let path = host.directory().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };

        let configuration = write("server.conf", &server(trust_domain, &directory));
        let program = programs::spire("spire-server");
        let server = host
            .spawn(&[&program, "run", "-config", &configuration])
            .unwrap();
        wait_for("spire-server", Duration::from_secs(20), || async {
            let healthy = healthy(&host, "spire-server", "server.sock").await;
            assert!(server.ended().is_none(), "{}", server.stderr());
            healthy.then_some(())
        })
        .await;

        let ask = async |arguments: &[&str]| spire_server(&host, arguments).await;
        let bundle = write("bundle.pem", &ask(&["bundle", "show"]).await);
        let token: Value =
            serde_json::from_str(&ask(&["token", "generate", "-output", "json"]).await).unwrap();
        let token = token["value"].as_str().unwrap();
        let text = agent(trust_domain, &directory, &bundle, token);
        let configuration = write("agent.conf", &text);
        let program = programs::spire("spire-agent");
        let agent = host
            .spawn(&[&program, "run", "-config", &configuration])
            .unwrap();
        let parent = format!("spiffe://{trust_domain}/spire/agent/join_token/{token}");
        let spire = Self {
            trust_domain: trust_domain.to_owned(),
            agent,
            _server: server,
            host,
            parent,
            copies: AtomicU32::new(0),
        };
        spire.serves().await;
        spire
    }

    /// Waits until the agent serves the Workload API.
    pub(crate) async fn serves(&self) {
        wait_for("spire-agent", Duration::from_secs(20), || async {
            let healthy = healthy(&self.host, "spire-agent", "agent.sock").await;
            assert!(self.agent.ended().is_none(), "{}", self.agent.stderr());
            healthy.then_some(())
        })
        .await;
    }

    /// The agent's Workload API.
    pub(crate) fn workload_api(&self) -> PathBuf {
        self.host.directory().join("agent.sock")
    }

    pub(crate) fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.trust_domain)
    }

    /// `spire-server` with a subcommand; gives back what it prints.
    pub(crate) async fn server(&self, arguments: &[&str]) -> String {
        spire_server(&self.host, arguments).await
    }

    /// The same, for commands that can answer in JSON.
    pub(crate) async fn server_json(&self, arguments: &[&str]) -> Value {
        let answer = self
            .server(&[arguments, &["-output", "json"]].concat())
            .await;
        serde_json::from_str(&answer).unwrap()
    }

    /// Makes a registration entry, and gives back its id.
    pub(crate) async fn register(&self, entry: Entry<'_>) -> String {
        let (id, ttl) = (self.id(entry.path), entry.ttl.to_string());
        let selector = format!("unix:path:{}", entry.program);
        let mut command = vec![
            "entry",
            "create",
            "-parentID",
            &self.parent,
            "-spiffeID",
            &id,
            "-selector",
            &selector,
            "-x509SVIDTTL",
            &ttl,
        ];
        let federated = entry
            .federates_with
            .map(|domain| format!("spiffe://{domain}"));
        if let Some(domain) = &federated {
            command.extend(["-federatesWith", domain]);
        }
        let answer = self.server_json(&command).await;
        let entry = &answer["results"][0]["entry"]["id"];
        entry
            .as_str()
            .unwrap_or_else(|| panic!("{answer:#}"))
            .to_owned()
    }

    /// Registers what runs from a copy of a program: every process of the lab has the same user, so the path of its
    /// program is what tells it from others.
    pub(crate) async fn register_copy(
        &self,
        program: &Path,
        entry: Entry<'_>,
    ) -> (PathBuf, String) {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let folder = self.host.directory().join(format!("copy-{number}"));
        std::fs::create_dir(&folder).unwrap();
        let copy = folder.join(program.file_name().unwrap());
        // Another name of the same file does; where that isn't possible, a copy.
        if std::fs::hard_link(program, &copy).is_err() {
            std::fs::copy(program, &copy).unwrap();
        }
        let path = copy.to_str().unwrap();
        let id = self
            .register(Entry {
                program: path,
                ..entry
            })
            .await;
        (copy, id)
    }

    /// Registers a sidecar; gives back its entry's id too.
    pub(crate) async fn sidecar(&self, entry: Entry<'_>) -> (Attested, String) {
        let (kith, id) = self.register_copy(&kith(), entry).await;
        let workload_api = self.workload_api();
        (Attested { workload_api, kith }, id)
    }

    /// Registers the control plane, and has it started with what SPIRE gives it.
    pub(crate) async fn open_mesh(&self, lab: &mut Lab, ttl: u32, federates_with: Option<&str>) {
        let (path, kith) = ("/ns/kith-system/sa/control", kith());
        let program = kith.to_str().unwrap();
        self.register(Entry {
            path,
            program,
            ttl,
            federates_with,
        })
        .await;
        lab.mesh_of(&self.workload_api()).await.unwrap();
    }

    /// Each trusts the other's bundle.
    pub(crate) async fn federate(&self, other: &Self) {
        for (from, to) in [(self, other), (other, self)] {
            let bundle = from.server(&["bundle", "show", "-format", "spiffe"]).await;
            let file = to.host.directory().join("federated.json");
            std::fs::write(&file, bundle).unwrap();
            let (id, file) = (from.id(""), file.to_str().unwrap());
            to.server(&[
                "bundle", "set", "-format", "spiffe", "-id", &id, "-path", file,
            ])
            .await;
        }
    }
}

/// The `kith` binary, as `/proc` names it.
fn kith() -> PathBuf {
    privileges::kith_binary().unwrap().canonicalize().unwrap()
}

async fn run(host: &Workload, program: &str, socket: &str, arguments: &[&str]) -> Output {
    let (program, socket) = (programs::spire(program), host.directory().join(socket));
    let socket = ["-socketPath", socket.to_str().unwrap()];
    // SPIRE's flags come after its subcommands.
    let words = arguments
        .iter()
        .take_while(|word| !word.starts_with('-'))
        .count();
    let (command, flags) = arguments.split_at(words);
    host.exec(&[&[program.as_str()], command, &socket, flags].concat())
        .await
        .unwrap()
}

async fn spire_server(host: &Workload, arguments: &[&str]) -> String {
    let output = run(host, "spire-server", "server.sock", arguments).await;
    expect::success(&output);
    output.stdout
}

async fn healthy(host: &Workload, program: &str, socket: &str) -> bool {
    run(host, program, socket, &["healthcheck"])
        .await
        .status
        .success()
}

/// Short intervals, so that what the tests change is seen in a second or two.
fn server(trust_domain: &str, directory: &str) -> String {
    format!(
        r#"
server {{
    trust_domain = "{trust_domain}"
    bind_address = "127.0.0.1"
    bind_port = "8081"
    socket_path = "{directory}/server.sock"
    data_dir = "{directory}/server"
    log_level = "DEBUG"
    default_x509_svid_ttl = "1h"
    ratelimit {{ attestation = false signing = false }}
    experimental {{ cache_reload_interval = "500ms" }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{ database_type = "sqlite3" connection_string = "{directory}/entries.sqlite3" }}
    }}
    KeyManager "memory" {{ plugin_data {{}} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}

/// The key is kept on disk, because a join token works once: an agent that is started again proves itself by its SVID.
fn agent(trust_domain: &str, directory: &str, bundle: &str, token: &str) -> String {
    format!(
        r#"
agent {{
    trust_domain = "{trust_domain}"
    server_address = "127.0.0.1"
    server_port = "8081"
    socket_path = "{directory}/agent.sock"
    data_dir = "{directory}/agent"
    trust_bundle_path = "{bundle}"
    join_token = "{token}"
    log_level = "DEBUG"
    experimental {{ sync_interval = "1s" }}
}}
plugins {{
    KeyManager "disk" {{ plugin_data {{ directory = "{directory}/agent" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{
        plugin_data {{ discover_workload_path = true workload_size_limit = -1 }}
    }}
}}
"#
    )
}
