//! The application's probes and lifecycle requests, sent to the sidecar instead, which asks the application itself.
//!
//! The kubelet has no identity: under strict mTLS it can't ask the application. What it asks of the sidecar's health port
//! is answered there, and nothing else of the application is reachable that way: each question is fixed in the
//! sidecar's configuration, by `KITH_APP_PROBES`.
//!
//! Whoever can reach the pod can reach that port. So a lifecycle hook, at which an application does something, has a key
//! that stands in the pod only: the kubelet knows it, and nobody else on the network.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::annotations::accepted_by_the_sidecar;
use super::pod::{Object, Pod, name};
use super::{HEALTH_PORT, Mistake, OWN_PORTS};

const VARIABLE: &str = "KITH_APP_PROBES";
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "liveness"),
    ("readinessProbe", "readiness"),
    ("startupProbe", "startup"),
];
const HOOKS: [(&str, &str); 2] = [("preStop", "prestop"), ("postStart", "poststart")];
const KEY_DIGITS: usize = 32;
/// What an application may take for a request at its start, which Kubernetes doesn't bound.
const POST_START_SECONDS: u64 = 60;

/// What the sidecar asks the application, by `<container>/<probe>`: the value of `KITH_APP_PROBES`.
#[derive(Debug, Default)]
pub(super) struct Answered(Map<String, Value>);

impl Answered {
    /// The variable; none if there is nothing to ask.
    pub(super) fn variable(&self) -> Option<Value> {
        // In a container's environment `$(NAME)` is replaced, and `$$` stands for `$`.
        let text = Value::Object(self.0.clone()).to_string().replace('$', "$$");
        (!self.0.is_empty()).then(|| json!({ "name": VARIABLE, "value": text }))
    }
}

/// Points probes and lifecycle requests to the sidecar. `grace`: how long the pod has to end, in seconds.
pub(super) fn rewrite(pod: &mut Pod, grace: u64, problems: &mut Vec<Mistake>) -> Answered {
    let mut answered = Answered::default();
    let known = std::mem::take(&mut pod.hook_keys);
    for (at, container) in pod.lasting_containers() {
        let ports = Ports::of(container);
        let container_name = name(container).to_owned();
        for (field, probe, kind) in handlers(container) {
            let timeout = match kind {
                "prestop" => grace.max(1),
                "poststart" => POST_START_SECONDS,
                _ => (probe.get("timeoutSeconds").and_then(Value::as_u64)).unwrap_or(1),
            };
            let question = match question(probe, &ports) {
                Ok(Some(question)) => question,
                Ok(None) => continue,
                Err(message) => {
                    problems.push(Mistake::new(format!("{at}.{field}"), message));
                    continue;
                }
            };
            let asked = format!("{container_name}/{kind}");
            let (handler, what) = question;
            let mut answer = json!({ handler: what, "timeoutSeconds": timeout });
            let key = HOOKS.iter().any(|(_, hook)| *hook == kind).then(|| {
                let known = known.get(&asked).cloned();
                known.map_or_else(new_key, Ok)
            });
            let key = match key.transpose() {
                Ok(key) => key,
                Err(message) => {
                    problems.push(Mistake::new(format!("{at}.{field}"), message));
                    continue;
                }
            };
            if let Some(key) = &key {
                answer["key"] = key.as_str().into();
            }
            // The kubelet would fail one probe for it; the sidecar would not start.
            let alone = json!({ asked.as_str(): answer }).to_string();
            if let Err(expected) = accepted_by_the_sidecar(VARIABLE, &alone) {
                let message = format!("the sidecar cannot ask this: {expected}");
                problems.push(Mistake::new(format!("{at}.{field}"), message));
                continue;
            }
            let path = path(&asked, key.as_deref());
            answered.0.insert(asked, answer);
            probe.remove(handler);
            probe.insert(
                "httpGet".into(),
                json!({ "path": path, "port": HEALTH_PORT, "scheme": "HTTP" }),
            );
        }
    }
    answered
}

/// Gives probes back what they said before they were rewritten, as the sidecar that was injected then knows it.
pub(super) fn restore(pod: &mut Pod, sidecar: &Object, problems: &mut Vec<Mistake>) {
    let environment = sidecar.get("env").and_then(Value::as_array);
    let variable = environment
        .into_iter()
        .flatten()
        .find(|it| it["name"] == VARIABLE);
    let text = variable.and_then(|it| it["value"].as_str()).unwrap_or("{}");
    let known: Object = serde_json::from_str(&text.replace("$$", "$")).unwrap_or_default();
    let mut keys = BTreeMap::new();
    for (at, container) in pod.lasting_containers() {
        let container_name = name(container).to_owned();
        for (field, probe, kind) in handlers(container) {
            let asked = format!("{container_name}/{kind}");
            if !is_ours(probe) {
                continue;
            }
            let before = known.get(&asked).and_then(Value::as_object);
            let key = before.and_then(|before| before.get("key")?.as_str());
            let before = before.filter(|_| probe["httpGet"]["path"] == path(&asked, key).as_str());
            keys.extend(
                key.filter(|key| is_key(key))
                    .map(|key| (asked, key.to_owned())),
            );
            let handler = before.and_then(|before| {
                HANDLERS
                    .iter()
                    .find_map(|handler| Some((*handler, before.get(*handler)?)))
            });
            if let Some((handler, what)) = handler {
                probe.remove("httpGet");
                probe.insert(handler.into(), what.clone());
            } else {
                // The sidecar that was here does not know what it would ask.
                let message = asks_the_sidecar(HEALTH_PORT);
                problems.push(Mistake::new(format!("{at}.{field}"), message));
            }
        }
    }
    pod.hook_keys = keys;
}

fn asks_the_sidecar(port: u16) -> String {
    format!("{port} is a port of the sidecar: write what the application is to be asked")
}

fn path(asked: &str, key: Option<&str>) -> String {
    match key {
        Some(key) => format!("/app-health/{asked}/{key}"),
        None => format!("/app-health/{asked}"),
    }
}

/// 128 random bits.
fn new_key() -> Result<String, String> {
    let mut bits = [0; KEY_DIGITS / 2];
    aws_lc_rs::rand::fill(&mut bits)
        .map_err(|_| "there is no randomness for its key; try again")?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// As they are made here.
fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_ours(probe: &Object) -> bool {
    let request = probe.get("httpGet").unwrap_or(&Value::Null);
    let path = request["path"].as_str().unwrap_or_default();
    request["port"] == HEALTH_PORT && path.starts_with("/app-health/")
}

/// Every probe and lifecycle hook of a container: its place, itself, and what it is called in the sidecar.
fn handlers(container: &mut Object) -> Vec<(String, &mut Object, &'static str)> {
    let mut found = Vec::new();
    for (field, value) in container {
        if let Some((_, kind)) = PROBES.iter().find(|(known, _)| known == field) {
            found.extend((value.as_object_mut()).map(|probe| (field.clone(), probe, *kind)));
        } else if field == "lifecycle" {
            for (hook, value) in value.as_object_mut().into_iter().flatten() {
                if let Some((_, kind)) = HOOKS.iter().find(|(known, _)| known == hook) {
                    let field = format!("lifecycle.{hook}");
                    found.extend(value.as_object_mut().map(|hook| (field, hook, *kind)));
                }
            }
        }
    }
    found
}

/// Named ports of one container: the kubelet looks nowhere else.
struct Ports {
    container: String,
    named: Vec<(String, u16)>,
}

impl Ports {
    fn of(container: &Object) -> Self {
        let ports = container.get("ports").and_then(Value::as_array);
        let named = ports.into_iter().flatten().filter_map(|port| {
            let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
            Some((port["name"].as_str()?.to_owned(), number))
        });
        Self {
            container: name(container).to_owned(),
            named: named.collect(),
        }
    }

    fn number(&self, port: &Value) -> Result<u16, String> {
        if let Some(name) = port.as_str() {
            let found = self.named.iter().find(|(known, _)| known == name);
            return found.map(|(_, number)| *number).ok_or_else(|| {
                format!(
                    "container `{}` has no port named `{name}`: declare it, or write its number",
                    self.container
                )
            });
        }
        let number = port.as_u64().and_then(|number| u16::try_from(number).ok());
        (number.filter(|number| *number != 0))
            .ok_or_else(|| format!("{port} is not a port: 1 to 65535, or a port's name"))
    }
}

/// What is asked, in the sidecar's terms. None: nothing that the sidecar could ask (a command), or that isn't asked of
/// this pod (another host).
fn question(probe: &Object, ports: &Ports) -> Result<Option<(&'static str, Value)>, String> {
    let Some((handler, what)) = HANDLERS
        .iter()
        .find_map(|handler| Some((*handler, probe.get(*handler)?.as_object()?)))
    else {
        return Ok(None);
    };
    if (what.get("host").and_then(Value::as_str)).is_some_and(|host| !host.is_empty()) {
        return Ok(None);
    }
    let port = ports.number(what.get("port").unwrap_or(&Value::Null))?;
    // It would ask itself, and itself again.
    if OWN_PORTS.contains(&port) {
        return Err(asks_the_sidecar(port));
    }
    let text = |key: &str| {
        what.get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let mut question = json!({ "port": port });
    match handler {
        "httpGet" => {
            question["path"] = text("path").unwrap_or("/").into();
            question["scheme"] = text("scheme").unwrap_or("HTTP").into();
            if let Some(headers) = what.get("httpHeaders").filter(|headers| !headers.is_null()) {
                question["httpHeaders"] = headers.clone();
            }
        }
        "grpc" => question["service"] = text("service").unwrap_or_default().into(),
        _ => {}
    }
    Ok(Some((handler, question)))
}
