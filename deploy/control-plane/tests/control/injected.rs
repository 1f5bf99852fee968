//! What injection makes of three different pods, as text to read: `tests/injected`. With UPDATE_EXPECT=1 it is written anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kith_control::inject::manifest::inject_text;
use kith_control::inject::{Outcome, Settings, inject};
use kith_proxy::config::{Config, Flags, command_line};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/injected")
}

fn settings() -> Settings {
    let text = "
image: registry.example/kith-proxy:0.1.0
captureImage: registry.example/kith-capture:0.1.0
trustDomain: example.org
version: 0.1.0
";
    Settings::parse(Path::new("injection.yaml"), text).unwrap()
}

/// The pod in a file and what it became, after its text was compared.
fn check(name: &str) -> Value {
    let file = folder().join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&file).unwrap();
    let parts = inject_text(&file, &text, &settings()).unwrap();
    let injected: String = parts
        .iter()
        .map(kith_control::inject::manifest::Part::result)
        .collect();
    expect_test::expect_file![folder().join(format!("{name}.injected.yaml"))]
        .assert_eq(&without_keys(&injected));
    let again = inject_text(&file, &injected, &settings()).unwrap();
    let again: String = again
        .iter()
        .map(kith_control::inject::manifest::Part::result)
        .collect();
    assert_eq!(again, injected, "injecting twice is not injecting once");

    let trees = kith_control::yaml::trees(&file, &injected).unwrap();
    let object = trees[0].to_json();
    let pod = match object["kind"].as_str() {
        Some("Pod") => object,
        _ => object["spec"]["template"].clone(),
    };
    starts(&pod);
    pod
}

/// The random keys of hooks replaced: runs of 32 hexadecimal digits, of which there are no others.
fn without_keys(text: &str) -> String {
    let is_digit = |it: char| it.is_ascii_digit() || ('a'..='f').contains(&it);
    let mut out = String::new();
    for part in text.split_inclusive(|it| !is_digit(it)) {
        let digits = part.trim_end_matches(|it| !is_digit(it));
        if digits.len() == 32 {
            out.push_str("KEY");
            out.push_str(&part[32..]);
        } else {
            out.push_str(part);
        }
    }
    out
}

/// Whether the sidecar and capture take what is said to them, with the pod's own facts filled in as the kubelet does.
fn starts(pod: &Value) {
    let container = |name: &str| {
        let all = pod["spec"]["initContainers"].as_array().unwrap();
        all.iter().find(|it| it["name"] == name).unwrap()
    };
    let facts = [
        ("POD_NAME", "web-1"),
        ("POD_NAMESPACE", "shop"),
        ("POD_IP", "10.1.2.3"),
        ("POD_IPS", "10.1.2.3,fd00::3"),
    ];
    let variables = container("kith-proxy")["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let name = it["name"].as_str().unwrap();
            let fact = facts.iter().find(|(fact, _)| *fact == name);
            let value = fact.map_or_else(
                || expand(it["value"].as_str().unwrap(), &facts),
                |(_, value)| (*value).to_owned(),
            );
            (name.to_owned(), value)
        });
    Config::from_parts(variables, Flags::default()).unwrap();
    let args = container("kith-capture")["args"].as_array().unwrap();
    let args = args.iter().map(|it| it.as_str().unwrap().into());
    command_line(std::iter::once("kith-proxy".into()).chain(args)).unwrap();
}

/// `$(NAME)` and `$$`, as Kubernetes has them.
fn expand(text: &str, facts: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else {
            let (name, after) = after.strip_prefix('(').unwrap().split_once(')').unwrap();
            out.push_str(facts.iter().find(|(fact, _)| *fact == name).unwrap().1);
            rest = after;
        }
    }
    out + rest
}

#[test]
fn a_web_pod_of_a_deployment() {
    let pod = check("web");
    let labels = BTreeMap::from([("kith.dev/injection".to_owned(), "enabled".to_owned())]);
    let again = inject(&pod, "shop", &labels, &settings()).unwrap();
    assert_eq!(
        again,
        Outcome::Injected {
            pod,
            warnings: vec![]
        }
    );
}

#[test]
fn a_hardened_pod() {
    check("hardened");
}

#[test]
fn a_job_with_init_containers() {
    check("job");
}
