//! What a pod's `kith.dev/` annotations choose. An unknown one is refused by name, since one that is silently ignored
//! may have been meant to protect something (security.md, row 19).

use std::collections::{BTreeMap, BTreeSet};

use kith_proxy::config::{Config, Flags, command_line};

use super::quantity::Quantity;
use super::{Mistake, OWN_PORTS, POD_LABEL, Settings};
use crate::yaml::value::Duration;

const PREFIX: &str = "kith.dev/";
/// Written by the injector; a pod that was injected before has them.
pub(super) const STATUS: &str = "kith.dev/status";
pub(super) const VERSION: &str = "kith.dev/injected-version";
pub(super) const INJECTED: &str = "injected";

/// Every annotation there is, with its value where neither the pod nor the settings say one.
const KNOWN: [(&str, Option<&str>); 14] = [
    ("exclude-inbound-ports", None),
    ("exclude-outbound-ports", None),
    ("exclude-outbound-cidrs", None),
    ("log-level", Some("info")),
    ("access-log", Some("stdout")),
    ("workers", Some("1")),
    ("drain-seconds", Some("30")),
    ("drain-delay", Some("5s")),
    ("cpu-request", Some("50m")),
    ("cpu-limit", None),
    ("memory-request", Some("32Mi")),
    ("memory-limit", Some("256Mi")),
    ("rewrite-probes", Some("true")),
    ("state", Some("true")),
];

/// Kubernetes takes no longer sleep or period than this much sense makes.
const MOST_SECONDS: u64 = 3600;

/// What was chosen, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choices {
    pub(super) exclude_inbound_ports: BTreeSet<u16>,
    pub(super) exclude_outbound_ports: BTreeSet<u16>,
    pub(super) exclude_outbound_cidrs: BTreeSet<String>,
    pub(super) log_level: String,
    pub(super) access_log: String,
    pub(super) workers: String,
    pub(super) drain_seconds: u64,
    /// How long an application goes on serving when its pod is deleted, so that clients can learn of it.
    pub(super) drain_delay: u64,
    pub(super) requests: Resources,
    pub(super) limits: Resources,
    pub(super) rewrite_probes: bool,
    /// Whether the sidecar keeps its last good configuration, for restarts without the control plane.
    pub(super) state: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resources {
    pub(super) cpu: Option<String>,
    pub(super) memory: Option<String>,
}

/// Whether the sidecar would start with this value; else what it expects, in its own words.
pub(super) fn accepted_by_the_sidecar(variable: &str, value: &str) -> Result<(), String> {
    let required = [
        ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/agent.sock"),
        ("KITH_XDS_ADDRESS", "https://control:15010"),
        ("KITH_XDS_SPIFFE_ID", "spiffe://mesh/control"),
        ("KITH_NODE_ID", "namespace/pod"),
        ("KITH_POD_IP", "192.0.2.1"),
    ];
    let others = required.into_iter().filter(|(name, _)| *name != variable);
    let environment = others.chain([(variable, value)]);
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::from_parts(environment, Flags::default())
        .map(drop)
        .map_err(|mistakes| {
            let expected = mistakes.0.into_iter().map(|mistake| mistake.expected);
            expected.collect::<Vec<_>>().join("; ")
        })
}

impl Choices {
    /// Of a pod with these annotations. None when something is wrong with them, which is then among the problems.
    pub(super) fn read(
        annotations: &BTreeMap<String, String>,
        settings: &Settings,
        problems: &mut Vec<Mistake>,
    ) -> Option<Self> {
        let mut given = BTreeMap::new();
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            if key == VERSION {
                continue;
            }
            if key == STATUS {
                if value != INJECTED {
                    let message =
                        format!("`{value}`: the injector writes this annotation: remove it");
                    problems.push(Mistake::new(at(name), message));
                }
                continue;
            }
            if KNOWN.iter().any(|(known, _)| *known == name) {
                given.insert(name, value.as_str());
            } else {
                problems.push(Mistake::new(at(name), unknown(name)));
            }
        }
        Reader {
            given,
            settings,
            problems,
        }
        .read()
    }

    /// Of a pod that has none of the annotations: whether the settings by themselves make sense.
    pub(super) fn of_defaults(settings: &Settings, problems: &mut Vec<Mistake>) -> Option<Self> {
        for name in settings.defaults.keys() {
            if !KNOWN.iter().any(|(known, _)| known == name) {
                problems.push(Mistake::new(format!("defaults.{name}"), unknown(name)));
            }
        }
        Reader {
            given: BTreeMap::new(),
            settings,
            problems,
        }
        .read()
    }
}

fn at(name: &str) -> String {
    format!("metadata.annotations.{PREFIX}{name}")
}

fn unknown(name: &str) -> String {
    if POD_LABEL.strip_prefix(PREFIX) == Some(name) {
        return format!("`{POD_LABEL}` is a label: write it among the pod's labels");
    }
    let known = KNOWN.iter().map(|(known, _)| *known);
    format!(
        "there is no annotation `{PREFIX}{name}`; there are, after {PREFIX}: {}",
        known.collect::<Vec<_>>().join(", ")
    )
}

/// One value, and where it was said.
struct Said<'a> {
    field: String,
    text: &'a str,
    by_the_pod: bool,
}

struct Reader<'a> {
    given: BTreeMap<&'a str, &'a str>,
    settings: &'a Settings,
    problems: &'a mut Vec<Mistake>,
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Option<Choices> {
        let before = self.problems.len();
        let inbound = self.list("exclude-inbound-ports", port);
        let outbound = self.list("exclude-outbound-ports", port);
        let networks = self.list("exclude-outbound-cidrs", network);
        let log_level = self.one("log-level", |text| sidecar("KITH_LOG", text));
        let access_log = self.one("access-log", access_log);
        let workers = self.one("workers", |text| sidecar("KITH_WORKERS", text));
        let drain_seconds = self.one("drain-seconds", seconds);
        let drain_delay = self.one("drain-delay", seconds);
        let (cpu_request, cpu_limit) = self.resource("cpu", Quantity::MILLI);
        let (memory_request, memory_limit) = self.resource("memory", Quantity::MEBIBYTE);
        let rewrite_probes = self.one("rewrite-probes", boolean);
        let state = self.one("state", boolean);
        if self.problems.len() > before {
            return None;
        }
        Some(Choices {
            exclude_inbound_ports: inbound.into_iter().collect(),
            exclude_outbound_ports: outbound.into_iter().collect(),
            exclude_outbound_cidrs: networks.into_iter().collect(),
            log_level: log_level?,
            access_log: access_log?,
            workers: workers?,
            drain_seconds: drain_seconds?,
            drain_delay: drain_delay?,
            requests: Resources {
                cpu: cpu_request,
                memory: memory_request,
            },
            limits: Resources {
                cpu: cpu_limit,
                memory: memory_limit,
            },
            rewrite_probes: rewrite_probes?,
            state: state?,
        })
    }

    fn by_pod(&self, name: &str) -> Option<Said<'a>> {
        self.given.get(name).map(|text| Said {
            field: at(name),
            text,
            by_the_pod: true,
        })
    }

    fn by_settings(&self, name: &str) -> Option<Said<'a>> {
        let settings: &'a Settings = self.settings;
        settings.defaults.get(name).map(|text| Said {
            field: format!("defaults.{name}"),
            text,
            by_the_pod: false,
        })
    }

    fn said(&self, name: &str) -> Option<Said<'a>> {
        let built_in = || {
            let (_, value) = KNOWN.iter().find(|(known, _)| *known == name)?;
            Some(Said {
                field: format!("defaults.{name}"),
                text: (*value)?,
                by_the_pod: false,
            })
        };
        (self.by_pod(name))
            .or_else(|| self.by_settings(name))
            .or_else(built_in)
    }

    fn one<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let said = self.said(name)?;
        self.parse(&said, parse)
    }

    fn parse<T>(
        &mut self,
        said: &Said<'_>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = parse(said.text);
        parsed
            .map_err(|expected| {
                let message = format!("`{}`: {expected}", said.text);
                self.problems.push(Mistake::new(&said.field, message));
            })
            .ok()
    }

    /// The pod's entries and those of the settings.
    fn list<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let both = [self.by_settings(name), self.by_pod(name)];
        let mut entries = Vec::new();
        for said in both.into_iter().flatten() {
            for text in said.text.split(',').map(str::trim) {
                let entry = Said {
                    field: said.field.clone(),
                    text,
                    by_the_pod: said.by_the_pod,
                };
                entries.extend(self.parse(&entry, &parse));
            }
        }
        entries
    }

    /// Request and limit, of which a pod may set one alone: a default request gives way to the pod's lower limit.
    fn resource(&mut self, kind: &str, least: Quantity) -> (Option<String>, Option<String>) {
        let quantity = |text: &str| {
            let parsed = Quantity::parse(text)
                .ok_or_else(|| "expected a quantity such as 100m, 0.5 or 64Mi".to_owned())?;
            if parsed < least {
                let least = if least == Quantity::MILLI {
                    "1m"
                } else {
                    "1Mi"
                };
                return Err(format!(
                    "too little for anything to run; expected at least {least}"
                ));
            }
            Ok(parsed)
        };
        let request = self.said(&format!("{kind}-request"));
        let limit = self.said(&format!("{kind}-limit"));
        let requested = request.as_ref().map(|said| self.parse(said, quantity));
        let limited = limit.as_ref().map(|said| self.parse(said, quantity));
        let text = |said: Option<Said<'_>>| said.map(|said| said.text.to_owned());
        let (Some(Some(wanted)), Some(Some(allowed))) = (requested, limited) else {
            return (text(request), text(limit));
        };
        let (Some(request), Some(limit)) = (request, limit) else {
            return (None, None);
        };
        if wanted <= allowed {
            return (Some(request.text.into()), Some(limit.text.into()));
        }
        if limit.by_the_pod && !request.by_the_pod {
            return (Some(limit.text.into()), Some(limit.text.into()));
        }
        let message = format!(
            "`{}` is more than the limit, `{}`: set {PREFIX}{kind}-limit too",
            request.text, limit.text
        );
        self.problems.push(Mistake::new(request.field, message));
        (None, None)
    }
}

fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    let port = port.ok_or("expected ports from 1 to 65535, with commas between them")?;
    if OWN_PORTS.contains(&port) {
        return Err("a port of the sidecar itself".into());
    }
    Ok(port)
}

fn network(text: &str) -> Result<String, String> {
    let arguments = ["kith-proxy", "capture", "--exclude-outbound-cidrs", text];
    match command_line(arguments.map(Into::into)) {
        Ok(_) if !text.starts_with('-') => Ok(text.to_owned()),
        _ => Err(
            "expected addresses or networks such as 10.0.0.0/8, with commas between them".into(),
        ),
    }
}

fn sidecar(variable: &str, text: &str) -> Result<String, String> {
    accepted_by_the_sidecar(variable, text).map(|()| text.to_owned())
}

/// Not a file: the sidecar's file system is read-only.
fn access_log(text: &str) -> Result<String, String> {
    match text {
        "stdout" | "off" => Ok(text.to_owned()),
        _ => Err("expected stdout or off".into()),
    }
}

/// `30`, `30s`, `1m`.
fn seconds(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "expected whole seconds up to an hour, such as 30, 30s or 1m ({MOST_SECONDS} at most)"
        )
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if digits {
        text.parse().map_err(|_| expected())?
    } else {
        let Duration(duration) = Duration::try_from(text.to_owned()).map_err(|_| expected())?;
        if duration.subsec_nanos() != 0 {
            return Err(expected());
        }
        duration.as_secs()
    };
    if seconds > MOST_SECONDS {
        return Err(expected());
    }
    Ok(seconds)
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".into())
}
