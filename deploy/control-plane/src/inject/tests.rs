use std::collections::BTreeMap;
use std::path::Path;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    let text = "{image: proxy, captureImage: capture, trustDomain: example.org}";
    Settings::parse(Path::new("injection.yaml"), text).unwrap()
}

fn enabled() -> BTreeMap<String, String> {
    BTreeMap::from([(NAMESPACE_LABEL.to_owned(), "enabled".to_owned())])
}

/// A pod of one container, with these changes.
fn pod(changes: &Value) -> Value {
    let mut pod = json!({
        "metadata": { "name": "web" },
        "spec": { "containers": [{ "name": "web", "image": "i", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
    });
    json_patch::merge(&mut pod, changes);
    pod
}

fn annotated(name: &str, value: &str) -> Value {
    pod(&json!({ "metadata": { "annotations": { format!("kith.dev/{name}"): value } } }))
}

/// What becomes of a pod in an enabled namespace: all reasons against it, one a line, or `injected` and the warnings.
fn outcome(pod: &Value) -> String {
    match inject(pod, "shop", &enabled(), &settings()) {
        Ok(Outcome::Injected { warnings, .. }) => {
            let warnings = warnings
                .iter()
                .map(|warning| format!("\nwarning: {warning}"));
            format!("injected{}", warnings.collect::<String>())
        }
        Ok(Outcome::Unchanged(reason)) => format!("unchanged: {reason}"),
        Err(refusal) => {
            let lines = refusal.problems.iter().map(ToString::to_string);
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

#[track_caller]
fn check(changes: &Value, expected: Expect) {
    expected.assert_eq(&outcome(&pod(changes)));
}

fn injected(pod: &Value) -> Value {
    match inject(pod, "shop", &enabled(), &settings()) {
        Ok(Outcome::Injected { pod, .. }) => pod,
        other => panic!("{pod}: {other:?}"),
    }
}

/// The sidecar's and capture's containers.
fn ours(pod: &Value) -> (Value, Value) {
    let injected = injected(pod);
    let list = &injected["spec"]["initContainers"];
    assert_eq!(
        (&list[0]["name"], &list[1]["name"]),
        (&json!(CAPTURE), &json!(SIDECAR))
    );
    (list[0].clone(), list[1].clone())
}

fn variable(sidecar: &Value, name: &str) -> Value {
    let all = sidecar["env"].as_array().unwrap();
    let found = all.iter().find(|it| it["name"] == name);
    found.map_or(Value::Null, |it| it["value"].clone())
}

#[test]
fn the_pods_label_wins_over_its_namespaces_but_where_injection_is_disabled() {
    let namespace = |value: &str| BTreeMap::from([(NAMESPACE_LABEL.to_owned(), value.to_owned())]);
    let none = BTreeMap::new();
    for (namespace, namespace_labels, label, expected) in [
        ("shop", namespace("enabled"), None, "injected"),
        ("shop", namespace("enabled"), Some("true"), "injected"),
        ("shop", namespace("enabled"), Some("false"), "left"),
        ("shop", namespace("enabled"), Some("yes"), "refused"),
        ("shop", namespace("disabled"), None, "left"),
        ("shop", namespace("disabled"), Some("true"), "left"),
        ("shop", namespace("disabled"), Some("yes"), "left"),
        ("shop", namespace("true"), None, "left"),
        ("shop", none.clone(), None, "left"),
        ("shop", none.clone(), Some("true"), "injected"),
        ("kube-system", namespace("enabled"), Some("true"), "left"),
        ("kith-system", namespace("enabled"), Some("true"), "left"),
    ] {
        let pod = match label {
            Some(label) => pod(&json!({ "metadata": { "labels": { POD_LABEL: label } } })),
            None => pod(&json!({})),
        };
        let got = match inject(&pod, namespace, &namespace_labels, &settings()) {
            Ok(Outcome::Injected { .. }) => "injected",
            Ok(Outcome::Unchanged(_)) => "left",
            Err(_) => "refused",
        };
        assert_eq!(got, expected, "{namespace} {namespace_labels:?} {label:?}");
    }
    let mirror = json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "x" } } });
    assert!(outcome(&pod(&mirror)).starts_with("unchanged: it mirrors a static pod"));
}

#[test]
fn a_pod_that_does_not_ask_may_be_anything() {
    for odd in [
        json!(null),
        json!(7),
        json!({ "metadata": 3 }),
        json!({ "metadata": { "labels": [] }, "spec": "x" }),
    ] {
        let outcome = inject(&odd, "shop", &BTreeMap::new(), &settings()).unwrap();
        assert!(matches!(outcome, Outcome::Unchanged(_)), "{odd}");
    }
    assert_eq!(outcome(&json!(7)), ": expected a pod");
    assert_eq!(
        outcome(&json!({ "spec": { "containers": [] } })),
        "spec.containers: expected at least one container"
    );
}

#[test]
fn good_annotations_are_taken() {
    for (name, value) in [
        ("exclude-inbound-ports", "9100"),
        ("exclude-outbound-ports", "53, 3306"),
        ("exclude-outbound-cidrs", "10.0.0.0/8, fd00::/8,192.0.2.1"),
        ("log-level", "debug"),
        ("log-level", "warn,kith_proxy=trace"),
        ("access-log", "off"),
        ("workers", "4"),
        ("drain-seconds", "0"),
        ("drain-seconds", "1m30s"),
        ("drain-delay", "0"),
        ("cpu-request", "0.2"),
        ("cpu-limit", "1500m"),
        ("memory-request", "64Mi"),
        ("memory-limit", "1Gi"),
        ("rewrite-probes", "false"),
        ("state", "false"),
        ("status", "injected"),
        ("injected-version", "0.0.1"),
    ] {
        let got = outcome(&annotated(name, value));
        assert!(got.starts_with("injected"), "{name}={value}: {got}");
    }
}

#[test]
fn bad_annotations_are_refused_by_name() {
    for (name, value, expected) in [
        (
            "exclude-inbound-ports",
            "0",
            "`0`: expected ports from 1 to 65535",
        ),
        ("exclude-inbound-ports", "80,", "``: expected ports"),
        ("exclude-inbound-ports", "+80", "`+80`: expected ports"),
        (
            "exclude-inbound-ports",
            "15006",
            "a port of the sidecar itself",
        ),
        ("exclude-outbound-ports", "all", "`all`: expected ports"),
        (
            "exclude-outbound-cidrs",
            "10.0.0.0/33",
            "`10.0.0.0/33`: expected addresses or networks",
        ),
        (
            "exclude-outbound-cidrs",
            "--remove",
            "`--remove`: expected addresses or networks",
        ),
        (
            "exclude-outbound-cidrs",
            "",
            "``: expected addresses or networks",
        ),
        ("log-level", "loud=yes", "`loud=yes`: expected a level"),
        ("access-log", "/tmp/log", "expected stdout or off"),
        ("workers", "0", "expected a whole number from 1 to 256"),
        ("drain-seconds", "-1", "expected whole seconds"),
        ("drain-seconds", "1.5s", "expected whole seconds"),
        ("drain-delay", "2h", "expected whole seconds"),
        ("cpu-request", "fast", "expected a quantity"),
        ("cpu-limit", "-1", "expected a quantity"),
        ("cpu-request", "10u", "expected at least 1m"),
        ("memory-limit", "100m", "expected at least 1Mi"),
        (
            "memory-request",
            "1Gi",
            "`1Gi` is more than the limit, `256Mi`: set kith.dev/memory-limit too",
        ),
        ("rewrite-probes", "yes", "expected true or false"),
        ("state", "", "expected true or false"),
        ("status", "done", "the injector writes this annotation"),
        (
            "drain-second",
            "1",
            "there is no annotation `kith.dev/drain-second`",
        ),
        ("inject", "true", "`kith.dev/inject` is a label"),
        ("Workers", "1", "there is no annotation `kith.dev/Workers`"),
    ] {
        let got = outcome(&annotated(name, value));
        let start = format!("metadata.annotations.kith.dev/{name}: ");
        assert!(
            got.starts_with(&start) && got.contains(expected),
            "{name}={value}: {got}"
        );
    }
}

#[test]
fn what_is_in_the_way_is_told_all_at_once() {
    check(
        &json!({
            "metadata": { "annotations": { "kith.dev/workers": "none", "kith.dev/x": "" } },
            "spec": {
                "hostNetwork": true,
                "os": { "name": "windows" },
                "securityContext": { "runAsUser": 1337 },
                "initContainers": [{ "name": "kith-capture", "image": "theirs" }],
                "containers": [
                    {
                        "name": "kith-proxy", "image": "theirs",
                        "securityContext": { "runAsUser": 1337 },
                        "ports": [{ "containerPort": 15001 }, { "containerPort": 15021, "protocol": "UDP" }],
                        "livenessProbe": { "httpGet": { "port": "web" } },
                        "volumeMounts": [{ "name": "kith-state", "mountPath": "/s" }],
                    },
                ],
                "volumes": [{ "name": "kith-workload-api", "emptyDir": {} }],
            },
        }),
        expect![[r#"
            metadata.annotations.kith.dev/workers: `none`: expected a whole number from 1 to 256
            metadata.annotations.kith.dev/x: there is no annotation `kith.dev/x`; there are, after kith.dev/: exclude-inbound-ports, exclude-outbound-ports, exclude-outbound-cidrs, log-level, access-log, workers, drain-seconds, drain-delay, cpu-request, cpu-limit, memory-request, memory-limit, rewrite-probes, state
            spec.containers[0].livenessProbe: container `kith-proxy` has no port named `web`: declare it, or write its number
            spec.containers[0].name: `kith-proxy` is the name of a container of the mesh: rename this one
            spec.containers[0].ports[0].containerPort: 15001 is a port of the sidecar: let the application listen on another
            spec.containers[0].securityContext.runAsUser: 1337 is the sidecar's user id, whose traffic is not captured: use another
            spec.containers[0].volumeMounts[0].name: `kith-state` is a volume of the sidecar: remove the mount
            spec.hostNetwork: this pod has its node's network, and a sidecar can capture only a network of the pod's own: remove hostNetwork, or leave the pod out with the label kith.dev/inject: "false"
            spec.initContainers[0].name: `kith-capture` is the name of a container of the mesh: rename this one
            spec.os.name: the sidecar runs on Linux only: leave the pod out with the label kith.dev/inject: "false"
            spec.securityContext.runAsUser: 1337 is the sidecar's user id, whose traffic is not captured: use another
            spec.volumes[0].name: `kith-workload-api` is the name of a volume of the sidecar: rename it"#]],
    );
}

#[test]
fn what_weakens_a_sidecar_is_a_warning() {
    check(
        &json!({ "spec": {
            "shareProcessNamespace": true,
            "dnsPolicy": "Default",
            "terminationGracePeriodSeconds": 4,
            "initContainers": [{ "name": "setup", "securityContext": { "capabilities": { "add": ["cap_net_admin"] } } }],
        } }),
        expect![[r#"
            injected
            warning: spec.initContainers[0].securityContext: container `setup` is able to remove the redirect rules, and so to go past the sidecar
            warning: spec.shareProcessNamespace: the pod's containers see the sidecar's process, and with its user id or as root could signal or read it
            warning: spec.dnsPolicy: with Default the node's resolver is asked, which rarely knows the control plane's name (https://kith-control.kith-system.svc:15010): the sidecar won't start without it
            warning: spec.terminationGracePeriodSeconds: 4 s are less than the drain delay and the drain together (5 s + 30 s): what is still open then is cut
            warning: spec.terminationGracePeriodSeconds: 4 s leave no room for the drain delay of 5 s, which is left out: when the pod is deleted, requests may fail"#]],
    );
}

#[test]
fn what_is_added_to_a_pod_with_a_sidecar_must_not_go_past_it() {
    let plain = pod(&json!({}));
    let with = |mut pod: Value, containers: Value| {
        pod["spec"]["ephemeralContainers"] = containers;
        pod
    };
    let check = |pod: &Value, before: &Value, expected: Expect| {
        let said = match check_ephemeral(pod, before) {
            Ok(warnings) => warnings.join("\n"),
            Err(refusal) => format!("refused: {refusal}"),
        };
        expected.assert_eq(&said);
    };
    let bad = json!([
        { "name": "good" },
        { "name": "user", "securityContext": { "runAsUser": 1337 } },
        { "name": "socket", "volumeMounts": [{ "name": "kith-workload-api", "mountPath": "/s" }] },
    ]);
    let injected = injected(&plain);
    check(
        &with(injected.clone(), bad.clone()),
        &injected,
        expect![
            "refused: spec.ephemeralContainers[1].securityContext.runAsUser: 1337 is the sidecar's user id, whose traffic is not captured: use another; spec.ephemeralContainers[2].volumeMounts[0].name: `kith-workload-api` is a volume of the sidecar: mount a volume of your own"
        ],
    );
    // Without a sidecar there is nothing to go past.
    check(&with(plain.clone(), bad.clone()), &plain, expect![""]);
    // What is there is there.
    let before = with(injected.clone(), bad.clone());
    let mut more = bad;
    let strong = json!({ "name": "strong", "securityContext": { "privileged": true }, "targetContainerName": "kith-proxy" });
    more.as_array_mut().unwrap().push(strong);
    check(
        &with(injected, more),
        &before,
        expect![[r#"
            spec.ephemeralContainers[3].securityContext: container `strong` is able to remove the redirect rules, and so to go past the sidecar
            spec.ephemeralContainers[3].targetContainerName: whoever is in this container sees the sidecar's process, and as root could read its keys"#]],
    );
}

#[test]
fn the_time_to_end_is_raised_only_where_nothing_was_said() {
    for (said, delay, drain, expected) in [
        (None, "5", "30", Some(35)),
        (Some(30), "5", "30", Some(35)),
        (Some(31), "5", "30", Some(31)),
        (Some(120), "5", "30", Some(120)),
        (None, "0", "20", None),
        (Some(30), "0", "30", Some(30)),
        (Some(0), "5", "30", Some(0)),
    ] {
        let pod = pod(&json!({
            "metadata": { "annotations": { "kith.dev/drain-delay": delay, "kith.dev/drain-seconds": drain } },
            "spec": { "terminationGracePeriodSeconds": said },
        }));
        let injected = injected(&pod);
        assert_eq!(
            injected["spec"]["terminationGracePeriodSeconds"].as_u64(),
            expected,
            "{said:?} {delay} {drain}"
        );
        let sleep = &injected["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
        let pauses = delay == "5" && said != Some(0);
        assert_eq!(sleep.as_u64(), pauses.then_some(5));
    }
}

#[test]
fn a_lower_limit_of_the_pod_lowers_the_default_request() {
    let (_, sidecar) = ours(&annotated("memory-limit", "16Mi"));
    assert_eq!(
        sidecar["resources"],
        json!({ "limits": { "memory": "16Mi" }, "requests": { "cpu": "50m", "memory": "16Mi" } })
    );
}

#[test]
fn what_a_limit_range_gave_to_our_containers_stays_when_we_are_asked_again() {
    let mut limited = injected(&pod(&json!({})));
    for index in [0, 1] {
        let resources = &mut limited["spec"]["initContainers"][index]["resources"];
        resources["limits"]["cpu"] = "500m".into();
        resources["limits"]["memory"] = "1Ti".into();
        resources["requests"]["ephemeral-storage"] = "1Gi".into();
    }
    let expected = json!({
        "limits": { "cpu": "500m", "memory": "256Mi" },
        "requests": { "cpu": "50m", "memory": "32Mi", "ephemeral-storage": "1Gi" },
    });
    // Nobody but the author of a manifest wrote them there.
    let (_, plain) = ours(&limited);
    assert_eq!(plain["resources"]["limits"], json!({ "memory": "256Mi" }));
    limited["metadata"]["annotations"]["kubernetes.io/limit-ranger"] =
        "LimitRanger plugin set: cpu limit for init container kith-proxy".into();
    let (capture, sidecar) = ours(&limited);
    assert_eq!(
        (&capture["resources"], &sidecar["resources"]),
        (&expected, &expected)
    );
    let again = injected(&limited);
    assert_eq!(injected(&again), again);
}

#[test]
fn lists_add_to_those_of_the_settings() {
    let text = "{image: p, captureImage: c, trustDomain: d, defaults: {exclude-outbound-ports: '53', exclude-outbound-cidrs: 192.0.2.1}}";
    let settings = Settings::parse(Path::new("i"), text).unwrap();
    let outcome = inject(
        &annotated("exclude-outbound-ports", "25,53"),
        "shop",
        &enabled(),
        &settings,
    );
    let Ok(Outcome::Injected { pod, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        pod["spec"]["initContainers"][0]["args"],
        json!([
            "capture",
            "--uid",
            "1337",
            "--exclude-outbound-ports",
            "25,53",
            "--exclude-outbound-cidrs",
            "192.0.2.1"
        ])
    );
}

#[test]
fn a_probe_that_would_keep_the_sidecar_from_starting_is_refused() {
    let header = |value: &str| json!({ "httpGet": { "port": 80, "httpHeaders": [{ "name": "x", "value": value }] } });
    for (probe, expected) in [
        (
            header("a\nb"),
            "httpHeaders: expected a list of name and value",
        ),
        (
            json!({ "httpGet": { "port": 80, "scheme": "https" } }),
            "scheme: expected HTTP or HTTPS",
        ),
        (
            json!({ "tcpSocket": { "port": 80 }, "timeoutSeconds": 0 }),
            "timeoutSeconds: expected a whole number from 1",
        ),
    ] {
        let pod =
            pod(&json!({ "spec": { "containers": [{ "name": "web", "livenessProbe": probe }] } }));
        let got = outcome(&pod);
        let start = "spec.containers[0].livenessProbe: the sidecar cannot ask this: ";
        assert!(got.starts_with(start) && got.contains(expected), "{got}");
    }
}

#[test]
fn probes_stay_when_they_are_not_to_be_rewritten() {
    let probe = json!({ "httpGet": { "port": "http" } });
    let pod = pod(&json!({
        "metadata": { "annotations": { "kith.dev/rewrite-probes": "false" } },
        "spec": { "containers": [{ "name": "web", "livenessProbe": probe }] },
    }));
    assert_eq!(
        injected(&pod)["spec"]["containers"][0]["livenessProbe"],
        probe
    );
    assert_eq!(variable(&ours(&pod).1, "KITH_APP_PROBES"), Value::Null);
}

#[test]
fn containers_that_came_after_the_first_injection_are_treated_like_all_others() {
    let plain = pod(
        &json!({ "spec": { "containers": [{ "name": "web", "livenessProbe": { "httpGet": { "path": "/$(A)$$", "port": 80 } } }] } }),
    );
    let mut again = injected(&plain);
    let added = json!({ "name": "agent", "readinessProbe": { "grpc": { "port": 7 } } });
    again["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(added);
    let first = json!({ "name": "first" });
    again["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .insert(0, first);
    let (_, sidecar) = ours(&again);
    assert_eq!(
        variable(&sidecar, "KITH_APP_PROBES").as_str().unwrap().replace("$$", "$"),
        json!({
            "agent/readiness": { "grpc": { "port": 7, "service": "" }, "timeoutSeconds": 1 },
            "web/liveness": { "httpGet": { "path": "/$(A)$$", "port": 80, "scheme": "HTTP" }, "timeoutSeconds": 1 },
        })
        .to_string()
    );
    let names: Vec<_> = injected(&again)["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].clone())
        .collect();
    assert_eq!(names, ["kith-capture", "kith-proxy", "first"]);
}

#[test]
fn what_only_looks_injected_is_refused() {
    // Probes point to a sidecar that knows nothing of them.
    let orphan = json!({ "name": "web", "livenessProbe": { "httpGet": { "path": "/app-health/web/liveness", "port": 15021 } } });
    let sidecar = json!({ "name": SIDECAR, "restartPolicy": "Always" });
    check(
        &json!({
            "metadata": { "annotations": { "kith.dev/status": "injected" } },
            "spec": { "containers": [orphan.clone()], "initContainers": [sidecar] },
        }),
        expect![
            "spec.containers[0].livenessProbe: 15021 is a port of the sidecar: write what the application is to be asked"
        ],
    );
    check(
        &json!({ "spec": { "containers": [orphan] } }),
        expect![
            "spec.containers[0].livenessProbe: 15021 is a port of the sidecar: write what the application is to be asked"
        ],
    );
    // A sidecar of one's own making takes no part.
    let (_, replaced) = ours(&pod(&json!({
        "metadata": { "annotations": { "kith.dev/status": "injected" } },
        "spec": { "initContainers": [{ "name": SIDECAR, "restartPolicy": "Always", "image": "evil" }] },
    })));
    assert_eq!(replaced["image"], "proxy");
}

#[test]
fn settings_are_refused_with_all_that_is_wrong() {
    let problems = |text: &str| {
        let problems = Settings::parse(Path::new("i.yaml"), text).unwrap_err();
        problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect::<String>()
    };
    let text = "
image: ''
captureImage: c
trustDomain: spiffe://x
controlPlane: {address: 'http://x'}
workloadApi: {socketName: ../x}
stateSizeLimit: much
defaults: {workers: '0', wrokers: '1'}
";
    expect![[r#"
        i.yaml:2: image: `` is not the name of an image
        i.yaml:4: trustDomain: `spiffe://x` has ':' in its trust domain; only a-z, 0-9, `.`, `-`, `_` are allowed (SPIFFE-ID 2.1)
        i.yaml:7: stateSizeLimit: `much` is not a size such as 16Mi
        i.yaml:6: workloadApi.socketName: `../x` is not the name of a file in the driver's volume
        i.yaml:5: controlPlane.address: `http://x`: expected https://host:port
        i.yaml:8: defaults.wrokers: there is no annotation `kith.dev/wrokers`; there are, after kith.dev/: exclude-inbound-ports, exclude-outbound-ports, exclude-outbound-cidrs, log-level, access-log, workers, drain-seconds, drain-delay, cpu-request, cpu-limit, memory-request, memory-limit, rewrite-probes, state
        i.yaml:8: defaults.workers: `0`: expected a whole number from 1 to 256
    "#]]
    .assert_eq(&problems(text));
    assert!(problems("").contains("is empty"));
    assert!(
        problems("{image: a, captureImage: b, trustDomain: c, imgae: d}")
            .contains("unknown field `imgae`")
    );
}

#[test]
fn a_hook_is_known_to_the_kubelet_alone() {
    let http = json!({ "httpGet": { "port": 80, "path": "/stop" } });
    let hooked = pod(&json!({ "spec": { "containers": [
        { "name": "web", "image": "i", "livenessProbe": http, "lifecycle": { "preStop": http, "postStart": http } },
    ] } }));
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let pod = injected(&hooked);
        let variable = variable(&ours(&pod).1, "KITH_APP_PROBES");
        let told: Value = serde_json::from_str(variable.as_str().unwrap()).unwrap();
        let web = &pod["spec"]["containers"][0];
        for (hook, kind) in [("preStop", "prestop"), ("postStart", "poststart")] {
            let key = told[format!("web/{kind}")]["key"].as_str().unwrap();
            assert_eq!(
                web["lifecycle"][hook]["httpGet"]["path"],
                format!("/app-health/web/{kind}/{key}")
            );
            assert!(key.len() == 32 && keys.insert(key.to_owned()), "{key}");
        }
        assert_eq!(
            web["livenessProbe"]["httpGet"]["path"],
            "/app-health/web/liveness"
        );
        assert_eq!(told["web/liveness"]["key"], Value::Null);
    }
}

/// Pods of all sorts, the same for the same seed.
fn any_pod(random: &mut fastrand::Rng) -> Value {
    let port = |random: &mut fastrand::Rng| match random.u8(..3) {
        0 => json!("http"),
        _ => json!(random.u16(1..15000)),
    };
    let handler = |random: &mut fastrand::Rng| match random.u8(..7) {
        0 => json!({ "exec": { "command": ["x"] } }),
        1 => json!({ "tcpSocket": { "port": port(random) } }),
        2 => json!({ "grpc": { "port": random.u16(1..15000) }, "timeoutSeconds": random.u8(1..) }),
        3 => json!({ "httpGet": { "port": port(random), "host": "elsewhere" } }),
        4 => json!({ "sleep": { "seconds": 3 } }),
        _ => {
            json!({ "httpGet": { "port": port(random), "path": "/a$(B)$$c$", "httpHeaders": [{ "name": "a", "value": "$" }] }, "periodSeconds": 3 })
        }
    };
    let container = |random: &mut fastrand::Rng, name: String, lasting: bool| {
        let mut container = json!({ "name": name, "ports": [{ "name": "http", "containerPort": random.u16(1..15000) }] });
        for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
            if lasting && random.bool() {
                container[field] = handler(random);
            }
        }
        for field in ["preStop", "postStart"] {
            if lasting && random.bool() {
                container["lifecycle"][field] = handler(random);
            }
        }
        container
    };
    let containers: Vec<_> = (0..random.u8(1..4))
        .map(|n| container(random, format!("c{n}"), true))
        .collect();
    let mut pod = json!({ "metadata": {}, "spec": { "containers": containers } });
    if random.bool() {
        let init = (0..random.u8(..3)).map(|n| {
            let lasting = random.bool();
            let mut container = container(random, format!("i{n}"), lasting);
            if lasting {
                container["restartPolicy"] = "Always".into();
            }
            container
        });
        pod["spec"]["initContainers"] = init.collect();
    }
    if random.bool() {
        pod["spec"]["terminationGracePeriodSeconds"] = random.u8(..).into();
    }
    for (name, value) in [
        ("drain-delay", "20"),
        ("rewrite-probes", "false"),
        ("state", "false"),
        ("log-level", "debug"),
    ] {
        if random.u8(..4) == 0 {
            pod["metadata"]["annotations"][format!("kith.dev/{name}")] = value.into();
        }
    }
    pod
}

#[test]
fn injecting_twice_is_injecting_once() {
    for seed in 0..500 {
        let pod = any_pod(&mut fastrand::Rng::with_seed(seed));
        let once = injected(&pod);
        assert_eq!(injected(&once), once, "seed {seed}: {pod}");
        // And nothing of what the pod says itself is lost.
        for field in ["containers", "initContainers"] {
            for container in pod["spec"][field].as_array().into_iter().flatten() {
                let all = once["spec"][field].as_array().unwrap();
                assert!(
                    all.iter()
                        .any(|it| it["name"] == container["name"]
                            && it["ports"] == container["ports"])
                );
            }
        }
    }
}
