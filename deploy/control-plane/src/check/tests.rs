use std::path::Path;
use std::time::{Duration, SystemTime};

use expect_test::{Expect, expect};

use super::check as warnings;
use crate::jwks::KeySets;
use crate::resolve::resolve;
use crate::yaml::load_str;

const MESH: &str = "apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: example.org, trustDomainAliases: [old.example]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web-1, labels: {app: web}}
spec: {serviceAccount: web, addresses: [10.0.0.1]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders-1, labels: {app: orders}}
spec: {serviceAccount: orders, addresses: [10.0.0.2], ports: [{port: 8080, protocol: HTTP}, {port: 5432, protocol: TCP}]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: legacy, labels: {app: legacy}}
spec: {mesh: false, addresses: [10.0.0.3]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: bank, name: ledger, labels: {app: ledger}}
spec: {serviceAccount: ledger, addresses: [10.0.0.4], spiffeId: \"spiffe://bank.example/ledger\"}
---
apiVersion: kith.dev/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {addresses: [10.0.255.1], selector: {app: orders}, ports: [{port: 80, targetPort: 8080}]}
";

/// What is said of `documents` (`kind namespace/name spec`) beside a mesh of four workloads. Each stands on its own line.
fn check(documents: &[(&str, &str, &str)], expected: Expect) {
    let mut text = MESH.to_owned();
    for (kind, id, spec) in documents {
        let (namespace, name) = id.split_once('/').unwrap_or(("", id));
        let namespace = if namespace.is_empty() {
            String::new()
        } else {
            format!("namespace: {namespace}, ")
        };
        text += &format!(
            "---\n{{apiVersion: kith.dev/v1alpha1, kind: {kind}, metadata: {{{namespace}name: {name}}}, spec: {spec}}}\n"
        );
    }
    let loaded = load_str(Path::new("f.yaml"), &text).unwrap();
    resolve(&loaded, &KeySets::default()).unwrap();
    // 2026-01-01.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let said: String = warnings(&loaded, now)
        .iter()
        .map(|warning| format!("{}: {warning}\n", warning.code))
        .collect();
    expected.assert_eq(&said);
}

const POLICY: &str = "AuthorizationPolicy";
const ORDERS: &str = "selector: {matchLabels: {app: orders}}";
/// Makes tokens be looked at, and required.
const TOKENS: (&str, &str, &str) = (
    "RequestAuthentication",
    "shop/tokens",
    "{selector: {matchLabels: {app: orders}}, jwtRules: [{issuer: \"https://idp.example.org\"}]}",
);

#[test]
fn nothing_is_said_of_a_folder_as_it_should_be() {
    check(
        &[
            (
                POLICY,
                "shop/a",
                &format!(
                    "{{{ORDERS}, rules: [{{from: [{{source: {{principals: [example.org/ns/shop/sa/web, old.example/ns/shop/sa/web, cluster.local/ns/shop/*], requestPrincipals: [\"*\"]}}}}, {{source: {{namespaces: [bank]}}}}], to: [{{operation: {{ports: [\"8080\"], methods: [GET]}}}}]}}]}}"
                ),
            ),
            (
                POLICY,
                "shop/b",
                &format!(
                    "{{{ORDERS}, action: DENY, rules: [{{to: [{{operation: {{ports: [\"8080\"], paths: [/admin]}}}}]}}]}}"
                ),
            ),
            TOKENS,
            ("PeerAuthentication", "shop/p", "{mtls: {mode: PERMISSIVE}}"),
            (
                "Revocation",
                "r",
                "{principal: \"spiffe://example.org/a\", until: \"2026-01-01T00:00:01Z\", reason: x}",
            ),
        ],
        expect![[r#""#]],
    );
}

#[test]
fn who_selects_no_workload_is_told_why() {
    check(
        &[
            (POLICY, "shop/a", "{selector: {matchLabels: {app: order}}}"),
            (POLICY, "shup/b", "{}"),
            (
                POLICY,
                "kith-system/c",
                "{selector: {matchLabels: {app: none}}}",
            ),
            (POLICY, "shop/d", "{selector: {matchLabels: {app: legacy}}}"),
            ("PeerAuthentication", "shup/e", "{mtls: {mode: STRICT}}"),
            (
                "RequestAuthentication",
                "shop/f",
                "{selector: {matchLabels: {app: none}}, jwtRules: [{issuer: \"https://idp.example.org\"}]}",
            ),
        ],
        expect![[r#"
            selects-nothing: f.yaml:31: AuthorizationPolicy shop/a: spec.selector.matchLabels: no workload in namespace `shop` has these labels: this has no effect
            selects-nothing: f.yaml:33: AuthorizationPolicy shup/b: metadata.namespace: no workload is in namespace `shup`: this has no effect
            selects-nothing: f.yaml:35: AuthorizationPolicy kith-system/c: spec.selector.matchLabels: no workload has these labels: this has no effect
            selects-nothing: f.yaml:37: AuthorizationPolicy shop/d: spec: is only for workloads without a sidecar (`mesh: false`), such as shop/legacy: nothing enforces it there
            selects-nothing: f.yaml:39: PeerAuthentication shup/e: metadata.namespace: no workload is in namespace `shup`: this has no effect
            selects-nothing: f.yaml:41: RequestAuthentication shop/f: spec.selector.matchLabels: no workload in namespace `shop` has these labels: this has no effect
        "#]],
    );
}

#[test]
fn rules_that_never_match_and_rules_in_the_shadow_of_others_are_named() {
    check(
        &[
            (
                POLICY,
                "shop/a",
                &format!(
                    "{{{ORDERS}, rules: [{{from: [{{source: {{principals: [example.org/ns/shop/sa/web], notPrincipals: [\"*\"]}}}}]}}]}}"
                ),
            ),
            (
                POLICY,
                "shop/b",
                &format!(
                    "{{{ORDERS}, rules: [{{from: [{{source: {{principals: [example.org/ns/shop/sa/web]}}}}], to: [{{operation: {{paths: [/admin/x]}}}}]}}, {{}}]}}"
                ),
            ),
            (
                POLICY,
                "shop/c",
                "{action: DENY, rules: [{to: [{operation: {ports: [\"8080\"], paths: [/root]}}]}, {to: [{operation: {paths: [/admin/*]}}]}]}",
            ),
            (POLICY, "bank/d", "{action: DENY, rules: [{}]}"),
        ],
        expect![[r#"
            never-matches: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[0].source: never matches: from.principals and from.notPrincipals contradict each other
            shadowed: f.yaml:33: AuthorizationPolicy shop/b: spec.rules[0]: whatever this allows, rule 1 of the DENY policy `shop/c` (f.yaml:35) denies
            wider-on-opaque-port: f.yaml:35: AuthorizationPolicy shop/c: spec.rules[1]: port 5432 of shop/orders-1 is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant
        "#]],
    );
}

#[test]
fn an_audit_without_rules_is_told_to_be_of_no_use() {
    check(
        &[
            (POLICY, "shop/a", "{action: AUDIT}"),
            (POLICY, "shop/b", "{action: AUDIT, rules: [{}]}"),
            // Istio's way to allow nothing.
            (POLICY, "shop/c", "{}"),
        ],
        expect![[r#"
            surprising: f.yaml:31: AuthorizationPolicy shop/a: spec.rules: an AUDIT without rules never matches; to audit everything, write one empty rule
        "#]],
    );
}

#[test]
fn names_that_nobody_has_are_told() {
    check(
        &[
            (
                POLICY,
                "shop/a",
                &format!(
                    "{{{ORDERS}, rules: [{{from: [{{source: {{principals: [exmaple.org/ns/shop/sa/web, \"*/ns/shop/sa/web\", bank.example/ledger], notNamespaces: [shop, shpo, \"s*\"]}}}}, {{source: {{trustDomains: [friend.example], namespaces: [theirs]}}}}], to: [{{operation: {{ports: [\"80\", \"5432\", \"9090\"]}}}}], when: [{{key: source.namespace, values: [bnak]}}, {{key: source.trustDomain, notValues: [friend.example]}}, {{key: destination.port, values: [\"81\"]}}]}}]}}"
                ),
            ),
            (
                "PeerAuthentication",
                "shop/p",
                "{selector: {matchLabels: {app: orders}}, portLevelMtls: {80: {mode: STRICT}, 8080: {mode: STRICT}}}",
            ),
            // Not all ports are declared here.
            (
                POLICY,
                "shop/b",
                "{selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: [\"80\"]}}]}]}",
            ),
        ],
        expect![[r#"
            no-such-namespace: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[0].source.notNamespaces[1]: no workload is in namespace `shpo`
            unknown-trust-domain: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[0].source.principals: `exmaple.org/ns/shop/sa/web` is in the trust domain `exmaple.org`, which nobody here is known to be in: known are bank.example, example.org, old.example; if it is federated, this is as meant
            never-matches: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[1].source: never matches: from.namespaces and when[source.namespace] contradict each other
            unknown-trust-domain: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[1].source.trustDomains: `friend.example` is in the trust domain `friend.example`, which nobody here is known to be in: known are bank.example, example.org, old.example; if it is federated, this is as meant
            never-matches: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].to[0].operation: never matches: its ports exclude each other
            no-such-port: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].to[0].operation.ports[0]: no workload that this is for declares port 80, only 5432, 8080; 80 is a port of the Service `shop/orders`, whose targetPort 8080 is meant
            no-such-port: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].to[0].operation.ports[2]: no workload that this is for declares port 9090, only 5432, 8080
            no-such-namespace: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].when[0].values[0]: no workload is in namespace `bnak`
            unknown-trust-domain: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].when[1].notValues: `friend.example` is in the trust domain `friend.example`, which nobody here is known to be in: known are bank.example, example.org, old.example; if it is federated, this is as meant
            no-such-port: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].when[2].values[0]: no workload that this is for declares port 81, only 5432, 8080
            no-such-port: f.yaml:33: PeerAuthentication shop/p: spec.portLevelMtls.80: no workload that this is for declares port 80, only 5432, 8080; 80 is a port of the Service `shop/orders`, whose targetPort 8080 is meant
        "#]],
    );
}

#[test]
fn a_deny_that_gets_wider_on_an_opaque_port_is_told_with_the_port() {
    let rules = |ports: &str| {
        format!(
            "{{{ORDERS}, action: DENY, rules: [{{to: [{{operation: {{{ports}methods: [DELETE]}}}}]}}]}}"
        )
    };
    check(
        &[
            (POLICY, "shop/wider", &rules("")),
            (POLICY, "shop/exact", &rules("ports: [\"8080\"], ")),
            (POLICY, "shop/only", &rules("ports: [\"5432\"], ")),
            (
                POLICY,
                "shop/web",
                "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
            ),
        ],
        expect![[r#"
            wider-on-opaque-port: f.yaml:31: AuthorizationPolicy shop/wider: spec.rules[0]: port 5432 of shop/orders-1 is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant
            wider-on-opaque-port: f.yaml:35: AuthorizationPolicy shop/only: spec.rules[0]: port 5432 of shop/orders-1 is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant
        "#]],
    );
}

#[test]
fn tokens_that_nobody_verifies_or_nobody_requires_are_told() {
    let asks = "rules: [{from: [{source: {requestPrincipals: [\"*\"]}}, {source: {notRequestPrincipals: [\"*\"]}}]}, {when: [{key: \"request.auth.claims[a]\", values: [b]}]}, {when: [{cel: \"request.method == 'GET'\"}]}, {when: [{cel: \"request.auth.principal == 'a/b'\"}]}]";
    check(
        &[
            (POLICY, "shop/a", &format!("{{{asks}}}")),
            (
                POLICY,
                "shop/b",
                &format!("{{action: DENY, selector: {{matchLabels: {{app: web}}}}, {asks}}}"),
            ),
            TOKENS,
        ],
        expect![[r#"
            no-tokens: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[0].source.requestPrincipals: no RequestAuthentication verifies tokens for shop/web-1: this never matches there
            never-matches: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[1].source: never matches: from.notRequestPrincipals excludes every token, and a request without one never satisfies it in an ALLOW
            no-tokens: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[0].from[1].source.notRequestPrincipals: no RequestAuthentication verifies tokens for shop/web-1: this never matches there
            no-tokens: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[1].when[0]: no RequestAuthentication verifies tokens for shop/web-1: this never matches there
            no-tokens: f.yaml:31: AuthorizationPolicy shop/a: spec.rules[3].when[0].cel: no RequestAuthentication verifies tokens for shop/web-1: what this asks of a token is never there
            no-tokens: f.yaml:33: AuthorizationPolicy shop/b: spec.rules[0].from[0].source.requestPrincipals: no RequestAuthentication verifies tokens for shop/web-1: this never matches there
            no-tokens: f.yaml:33: AuthorizationPolicy shop/b: spec.rules[0].from[1].source.notRequestPrincipals: no RequestAuthentication verifies tokens for shop/web-1: every request is one without a token, and this matches it
            no-tokens: f.yaml:33: AuthorizationPolicy shop/b: spec.rules[1].when[0]: no RequestAuthentication verifies tokens for shop/web-1: this never matches there
            no-tokens: f.yaml:33: AuthorizationPolicy shop/b: spec.rules[3].when[0].cel: no RequestAuthentication verifies tokens for shop/web-1: what this asks of a token is never there
        "#]],
    );
    check(
        &[
            TOKENS,
            ("RequestAuthentication", "bank/none", "{}"),
            (
                "RequestAuthentication",
                "bank/plain",
                "{jwtRules: [{issuer: a, jwksUri: \"http://idp.example.org/keys\"}]}",
            ),
            (
                POLICY,
                "shop/a",
                "{rules: [{to: [{operation: {methods: [GET]}}]}]}",
            ),
        ],
        expect![[r#"
            token-not-required: f.yaml:31: RequestAuthentication shop/tokens: spec: no policy for shop/orders-1 asks for a token: a request without one passes as before; an ALLOW with `requestPrincipals: ["*"]` requires one
            surprising: f.yaml:33: RequestAuthentication bank/none: spec.jwtRules: without rules no token is verified: this has no effect
            token-not-required: f.yaml:35: RequestAuthentication bank/plain: spec: no policy for bank/ledger asks for a token: a request without one passes as before; an ALLOW with `requestPrincipals: ["*"]` requires one
            surprising: f.yaml:35: RequestAuthentication bank/plain: spec.jwtRules[0].jwksUri: fetched without TLS: whoever is on the way can replace the keys, and with them decide which tokens are genuine; use https
        "#]],
    );
}

#[test]
fn disabled_mtls_overlaps_and_revocations_that_are_over_are_told() {
    check(
        &[
            (
                "PeerAuthentication",
                "kith-system/mesh",
                "{mtls: {mode: DISABLE}}",
            ),
            (
                "PeerAuthentication",
                "shop/namespace",
                "{mtls: {mode: STRICT}}",
            ),
            (
                "PeerAuthentication",
                "shop/again",
                "{mtls: {mode: DISABLE}}",
            ),
            (
                "PeerAuthentication",
                "shop/orders",
                "{selector: {matchLabels: {app: orders}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}",
            ),
            (
                "Revocation",
                "r",
                "{principal: \"spiffe://example.org/a\", until: \"2026-01-01T00:00:00Z\", reason: x}",
            ),
        ],
        expect![[r#"
            disabled-in-mesh: f.yaml:31: PeerAuthentication kith-system/mesh: spec.mtls.mode: sidecars never send plaintext to the mesh, and refuse bank/ledger as `server-unauthenticated`: PERMISSIVE lets callers in that have no sidecar
            overlapping: f.yaml:35: PeerAuthentication shop/again: spec: has no effect where `shop/namespace` (f.yaml:33) speaks of the same workloads: the first one wins
            disabled-in-mesh: f.yaml:37: PeerAuthentication shop/orders: spec.portLevelMtls.8080: sidecars never send plaintext to the mesh, and refuse shop/orders-1 as `server-unauthenticated`: PERMISSIVE lets callers in that have no sidecar
            revocation-expired: f.yaml:39: Revocation r: spec.until: is over: it has no effect any more, and the document can go
        "#]],
    );
}

#[test]
fn a_warning_for_machines_says_the_same() {
    let text = format!(
        "{MESH}---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{namespace: shup, name: a}}}}"
    );
    let loaded = load_str(Path::new("f.yaml"), &text).unwrap();
    let found = warnings(&loaded, SystemTime::UNIX_EPOCH);
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        serde_json::json!([{
            "file": "f.yaml",
            "line": 31,
            "field": "metadata.namespace",
            "message": "no workload is in namespace `shup`: this has no effect",
            "object": "AuthorizationPolicy shup/a",
            "code": "selects-nothing"
        }])
    );
}
