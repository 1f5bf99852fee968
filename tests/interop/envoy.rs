//! Envoy's configuration: mTLS with one SVID, peers checked by its own SPIFFE validator.

use kith::lab::{Process, Workload};
use serde_json::{Value, json};

use crate::partner::Svid;
use crate::programs;

/// What an HTTP listener does with requests.
pub(crate) fn to_cluster(cluster: &str) -> Value {
    json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "30s"}}])
}

/// An HTTP listener, of TLS when `tls` is given.
pub(crate) fn listener(address: &str, port: u16, routes: &Value, tls: Option<Value>) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    filtered(
        address,
        port,
        "envoy.filters.network.http_connection_manager",
        &manager,
        tls,
    )
}

/// A listener that passes bytes on.
pub(crate) fn tcp_listener(address: &str, port: u16, cluster: &str, tls: Option<Value>) -> Value {
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": cluster,
    });
    filtered(
        address,
        port,
        "envoy.filters.network.tcp_proxy",
        &proxy,
        tls,
    )
}

fn filtered(address: &str, port: u16, filter: &str, config: &Value, tls: Option<Value>) -> Value {
    let mut chain = json!({"filters": [{"name": filter, "typed_config": config}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({
        "name": format!("port-{port}"),
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [chain],
    })
}

/// A server to pass on to. Over TLS when `tls` is given; by HTTP/2 when `http2`.
pub(crate) fn cluster(
    name: &str,
    address: &str,
    port: u16,
    tls: Option<Value>,
    http2: bool,
) -> Value {
    let endpoint = json!({"address": {"socket_address": {"address": address, "port_value": port}}});
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
    }
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    cluster
}

/// TLS towards a server that must be `expected`.
pub(crate) fn client_tls(svid: &Svid, expected: &str, alpn: &[&str]) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common_tls(svid, expected, alpn),
        },
    })
}

/// TLS with clients that must be `expected`.
pub(crate) fn server_tls(svid: &Svid, expected: &str, alpn: &[&str]) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": common_tls(svid, expected, alpn),
        },
    })
}

fn common_tls(svid: &Svid, expected: &str, alpn: &[&str]) -> Value {
    let trust_domain = json!({"name": "example.org", "trust_bundle": {"filename": svid.bundle}});
    json!({
        // As a client Envoy stops at TLS 1.2 unless told otherwise.
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519MLKEM768", "X25519", "P-256"],
        },
        "tls_certificates": [{
            "certificate_chain": {"filename": svid.certificate},
            "private_key": {"filename": svid.key},
        }],
        "validation_context": {
            "custom_validator_config": {
                "name": "envoy.tls.cert_validator.spiffe",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                    "trust_domains": [trust_domain],
                },
            },
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": expected}}],
        },
        "alpn_protocols": alpn,
    })
}

/// Starts Envoy and waits until it listens on `ports`.
pub(crate) async fn start(
    workload: &Workload,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
) -> Process {
    let ports: Vec<u64> = listeners
        .iter()
        .filter_map(|listener| listener["address"]["socket_address"]["port_value"].as_u64())
        .collect();
    let config = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
    let path = workload.directory().join("envoy.json");
    std::fs::write(&path, format!("{config:#}\n")).unwrap();
    let path = path.to_str().unwrap();
    let envoy = programs::envoy();
    let process = workload
        .spawn(&[
            &envoy,
            "--config-path",
            path,
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ])
        .unwrap();
    for port in ports {
        if let Err(error) = workload.listening(u16::try_from(port).unwrap()).await {
            panic!("{error}\n{}", process.not_ready("does not listen"));
        }
    }
    process
}
