//! The CustomResourceDefinitions on a real API server: it takes every document that the engine takes, and what the engine
//! refuses it refuses in the engine's words, but for what only the engine can know.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kith_control::{crd, yaml};
use kith_tests::kube::Cluster;
use serde_json::{Value, json};

/// The API server, as its administrator.
struct Kubectl<'a> {
    program: &'a Path,
    kubeconfig: &'a Path,
}

/// Documents of `tests/policy/refused` that a schema cannot refuse, with the reason. The validating webhook does.
const ONLY_THE_ENGINE: [(&str, &str); 12] = [
    ("cel-not-a-bool", "expressions are compiled by the engine"),
    (
        "cel-regular-expression",
        "expressions are compiled by the engine",
    ),
    ("cel-syntax", "expressions are compiled by the engine"),
    ("cel-type", "expressions are compiled by the engine"),
    (
        "cel-unknown-attribute",
        "expressions are compiled by the engine",
    ),
    (
        "deny-path-that-no-request-has",
        "paths are normalised by the engine",
    ),
    (
        "dry-run-neither-true-nor-false",
        "a schema sees no annotations",
    ),
    ("mesh-config", "it is a mistake in a file of tests only"),
    (
        "nothing-behind-a-key",
        "to a rule, a key with nothing behind it is an absent one",
    ),
    (
        "same-policy-twice",
        "in a cluster there is one object of a name",
    ),
    (
        "unknown-key",
        "unknown keys are kept for the engine to see, and rules see declared ones only",
    ),
    // The list item is refused, by its type; the words are the API server's own.
    (
        "nothing-in-a-list",
        "types are checked before rules, and not in words of ours",
    ),
];

/// Files there without a policy in them.
const NO_POLICY: [&str; 3] = [
    "everything-at-once",
    "not-a-test-file",
    "policy-file-missing",
];

/// What the engine refuses of the other kinds: kind, and spec.
const REFUSED: [(&str, &str); 33] = [
    ("MeshConfig", "{trustDomain: Example}"),
    ("MeshConfig", "{trustDomain: 'spiffe://example.org'}"),
    ("MeshConfig", "{trustDomain: a, trustDomainAliases: [b/c]}"),
    ("MeshConfig", "{trustDomain: a, rootNamespace: A.b}"),
    ("Workload", "{addresses: [10.0.0.1]}"),
    ("Workload", "{addresses: [10.0.0.1], serviceAccount: a b}"),
    ("Workload", "{addresses: [], mesh: false}"),
    (
        "Workload",
        "{addresses: [10.0.0.1], mesh: false, spiffeId: 'spiffe://a/b'}",
    ),
    ("Workload", "{addresses: [web.example], serviceAccount: a}"),
    ("Workload", "{addresses: ['::'], serviceAccount: a}"),
    (
        "Workload",
        "{addresses: [10.0.0.1], serviceAccount: a, spiffeId: 'spiffe://a'}",
    ),
    (
        "Workload",
        "{addresses: [10.0.0.1], serviceAccount: a, spiffeId: 'spiffe://a//b'}",
    ),
    (
        "Workload",
        "{addresses: [10.0.0.1], serviceAccount: a, spiffeId: 'spiffe://a/b%2f'}",
    ),
    ("Service", "{selector: {app: a}, ports: [{port: 80}]}"),
    (
        "Service",
        "{addresses: [10.0.0.1], selector: {}, ports: [{port: 80}]}",
    ),
    (
        "Service",
        "{addresses: [10.0.0.1], selector: {app: 'a*'}, ports: [{port: 80}]}",
    ),
    (
        "Service",
        "{addresses: [10.0.0.1], selector: {app: a}, ports: []}",
    ),
    (
        "Service",
        "{hosts: [10.0.0.1], selector: {app: a}, ports: [{port: 80}]}",
    ),
    (
        "Service",
        "{hosts: [a b], selector: {app: a}, ports: [{port: 80}]}",
    ),
    (
        "PeerAuthentication",
        "{portLevelMtls: {'80': {mode: STRICT}}}",
    ),
    (
        "RequestAuthentication",
        "{targetRefs: [{kind: Gateway, name: g}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{jwksUri: 'https://a/'}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: 'https://a', spiffeTrustDomain: b}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: 'https://a', timeout: 11m}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: 'https://a', timeout: soon}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: 'https://a', clockSkew: 1500ms}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: 'https://a', audiences: ['']}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: 'https://a', fromHeaders: [{name: 'a b'}]}]}",
    ),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: 'https://a', spaceDelimitedClaims: [x]}]}",
    ),
    (
        "Revocation",
        "{principal: 'spiffe://a/b', token: {}, until: never, reason: ' '}",
    ),
    (
        "Revocation",
        "{certificate: {trustDomain: a, serial: '0:0'}, reason: x}",
    ),
    (
        "Revocation",
        "{principal: 'spiffe://a/b', until: '2030-01-01T00:00:00+24:00', reason: x}",
    ),
    (
        "Revocation",
        "{principal: 'spiffe://a/b', until: '2030-01-01é00:00:00Z', reason: x}",
    ),
];

/// Where documents are taken to; nothing stays there.
const NAMESPACE: &str = "crds";

#[test]
fn documents_are_taken_or_refused_as_the_engine_would() {
    Cluster::run(async |cluster| {
        let (program, kubeconfig) = (cluster.api.kubectl_program(), cluster.api.kubeconfig());
        check(&Kubectl {
            program,
            kubeconfig,
        });
    });
}

fn check(kubectl: &Kubectl<'_>) {
    establish(kubectl);
    takes_what_the_engine_takes(kubectl);
    refuses_policies_in_the_engines_words(kubectl);
    refuses_other_kinds_in_the_engines_words(kubectl);
    keeps_what_it_does_not_know(kubectl);
}

/// Every definition is established, and none has a schema that is not structural.
fn establish(kubectl: &Kubectl<'_>) {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let apply = ["apply", "--server-side", "-f", "-"];
    let (created, said) = kubectl.run(&apply, &namespace.to_string());
    assert!(created, "{said}");
    let definitions = crd::definitions().unwrap();
    for definition in &definitions {
        let (created, said) = kubectl.run(&apply, &definition.text);
        assert!(created, "{}: {said}", definition.file);
    }
    let names = definitions.iter().map(|it| {
        let plural = it.file.strip_suffix(".yaml").unwrap();
        format!("crd/{plural}.kith.dev")
    });
    let names: Vec<_> = names.collect();
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=60s"];
    wait.extend(names.iter().map(String::as_str));
    let (established, said) = kubectl.run(&wait, "");
    assert!(established, "{said}");
    let mut get = vec!["get", "-o", "json"];
    get.extend(names.iter().map(String::as_str));
    let (_, said) = kubectl.run(&get, "");
    let found: Value = serde_json::from_str(&said).unwrap();
    for definition in found["items"].as_array().unwrap() {
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        let structural = conditions
            .iter()
            .all(|it| it["type"] != "NonStructuralSchema");
        assert!(structural, "{conditions:?}");
    }
}

/// Every good document of the repository, as one of `kith.dev`.
fn takes_what_the_engine_takes(kubectl: &Kubectl<'_>) {
    let mut documents = Vec::new();
    for file in files("deploy/examples")
        .into_iter()
        .chain(files("deploy/examples/shop"))
    {
        documents.extend(trees(&file, &fs::read_to_string(&file).unwrap()));
    }
    let guide = root().join("deploy/POLICIES.md");
    let text = fs::read_to_string(&guide).unwrap();
    for block in text.split("```yaml\n").skip(1) {
        documents.extend(trees(&guide, block.split("```").next().unwrap()));
    }
    for file in files("tests/policy") {
        let suites = trees(&file, &fs::read_to_string(&file).unwrap());
        documents.extend(suites.iter().flat_map(policies));
    }
    for file in files("deploy/control-plane/tests/istio") {
        if !file.to_string_lossy().contains("refused") {
            documents.extend(
                trees(&file, &fs::read_to_string(&file).unwrap())
                    .iter()
                    .flat_map(items),
            );
        }
    }
    let documents: Vec<_> = documents.iter().filter_map(as_ours).collect();
    assert!(
        documents.len() > 100,
        "only {} documents found",
        documents.len()
    );
    let mut stream = String::new();
    for document in &documents {
        assert_eq!(engine(document), Vec::<String>::new(), "{document}");
        stream.push_str(&format!("---\n{document}\n"));
    }
    let (taken, said) = kubectl.run(&CREATE, &stream);
    assert!(taken, "{said}");
    let created = said
        .lines()
        .filter(|line| line.contains(" created"))
        .count();
    assert_eq!(created, documents.len(), "{said}");
    println!("{created} documents are taken");
}

/// Of `tests/policy/refused`.
fn refuses_policies_in_the_engines_words(kubectl: &Kubectl<'_>) {
    let excused: BTreeSet<_> = ONLY_THE_ENGINE
        .iter()
        .map(|it| it.0)
        .chain(NO_POLICY)
        .collect();
    let mut refused = 0;
    let mut seen = BTreeSet::new();
    for file in files("tests/policy/refused") {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        seen.insert(name.clone());
        if excused.contains(name.as_str()) {
            continue;
        }
        let suites = trees(&file, &fs::read_to_string(&file).unwrap());
        let documents: Vec<_> = suites.iter().flat_map(policies).collect();
        assert!(
            !documents.is_empty(),
            "{name} has no policy: name it in NO_POLICY"
        );
        for document in documents.iter().filter_map(as_ours) {
            refuses(kubectl, &name, &document);
            refused += 1;
        }
    }
    for (name, why) in ONLY_THE_ENGINE {
        let file = root().join(format!("tests/policy/refused/{name}.yaml"));
        for suite in trees(&file, &fs::read_to_string(&file).unwrap()) {
            for document in policies(&suite).iter().filter_map(as_ours) {
                let expected = engine(&document);
                let (taken, said) = kubectl.run(&CREATE, &document.to_string());
                let all_said = expected.iter().all(|it| said.contains(it));
                assert!(
                    taken || !all_said,
                    "{name} is refused in the engine's words after all ({why}): take it off the list"
                );
            }
        }
    }
    let gone: Vec<_> = excused.iter().filter(|it| !seen.contains(**it)).collect();
    assert!(gone.is_empty(), "excused, but not there: {gone:?}");
    println!(
        "{refused} policies are refused in the engine's words, {} only by the engine",
        ONLY_THE_ENGINE.len()
    );
}

/// Of the other kinds.
fn refuses_other_kinds_in_the_engines_words(kubectl: &Kubectl<'_>) {
    for (kind, spec) in REFUSED {
        let text = format!(
            "apiVersion: kith.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"
        );
        let document = &trees(Path::new("refused"), &text)[0];
        refuses(kubectl, spec, &as_ours(document).unwrap());
    }
    println!(
        "{} documents of other kinds are refused in the engine's words",
        REFUSED.len()
    );
}

/// A client that does not ask for strict validation must not lose a restriction: the engine sees it, and refuses.
fn keeps_what_it_does_not_know(kubectl: &Kubectl<'_>) {
    let document = json!({
        "apiVersion": "kith.dev/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"namespace": NAMESPACE, "name": "unknown-keys"},
        "spec": {"rules": [{"from": [{"source": {"principals": ["*"], "principal": ["a/b"]}}], "when": null, "too": []}]},
        "rules": [],
    });
    let create = [
        "create",
        "--validate=ignore",
        "--dry-run=server",
        "-o",
        "json",
        "-f",
        "-",
    ];
    let (created, said) = kubectl.run(&create, &document.to_string());
    assert!(created, "{said}");
    let kept: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(kept["rules"], document["rules"]);
    assert_eq!(kept["spec"]["rules"], document["spec"]["rules"]);
    assert_ne!(engine(&kept), Vec::<String>::new());
}

const CREATE: [&str; 4] = ["create", "--dry-run=server", "-f", "-"];

/// The API server refuses, and says what the engine says of each field.
fn refuses(kubectl: &Kubectl<'_>, name: &str, document: &Value) {
    let expected = engine(document);
    assert!(!expected.is_empty(), "{name}: the engine takes {document}");
    let (taken, said) = kubectl.run(&CREATE, &document.to_string());
    assert!(!taken, "{name} is taken, but the engine says {expected:?}");
    for message in expected {
        assert!(
            said.contains(&message),
            "{name}: expected {message:?} in:\n{said}"
        );
    }
}

/// What the engine says of a document.
fn engine(document: &Value) -> Vec<String> {
    match yaml::load_str(Path::new("document"), &document.to_string()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|it| it.message).collect(),
    }
}

/// One of `kith.dev` in a namespace that exists; none if it is no document of a mesh.
fn as_ours(document: &Value) -> Option<Value> {
    let version = document["apiVersion"].as_str()?;
    if !version.starts_with("security.istio.io/") && !version.starts_with("kith.dev/") {
        return None;
    }
    let mut ours = document.clone();
    ours["apiVersion"] = "kith.dev/v1alpha1".into();
    if !["MeshConfig", "Revocation"].contains(&ours["kind"].as_str()?) {
        ours["metadata"]["namespace"] = NAMESPACE.into();
    }
    // Never that of an object that somebody needs.
    let name = ours["metadata"]["name"].as_str()?;
    ours["metadata"]["name"] = format!("{NAMESPACE}-{name}").into();
    // What a cluster added to an exported object is not for one that is created.
    for field in [
        "uid",
        "resourceVersion",
        "managedFields",
        "selfLink",
        "ownerReferences",
    ] {
        ours["metadata"].as_object_mut()?.remove(field);
    }
    Some(ours)
}

fn policies(suite: &Value) -> Vec<Value> {
    suite["policies"].as_array().cloned().unwrap_or_default()
}

fn items(document: &Value) -> Vec<Value> {
    match document["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![document.clone()],
    }
}

fn trees(file: &Path, text: &str) -> Vec<Value> {
    let trees = yaml::trees(file, text).unwrap_or_else(|problems| panic!("{problems:?}"));
    trees.iter().map(yaml::Node::to_json).collect()
}

/// Sorted.
fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    files.sort();
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

impl Kubectl<'_> {
    /// Whether it went well, and all that it said.
    fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new(self.program)
            .arg("--kubeconfig")
            .arg(self.kubeconfig)
            // Not the person's own, where every cluster of the lab would be the same one, by its address.
            .arg("--cache-dir")
            .arg(self.kubeconfig.with_file_name("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }
}
