//! `KITH_APP_PROBES`: the application's own probes, which the sidecar answers for, because under strict mTLS the
//! kubelet can't make them itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// By `<container>/<probe>`.
pub type AppProbes = BTreeMap<String, AppProbe>;

/// One probe of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppProbe {
    pub check: Check,
    /// For all of it, from the connection to the answer.
    pub timeout: Duration,
    /// What whoever asks for it has to know. Hooks have one: an application does something at a hook, and whoever reaches
    /// the health port is nobody in particular.
    pub key: Option<ProbeKey>,
}

/// Known to the kubelet, since it stands in the pod's own hook, and to whoever may read the pod.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeKey(String);

impl ProbeKey {
    pub(crate) fn is(&self, given: &str) -> bool {
        // In a time that does not depend on where the two differ.
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), given.as_bytes())
            .is_ok()
    }
}

impl fmt::Debug for ProbeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeKey")
    }
}

/// What is done, and by what the application is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Http(HttpCheck),
    /// A connection can be made.
    Tcp {
        port: u16,
    },
    /// `grpc.health.v1.Health/Check` says SERVING.
    Grpc {
        port: u16,
        service: String,
    },
}

/// A status from 200 to 399.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    pub port: u16,
    pub tls: bool,
    pub path: PathAndQuery,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Check {
    pub(crate) fn port(&self) -> u16 {
        match self {
            Check::Http(http) => http.port,
            Check::Tcp { port } | Check::Grpc { port, .. } => *port,
        }
    }
}

/// Far more than a pod has containers.
const MOST: usize = 256;

const KINDS: [&str; 5] = ["liveness", "readiness", "startup", "prestop", "poststart"];
/// Those that make an application do something.
const HOOKS: [&str; 2] = ["prestop", "poststart"];

/// All that is wrong at once, each with its place. Values are left out: headers of probes may be credentials.
pub(super) fn app_probes(text: &str) -> Result<AppProbes, String> {
    let value = kith_certs::json::value(text.as_bytes())
        .map_err(|error| format!("expected JSON: {error}"))?;
    let Value::Object(entries) = value else {
        return Err(
            "expected an object of <container>/<probe> to httpGet, tcpSocket or grpc".into(),
        );
    };
    if entries.len() > MOST {
        return Err(format!("expected at most {MOST} probes"));
    }
    let mut problems = Problems::default();
    let mut probes = AppProbes::new();
    for (name, value) in entries {
        // They go to a terminal.
        problems.at = name.escape_debug().to_string();
        if !is_name(&name) {
            problems.add(&format!(
                "expected <container>/<probe>, with a probe of {}",
                KINDS.join(", ")
            ));
        }
        let Some(probe) = probe(value, &mut problems) else {
            continue;
        };
        let is_hook = HOOKS.iter().any(|hook| name.ends_with(&format!("/{hook}")));
        if is_hook && probe.key.is_none() {
            problems.add("key: required, or whoever reaches the health port could have it made");
        }
        probes.insert(name, probe);
    }
    if problems.found.is_empty() {
        Ok(probes)
    } else {
        Err(problems.found.join("; "))
    }
}

#[derive(Default)]
struct Problems {
    at: String,
    found: Vec<String>,
}

impl Problems {
    fn add(&mut self, problem: &str) {
        self.found.push(format!("{}: {problem}", self.at));
    }
}

/// A container's name is a DNS label (RFC 1123).
fn is_name(name: &str) -> bool {
    let label = |name: &str| {
        let bytes = name.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| plain(byte) || *byte == b'-')
            && bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain)
    };
    name.split_once('/')
        .is_some_and(|(container, probe)| label(container) && KINDS.contains(&probe))
}

fn probe(value: Value, problems: &mut Problems) -> Option<AppProbe> {
    let mut fields = Fields::of(value, problems)?;
    let timeout = match fields.take("timeoutSeconds") {
        // As in Kubernetes.
        None => Some(1),
        Some(value) => value
            .as_u64()
            .filter(|seconds| (1..=u64::from(u32::MAX)).contains(seconds)),
    };
    if timeout.is_none() {
        fields.problem("timeoutSeconds: expected a whole number from 1");
    }
    let key = fields.take("key").map(|value| {
        let key = value.as_str().filter(|key| is_key(key));
        key.map(|key| ProbeKey(key.to_owned()))
    });
    if key == Some(None) {
        fields.problem("key: expected 16 to 128 letters, digits, - and _");
    }
    let mut checks = Vec::new();
    for (name, read) in [
        ("httpGet", http as fn(&mut Fields<'_>) -> Option<Check>),
        ("tcpSocket", tcp),
        ("grpc", grpc),
    ] {
        if let Some(value) = fields.take(name) {
            let at = fields.problems.at.clone();
            fields.problems.at = format!("{at}.{name}");
            let check = Fields::of(value, fields.problems).and_then(|mut inner| {
                let check = read(&mut inner);
                inner.refuse_rest();
                check
            });
            fields.problems.at = at;
            checks.push(check);
        }
    }
    if checks.len() != 1 {
        fields.problem("expected exactly one of httpGet, tcpSocket and grpc");
    }
    fields.refuse_rest();
    Some(AppProbe {
        check: checks.pop()??,
        timeout: Duration::from_secs(timeout?),
        key: key.flatten(),
    })
}

/// It stands in a path.
fn is_key(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (16..=128).contains(&key.len()) && key.bytes().all(plain)
}

fn http(fields: &mut Fields<'_>) -> Option<Check> {
    let path = match fields.take("path") {
        None => Some(PathAndQuery::from_static("/")),
        Some(value) => value.as_str().and_then(path_and_query),
    };
    if path.is_none() {
        fields.problem("path: expected a path");
    }
    let tls = match fields.take("scheme").as_ref().map(Value::as_str) {
        None | Some(Some("HTTP")) => Some(false),
        Some(Some("HTTPS")) => Some(true),
        Some(_) => None,
    };
    if tls.is_none() {
        fields.problem("scheme: expected HTTP or HTTPS");
    }
    let headers = match fields.take("httpHeaders") {
        None => Some(Vec::new()),
        Some(value) => value
            .as_array()
            .and_then(|headers| headers.iter().map(header).collect()),
    };
    if headers.is_none() {
        fields.problem("httpHeaders: expected a list of name and value, as HTTP has them");
    }
    Some(Check::Http(HttpCheck {
        port: fields.port()?,
        tls: tls?,
        path: path?,
        headers: headers?,
    }))
}

fn tcp(fields: &mut Fields<'_>) -> Option<Check> {
    Some(Check::Tcp {
        port: fields.port()?,
    })
}

fn grpc(fields: &mut Fields<'_>) -> Option<Check> {
    let service = match fields.take("service") {
        None | Some(Value::Null) => Some(String::new()),
        Some(value) => value.as_str().map(str::to_owned),
    };
    if service.is_none() {
        fields.problem("service: expected a name");
    }
    Some(Check::Grpc {
        port: fields.port()?,
        service: service?,
    })
}

fn header(value: &Value) -> Option<(HeaderName, HeaderValue)> {
    let fields = value.as_object().filter(|fields| fields.len() == 2)?;
    let name = HeaderName::from_bytes(fields.get("name")?.as_str()?.as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(fields.get("value")?.as_str()?).ok()?;
    // It may be a credential.
    value.set_sensitive(true);
    Some((name, value))
}

/// As the kubelet reads it: with or without the first slash, without a fragment, and what can't stand in a request
/// encoded.
fn path_and_query(path: &str) -> Option<PathAndQuery> {
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    let mut encoded = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        encoded.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | ..=b' ' | 0x7f.. => {
                encoded.push_str(&format!("%{byte:02X}"));
            }
            plain => encoded.push(char::from(plain)),
        }
    }
    encoded.parse().ok()
}

/// An object's fields, each to be taken once, so that one that nobody knows is seen.
struct Fields<'p> {
    left: Map<String, Value>,
    problems: &'p mut Problems,
}

impl<'p> Fields<'p> {
    fn of(value: Value, problems: &'p mut Problems) -> Option<Self> {
        let Value::Object(left) = value else {
            problems.add("expected an object");
            return None;
        };
        Some(Fields { left, problems })
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    fn port(&mut self) -> Option<u16> {
        let port = self
            .take("port")
            .and_then(|port| u16::try_from(port.as_u64()?).ok())
            .filter(|port| *port != 0);
        if port.is_none() {
            self.problem("port: expected a number from 1 to 65535");
        }
        port
    }

    fn problem(&mut self, problem: &str) {
        self.problems.add(problem);
    }

    fn refuse_rest(self) {
        for name in self.left.keys() {
            let name = name.escape_debug();
            self.problems
                .add(&format!("{name}: there is no such field"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_kind_with_its_defaults() {
        let probes = app_probes(
            r#"{"app/readiness": {"httpGet": {"path": "/ready?full=1", "port": 8443, "scheme": "HTTPS",
                 "httpHeaders": [{"name": "Host", "value": "orders"}]}, "timeoutSeconds": 3},
                "app/liveness": {"httpGet": {"port": 8080}},
                "db/startup": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 1},
                "app/prestop": {"grpc": {"port": 9090, "service": null}, "timeoutSeconds": 2, "key": "0123456789abcdef"},
                "rpc/poststart": {"grpc": {"port": 9091, "service": "orders.v1"}, "key": "0123456789abcdef"}}"#,
        )
        .unwrap();
        let http = |port, tls, path, headers| {
            Check::Http(HttpCheck {
                port,
                tls,
                path: PathAndQuery::from_static(path),
                headers,
            })
        };
        let host = (
            HeaderName::from_static("host"),
            HeaderValue::from_static("orders"),
        );
        let grpc = |port, service: &str| Check::Grpc {
            port,
            service: service.into(),
        };
        let expected = [
            ("app/liveness", http(8080, false, "/", vec![]), 1),
            ("app/prestop", grpc(9090, ""), 2),
            (
                "app/readiness",
                http(8443, true, "/ready?full=1", vec![host]),
                3,
            ),
            ("db/startup", Check::Tcp { port: 5432 }, 1),
            ("rpc/poststart", grpc(9091, "orders.v1"), 1),
        ];
        let expected = expected.map(|(name, check, seconds)| {
            let timeout = Duration::from_secs(seconds);
            let key = HOOKS.iter().any(|hook| name.ends_with(hook));
            let key = key.then(|| ProbeKey("0123456789abcdef".into()));
            (
                name.to_owned(),
                AppProbe {
                    check,
                    timeout,
                    key,
                },
            )
        });
        assert_eq!(probes.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn paths_are_read_as_the_kubelet_reads_them() {
        for (given, expected) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a#b", "/a"),
            ("/a b?c=ü", "/a%20b?c=%C3%BC"),
            ("/%41", "/%41"),
        ] {
            assert_eq!(path_and_query(given).unwrap().as_str(), expected, "{given}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_place_and_without_values() {
        let problems = app_probes(
            r#"{"app/alive": {"tcpSocket": {"port": 80}},
                "App/liveness": {"httpGet": {"path": 1, "port": "http", "scheme": "http", "host": "elsewhere",
                                             "httpHeaders": [{"name": "a b", "value": "secret"}]},
                                 "timeoutSeconds": 0, "period": 3},
                "b/startup": {"exec": {"command": ["true"]}},
                "c/startup": {"grpc": {"port": 65536, "service": 7}, "tcpSocket": {"port": 0}},
                "d/startup": 1,
                "e/prestop": {"tcpSocket": {"port": 80}},
                "e/poststart": {"tcpSocket": {"port": 80}, "key": "short"},
                "e/liveness": {"tcpSocket": {"port": 80}, "key": "0123456789abcde/"}}"#,
        )
        .unwrap_err();
        let mut problems: Vec<_> = problems.split("; ").collect();
        problems.sort_unstable();
        assert_eq!(
            problems,
            [
                "App/liveness.httpGet: host: there is no such field",
                "App/liveness.httpGet: httpHeaders: expected a list of name and value, as HTTP has them",
                "App/liveness.httpGet: path: expected a path",
                "App/liveness.httpGet: port: expected a number from 1 to 65535",
                "App/liveness.httpGet: scheme: expected HTTP or HTTPS",
                "App/liveness: expected <container>/<probe>, with a probe of liveness, readiness, startup, prestop, poststart",
                "App/liveness: period: there is no such field",
                "App/liveness: timeoutSeconds: expected a whole number from 1",
                "app/alive: expected <container>/<probe>, with a probe of liveness, readiness, startup, prestop, poststart",
                "b/startup: exec: there is no such field",
                "b/startup: expected exactly one of httpGet, tcpSocket and grpc",
                "c/startup.grpc: port: expected a number from 1 to 65535",
                "c/startup.grpc: service: expected a name",
                "c/startup.tcpSocket: port: expected a number from 1 to 65535",
                "c/startup: expected exactly one of httpGet, tcpSocket and grpc",
                "d/startup: expected an object",
                "e/liveness: key: expected 16 to 128 letters, digits, - and _",
                "e/poststart: key: expected 16 to 128 letters, digits, - and _",
                "e/poststart: key: required, or whoever reaches the health port could have it made",
                "e/prestop: key: required, or whoever reaches the health port could have it made",
            ]
        );
        assert!(app_probes("[]").is_err() && app_probes("{").is_err());
        let twice = r#"{"a/startup": {"tcpSocket": {"port": 1, "port": 2}}}"#;
        let error = app_probes(twice).unwrap_err();
        assert!(
            error.starts_with("expected JSON: the name \"port\" twice"),
            "{error}"
        );
    }
}
