//! What stands in the API: namespaces, service accounts, pods with their status, services, EndpointSlices, policies.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::ApiServer;
use crate::{Arguments, Failure};

pub(crate) const NAMESPACES: usize = 50;
pub(crate) const TRUST_DOMAIN: &str = "example.org";
const APP_PORT: u16 = 8080;
/// Requests to the API server at a time.
const AT_ONCE: usize = 16;

pub(crate) struct Population {
    pub(crate) pods: Vec<Placed>,
    pub(crate) services: Vec<Exposed>,
}

pub(crate) struct Placed {
    pub(crate) namespace: String,
    pub(crate) name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Placed {
    pub(crate) fn node(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

pub(crate) struct Exposed {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The cluster IPs, IPv4 first.
    pub(crate) addresses: Vec<String>,
    /// Which pods are behind it.
    pub(crate) backends: Vec<usize>,
}

pub(crate) fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// One for a namespace, so that fifty SVIDs are enough for all.
pub(crate) fn principal(namespace: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/app")
}

pub(crate) async fn create(api: &ApiServer, arguments: &Arguments) -> Result<Population, Failure> {
    definitions(api, arguments).await?;
    for number in 0..NAMESPACES {
        let name = namespace(number);
        let all = Api::<Namespace>::all(api.client.clone());
        make(&all, json!({"metadata": {"name": name}})).await?;
        let accounts = Api::<ServiceAccount>::namespaced(api.client.clone(), &name);
        make(&accounts, json!({"metadata": {"name": "app"}})).await?;
    }
    let mesh = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "default"},
        "spec": {"trustDomain": TRUST_DOMAIN},
    });
    make(&dynamic(api, "MeshConfig", None), mesh).await?;

    // A pod belongs to the service of the same remainder, and to its namespace.
    let pods: Vec<Placed> = (0..arguments.pods)
        .map(|number| {
            let service = number % arguments.services;
            let [_, high, middle, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
            Placed {
                namespace: namespace(service),
                name: format!("app-{service}-{}", number / arguments.services),
                v4: Ipv4Addr::new(10, 128 + high, middle, low),
                v6: Ipv6Addr::new(
                    0xfd00,
                    0x10,
                    0,
                    0,
                    0,
                    0,
                    u16::from_be_bytes([high, middle]),
                    u16::from(low),
                ),
            }
        })
        .collect();
    stream::iter(&pods)
        .map(|pod| pod_in_the_api(api, pod))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let mut services: Vec<(usize, Exposed)> = stream::iter(0..arguments.services)
        .map(|number| service(api, arguments, &pods, number))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    services.sort_by_key(|(number, _)| *number);
    stream::iter(0..arguments.policies)
        .map(|number| policy(api, arguments, number))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(Population {
        pods,
        services: services.into_iter().map(|(_, service)| service).collect(),
    })
}

async fn definitions(api: &ApiServer, arguments: &Arguments) -> Result<(), Failure> {
    let all = Api::<CustomResourceDefinition>::all(api.client.clone());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&arguments.crds)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let documents = kith_control::yaml::trees(&path, &text)
            .map_err(|problems| format!("{}: {problems:?}", path.display()))?;
        for document in documents {
            let made = make(&all, document.to_json()).await?;
            names.extend(made.metadata.name);
        }
    }
    for name in names {
        let established = kube::runtime::wait::conditions::is_crd_established();
        kube::runtime::wait::await_condition(all.clone(), &name, established).await?;
    }
    Ok(())
}

fn dynamic(api: &ApiServer, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("kith.dev", "v1alpha1", kind);
    let plural = match kind.kind.as_str() {
        "AuthorizationPolicy" => "authorizationpolicies",
        _ => "meshconfigs",
    };
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(api.client.clone(), namespace, &resource),
        None => Api::all_with(api.client.clone(), &resource),
    }
}

async fn make<K>(api: &Api<K>, object: Value) -> Result<K, Failure>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + DeserializeOwned,
{
    Ok(api
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?)
}

async fn pod_in_the_api(api: &ApiServer, pod: &Placed) -> Result<(), Failure> {
    let pods = Api::<Pod>::namespaced(api.client.clone(), &pod.namespace);
    // As the webhook leaves it, as far as the control plane looks.
    let app = pod.name.rsplit_once('-').map_or("", |(app, _)| app);
    make(
        &pods,
        json!({
            "metadata": {
                "name": pod.name, "labels": {"app": app, "pod-template-hash": "6c8f9d7b5", "version": "v1"},
                "annotations": {"kith.dev/status": "injected"},
            },
            "spec": {
                "serviceAccountName": "app", "automountServiceAccountToken": false,
                "initContainers": [
                    {"name": "kith-capture", "image": "kith-capture", "args": ["capture", "--uid", "1337"]},
                    {"name": "kith-proxy", "image": "kith-proxy", "args": ["run"], "restartPolicy": "Always"},
                ],
                "containers": [{"name": "app", "image": "app",
                    "ports": [{"name": "http", "containerPort": APP_PORT}]}],
            },
        }),
    )
    .await?;
    let status = json!({"status": {
        "phase": "Running", "podIP": pod.v4.to_string(),
        "podIPs": [{"ip": pod.v4.to_string()}, {"ip": pod.v6.to_string()}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

async fn service(
    api: &ApiServer,
    arguments: &Arguments,
    pods: &[Placed],
    number: usize,
) -> Result<(usize, Exposed), Failure> {
    let (namespace, name) = (namespace(number), format!("app-{number}"));
    let services = Api::<Service>::namespaced(api.client.clone(), &namespace);
    let made = make(
        &services,
        json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"app": name}, "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}],
            },
        }),
    )
    .await?;
    let backends: Vec<usize> = (number..pods.len()).step_by(arguments.services).collect();
    let slices = Api::<EndpointSlice>::namespaced(api.client.clone(), &namespace);
    for family in ["IPv4", "IPv6"] {
        let endpoints: Vec<Value> = backends
            .iter()
            .map(|backend| endpoint(&pods[*backend], family, true))
            .collect();
        let slice = json!({
            "metadata": {
                "name": slice_name(&name, family),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": family, "endpoints": endpoints,
            "ports": [{"name": "http", "port": APP_PORT, "protocol": "TCP", "appProtocol": "http"}],
        });
        make(&slices, slice).await?;
    }
    let addresses = made.spec.and_then(|spec| spec.cluster_ips);
    let exposed = Exposed {
        namespace,
        name,
        addresses: addresses.ok_or("a service without cluster IPs")?,
        backends,
    };
    Ok((number, exposed))
}

pub(crate) fn slice_name(service: &str, family: &str) -> String {
    format!("{service}-{}", family.to_lowercase())
}

/// One entry of an EndpointSlice.
pub(crate) fn endpoint(pod: &Placed, family: &str, ready: bool) -> Value {
    let address = if family == "IPv4" {
        pod.v4.to_string()
    } else {
        pod.v6.to_string()
    };
    json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": ready, "terminating": false},
        "targetRef": {"kind": "Pod", "name": pod.name, "namespace": pod.namespace},
    })
}

async fn policy(api: &ApiServer, arguments: &Arguments, number: usize) -> Result<(), Failure> {
    let service = number % arguments.services;
    let namespace = namespace(service);
    let from = crate::population::namespace(number + 1);
    let policy = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("allow-{number}"), "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": format!("app-{service}")}},
            "rules": [{
                "from": [{"source": {"principals": [format!("{TRUST_DOMAIN}/ns/{from}/sa/app")]}}],
                "to": [{"operation": {"methods": ["GET", "POST"], "paths": ["/v1/*"]}}],
            }],
        },
    });
    make(
        &dynamic(api, "AuthorizationPolicy", Some(&namespace)),
        policy,
    )
    .await?;
    Ok(())
}
