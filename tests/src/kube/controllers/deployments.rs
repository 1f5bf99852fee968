//! Deployments: as many pods as wanted, of the template as it is now; replaced one by one, a new one before an old one goes.
//! Pods belong to the Deployment itself: there are no ReplicaSets in between.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::kube::node::Node;

/// Tells pods of different templates apart.
const HASH: &str = "pod-template-hash";

pub(super) async fn keep(node: &Node) -> Result<(), kube::Error> {
    for deployment in node.objects.deployments.all() {
        if deployment.metadata.deletion_timestamp.is_none() {
            one(node, &deployment).await?;
        }
    }
    // Garbage collection: pods whose Deployment is gone.
    for pod in node.objects.pods.all() {
        let owner = pod
            .owner_references()
            .iter()
            .find(|owner| owner.kind == "Deployment");
        let Some(owner) = owner else { continue };
        let namespace = pod.namespace().unwrap_or_default();
        let there = node.objects.deployments.get(&namespace, &owner.name);
        if there.is_none_or(|there| there.uid().as_ref() != Some(&owner.uid)) {
            delete(node, &pod).await?;
        }
    }
    Ok(())
}

async fn one(node: &Node, deployment: &Deployment) -> Result<(), kube::Error> {
    let Some(spec) = &deployment.spec else {
        return Ok(());
    };
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let mut hasher = DefaultHasher::new();
    json!(spec.template).to_string().hash(&mut hasher);
    let hash = format!("{:08x}", hasher.finish() as u32);
    let namespace = deployment.namespace().unwrap_or_default();
    let owned = |pod: &Rc<core::Pod>| {
        let mut owners = pod.owner_references().iter();
        pod.namespace().as_ref() == Some(&namespace)
            && pod.metadata.deletion_timestamp.is_none()
            && owners.any(|owner| deployment.uid().as_ref() == Some(&owner.uid))
    };
    let all: Vec<_> = node.objects.pods.all().into_iter().filter(owned).collect();
    let (new, old): (Vec<_>, Vec<_>) = all
        .iter()
        .cloned()
        .partition(|pod| pod.labels().get(HASH) == Some(&hash));
    // maxSurge 1, maxUnavailable 0.
    let room = if old.is_empty() { wanted } else { wanted + 1 };
    for _ in 0..wanted
        .saturating_sub(new.len())
        .min(room.saturating_sub(all.len()))
    {
        create(node, deployment, &hash).await?;
    }
    let ready = all.iter().filter(|pod| is_ready(pod)).count();
    let mut spare = ready.saturating_sub(wanted);
    for pod in &old {
        if !is_ready(pod) {
            delete(node, pod).await?;
        } else if spare > 0 {
            spare -= 1;
            delete(node, pod).await?;
        }
    }
    // Those that serve stay, as long as there is a choice.
    let mut surplus = new.clone();
    surplus.sort_by_key(|pod| (!is_ready(pod), pod.creation_timestamp()));
    for pod in surplus.iter().skip(wanted) {
        delete(node, pod).await?;
    }
    report(node, deployment, &all, &new, wanted).await
}

async fn create(node: &Node, deployment: &Deployment, hash: &str) -> Result<(), kube::Error> {
    let Some(spec) = &deployment.spec else {
        return Ok(());
    };
    let template = spec.template.clone();
    let mut metadata = template.metadata.unwrap_or_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    let pod = core::Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-{hash}-", deployment.name_any())),
            owner_references: Some(vec![OwnerReference {
                api_version: "apps/v1".to_owned(),
                kind: "Deployment".to_owned(),
                name: deployment.name_any(),
                uid: deployment.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..metadata
        },
        spec: template.spec,
        status: None,
    };
    let namespace = deployment.namespace().unwrap_or_default();
    let api = Api::<core::Pod>::namespaced(node.client.clone(), &namespace);
    node.objects
        .pods
        .made(api.create(&PostParams::default(), &pod).await?);
    // It has to be bound.
    node.changed.notify_one();
    Ok(())
}

async fn delete(node: &Node, pod: &core::Pod) -> Result<(), kube::Error> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let namespace = pod.namespace().unwrap_or_default();
    let api = Api::<core::Pod>::namespaced(node.client.clone(), &namespace);
    match api.delete(&pod.name_any(), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

async fn report(
    node: &Node,
    deployment: &Deployment,
    all: &[Rc<core::Pod>],
    new: &[Rc<core::Pod>],
    wanted: usize,
) -> Result<(), kube::Error> {
    let ready = all.iter().filter(|pod| is_ready(pod)).count();
    let available = ready >= wanted;
    let status = json!({
        "observedGeneration": deployment.metadata.generation,
        "replicas": all.len(), "updatedReplicas": new.len(),
        "readyReplicas": ready, "availableReplicas": ready,
        "unavailableReplicas": wanted.saturating_sub(ready),
        "conditions": [{
            "type": "Available", "status": if available { "True" } else { "False" },
            "reason": "Counted", "message": format!("{ready} of {wanted} pods are ready"),
        }],
    });
    let before = json!(deployment.status);
    let same = status.as_object().is_some_and(|fields| {
        fields.iter().all(|(name, value)| {
            // Absent is zero.
            before[name] == *value || (before[name].is_null() && *value == 0)
        })
    });
    if same {
        return Ok(());
    }
    let namespace = deployment.namespace().unwrap_or_default();
    let api = Api::<Deployment>::namespaced(node.client.clone(), &namespace);
    let patch = json!({"status": status});
    match api
        .patch_status(
            &deployment.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// Whether a pod says of itself that it is ready.
pub(super) fn is_ready(pod: &core::Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True")
}
