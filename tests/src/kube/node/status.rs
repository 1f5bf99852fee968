//! What the API server is told of a pod.

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Node;
use super::container::{Container, State};
use super::pod::Pod;

/// The time, as the API has it.
pub(super) fn now() -> String {
    Timestamp::now().to_string()
}

/// Reports every change, for ever.
pub(super) async fn report(node: Rc<Node>, pod: Rc<Pod>) {
    let mut changes = pod.changes();
    let mut last = Value::Null;
    loop {
        changes.mark_unchanged();
        let status = status(&pod);
        if status != last {
            match write(&node, &pod, &status).await {
                Ok(()) => last = status,
                Err(_) => {
                    // An API server that is away comes back.
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Reports how it ended, until the API server has taken it.
pub(super) async fn last(node: &Node, pod: &Pod) {
    let status = status(pod);
    while let Err(error) = write(node, pod, &status).await {
        node.trouble(format!("{}: no status: {error}", pod.id()));
        sleep(Duration::from_millis(200)).await;
    }
}

async fn write(node: &Node, pod: &Pod, status: &Value) -> Result<(), kube::Error> {
    let api = Api::<core::Pod>::namespaced(node.client.clone(), pod.namespace());
    // The uid: another pod may have the name by now.
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
    let parameters = PatchParams::default();
    match api
        .patch_status(pod.name(), &parameters, &Patch::Merge(&patch))
        .await
    {
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        other => other.map(drop),
    }
}

fn status(pod: &Pod) -> Value {
    let both = pod.workload.addresses.both();
    let initialized = pod.phase.get() != "Pending";
    let ready = pod.is_ready();
    let conditions: Vec<Value> = [
        ("PodScheduled", true),
        ("Initialized", initialized),
        ("ContainersReady", ready),
        ("Ready", ready),
    ]
    .into_iter()
    .map(|(name, holds)| {
        let mut known = pod.conditions.borrow_mut();
        let entry = known.entry(name).or_insert_with(|| (holds, now()));
        if entry.0 != holds {
            *entry = (holds, now());
        }
        let status = if holds { "True" } else { "False" };
        json!({"type": name, "status": status, "lastTransitionTime": entry.1})
    })
    .collect();
    let of = |init: bool| -> Vec<Value> {
        let containers = pod
            .containers
            .iter()
            .filter(|container| container.init == init);
        containers.map(|container| one(container)).collect()
    };
    json!({
        "phase": pod.phase.get(),
        "message": *pod.message.borrow(),
        "hostIP": pod.host(), "hostIPs": [{"ip": pod.host()}],
        "podIP": both[0], "podIPs": [{"ip": both[0]}, {"ip": both[1]}],
        "startTime": pod.began,
        "conditions": conditions,
        "initContainerStatuses": of(true),
        "containerStatuses": of(false),
    })
}

fn one(container: &Container) -> Value {
    let state = match &*container.state.borrow() {
        State::Waiting(why) => {
            let reason = why.split(':').next().unwrap_or_default();
            json!({"waiting": {"reason": reason, "message": why}})
        }
        State::Running(since) => json!({"running": {"startedAt": since}}),
        State::Ended(code, began, ended) => json!({"terminated": {
            "exitCode": code, "reason": if *code == 0 { "Completed" } else { "Error" },
            "startedAt": began, "finishedAt": ended,
        }}),
    };
    let image = container.spec.image.as_deref().unwrap_or_default();
    // An init container that has done its work counts as ready.
    let done = matches!(&*container.state.borrow(), State::Ended(0, ..));
    json!({
        "name": container.spec.name, "image": image, "imageID": image,
        "ready": container.ready.get() || (container.init && done),
        "started": container.started.get(),
        "restartCount": container.restarts(),
        "state": state,
    })
}
