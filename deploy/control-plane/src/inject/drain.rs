//! How a pod ends without losing a request: when it is deleted, the application goes on serving for a moment, until
//! clients have learned that it leaves; then it ends; and then, since it is a native sidecar, the sidecar does.

use serde_json::{Value, json};

use super::annotations::Choices;
use super::pod::{Object, Pod, name};

/// What the API server writes where nothing is said, before any webhook sees the pod.
pub(super) const DEFAULT_GRACE: u64 = 30;

/// Adds the pause, and time for it. Returns how long the pod has to end, in seconds.
pub(super) fn apply(pod: &mut Pod, choices: &Choices, warnings: &mut Vec<String>) -> u64 {
    let grace = grace(pod, choices, warnings);
    let delay = choices.drain_delay;
    if delay == 0 {
        return grace;
    }
    // The API server refuses a sleep that is longer; one of the same length would leave nothing for the application.
    if delay >= grace {
        warnings.push(format!(
            "spec.terminationGracePeriodSeconds: {grace} s leave no room for the drain delay of {delay} s, which is left out: when the pod is deleted, requests may fail"
        ));
        return grace;
    }
    for container in &mut pod.containers {
        pause(container, delay, warnings);
    }
    grace
}

/// Raised only where nothing was said. Who wrote a period knows how fast the pod must be gone, and is told that it is
/// short. The default counts as nothing said: the API server has filled it in already, and it was meant for an
/// application alone.
fn grace(pod: &mut Pod, choices: &Choices, warnings: &mut Vec<String>) -> u64 {
    const FIELD: &str = "terminationGracePeriodSeconds";
    let needed = choices.drain_delay + choices.drain_seconds;
    let said = pod.spec.get(FIELD).and_then(Value::as_u64);
    let grace = said.unwrap_or(DEFAULT_GRACE);
    if grace >= needed {
        return grace;
    }
    if grace == DEFAULT_GRACE {
        pod.spec.insert(FIELD.into(), needed.into());
        return needed;
    }
    warnings.push(format!(
        "spec.{FIELD}: {grace} s are less than the drain delay and the drain together ({} s + {} s): what is still open then is cut",
        choices.drain_delay, choices.drain_seconds
    ));
    grace
}

/// An application that has something of its own to do before it ends is not made to do something else.
fn pause(container: &mut Object, delay: u64, warnings: &mut Vec<String>) {
    let sleep = json!({ "sleep": { "seconds": delay } });
    match container.get_mut("lifecycle") {
        None | Some(Value::Null) => {
            container.insert("lifecycle".into(), json!({ "preStop": sleep }));
        }
        Some(Value::Object(lifecycle)) => {
            if lifecycle.get("preStop").is_none_or(Value::is_null) {
                lifecycle.insert("preStop".into(), sleep);
            }
        }
        // The API server will say so.
        Some(_) => warnings.push(format!(
            "container `{}`: lifecycle is not a map",
            name(container)
        )),
    }
}
