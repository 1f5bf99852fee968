//! Envoy as the other judge: a listener with RBAC filters for every set of policies, and what stands behind them answers.

use std::net::SocketAddr;
use std::path::Path;

use kith::lab::{Process, Workload};
use kith_certs::authority::IssuedSvid;
use serde_json::{Value, json};

/// Files of Envoy's own SVID, and of the roots that its clients come from.
pub(crate) struct Files {
    certificate: String,
    key: String,
    roots: String,
}

impl Files {
    pub(crate) fn write(directory: &Path, svid: &IssuedSvid) -> Self {
        let file = |name: &str, content: &str| {
            let path = directory.join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        Self {
            certificate: file("svid.pem", &svid.certificate_pem),
            key: file("key.pem", &svid.key_pem),
            roots: file("roots.pem", &svid.bundle_pem),
        }
    }

    /// A client without a certificate is let in: a peer without identity.
    fn tls(&self) -> Value {
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": false,
                "common_tls_context": {
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{
                        "certificate_chain": {"filename": self.certificate}, "private_key": {"filename": self.key},
                    }],
                    "validation_context": {"trusted_ca": {"filename": self.roots}},
                },
            },
        })
    }
}

/// Answers 200 to what the filters let through.
pub(crate) fn http(rules: &[Value], trusted_hops: u32, keys: &Value) -> Value {
    let mut filters = vec![json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"any": {
                "local_jwks": {"inline_string": keys.to_string()},
                "forward": true,
                "payload_in_metadata": "payload",
                "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]},
            }},
            "rules": [{
                "match": {"prefix": "/"},
                "requires": {"requires_any": {"requirements": [{"provider_name": "any"}, {"allow_missing": {}}]}},
            }],
        },
    })];
    filters.extend(rules
        .iter()
        .map(|rules| {
            json!({
                "name": "envoy.filters.http.rbac",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": rules,
                },
            })
        }));
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }));
    let answer = json!({"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}});
    json!([{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "codec_type": "HTTP1",
            "use_remote_address": true,
            "xff_num_trusted_hops": trusted_hops,
            // As Kith does; how Kith does it is tested elsewhere.
            "strip_trailing_host_dot": true,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
            "http_filters": filters,
        },
    }])
}

/// Echoes what the filters let through.
pub(crate) fn tcp(rules: &[Value]) -> Value {
    let mut filters: Vec<Value> = rules
        .iter()
        .map(|rules| {
            json!({
                "name": "envoy.filters.network.rbac",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                    "stat_prefix": "rbac",
                    "rules": rules,
                },
            })
        })
        .collect();
    filters.push(json!({
        "name": "envoy.filters.network.echo",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"},
    }));
    json!(filters)
}

pub(crate) fn listener(
    name: &str,
    addresses: &[SocketAddr],
    filters: &Value,
    files: &Files,
) -> Value {
    let socket = |address: &SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let (first, more) = addresses.split_first().unwrap();
    let more: Vec<Value> = more
        .iter()
        .map(|address| json!({"address": socket(address)}))
        .collect();
    json!({
        "name": name,
        "address": socket(first),
        "additional_addresses": more,
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
        }],
        "filter_chains": [{"filters": filters, "transport_socket": files.tls()}],
    })
}

/// Starts Envoy and waits until it listens on all of `addresses`.
pub(crate) async fn start(
    workload: &Workload,
    listeners: Vec<Value>,
    addresses: Vec<SocketAddr>,
) -> Process {
    let config = json!({"static_resources": {"listeners": listeners, "clusters": []}});
    let path = workload.directory().join("envoy.json");
    std::fs::write(&path, format!("{config:#}\n")).unwrap();
    let envoy = crate::programs::envoy();
    let path = path.to_str().unwrap();
    let arguments = [
        "--config-path",
        path,
        "--disable-hot-restart",
        "--concurrency",
        "1",
    ];
    let quiet = ["--log-level", "warning"];
    let process = workload
        .spawn(&[&[envoy.as_str()], &arguments[..], &quiet].concat())
        .unwrap();
    let ready = workload
        .enter(move || async move {
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
            for address in addresses {
                while tokio::net::TcpStream::connect(address).await.is_err() {
                    if tokio::time::Instant::now() > deadline {
                        return Err(format!("does not listen on {address}"));
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            Ok(())
        })
        .await
        .unwrap();
    if let Err(why) = ready {
        panic!("{}", process.not_ready(&why));
    }
    process
}
