//! Jobs: one pod, and what became of it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::kube::node::Node;

pub(super) async fn keep(node: &Node) -> Result<(), kube::Error> {
    for job in node.objects.jobs.all() {
        if job.metadata.deletion_timestamp.is_none() {
            one(node, &job).await?;
        }
    }
    Ok(())
}

async fn one(node: &Node, job: &Job) -> Result<(), kube::Error> {
    let namespace = job.namespace().unwrap_or_default();
    let pods = node.objects.pods.all();
    let pod = pods.iter().find(|pod| {
        let mut owners = pod.owner_references().iter();
        owners.any(|owner| job.uid().as_ref() == Some(&owner.uid))
    });
    let Some(pod) = pod else {
        let over = job
            .status
            .as_ref()
            .is_some_and(|status| status.completion_time.is_some());
        return if over {
            Ok(())
        } else {
            create(node, job).await
        };
    };
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let before = job.status.clone().unwrap_or_default();
    let conditions = before.conditions.unwrap_or_default();
    if phase.as_deref() != Some("Succeeded") || !conditions.is_empty() {
        return Ok(());
    }
    let now = Timestamp::now().to_string();
    let condition = |name: &str| {
        json!({
            "type": name, "status": "True", "reason": "CompletionsReached",
            "lastTransitionTime": now, "lastProbeTime": now,
        })
    };
    let began = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.clone());
    let patch = json!({"status": {
        "startTime": began, "completionTime": now, "succeeded": 1, "active": 0, "ready": 0,
        "terminating": 0, "uncountedTerminatedPods": {},
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
    }});
    let api = Api::<Job>::namespaced(node.client.clone(), &namespace);
    api.patch_status(
        &job.name_any(),
        &PatchParams::default(),
        &Patch::Merge(&patch),
    )
    .await
    .map(drop)
}

async fn create(node: &Node, job: &Job) -> Result<(), kube::Error> {
    let Some(spec) = &job.spec else { return Ok(()) };
    let template = spec.template.clone();
    let pod = core::Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", job.name_any())),
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".to_owned(),
                kind: "Job".to_owned(),
                name: job.name_any(),
                uid: job.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..template.metadata.unwrap_or_default()
        },
        spec: template.spec,
        status: None,
    };
    let namespace = job.namespace().unwrap_or_default();
    let api = Api::<core::Pod>::namespaced(node.client.clone(), &namespace);
    node.objects
        .pods
        .made(api.create(&PostParams::default(), &pod).await?);
    node.changed.notify_one();
    Ok(())
}
