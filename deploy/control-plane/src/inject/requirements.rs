//! What a pod must be like to have a sidecar, and what makes one of less worth than its owner thinks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::{STATE_VOLUME, VOLUMES};
use super::pod::{Object, Pod, is_native_sidecar, name};
use super::{CAPTURE, Mistake, OWN_PORTS, POD_LABEL, SIDECAR, Settings, UID};

/// Looks at the pod without what is ours.
pub(super) fn check(
    pod: &Pod,
    settings: &Settings,
    problems: &mut Vec<Mistake>,
    warnings: &mut Vec<String>,
) {
    let spec = &pod.spec;
    if flag(spec, "hostNetwork") {
        problems.push(Mistake::new(
            "spec.hostNetwork",
            format!(
                "this pod has its node's network, and a sidecar can capture only a network of the pod's own: remove hostNetwork, or leave the pod out with the label {POD_LABEL}: \"false\""
            ),
        ));
    }
    let selected_os = &spec.get("nodeSelector").unwrap_or(&Value::Null)["kubernetes.io/os"];
    for (field, os) in [
        (
            "spec.os.name",
            &spec.get("os").unwrap_or(&Value::Null)["name"],
        ),
        ("spec.nodeSelector.kubernetes.io/os", selected_os),
    ] {
        if os.as_str() == Some("windows") {
            let message = format!(
                "the sidecar runs on Linux only: leave the pod out with the label {POD_LABEL}: \"false\""
            );
            problems.push(Mistake::new(field, message));
        }
    }
    own_user(spec, "spec", problems);
    for (at, container) in pod.all_containers() {
        check_container(&at, container, problems, warnings);
    }
    for (index, volume) in pod.volumes.iter().enumerate() {
        if VOLUMES.contains(&name(volume)) {
            problems.push(Mistake::new(
                format!("spec.volumes[{index}].name"),
                format!(
                    "`{}` is the name of a volume of the sidecar: rename it",
                    name(volume)
                ),
            ));
        }
    }
    if flag(spec, "shareProcessNamespace") {
        warnings.push(
            "spec.shareProcessNamespace: the pod's containers see the sidecar's process, and with its user id or as root could signal or read it".into(),
        );
    }
    let address = settings.control_plane.address();
    if spec.get("dnsPolicy").and_then(Value::as_str) == Some("Default") && address.contains(".svc")
    {
        warnings.push(format!(
            "spec.dnsPolicy: with Default the node's resolver is asked, which rarely knows the control plane's name ({address}): the sidecar won't start without it"
        ));
    }
}

/// Looks at what is added to a pod that is there.
pub(super) fn check_ephemeral(
    pod: &Value,
    before: &Value,
    problems: &mut Vec<Mistake>,
    warnings: &mut Vec<String>,
) {
    let init = pod["spec"]["initContainers"].as_array();
    let mut init = init.into_iter().flatten().filter_map(Value::as_object);
    if !init.any(|it| name(it) == SIDECAR && is_native_sidecar(it)) {
        return;
    }
    // They can't be changed or taken away: what is wrong with one that is there must not hinder the next.
    let there = before["spec"]["ephemeralContainers"].as_array();
    let there = there.into_iter().flatten().filter_map(Value::as_object);
    let there: BTreeSet<&str> = there.map(name).collect();
    let containers = pod["spec"]["ephemeralContainers"].as_array();
    for (index, container) in containers.into_iter().flatten().enumerate() {
        let Some(container) = container.as_object() else {
            continue;
        };
        if there.contains(name(container)) {
            continue;
        }
        let at = format!("spec.ephemeralContainers[{index}]");
        check_container(&at, container, problems, warnings);
        let target = container.get("targetContainerName").and_then(Value::as_str);
        if target == Some(SIDECAR) {
            warnings.push(format!(
                "{at}.targetContainerName: whoever is in this container sees the sidecar's process, and as root could read its keys"
            ));
        }
    }
}

fn check_container(
    at: &str,
    container: &Object,
    problems: &mut Vec<Mistake>,
    warnings: &mut Vec<String>,
) {
    let name = name(container);
    if name == SIDECAR || name == CAPTURE {
        let message = format!("`{name}` is the name of a container of the mesh: rename this one");
        problems.push(Mistake::new(format!("{at}.name"), message));
    }
    own_user(container, at, problems);
    for (index, port) in list(container, "ports").enumerate() {
        let number = port["containerPort"].as_u64();
        let tcp = port["protocol"].as_str().is_none_or(|it| it == "TCP");
        if let Some(number) =
            number.filter(|number| tcp && OWN_PORTS.map(u64::from).contains(number))
        {
            problems.push(Mistake::new(
                format!("{at}.ports[{index}].containerPort"),
                format!("{number} is a port of the sidecar: let the application listen on another"),
            ));
        }
    }
    // What a sidecar trusts after a restart is nothing for an application to write, and it has a name only from now on.
    for (index, mount) in list(container, "volumeMounts").enumerate() {
        if let Some(volume) = mount["name"]
            .as_str()
            .filter(|volume| VOLUMES.contains(volume))
        {
            let advice = if volume == STATE_VOLUME {
                "remove the mount"
            } else {
                "mount a volume of your own"
            };
            problems.push(Mistake::new(
                format!("{at}.volumeMounts[{index}].name"),
                format!("`{volume}` is a volume of the sidecar: {advice}"),
            ));
        }
    }
    let security = container.get("securityContext").unwrap_or(&Value::Null);
    let added = security["capabilities"]["add"].as_array();
    let can_redirect = added.is_some_and(|added| {
        let capabilities = added.iter().filter_map(Value::as_str);
        // As container runtimes read them.
        let mut plain = capabilities.map(|it| {
            let upper = it.to_ascii_uppercase();
            upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
        });
        plain.any(|it| ["NET_ADMIN", "SYS_ADMIN", "ALL"].contains(&&*it))
    });
    if can_redirect || security["privileged"] == Value::Bool(true) {
        warnings.push(format!(
            "{at}.securityContext: container `{name}` is able to remove the redirect rules, and so to go past the sidecar"
        ));
    }
}

/// The traffic of the sidecar's user is not captured.
fn own_user(of: &Object, at: &str, problems: &mut Vec<Mistake>) {
    let user = &of.get("securityContext").unwrap_or(&Value::Null)["runAsUser"];
    if user.as_i64() == Some(UID) {
        problems.push(Mistake::new(
            format!("{at}.securityContext.runAsUser"),
            format!("{UID} is the sidecar's user id, whose traffic is not captured: use another"),
        ));
    }
}

fn flag(spec: &Object, key: &str) -> bool {
    spec.get(key) == Some(&Value::Bool(true))
}

fn list<'a>(of: &'a Object, key: &str) -> impl Iterator<Item = &'a Value> {
    of.get(key).and_then(Value::as_array).into_iter().flatten()
}
