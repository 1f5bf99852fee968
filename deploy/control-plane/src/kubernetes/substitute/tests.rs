use std::path::Path;

use expect_test::{Expect, expect};

use super::*;
use crate::yaml::{Node, load_trees};

/// The specs of what holds in place of a document with this spec, each of which is a good document.
fn check(kind: DocumentKind, spec: Value, expected: Expect) {
    let namespace = ["MeshConfig", "Revocation"]
        .iter()
        .all(|it| *it != kind.kind());
    let mut metadata = json!({"name": "broken"});
    if namespace {
        metadata["namespace"] = "shop".into();
    }
    let document = json!({"apiVersion": kind.api_version(), "kind": kind.kind(), "metadata": metadata, "spec": spec});
    let mut told = String::new();
    for substitute in substitute(kind, &document, 0)
        .into_iter()
        .flat_map(|it| it.documents)
    {
        if let Err(problems) = load_trees(Path::new("substitute"), vec![Node::of_json(&substitute)])
        {
            told += &format!("{}\n", problems[0]);
        }
        told += &format!(
            "{} {} {}\n",
            substitute["kind"].as_str().unwrap(),
            substitute["metadata"]["name"].as_str().unwrap(),
            substitute["spec"]
        );
    }
    expected.assert_eq(&told);
}

use DocumentKind::{
    AuthorizationPolicy, IstioAuthorizationPolicy, IstioRequestAuthentication, MeshConfig,
    PeerAuthentication, RequestAuthentication, Revocation, Service, Workload,
};

#[test]
fn an_allow_that_cannot_be_read_allows_nothing() {
    for spec in [
        json!({"action": "ALLOW", "rules": 7}),
        // Not given is ALLOW too.
        json!({"rules": 7}),
        Value::Null,
    ] {
        check(
            AuthorizationPolicy,
            spec,
            expect![[r#"
                AuthorizationPolicy broken {"action":"ALLOW"}
            "#]],
        );
    }
}

#[test]
fn whatever_else_decides_denies_everything() {
    for action in [
        json!("DENY"),
        json!("CUSTOM"),
        json!("Allow"),
        json!(1),
        json!({}),
    ] {
        check(
            IstioAuthorizationPolicy,
            json!({"action": action, "rules": [{"from": []}]}),
            expect![[r#"
                AuthorizationPolicy broken {"action":"DENY","rules":[{}]}
            "#]],
        );
    }
}

#[test]
fn what_never_decides_is_replaced_by_nothing() {
    check(
        AuthorizationPolicy,
        json!({"action": "AUDIT", "rules": 7}),
        expect![""],
    );
    check(
        AuthorizationPolicy,
        json!({"action": "DENY", "dryRun": true}),
        expect![""],
    );
}

#[test]
fn it_holds_where_the_broken_one_would_or_in_the_whole_namespace() {
    let selected = |more: Value| {
        let mut spec =
            json!({"action": "DENY", "rules": 7, "selector": {"matchLabels": {"app": "web"}}});
        json_patch::merge(&mut spec, &more);
        spec
    };
    check(
        AuthorizationPolicy,
        selected(json!({})),
        expect![[r#"
            AuthorizationPolicy broken {"action":"DENY","rules":[{}],"selector":{"matchLabels":{"app":"web"}}}
        "#]],
    );
    for unreadable in [
        json!({"selector": {"matchExpressions": []}}),
        json!({"selector": {"matchLabels": {"app": "w*"}}}),
        json!({"selector": {"matchLabels": {"app": 7}}}),
        json!({"selector": "app=web"}),
        json!({"targetRef": {"kind": "Gateway", "name": "x"}}),
        json!({"targetRefs": []}),
    ] {
        check(
            AuthorizationPolicy,
            selected(unreadable),
            expect![[r#"
                AuthorizationPolicy broken {"action":"DENY","rules":[{}]}
            "#]],
        );
    }
}

#[test]
fn mtls_becomes_strict() {
    check(
        PeerAuthentication,
        json!({"mtls": {"mode": "PERMISSIVE"}, "portLevelMtls": {"x": {}}, "selector": {"matchLabels": {"app": "web"}}}),
        expect![[r#"
            PeerAuthentication broken {"mtls":{"mode":"STRICT"},"selector":{"matchLabels":{"app":"web"}}}
        "#]],
    );
}

#[test]
fn tokens_that_nobody_can_judge_let_nobody_in() {
    check(
        RequestAuthentication,
        json!({"jwtRules": 7, "selector": {"matchLabels": {"app": "web"}}}),
        expect![[r#"
            AuthorizationPolicy broken.requestauthentication {"action":"DENY","rules":[{}],"selector":{"matchLabels":{"app":"web"}}}
        "#]],
    );
    check(
        IstioRequestAuthentication,
        json!({"jwtRules": 7}),
        expect![[r#"
            AuthorizationPolicy broken.istio-requestauthentication {"action":"DENY","rules":[{}]}
        "#]],
    );
}

#[test]
fn what_a_revocation_names_is_revoked_for_good() {
    check(
        Revocation,
        json!({"principal": "spiffe://example.org/ns/shop/sa/web", "token": {"jti": "a"}, "until": "tomorrow"}),
        expect![[r#"
            Revocation broken.principal {"principal":"spiffe://example.org/ns/shop/sa/web","reason":"Revocation broken cannot be read in full","until":"9999-12-31T23:59:59Z"}
            Revocation broken.token {"reason":"Revocation broken cannot be read in full","token":{"jti":"a"},"until":"9999-12-31T23:59:59Z"}
        "#]],
    );
    check(Revocation, json!({"reason": "x"}), expect![""]);
    // Whoever wrote it is told what that comes to.
    for (principal, expected) in [
        (
            "spiffe://example.org/ns/shop/sa/web",
            "until it is corrected what can be read of what it names is revoked for good",
        ),
        (
            "not an id",
            "until it is corrected it revokes nothing, for nobody can say what",
        ),
    ] {
        let document = json!({"metadata": {"name": "broken"}, "spec": {"principal": principal}});
        let substitute = substitute(Revocation, &document, 0).unwrap();
        assert_eq!(substitute.effect, expected);
        assert_eq!(substitute.documents.is_empty(), principal == "not an id");
    }
}

#[test]
fn what_no_single_document_may_say_holds_all_the_same() {
    // Istio's CustomResourceDefinitions allow more labels than kith.dev's.
    let labels: Map<String, Value> = (0..33).map(|i| (format!("l{i}"), json!("x"))).collect();
    check(
        IstioAuthorizationPolicy,
        json!({"action": "CUSTOM", "selector": {"matchLabels": labels}}),
        expect![[r#"
            AuthorizationPolicy broken {"action":"DENY","rules":[{}]}
        "#]],
    );
    let labels = json!({"app": "x".repeat(64)});
    check(
        PeerAuthentication,
        json!({"selector": {"matchLabels": labels}}),
        expect![[r#"
            PeerAuthentication broken {"mtls":{"mode":"STRICT"}}
        "#]],
    );
    let addresses: Vec<_> = (1..=33).map(|i| format!("10.0.0.{i}")).collect();
    let hosts: Vec<_> = (0..65).map(|i| format!("h{i}.example.org")).collect();
    for (kind, count) in [(Workload, 2), (Service, 3)] {
        let metadata = json!({"namespace": "shop", "name": "broken"});
        let spec = json!({"addresses": addresses, "hosts": hosts});
        let substitute = substitute(kind, &json!({"metadata": metadata, "spec": spec}), 0).unwrap();
        assert_eq!(substitute.documents.len(), count);
        assert!(substitute.documents.iter().all(readable));
        let said = json!(substitute.documents).to_string();
        assert!(
            said.contains("10.0.0.1\"") && said.contains("10.0.0.33\""),
            "{said}"
        );
    }
}

#[test]
fn addresses_of_a_broken_workload_or_service_are_nobodys() {
    check(
        Workload,
        json!({"addresses": ["10.0.0.1", "x", 7], "ports": [{"port": 0}]}),
        expect![[r#"
            Workload broken {"addresses":["10.0.0.1"],"serviceAccount":"unreadable","spiffeId":"spiffe://unreadable.invalid/workload/shop/broken"}
        "#]],
    );
    check(Workload, json!({"addresses": "x"}), expect![""]);
    check(
        Service,
        json!({"addresses": ["10.0.0.1"], "hosts": ["db.example.org", "not a host"], "ports": []}),
        expect![[r#"
            Service broken {"addresses":["10.0.0.1"],"hosts":["db.example.org"],"ports":[{"port":1}],"selector":{"kith.dev/unreadable":"-unreadable.invalid"}}
        "#]],
    );
}

#[test]
fn a_mesh_config_has_no_substitute() {
    check(MeshConfig, json!({"trustDomain": 7}), expect![""]);
}

#[test]
fn a_name_that_is_taken_is_replaced_and_then_there_is_no_other() {
    let long = "x".repeat(250);
    for name in ["broken", &long] {
        let document = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {}});
        let attempts = (0..)
            .map_while(|attempt| substitute(RequestAuthentication, &document, attempt))
            .map(|it| {
                it.documents[0]["metadata"]["name"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            });
        let names: std::collections::BTreeSet<_> = attempts.collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 253), "{names:?}");
    }
}
