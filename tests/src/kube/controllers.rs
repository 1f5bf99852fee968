//! The controllers that a cluster has and the tests need, each as small as its contract allows: Deployments (scaling,
//! rolling updates), Jobs, EndpointSlices, what every namespace gets, and services' addresses on the node. They act on what
//! is in the API, so that tests say what they want with kubectl.

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use tokio::time::sleep;

use super::node::Node;

mod deployments;
mod endpoints;
mod jobs;

/// Long enough for changes that come together to be seen together.
const GATHER: Duration = Duration::from_millis(10);

/// Acts on every change, for ever.
pub(super) async fn run(node: Rc<Node>) {
    loop {
        if let Err(error) = act(&node).await {
            // An API server that restarts; conflicts with others. What is left to do is seen again.
            node.trouble(format!("controllers: {error}"));
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        node.changed.notified().await;
        sleep(GATHER).await;
    }
}

async fn act(node: &Rc<Node>) -> Result<(), kube::Error> {
    namespaces(node).await?;
    let pods = node.run_pods().await;
    let slices = endpoints::keep(node).await?;
    node.services.show(&node.objects, &slices, &node.pods());
    for pod in node.pods() {
        pod.shown.set(deployments::is_ready(&pod.object()));
    }
    pods?;
    deployments::keep(node).await?;
    jobs::keep(node).await
}

/// Every namespace has a default service account, and the API server's CA for those who ask it.
async fn namespaces(node: &Node) -> Result<(), kube::Error> {
    for namespace in node.objects.namespaces.all() {
        let name = namespace.name_any();
        if namespace.metadata.deletion_timestamp.is_some()
            || node.objects.accounts.get(&name, "default").is_some()
        {
            continue;
        }
        let mut map = core::ConfigMap {
            metadata: named("kube-root-ca.crt"),
            ..core::ConfigMap::default()
        };
        map.data = Some([("ca.crt".to_owned(), node.certificate.clone())].into());
        let maps = Api::namespaced(node.client.clone(), &name);
        make(&maps, &map).await?;
        let account = core::ServiceAccount {
            metadata: named("default"),
            ..core::ServiceAccount::default()
        };
        make(&Api::namespaced(node.client.clone(), &name), &account).await?;
    }
    Ok(())
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// Makes an object, unless it is there.
async fn make<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
