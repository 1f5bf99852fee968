//! The containers and volumes that are put in.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::annotations::{Choices, INJECTED, STATUS, VERSION};
use super::pod::{Object, Pod, name};
use super::probes::Answered;
use super::{CAPTURE, HEALTH_PORT, SIDECAR, Settings, UID};

const WORKLOAD_API_VOLUME: &str = "kith-workload-api";
pub(super) const STATE_VOLUME: &str = "kith-state";
pub(super) const VOLUMES: [&str; 2] = [WORKLOAD_API_VOLUME, STATE_VOLUME];
const WORKLOAD_API_DIRECTORY: &str = "/run/kith/workload-api";
const STATE_DIRECTORY: &str = "/var/lib/kith";

/// Of a pod that was injected before.
pub(super) fn is_our_volume(volume: &Object) -> bool {
    match name(volume) {
        WORKLOAD_API_VOLUME => volume.contains_key("csi"),
        STATE_VOLUME => volume.contains_key("emptyDir"),
        _ => false,
    }
}

/// Puts everything in, before what the pod has already.
pub(super) fn add(pod: &mut Pod, choices: &Choices, answered: &Answered, settings: &Settings) {
    let ours = [
        capture(pod, choices, settings),
        sidecar(pod, choices, answered, settings),
    ];
    let ours = ours.into_iter().filter_map(into_object);
    pod.init_containers.splice(0..0, ours);
    pod.volumes
        .extend(volumes(choices, settings).filter_map(into_object));
    pod.annotate(STATUS, INJECTED);
    pod.annotate(VERSION, &settings.version);
}

fn into_object(value: Value) -> Option<Object> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// Only this container may change the network, and it ends before anything else starts. It has to be root for that: a
/// capability of a user other than root is lost when `nft` is run.
fn capture(pod: &Pod, choices: &Choices, settings: &Settings) -> Value {
    let mut args = vec!["capture".to_owned(), "--uid".into(), UID.to_string()];
    let mut exclude = |flag: &str, entries: Vec<String>| {
        if !entries.is_empty() {
            args.extend([flag.to_owned(), entries.join(",")]);
        }
    };
    let ports = |ports: &BTreeSet<u16>| ports.iter().map(u16::to_string).collect();
    exclude(
        "--exclude-inbound-ports",
        ports(&choices.exclude_inbound_ports),
    );
    exclude(
        "--exclude-outbound-ports",
        ports(&choices.exclude_outbound_ports),
    );
    exclude(
        "--exclude-outbound-cidrs",
        choices.exclude_outbound_cidrs.iter().cloned().collect(),
    );
    json!({
        "name": CAPTURE,
        "image": settings.capture_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": args,
        // The sidecar's, so that a pod whose quality of service is Guaranteed stays so; they are not needed twice.
        "resources": resources(pod, CAPTURE, choices),
        // Said in full: what is not said here, the pod's own context may say otherwise.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}

fn sidecar(pod: &Pod, choices: &Choices, answered: &Answered, settings: &Settings) -> Value {
    let mut mounts = vec![json!({
        "name": WORKLOAD_API_VOLUME,
        "mountPath": WORKLOAD_API_DIRECTORY,
        "readOnly": true,
    })];
    if choices.state {
        mounts.push(json!({ "name": STATE_VOLUME, "mountPath": STATE_DIRECTORY }));
    }
    json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "restartPolicy": "Always",
        "args": ["run"],
        "env": environment(choices, answered, settings),
        "ports": [{ "name": "kith-health", "containerPort": HEALTH_PORT, "protocol": "TCP" }],
        "resources": resources(pod, SIDECAR, choices),
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        // The application waits for it: so it is asked often, and for as long as a slow SPIRE may take.
        "startupProbe": probe("/ready", 1, 1, 240),
        "readinessProbe": probe("/ready", 2, 2, 3),
        "livenessProbe": probe("/live", 10, 3, 3),
        "volumeMounts": mounts,
    })
}

fn probe(path: &str, period: u64, timeout: u64, failures: u64) -> Value {
    json!({
        "httpGet": { "path": path, "port": HEALTH_PORT, "scheme": "HTTP" },
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "successThreshold": 1,
        "failureThreshold": failures,
    })
}

/// What was chosen, and what a LimitRange has added to it: namespaces with a quota take no container without.
fn resources(pod: &Pod, container: &str, choices: &Choices) -> Value {
    let mut resources = Object::new();
    for (kind, amounts) in [("limits", &choices.limits), ("requests", &choices.requests)] {
        let mut said = pod.limited(container, kind).cloned().unwrap_or_default();
        let chosen = [("cpu", &amounts.cpu), ("memory", &amounts.memory)];
        said.extend(
            (chosen.into_iter())
                .filter_map(|(name, amount)| Some((name.to_owned(), amount.as_deref()?.into()))),
        );
        if !said.is_empty() {
            resources.insert(kind.into(), said.into());
        }
    }
    resources.into()
}

fn environment(choices: &Choices, answered: &Answered, settings: &Settings) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let socket = &settings.workload_api.socket_name;
    let mut environment = vec![
        // First, because those below refer to them.
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        field("POD_IPS", "status.podIPs"),
        value("KITH_NODE_ID", "$(POD_NAMESPACE)/$(POD_NAME)"),
        value(
            "SPIFFE_ENDPOINT_SOCKET",
            &format!("unix://{WORKLOAD_API_DIRECTORY}/{socket}"),
        ),
        value("KITH_XDS_ADDRESS", &settings.control_plane.address()),
        value(
            "KITH_XDS_SPIFFE_ID",
            &settings.control_plane.spiffe_id(&settings.trust_domain),
        ),
        value("KITH_WORKERS", &choices.workers),
        value("KITH_ACCESS_LOG", &choices.access_log),
        // In a container's environment `$$` stands for `$`.
        value("KITH_LOG", &choices.log_level.replace('$', "$$")),
        value("KITH_DRAIN_SECONDS", &choices.drain_seconds.to_string()),
    ];
    if choices.state {
        environment.push(value("KITH_STATE_DIR", STATE_DIRECTORY));
    }
    if let Some(variable) = answered.variable() {
        environment.push(value("KITH_POD_IP", "$(POD_IP)"));
        environment.push(variable);
    }
    environment
}

fn volumes(choices: &Choices, settings: &Settings) -> impl Iterator<Item = Value> {
    let workload_api = json!({
        "name": WORKLOAD_API_VOLUME,
        "csi": { "driver": settings.workload_api.csi_driver, "readOnly": true },
    });
    let state = choices.state.then(|| {
        json!({
            "name": STATE_VOLUME,
            "emptyDir": { "medium": "Memory", "sizeLimit": settings.state_size_limit },
        })
    });
    std::iter::once(workload_api).chain(state)
}
