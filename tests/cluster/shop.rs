//! A small shop in the cluster: `web` and `guest` call `orders`. Their applications speak plain HTTP and know of nothing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use kith::app::client::Reply;
use kith::lab::process::Process;
use kith_tests::kube::node::Pod;
use kith_tests::kube::{Cluster, PATIENCE};
use serde_json::Value;

/// What `orders` is called by.
pub(crate) const ORDERS: &str = "http://orders.shop:80/";

/// The same by HTTP/2 with prior knowledge.
const ORDERS_HTTP2: &str = "http://orders.shop:81/";

/// `web` may call `orders`.
pub(crate) const ALLOW_WEB: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
";

/// The applications, with as many pods of `orders`.
fn applications(orders: usize) -> String {
    let mut text = String::from(
        "
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {
  ipFamilyPolicy: PreferDualStack, selector: {app: orders}, ports: [
    {name: http, port: 80, targetPort: http}, {name: http2, port: 81, targetPort: 8081}]}}
",
    );
    for (name, replicas) in [("web", 1), ("guest", 1), ("orders", orders)] {
        text += &format!(
            "---
{{apiVersion: v1, kind: ServiceAccount, metadata: {{namespace: shop, name: {name}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{namespace: shop, name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      serviceAccountName: {name}
      securityContext: {{runAsNonRoot: true, runAsUser: 65532}}
      containers:
      - name: {name}
        image: kith
        args: [__app, http, --name, {name}]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /status/204, port: http}}, periodSeconds: 1}}
        livenessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 2}}
      - name: {name}-http2
        image: kith
        args: [__app, http, --name, {name}, --listen, '[::]:8081']
        readinessProbe: {{tcpSocket: {{port: 8081}}, periodSeconds: 1}}
"
        );
    }
    text
}

/// The shop in a cluster.
pub(crate) struct Shop {
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) web: Rc<Pod>,
    pub(crate) guest: Rc<Pod>,
    pub(crate) orders: Vec<Rc<Pod>>,
}

impl Shop {
    /// Installs Kith with some values of the chart and opens the shop with as many pods of `orders`.
    pub(crate) async fn open(cluster: Rc<Cluster>, values: &[&str], orders: usize) -> Self {
        cluster.install(values).await;
        cluster.namespace("shop").await;
        cluster.apply(&applications(orders)).await;
        Self {
            web: cluster.ready_pod("shop", "web").await,
            guest: cluster.ready_pod("shop", "guest").await,
            orders: cluster.ready_pods("shop", "orders", orders).await,
            cluster,
        }
    }

    /// Applies a policy and waits, with kubectl, until every sidecar enforces it; gives back how long that took.
    pub(crate) async fn enforce(&self, yaml: &str, object: &str) -> Duration {
        let start = Instant::now();
        self.cluster.apply(yaml).await;
        self.enforced(object).await;
        start.elapsed()
    }

    /// Waits until every sidecar enforces an object of the shop.
    pub(crate) async fn enforced(&self, object: &str) {
        self.condition(object, "Enforced").await;
    }

    pub(crate) async fn condition(&self, object: &str, condition: &str) {
        let condition = format!("--for=condition={condition}");
        let arguments = ["wait", "-n", "shop", object, &condition, "--timeout=30s"];
        let output = self.cluster.kubectl(&arguments).await;
        if !output.status.success() {
            let get = ["get", "-n", "shop", object, "-o", "yaml"];
            let shown = self.cluster.must(&get).await;
            panic!(
                "{}
{shown}",
                output.stderr
            );
        }
    }

    /// An object of the shop, as the API server has it.
    pub(crate) async fn object(&self, object: &str) -> Value {
        let arguments = ["get", "-n", "shop", object, "-o", "json"];
        let text = self.cluster.must(&arguments).await;
        serde_json::from_str(&text).unwrap()
    }

    /// Calls until the answer has this status, for changes that nobody announces.
    pub(crate) async fn until(&self, pod: &Pod, url: &str, status: u16) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = pod.get(url).await;
            match reply {
                Ok(reply) if reply.status == status => return reply,
                other if Instant::now() > deadline => {
                    panic!("{} never got {status} from {url}: {other:?}", pod.id())
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Starts a steady load from `web` on `orders`.
    pub(crate) async fn load(&self, http2: bool) -> Load {
        let url = if http2 { ORDERS_HTTP2 } else { ORDERS };
        let mut arguments = vec!["load", url, "--rate", "200", "--seconds", "600", "--json"];
        if http2 {
            arguments.push("--http2");
        }
        Load(self.web.workload.app(&arguments).await.unwrap())
    }
}

/// A load that goes on until it is asked how it went.
pub(crate) struct Load(Process);

impl Load {
    /// Ends it; every request of it must have been answered as wanted.
    pub(crate) async fn unharmed(self, what: &str) {
        self.0.stop(Duration::from_secs(20)).await.unwrap();
        let report: Value = serde_json::from_str(&self.0.stdout())
            .unwrap_or_else(|_| panic!("no report: {} {}", self.0.stdout(), self.0.stderr()));
        println!("{what}: {report}");
        assert!(report["ok"].as_u64().unwrap() > 100, "{what}: {report}");
        assert_eq!(report["failed"], 0, "{what}: {report}");
    }
}
