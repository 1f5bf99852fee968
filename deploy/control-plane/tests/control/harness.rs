//! A dev authority, a folder and a control plane, and sidecars as raw tonic clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use kith_certs::authority::{Authority, AuthorityConfig, Entry};
use kith_certs::tls::{client_config, server_name};
use kith_certs::{Endpoint, IdentitySource, SourceConfig, SpiffeId, TrustDomain};
use kith_control::jwks::Web;
use kith_control::serve::{Config, Server, Source};
use kith_xds_client::Kind;
use kith_xds_client::api::envoy::config::core::v3::Node;
use kith_xds_client::api::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use kith_xds_client::api::google::rpc;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(crate) const MESH: &str = "
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: example.org}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web-1, labels: {app: web}}
spec: {serviceAccount: web, addresses: [10.9.0.1]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders-1, labels: {app: orders}}
spec: {serviceAccount: orders, addresses: [10.9.0.2], ports: [{port: 8080, protocol: HTTP}]}
";

/// An ALLOW policy for `app: orders`.
pub(crate) fn policy(name: &str, method: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{namespace: shop, name: {name}}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  rules:
  - to:
    - operation:
        methods: [{method}]
"
    )
}

/// Owns everything a test started; all of it ends with it.
pub(crate) struct Mesh {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
    pub(crate) xds: SocketAddr,
    pub(crate) status: SocketAddr,
    /// How the keys of issuers are fetched.
    pub(crate) web: Web,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Mesh {
    pub(crate) async fn start(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let domain: TrustDomain = "example.org".parse().unwrap();
        let entry = |account: &str, socket: &str| {
            let id: SpiffeId = format!("spiffe://example.org/ns/shop/sa/{account}")
                .parse()
                .unwrap();
            Entry::for_socket(id, dir.path().join(socket))
        };
        let config = AuthorityConfig {
            entries: vec![
                entry("control", "control.sock"),
                entry("web", "web.sock"),
                entry("orders", "orders.sock"),
            ],
            ..AuthorityConfig::new(domain)
        };
        let authority = Authority::start(config).unwrap();
        let mut mesh = Self {
            dir,
            authority,
            xds: LOCAL,
            status: LOCAL,
            web: Web::new(None).unwrap(),
            stop: None,
            server: None,
        };
        files.iter().for_each(|(name, text)| mesh.write(name, text));
        mesh.start_server().await;
        mesh
    }

    /// Starts the control plane, again at the same addresses if it ran before.
    pub(crate) async fn start_server(&mut self) {
        let config = Config {
            source: Source::Files(self.files()),
            listen: self.xds,
            status_listen: self.status,
            admin_socket: Some(self.socket("admin")),
            workload_api: Endpoint::unix(self.socket("control")),
            web: self.web.clone(),
        };
        let server = Server::bind(config).await.unwrap();
        self.xds = server.addresses().xds;
        self.status = server.addresses().status;
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop = Some(stop);
        self.server = Some(tokio::spawn(server.run(async { _ = stopped.await })));
        // Who connects before it has an identity is turned away, and most tests are about what comes after.
        self.status_when(|status| !status["not_ready"].to_string().contains("no SVID"))
            .await;
    }

    /// Stops the control plane as SIGTERM does, and says how long that took.
    pub(crate) async fn stop_server(&mut self) -> Duration {
        let begun = Instant::now();
        self.stop.take().unwrap().send(()).unwrap();
        self.server.take().unwrap().await.unwrap();
        begun.elapsed()
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    /// Replaces a file in one step, as people's tools do.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.files().join(format!(".{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.files().join(name)).unwrap();
    }

    pub(crate) async fn identity(&self, account: &str) -> IdentitySource {
        identity(Endpoint::unix(self.socket(account))).await
    }

    /// Opens a stream with the identity of `account` as the node `node`.
    pub(crate) async fn sidecar(&self, account: &str, node: &str) -> Sidecar {
        let identity = self.identity(account).await;
        Sidecar::connect(self.xds, &identity, node).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let stream = TcpStream::connect(self.status).await.unwrap();
        ask(stream, "GET", path, "").await
    }

    /// An order over the admin socket.
    pub(crate) async fn order(
        &self,
        path: &str,
        body: serde_json::Value,
    ) -> (u16, serde_json::Value) {
        let stream = UnixStream::connect(self.socket("admin")).await.unwrap();
        ask(stream, "POST", path, &body.to_string()).await
    }

    /// Asked over the admin socket.
    pub(crate) async fn get_admin(&self, path: &str) -> (u16, serde_json::Value) {
        let stream = UnixStream::connect(self.socket("admin")).await.unwrap();
        ask(stream, "GET", path, "").await
    }

    /// Asks for `/status` until `enough` says so.
    pub(crate) async fn status_when(
        &self,
        enough: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let (_, status) = self.get("/status").await;
            if enough(&status) {
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "never came to be: {status:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, serde_json::Value) {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "x")
        .body(body.to_owned())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

pub(crate) async fn identity(endpoint: Endpoint) -> IdentitySource {
    let source = IdentitySource::start(SourceConfig::new(endpoint));
    let mut snapshots = source.subscribe();
    tokio::time::timeout(DEADLINE, snapshots.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
    source
}

/// One stream, driven by hand.
pub(crate) struct Sidecar {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
}

impl Sidecar {
    pub(crate) async fn connect(
        xds: SocketAddr,
        identity: &IdentitySource,
        node: &str,
    ) -> Result<Self, Status> {
        let tls = TlsConnector::from(client_config(identity, &[b"h2"]));
        let connector = tower::service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(xds).await?;
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(server_name(), stream).await?))
            }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://control");
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (requests, stream) = mpsc::channel(16);
        let stream = ReceiverStream::new(stream);
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(stream)
            .await?;
        let node = Some(Node {
            id: node.into(),
            ..Default::default()
        });
        Ok(Self {
            requests,
            responses: responses.into_inner(),
            node,
        })
    }

    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = request.node.or_else(|| self.node.take());
        // The stream may have been refused already; what comes next tells.
        _ = self.requests.send(request).await;
    }

    pub(crate) async fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
        .await;
    }

    pub(crate) async fn answer(&mut self, response: &DeltaDiscoveryResponse, nack: Option<&str>) {
        let error_detail = nack.map(|message| rpc::Status {
            code: 3,
            message: message.into(),
            ..Default::default()
        });
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..Default::default()
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        tokio::time::timeout(DEADLINE, self.responses.message())
            .await
            .expect("nothing came")
    }

    /// The next response, acknowledged: `Kind +added -removed`.
    pub(crate) async fn take(&mut self) -> String {
        let response = self.next().await.unwrap().expect("the stream goes on");
        self.answer(&response, None).await;
        short(&response)
    }

    /// Subscribes to its configuration and policies, and acknowledges them.
    pub(crate) async fn take_everything(&mut self, node: &str, policies: &[&str]) {
        self.subscribe(Kind::WorkloadConfig, &[node]).await;
        assert_eq!(self.take().await, format!("WorkloadConfig +{node}"));
        if !policies.is_empty() {
            self.subscribe(Kind::AuthorizationPolicy, policies).await;
            self.take().await;
        }
    }

    /// Nothing more comes for a while.
    pub(crate) async fn silent(&mut self, time: Duration) {
        let said = tokio::time::timeout(time, self.responses.message()).await;
        assert!(said.is_err(), "{said:?}");
    }
}

pub(crate) fn short(response: &DeltaDiscoveryResponse) -> String {
    let kind = Kind::from_type_url(&response.type_url).map_or("?", Kind::name);
    let added = response
        .resources
        .iter()
        .map(|resource| format!(" +{}", resource.name));
    let removed = response
        .removed_resources
        .iter()
        .map(|name| format!(" -{name}"));
    format!("{kind}{}", added.chain(removed).collect::<String>())
}
