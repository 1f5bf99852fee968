use expect_test::expect;

use super::*;

fn settings() -> Settings {
    let text = "{image: proxy, captureImage: capture, trustDomain: example.org}";
    Settings::parse(Path::new("injection.yaml"), text).unwrap()
}

fn run(text: &str) -> Result<Vec<Part<'_>>, Vec<Problem>> {
    inject_text(Path::new("f.yaml"), text, &settings())
}

#[test]
fn what_has_no_pods_is_passed_through_byte_for_byte() {
    for text in [
        "",
        "\n# nothing\n",
        "a: 1   # kept\n--- # so is this\r\nb: {c:   d}\n...\n",
        "%YAML 1.2\n---\nkind: X\n",
        "---\n---\n---",
        "kind: Service\napiVersion: v1",
        "kind: Deployment\napiVersion: example.org/v1\nspec: {}\n",
        "a: |\n  ---\n  b\n--- {kind: Pod}\n",
    ] {
        let parts = run(text).unwrap();
        assert!(parts.iter().all(|part| part.injected.is_none()), "{text}");
        assert_eq!(parts.iter().map(|part| part.text).collect::<String>(), text);
        assert_eq!(parts.iter().map(Part::result).collect::<String>(), text);
    }
}

#[test]
fn every_kind_that_makes_pods_is_known() {
    let pod = "{containers: [{name: a, image: b}]}";
    let template = format!("{{spec: {pod}}}");
    for (kind, rest) in [
        ("v1, kind: Pod", format!("spec: {pod}")),
        ("v1, kind: PodTemplate", format!("template: {template}")),
        (
            "v1, kind: ReplicationController",
            format!("spec: {{template: {template}}}"),
        ),
        (
            "apps/v1, kind: Deployment",
            format!("spec: {{template: {template}}}"),
        ),
        (
            "apps/v1, kind: StatefulSet",
            format!("spec: {{template: {template}}}"),
        ),
        (
            "apps/v1, kind: DaemonSet",
            format!("spec: {{template: {template}}}"),
        ),
        (
            "apps/v1, kind: ReplicaSet",
            format!("spec: {{template: {template}}}"),
        ),
        (
            "batch/v1, kind: Job",
            format!("spec: {{template: {template}}}"),
        ),
        (
            "batch/v1, kind: CronJob",
            format!("spec: {{jobTemplate: {{spec: {{template: {template}}}}}}}"),
        ),
    ] {
        let one = format!("{{apiVersion: {kind}, metadata: {{name: x}}, {rest}}}");
        let list = format!("{{apiVersion: v1, kind: List, items: [{{kind: Service}}, {one}]}}");
        for text in [one, list] {
            let parts = run(&text).unwrap();
            let result = parts[0].injected.as_ref().map(|it| it.after.clone());
            let result = result.unwrap_or_default();
            assert_eq!(result.matches("name: kith-proxy").count(), 1, "{text}");
            assert_eq!(run(&result).unwrap()[0].injected, None, "{text}");
        }
    }
}

#[test]
fn a_document_that_nobody_would_look_at_is_refused() {
    let pod = |name| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c}}]}}\n"
        )
    };
    let text = format!("# two\n---\n{}...\n{}", pod("a"), pod("b"));
    let problems = run(&text).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "f.yaml:3: more than one document, with `...` between them: begin each with `---`"
    );
    let text = format!("{}...\n---\n{}...\n", pod("a"), pod("b"));
    let injected = run(&text).unwrap();
    assert!(injected.iter().all(|part| part.injected.is_some()));
}

/// As kubectl 1.36 has them in `kubectl create --dry-run=client -o json`.
#[test]
fn values_without_quotes_are_what_kubectl_makes_of_them() {
    for (written, expected) in [
        ("0644", serde_json::json!(420)),
        ("-0644", serde_json::json!(-420)),
        ("0o17", serde_json::json!(15)),
        ("0x50", serde_json::json!(80)),
        ("0b11", serde_json::json!(3)),
        ("8_080", serde_json::json!(8080)),
        ("00", serde_json::json!(0)),
        ("yes", serde_json::json!(true)),
        ("on", serde_json::json!(true)),
        ("No", serde_json::json!(false)),
        ("n", serde_json::json!(false)),
        ("TRUE", serde_json::json!(true)),
        ("~", serde_json::json!(null)),
        ("1:30", serde_json::json!("1:30")),
        ("2020-01-01", serde_json::json!("2020-01-01")),
        ("'0644'", serde_json::json!("0644")),
        ("\"yes\"", serde_json::json!("yes")),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{{name: c, x: {written}}}]}}\n"
        );
        let parts = run(&text).unwrap();
        let after = &parts[0].injected.as_ref().unwrap().after;
        let read = manifests(Path::new("f"), after).unwrap()[0].to_json();
        assert_eq!(read["spec"]["containers"][0]["x"], expected, "{written}");
        // And to a reader of YAML 1.2 it is the same.
        let read = crate::yaml::trees(Path::new("f"), after).unwrap()[0].to_json();
        assert_eq!(read["spec"]["containers"][0]["x"], expected, "{written}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line_in_the_file() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: a
  annotations:
    kith.dev/workers: many
spec: {containers: [{name: a}]}
---
# fine
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {kith.dev/inject: \"false\"}}
spec: {hostNetwork: true}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: c}
spec:
  template:
    spec:
      containers: [{name: a}]
      hostNetwork: true
---
a: [
";
    let problems = run(text).unwrap_err();
    let told: Vec<String> = problems
        .iter()
        .map(|it| format!("{}: {}", it.line, it.field))
        .collect();
    expect![[r#"
        [
            "6: metadata.annotations.kith.dev/workers",
            "22: spec.template.spec.hostNetwork",
            "24: ",
        ]
    "#]]
    .assert_debug_eq(&told);
}

#[test]
fn a_pod_that_does_not_want_a_sidecar_is_named() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop, labels: {kith.dev/inject: 'false'}}}";
    let parts = run(text).unwrap();
    let reason = "its label kith.dev/inject is \"false\"".to_owned();
    assert_eq!(parts[0].left, [("Pod shop/b".to_owned(), reason)]);
}

/// What other readers of YAML take for a number, a boolean or nothing.
#[test]
fn texts_that_look_like_something_else_stay_texts() {
    let odd = [
        "yes",
        "NO",
        "on",
        "y",
        "~",
        "null",
        "",
        "0755",
        "0x1F",
        "0o7",
        "0b1",
        "1_000",
        "1e3",
        ".5",
        "+1",
        ".inf",
        "12:30:45",
        "2001-01-01",
        "=",
        "<<",
        "#x",
        "- a",
        "@x",
        "%x",
        "&a",
        "*a",
        "!a",
        "a: b",
        "a #b",
        " a",
        "a ",
        "a\tb\n\n",
        "\n",
        "\u{85}\u{feff}",
        "\"",
        "'",
        "\\",
        "{a}",
        "[a]",
        "---",
        "...",
        "|",
        ">",
        "?",
        ",",
    ];
    let env: Vec<Value> = odd
        .iter()
        .map(|it| serde_json::json!({ "name": "A", "value": it }))
        .collect();
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" },
        "spec": { "containers": [{ "name": "a", "env": env }] },
    });
    let text = pod.to_string();
    let parts = run(&text).unwrap();
    let after = &parts[0].injected.as_ref().unwrap().after;
    let read = manifests(Path::new("f"), after).unwrap()[0].to_json();
    assert_eq!(
        read["spec"]["containers"][0]["env"],
        pod["spec"]["containers"][0]["env"]
    );
    // Readers of YAML 1.1, such as kubectl's.
    for plain in [
        "yes",
        "NO",
        "on",
        "y",
        "0755",
        "0b1",
        "1_000",
        "12:30:45",
        "2001-01-01",
    ] {
        assert!(after.contains(&format!("value: \"{plain}\"\n")), "{plain}");
    }
}
