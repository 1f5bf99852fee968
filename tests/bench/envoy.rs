//! Envoy as a sidecar for the same job: the same capture, TLS 1.3 with SPIFFE identities on both ends, a policy of one
//! rule by principal, a JSON access log, one worker. Its configuration is static, which spares it the lookups that
//! Kith makes for addresses it has not met.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use kith::lab::child::Birth;
use kith::lab::process::Recipe;
use kith::lab::{Lab, Process, Workload};
use serde_json::{Value, json};

use crate::mesh::{ECHO, HTTP1, HTTP2, LATE, TCP};
use crate::{Failure, repository};

const INBOUND: u16 = 15006;
const OUTBOUND: u16 = 15001;

/// Firewall mark of Envoy's own connections, so that the capture lets them pass.
const MARK: u32 = 0x4b69;

/// A program, not the Python script that would start it.
pub(crate) fn program() -> Option<PathBuf> {
    let libraries = repository().join("target/interop/venv/lib");
    let pythons = std::fs::read_dir(libraries).into_iter().flatten().flatten();
    let mut programs = pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|path| path.is_file())
}

pub(crate) struct Envoys {
    pub(crate) client: Process,
    pub(crate) server: Process,
}

pub(crate) async fn start(
    lab: &Lab,
    kith: &Path,
    client: &Workload,
    server: &Workload,
) -> Result<Envoys, Failure> {
    for workload in [client, server] {
        lab.authority()
            .issue(&workload.spiffe_id(), workload.directory())
            .await?;
        let mark = format!("{MARK:#x}");
        let command = [
            &*kith.to_string_lossy(),
            "__proxy",
            "capture",
            "--mark",
            &mark,
        ];
        let output = workload.exec(&command).await?;
        if !output.status.success() {
            return Err(format!("kith-proxy capture: {}", output.stderr.trim()).into());
        }
    }
    let envoys = Envoys {
        client: launch(kith, client, &client_configuration(client, server))?,
        server: launch(kith, server, &server_configuration(client, server))?,
    };
    ready(client, server).await?;
    Ok(envoys)
}

pub(crate) async fn ready(client: &Workload, server: &Workload) -> Result<(), Failure> {
    client.listening(OUTBOUND).await?;
    server.listening(INBOUND).await?;
    Ok(())
}

pub(crate) fn access_log(workload: &Workload) -> PathBuf {
    workload.directory().join("envoy-access.jsonl")
}

fn launch(kith: &Path, workload: &Workload, configuration: &Value) -> Result<Process, Failure> {
    let file = workload.directory().join("envoy.json");
    std::fs::write(&file, format!("{configuration:#}"))?;
    let mut arguments: Vec<std::ffi::OsString> = vec![
        program().ok_or("Envoy is not installed")?.into(),
        "-c".into(),
        file.into(),
    ];
    let rest = [
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "warning",
    ];
    arguments.extend(rest.map(Into::into));
    Ok(Process::start(Recipe {
        name: "envoy".to_owned(),
        kith: kith.to_owned(),
        birth: Birth {
            net: Some(workload.network().path()),
            ..Birth::default()
        },
        program: arguments,
        environment: Vec::new(),
        logs: workload.directory().clone(),
    })?)
}

fn client_configuration(client: &Workload, server: &Workload) -> Value {
    let ports = ports();
    let chains: Vec<Value> = ports
        .map(|port| chain(client, port, Vec::new(), &Value::Null))
        .into();
    let tls = transport_socket(client, server, port_alpn, "UpstreamTlsContext");
    let clusters: Vec<Value> = ports
        .map(|port| cluster(port, server.addresses.v4, &tls(port)))
        .into();
    bootstrap(&listener("outbound", OUTBOUND, &chains), &clusters)
}

fn server_configuration(client: &Workload, server: &Workload) -> Value {
    let ports = ports();
    let tls = transport_socket(server, client, |_| Value::Null, "DownstreamTlsContext");
    let rules = json!({"action": "ALLOW", "policies": {"server": {
        "permissions": [{"any": true}],
        "principals": [{"authenticated": {"principal_name": {"exact": client.spiffe_id()}}}],
    }}});
    let chains = ports.map(|port| {
        let policy = match Protocol::of(port) {
            Protocol::Tcp => json!({"name": "rbac", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                "stat_prefix": "rbac", "rules": rules,
            }}),
            _ => json!({"name": "rbac", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": rules,
            }}),
        };
        chain(server, port, vec![policy], &tls(port))
    });
    let clusters = ports.map(|port| cluster(port, Ipv4Addr::LOCALHOST, &Value::Null));
    bootstrap(&listener("inbound", INBOUND, &chains), &clusters)
}

fn ports() -> [u16; 5] {
    [HTTP1, HTTP2, LATE, TCP, ECHO[0]]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Tcp,
}

impl Protocol {
    fn of(port: u16) -> Self {
        match port {
            HTTP1 | LATE => Protocol::Http1,
            HTTP2 => Protocol::Http2,
            _ => Protocol::Tcp,
        }
    }
}

fn port_alpn(port: u16) -> Value {
    match Protocol::of(port) {
        Protocol::Http1 => json!(["http/1.1"]),
        Protocol::Http2 => json!(["h2"]),
        Protocol::Tcp => Value::Null,
    }
}

fn bootstrap(listener: &Value, clusters: &[Value]) -> Value {
    json!({
        "static_resources": {"listeners": [listener], "clusters": clusters},
        "cluster_manager": {"upstream_bind_config": {"socket_options": [
            // SOL_SOCKET, SO_MARK
            {"level": 1, "name": 36, "int_value": MARK, "state": "STATE_PREBIND"},
        ]}},
    })
}

fn listener(name: &str, port: u16, chains: &[Value]) -> Value {
    json!({
        "name": name, "address": socket_address(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        "tcp_backlog_size": 4096,
        "listener_filters": [{"name": "original_dst", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        }}],
        "filter_chains": chains,
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

/// What happens to connections to `port`, the one that the client dialled.
fn chain(
    workload: &Workload,
    port: u16,
    mut filters: Vec<Value>,
    transport_socket: &Value,
) -> Value {
    let log = json!([{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": access_log(workload), "log_format": {"json_format": access_log_format(Protocol::of(port))},
    }}]);
    let last = match Protocol::of(port) {
        Protocol::Tcp => json!({"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp", "cluster": cluster_name(port), "access_log": log,
        }}),
        http => {
            filters.push(json!({"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            }}));
            let inbound = !transport_socket.is_null();
            json!({"name": "http", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "http", "codec_type": if http == Protocol::Http2 { "HTTP2" } else { "HTTP1" },
                "normalize_path": true, "merge_slashes": true,
                "forward_client_cert_details": if inbound { "SANITIZE_SET" } else { "SANITIZE" },
                "set_current_client_cert_details": {"uri": inbound},
                "http_filters": std::mem::take(&mut filters),
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "route": {"cluster": cluster_name(port), "timeout": "0s"}},
                ]}]},
                "access_log": log,
            }})
        }
    };
    filters.push(last);
    let mut chain = json!({"filter_chain_match": {"destination_port": port}, "filters": filters});
    if !transport_socket.is_null() {
        chain["transport_socket"] = transport_socket.clone();
    }
    chain
}

/// What Kith's records say, as far as Envoy knows it.
fn access_log_format(protocol: Protocol) -> Value {
    let mut format = json!({
        "time": "%START_TIME%", "source.principal": "%DOWNSTREAM_PEER_URI_SAN%",
        "source.address": "%DOWNSTREAM_REMOTE_ADDRESS%", "source.serial": "%DOWNSTREAM_PEER_SERIAL%",
        "destination.principal": "%UPSTREAM_PEER_URI_SAN%", "destination.address": "%UPSTREAM_HOST%",
        "bytes.in": "%BYTES_RECEIVED%", "bytes.out": "%BYTES_SENT%", "duration_ms": "%DURATION%",
        "flags": "%RESPONSE_FLAGS%", "tls.version": "%DOWNSTREAM_TLS_VERSION%", "tls.cipher": "%DOWNSTREAM_TLS_CIPHER%",
    });
    if protocol != Protocol::Tcp {
        for (name, value) in [
            ("request.id", "%REQ(X-REQUEST-ID)%"),
            ("http.method", "%REQ(:METHOD)%"),
            ("http.authority", "%REQ(:AUTHORITY)%"),
            ("http.path", "%REQ(:PATH)%"),
            ("http.version", "%PROTOCOL%"),
            ("http.status", "%RESPONSE_CODE%"),
            ("upstream_ms", "%RESPONSE_DURATION%"),
        ] {
            format[name] = value.into();
        }
    }
    format
}

fn cluster_name(port: u16) -> String {
    format!("port-{port}")
}

fn cluster(port: u16, host: Ipv4Addr, transport_socket: &Value) -> Value {
    let name = cluster_name(port);
    let threshold = json!({
        "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
    });
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [threshold]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": socket_address(SocketAddr::from((host, port)))}},
        ]}]},
    });
    if !transport_socket.is_null() {
        cluster["transport_socket"] = transport_socket.clone();
    }
    if Protocol::of(port) == Protocol::Http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    cluster
}

/// Mutual TLS 1.3 as `own`, with `peer` and nobody else.
fn transport_socket(
    own: &Workload,
    peer: &Workload,
    alpn: impl Fn(u16) -> Value,
    context: &str,
) -> impl Fn(u16) -> Value {
    let file = |name: &str| json!({"filename": own.directory().join(name)});
    let common = json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file("svid.pem"), "private_key": file("key.pem")}],
        "validation_context": {
            "trusted_ca": file("bundle.pem"),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer.spiffe_id()}}],
        },
    });
    let kind = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}");
    let inbound = context == "DownstreamTlsContext";
    move |port| {
        let mut config = json!({"@type": kind, "common_tls_context": common});
        let alpn = alpn(port);
        if !alpn.is_null() {
            config["common_tls_context"]["alpn_protocols"] = alpn;
        }
        if inbound {
            config["require_client_certificate"] = true.into();
        }
        json!({"name": "tls", "typed_config": config})
    }
}
