use std::path::Path;

use expect_test::expect;

use super::*;
use crate::yaml;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../chart/crds")
}

#[test]
fn the_charts_definitions_are_those_of_the_types() {
    let again = "run `cargo run -p kith-control -- crds --write deploy/chart/crds`";
    let definitions = definitions().unwrap();
    for Definition { file, text } in &definitions {
        let written = std::fs::read_to_string(chart().join(file)).unwrap_or_default();
        assert!(
            written == *text,
            "deploy/chart/crds/{file} differs: {again}"
        );
    }
    let there = std::fs::read_dir(chart()).unwrap().count();
    assert_eq!(there, definitions.len(), "a file more than there are kinds");
}

#[test]
fn a_kind_becomes_a_structural_schema() {
    let kind = KINDS.iter().find(|it| it.kind == "PeerAuthentication");
    let spec = kind.unwrap().spec();
    let mtls = serde_json::to_string_pretty(&spec["properties"]["mtls"]).unwrap();
    expect![[r#"
        {
          "description": "What holds for every port.",
          "nullable": true,
          "properties": {
            "mode": {
              "description": "`STRICT`: mutual TLS only. `PERMISSIVE`: plaintext too, where no policy asks for an identity. `DISABLE`: plaintext only. `UNSET`: as the level above says. Default: `UNSET`.",
              "enum": [
                "STRICT",
                "PERMISSIVE",
                "DISABLE",
                "UNSET"
              ],
              "nullable": true,
              "type": "string"
            }
          },
          "type": "object",
          "x-kubernetes-preserve-unknown-fields": true
        }"#]]
    .assert_eq(&mtls);
    let ports = pretty(&spec["properties"]["portLevelMtls"]["x-kubernetes-validations"]);
    expect![[r#"
        [
          {
            "message": "is not a port: 1 to 65535",
            "messageExpression": "self.filter(port, !port.matches('^[1-9][0-9]{0,4}$') || int(port) > 65535)[0] + ' is not a port: 1 to 65535'",
            "rule": "self.all(port, !(!port.matches('^[1-9][0-9]{0,4}$') || int(port) > 65535))"
          }
        ]"#]]
    .assert_eq(&ports);
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

/// What the API server would refuse of a schema, and what a person misses in one.
#[test]
fn every_field_has_a_type_a_bound_and_a_description() {
    for kind in &KINDS {
        let mut wrong = Vec::new();
        walk(kind.kind, &kind.spec(), &mut wrong);
        assert_eq!(wrong, Vec::<String>::new());
    }
}

fn walk(at: &str, schema: &Value, wrong: &mut Vec<String>) {
    let mut check = |good: bool, what: &str| {
        if !good {
            wrong.push(format!("{at}: {what}"));
        }
    };
    for no in [
        "$ref",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "patternProperties",
        "title",
    ] {
        check(schema.get(no).is_none(), no);
    }
    let bound = match schema["type"].as_str() {
        Some("string") if schema.get("enum").is_none() => "maxLength",
        Some("array") => "maxItems",
        Some("object") if schema.get("additionalProperties").is_some() => "maxProperties",
        Some("object") => "x-kubernetes-preserve-unknown-fields",
        Some(_) => "type",
        None => {
            return check(false, "no type");
        }
    };
    check(schema.get(bound).is_some(), bound);
    if let Some(properties) = schema["properties"].as_object() {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, property) in properties {
            check(
                property.get("description").is_some(),
                &format!("{name}: description"),
            );
            let optional = !required.iter().any(|it| it == name);
            check(
                optional == (property["nullable"] == true),
                &format!("{name}: nullable"),
            );
        }
        for (name, property) in properties {
            walk(&format!("{at}.{name}"), property, wrong);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            walk(&format!("{at}[]"), inner, wrong);
        }
    }
}

#[test]
fn a_file_may_be_no_longer_than_an_object_in_a_cluster() {
    let rules = "    - {}\n".repeat(33);
    let document = |version: &str| {
        format!(
            "apiVersion: {version}\nkind: AuthorizationPolicy\nmetadata: {{namespace: a, name: b}}\nspec:\n  rules:\n{rules}"
        )
    };
    let load = |version| yaml::load_str(Path::new("f.yaml"), &document(version));
    let problems = load("kith.dev/v1alpha1").unwrap_err();
    expect!["f.yaml:5: spec.rules: must have at most 32 items"].assert_eq(&problems[0].to_string());
    assert!(load("security.istio.io/v1").is_ok());

    let long = "a".repeat(257);
    let document = format!(
        "apiVersion: kith.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{namespace: a, name: b}}\n\
         spec: {{rules: [{{to: [{{operation: {{paths: [/{long}]}}}}]}}]}}"
    );
    let problems = yaml::load_str(Path::new("f.yaml"), &document).unwrap_err();
    expect!["f.yaml:4: spec.rules[0].to[0].operation.paths[0]: may not be more than 200 bytes"]
        .assert_eq(&problems[0].to_string());
}
