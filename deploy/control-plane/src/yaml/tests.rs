use std::path::Path;

use expect_test::{Expect, expect};

use super::{Loader, load_dir, load_str};
use crate::jwks::KeySets;
use crate::problem::Problem;

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

/// What loading `text` says, one problem a line, or what it holds.
fn check(text: &str, expected: Expect) {
    let said = match load_str(Path::new("f.yaml"), text) {
        Ok(loaded) => {
            let file = loaded.files().next().unwrap();
            format!(
                "mesh {} workloads {} services {} authorization {} peer {} tokens {} revocations {}\n",
                file.mesh_configs.len(),
                file.workloads.len(),
                file.services.len(),
                file.authorization_policies.len(),
                file.peer_authentications.len(),
                file.request_authentications.len(),
                file.revocations.len()
            )
        }
        Err(problems) => lines(&problems),
    };
    expected.assert_eq(&said);
}

/// As `check`, for the spec of an AuthorizationPolicy, which begins at line 5.
fn check_policy(spec: &str, expected: Expect) {
    check(
        &format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: orders}}\nspec:\n{spec}"
        ),
        expected,
    );
}

#[test]
fn reads_every_kind() {
    check(
        r#"
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: example.org, trustDomainAliases: [old.example], rootNamespace: kith-system,
       defaultAction: DENY, egress: REFUSE, trustedForwardedHops: 0}
---
# Comments and empty documents are fine.
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders-1, labels: {app: orders, app.kubernetes.io/name: "orders"}}
spec:
  serviceAccount: orders
  addresses: [10.9.0.2, "fd00::2"]
  ports:
  - {port: 8080, protocol: HTTP, encodedSlash: KEEP}
  - {port: 9000, protocol: GRPC}
  - port: 5432
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: legacy}
spec: {mesh: false, addresses: [10.9.0.3]}
---
apiVersion: kith.dev/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec:
  addresses: [10.9.255.2]
  hosts: [orders.shop]
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: 8080, protocol: HTTP}]
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {namespace: shop, name: default}
spec: {selector: {matchLabels: {app: orders}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}
---
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: deny-all, annotations: {istio.io/dry-run: "false"}}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  namespace: shop
  name: orders
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["example.org/ns/shop/sa/web"], notNamespaces: [other]}
    - source: {ipBlocks: [10.0.0.0/8]}
    to:
    - operation: {methods: [GET], paths: ["/orders/{*}"], ports: ["8080"]}
    when:
    - {key: "request.headers[x-id]", values: ["*"]}
  - {}
"#,
        expect![[r#"
            mesh 1 workloads 2 services 1 authorization 2 peer 1 tokens 0 revocations 0
        "#]],
    );
}

#[test]
fn names_file_line_and_field_of_what_it_does_not_know() {
    check(
        r#"apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec:
  serviceAccount: a
  addresses: [10.0.0.1]
  adresses: [10.0.0.2]
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata:
  namespace: shop
  name: b
  finalizers: [x]
spec: {serviceAccount: b, addresses: [10.0.0.2]}
---
apiVersion: kith.dev/v1alpha1
kind: Gateway
metadata: {namespace: shop, name: c}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {namespace: shop, name: d}
---
apiVersion: security.istio.io/v1
kind: Workload
metadata: {namespace: shop, name: e}
---
kind: Workload
---
- a list
"#,
        expect![[r#"
            f.yaml:7: spec.adresses: unknown field `adresses`, expected one of `serviceAccount`, `addresses`, `mesh`, `spiffeId`, `ports`
            f.yaml:18: kind: `Gateway` is not a kind of `kith.dev/v1alpha1` known here
            f.yaml:21: apiVersion: `networking.istio.io/v1` is not known; known are `kith.dev/v1alpha1`, `security.istio.io/v1` and `security.istio.io/v1beta1`
            f.yaml:26: kind: `Workload` is not a kind of `security.istio.io/v1` known here
            f.yaml:29: apiVersion: required: say what kind of document this is
            f.yaml:31: expected a document with `apiVersion`, `kind` and `metadata`
        "#]],
    );
}

#[test]
fn refuses_values_that_mean_nothing() {
    check(
        r#"apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: "spiffe://example.org"}
---
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: Example.org}
---
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh, namespace: shop}
spec: {trustDomain: example.org}
---
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: example.org, defaultAction: allow}
---
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec:
  serviceAccount: a
  addresses:
  - 10.0.0.1
  - 10.0.0.256
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec: {serviceAccount: a, addresses: ["::"]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {name: a}
spec: {serviceAccount: a, addresses: [10.0.0.1]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a/b}
spec: {addresses: [], ports: [{port: 80}, {port: 81}, {port: 80}]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec: {serviceAccount: a, addresses: [10.0.0.1], ports: [{port: 0}]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec: {serviceAccount: a, addresses: [10.0.0.1], ports: [{port: 70000}]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec: {serviceAccount: a, addresses: [10.0.0.1], ports: [{port: 80, protocol: MONGO}]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec: {mesh: false, addresses: [10.0.0.1], spiffeId: "spiffe://example.org/a"}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a}
spec: {serviceAccount: a, addresses: [10.0.0.1], spiffeId: "spiffe://example.org"}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: a, labels: {version: 1}}
spec: {serviceAccount: a, addresses: [10.0.0.1]}
---
apiVersion: kith.dev/v1alpha1
kind: Service
metadata: {namespace: shop, name: s}
spec: {selector: {}, ports: []}
---
apiVersion: kith.dev/v1alpha1
kind: Service
metadata: {namespace: shop, name: s}
spec: {hosts: ["*.shop"], selector: {app: s}, ports: [{port: 80}]}
---
apiVersion: kith.dev/v1alpha1
kind: Service
metadata: {namespace: shop, name: s}
spec: {hosts: [10.0.0.1], selector: {app: s}, ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {namespace: shop, name: p}
spec: {portLevelMtls: {8080: {mode: STRICT}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {namespace: shop, name: p}
spec: {selector: {matchLabels: {app: "*"}}, mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {namespace: shop, name: p}
spec: {mtls: {mode: ISTIO_MUTUAL}}
"#,
        expect![[r#"
            f.yaml:4: spec.trustDomain: `spiffe://example.org`: write the trust domain alone, without `spiffe://`
            f.yaml:9: spec.trustDomain: `Example.org` has 'E' in its trust domain; only a-z, 0-9, `.`, `-`, `_` are allowed (SPIFFE-ID 2.1)
            f.yaml:13: metadata.namespace: a MeshConfig is in no namespace: remove it
            f.yaml:19: spec.defaultAction: unknown variant `allow`, expected `DENY` or `ALLOW`
            f.yaml:21: spec: required
            f.yaml:32: spec.addresses[1]: `10.0.0.256` is not an IP address; a host name belongs in a Service's `hosts`
            f.yaml:37: spec.addresses[0]: `::` is not the address of one machine
            f.yaml:41: metadata.namespace: required
            f.yaml:46: metadata.name: `a/b` is not a name: use a-z, 0-9, `-` and `.`
            f.yaml:52: spec.ports[0].port: 0 is not a port: 1 to 65535
            f.yaml:57: spec.ports[0].port: 70000 is not a port: 1 to 65535
            f.yaml:62: spec.ports[0].protocol: unknown variant `MONGO`, expected one of `HTTP`, `HTTP2`, `GRPC`, `TCP`, `TLS`
            f.yaml:67: spec.spiffeId: a workload with `mesh: false` proves no identity: remove it
            f.yaml:72: spec.spiffeId: `spiffe://example.org` names a trust domain; a workload's SPIFFE ID has a path
            f.yaml:76: metadata.labels.version: integer `1` where a string is expected: put it in quotes
            f.yaml:82: spec: needs `addresses` or `hosts` for clients to dial
            f.yaml:82: spec.selector: an empty selector selects no workload: name at least one label
            f.yaml:82: spec.ports: at least one port is needed
            f.yaml:87: spec.hosts[0]: `*.shop` is not a host name
            f.yaml:92: spec.hosts[0]: `10.0.0.1` is an IP address: it belongs in `addresses`
            f.yaml:97: spec.portLevelMtls: needs a `selector`: ports belong to particular workloads
            f.yaml:102: spec.selector.matchLabels: label `app: *`: an empty key or a `*` never selects anything
            f.yaml:107: spec.mtls.mode: unknown variant `ISTIO_MUTUAL`, expected one of `UNSET`, `STRICT`, `PERMISSIVE`, `DISABLE`
        "#]],
    );
}

#[test]
fn refuses_what_a_mesh_of_sidecars_does_not_do_by_name() {
    for (spec, expected) in [
        (
            "  action: CUSTOM\n  provider: {name: x}",
            expect![[r#"
                f.yaml:6: spec.provider: CUSTOM asks a service outside the mesh, which Kith never does: use ALLOW or DENY
            "#]],
        ),
        (
            "  action: CUSTOM\n  rules: [{}]",
            expect![[r#"
                f.yaml:5: spec.action: CUSTOM asks a service outside the mesh, which Kith never does: use ALLOW or DENY
            "#]],
        ),
        (
            "  targetRefs: [{kind: Gateway, name: g}]",
            expect![[r#"
                f.yaml:5: spec.targetRefs: names a gateway or waypoint, which a mesh of sidecars does not have: use `selector` to pick workloads by their labels
            "#]],
        ),
        (
            "  targetRef: {kind: Gateway, name: g}",
            expect![[r#"
                f.yaml:5: spec.targetRef: names a gateway or waypoint, which a mesh of sidecars does not have: use `selector` to pick workloads by their labels
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - key: experimental.envoy.filters.network.mysql_proxy[db.table]\n      values: [a]",
            expect![[r#"
                f.yaml:7: spec.rules[0].when[0].key: `experimental.envoy.filters.network.mysql_proxy[db.table]` reads the state of an Envoy filter, which Kith does not have: decide by principal and port, or remove the policy
            "#]],
        ),
    ] {
        check_policy(spec, expected);
    }
}

#[test]
fn whatever_is_wrong_with_the_shape_of_a_document_is_told_at_once() {
    for (spec, expected) in [
        (
            "  selecter: {}\n  action: BLOCK\n  rules:\n  - to:\n    - operation: {ports: [80], path: [/a], methods: GET}\n  - form: []\n  - {}\n  - when: [{key: a, value: b}]",
            expect![[r#"
                f.yaml:5: spec.selecter: unknown field `selecter`, expected one of `selector`, `dryRun`, `action`, `rules`
                f.yaml:6: spec.action: unknown variant `BLOCK`, expected one of `ALLOW`, `DENY`, `AUDIT`
                f.yaml:9: spec.rules[0].to[0].operation.methods: invalid type: string "GET", expected a sequence
                f.yaml:9: spec.rules[0].to[0].operation.path: unknown field `path`, expected one of `hosts`, `notHosts`, `ports`, `notPorts`, `methods`, `notMethods`, `paths`, `notPaths`
                f.yaml:9: spec.rules[0].to[0].operation.ports[0]: integer `80` where a string is expected: put it in quotes
                f.yaml:10: spec.rules[1].form: unknown field `form`, expected one of `from`, `to`, `when`
                f.yaml:12: spec.rules[3].when[0].value: unknown field `value`, expected one of `cel`, `key`, `values`, `notValues`
            "#]],
        ),
        // What is taken away for its mistake is not missing.
        (
            "  rules:\n  - from: [{source: {}, sorce: {}}, {source: 1}]\n  - to: [{}]",
            expect![[r#"
                f.yaml:6: spec.rules[0].from[0].sorce: unknown field `sorce`, expected `source`
                f.yaml:6: spec.rules[0].from[1].source: integer `1` where a map is expected
            "#]],
        ),
        (
            "  rules: [{}, [], 1]",
            expect![[r#"
            f.yaml:5: spec.rules[1]: a list where a map is expected
        "#]],
        ),
        (
            "  action: 1\n  dryRun: \"yes\"",
            expect![[r#"
            f.yaml:5: spec.action: integer `1` where a string is expected: put it in quotes
            f.yaml:6: spec.dryRun: invalid type: string "yes", expected a boolean
        "#]],
        ),
    ] {
        check_policy(spec, expected);
    }
}

#[test]
fn a_condition_is_a_key_with_values_or_cel() {
    for (spec, expected) in [
        (
            // What is recommended instead of `spaceDelimitedClaims`.
            "  rules:\n  - when:\n    - cel: '(\" \" + request.auth.claims.roles + \" \").contains(\" admin \")'",
            expect![[r#"
                mesh 0 workloads 0 services 0 authorization 1 peer 0 tokens 0 revocations 0
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - cel: \"request.method == 'GET'\"",
            expect![[r#"
                mesh 0 workloads 0 services 0 authorization 1 peer 0 tokens 0 revocations 0
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - cel: \"true\"\n      key: source.ip\n      values: [10.0.0.1]",
            expect![[r#"
                f.yaml:7: spec.rules[0].when[0]: either `key` with values or `cel`, never both
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - cel: \"true\"\n      values: [a]",
            expect![[r#"
                f.yaml:7: spec.rules[0].when[0]: `cel` decides by itself: remove `values` and `notValues`
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - values: [a]",
            expect![[r#"
                f.yaml:7: spec.rules[0].when[0]: needs a `key` with values, or `cel`
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - cel: \"request.method ==\"",
            expect![[r#"
                f.yaml:7: spec.rules[0].when[0].cel: line 1, column 18: expected a value, found the end
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - cel: \"1 + 1\"",
            expect![[r#"
                f.yaml:7: spec.rules[0].when[0].cel: line 1, column 3: a condition is a bool, this is int: compare it with something
            "#]],
        ),
    ] {
        check_policy(spec, expected);
    }
}

#[test]
fn dry_run_is_said_in_either_way_and_never_guessed() {
    let dry_run = |annotations: &str, spec: &str| {
        let text = format!(
            "apiVersion: kith.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: a{annotations}}}\nspec: {{{spec}}}"
        );
        let loaded = load_str(Path::new("f.yaml"), &text).map_err(|problems| lines(&problems))?;
        let file = loaded.files().next().unwrap();
        Ok::<_, String>(file.authorization_policies[0].spec.policy().dry_run)
    };
    let annotated = |value: &str| format!(", annotations: {{istio.io/dry-run: {value}}}");
    assert_eq!(dry_run("", ""), Ok(false));
    assert_eq!(dry_run("", "dryRun: true"), Ok(true));
    assert_eq!(dry_run(&annotated("\"true\""), ""), Ok(true));
    assert_eq!(dry_run(&annotated("\"false\""), ""), Ok(false));
    assert_eq!(dry_run(&annotated("\"false\""), "dryRun: true"), Ok(true));
    expect![[r#"
        f.yaml:3: metadata.annotations.istio.io/dry-run: `yes` is neither "true" nor "false"
    "#]]
    .assert_eq(&dry_run(&annotated("\"yes\""), "").unwrap_err());
}

/// One entry that sidecars refuse would make them refuse the whole list, and every revocation after it.
#[test]
fn whatever_may_be_revoked_is_honoured_by_sidecars() {
    use kith_xds_client::api::mesh::RevocationList;
    let long = format!("spiffe://example.org/{}", "a".repeat(2048 - 21));
    let mut honoured = 0;
    for what in [
        "principal: spiffe://example.org/ns/shop/sa/web".to_owned(),
        format!("principal: {long}"),
        "principal: spiffe://e.x-y_z/A.b/c_d".to_owned(),
        format!(
            "certificate: {{trustDomain: {}, serial: '{}'}}",
            "a".repeat(255),
            "F".repeat(40)
        ),
        "certificate: {trustDomain: e, serial: '01'}".to_owned(),
        "token: {jti: \"\\u0000\"}".to_owned(),
    ] {
        for until in [
            "0000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00Z",
            "2030-06-30T23:59:60Z",
            "2030-01-31T12:00:00.999999999+23:59",
            "9999-12-31T23:59:59.5Z",
            "9999-12-31T23:59:59-00:01",
        ] {
            let text = format!(
                "apiVersion: kith.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: r}}\nspec:\n  reason: stolen\n  until: {until}\n  {what}\n"
            );
            let Ok(loaded) = load_str(Path::new("f.yaml"), &text) else {
                continue;
            };
            let entry = loaded.files().next().unwrap().revocations[0].spec.to_wire();
            let list = RevocationList {
                revocations: vec![entry],
            };
            kith_proxy::revocation::Revocations::new("mesh", &list)
                .unwrap_or_else(|refused| panic!("{until} {what}: {refused:?}"));
            honoured += 1;
        }
    }
    assert!(honoured >= 6 * 3, "{honoured}");
}

/// As `check`, for the spec of a Revocation, which begins at line 5.
fn check_revocation(spec: &str, expected: Expect) {
    let text = format!(
        "apiVersion: kith.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: r}}\nspec:\n{spec}"
    );
    let said = match load_str(Path::new("f.yaml"), &text) {
        Ok(loaded) => format!(
            "{:?}\n",
            loaded.files().next().unwrap().revocations[0].spec.to_wire()
        ),
        Err(problems) => lines(&problems),
    };
    expected.assert_eq(&said);
}

#[test]
fn a_revocation_says_what_until_when_and_why() {
    let rest = "  until: 2030-01-31T12:00:00+02:00\n  reason: stolen laptop";
    for (what, expected) in [
        (
            "  principal: spiffe://example.org/ns/shop/sa/web",
            expect![[r#"
                Revocation { until: Some(Timestamp { seconds: 1896084000, nanos: 0 }), reason: "stolen laptop", what: Some(Principal("spiffe://example.org/ns/shop/sa/web")) }
            "#]],
        ),
        (
            "  certificate: {trustDomain: example.org, serial: \"00:4B:C3:7b\"}",
            expect![[r#"
                Revocation { until: Some(Timestamp { seconds: 1896084000, nanos: 0 }), reason: "stolen laptop", what: Some(Certificate(CertificateSerial { trust_domain: "example.org", serial: "4bc37b" })) }
            "#]],
        ),
        (
            "  token: {sha256: 9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08}",
            expect![[r#"
                Revocation { until: Some(Timestamp { seconds: 1896084000, nanos: 0 }), reason: "stolen laptop", what: Some(TokenId("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")) }
            "#]],
        ),
        // The SHA-256 of "test".
        (
            "  token: {jti: test}",
            expect![[r#"
            Revocation { until: Some(Timestamp { seconds: 1896084000, nanos: 0 }), reason: "stolen laptop", what: Some(TokenId("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")) }
        "#]],
        ),
    ] {
        check_revocation(&format!("{what}\n{rest}"), expected);
    }
}

#[test]
fn refuses_revocations_that_revoke_nothing_or_forever() {
    let rest = "  until: 2030-01-31T12:00:00Z\n  reason: stolen laptop";
    for (what, expected) in [
        (
            "",
            expect![[r#"
            f.yaml:4: spec: needs exactly one of `principal`, `certificate` and `token`: what is revoked
        "#]],
        ),
        (
            "  principal: spiffe://example.org/a\n  token: {jti: a}",
            expect![[r#"
                f.yaml:4: spec: needs exactly one of `principal`, `certificate` and `token`: what is revoked
            "#]],
        ),
        (
            "  principal: spiffe://example.org",
            expect![[r#"
            f.yaml:5: spec.principal: `spiffe://example.org` names a trust domain; a workload's SPIFFE ID has a path
        "#]],
        ),
        (
            "  principal: example.org/ns/a/sa/b",
            expect![[r#"
            f.yaml:5: spec.principal: `example.org/ns/a/sa/b` does not begin with `spiffe://` in lower case (SPIFFE-ID 2)
        "#]],
        ),
        (
            "  token: {}",
            expect![[r#"
            f.yaml:5: spec.token: needs either `sha256` or `jti`
        "#]],
        ),
        (
            "  token: {jti: a, sha256: b}",
            expect![[r#"
            f.yaml:5: spec.token: needs either `sha256` or `jti`
        "#]],
        ),
        (
            "  token: {jti: \"\"}",
            expect![[r#"
            f.yaml:5: spec.token.jti: empty: no token has it
        "#]],
        ),
        (
            "  token: {sha256: abc}",
            expect![[r#"
            f.yaml:5: spec.token.sha256: not the SHA-256 of a token: 64 hex digits; never the token itself
        "#]],
        ),
        (
            "  certificate: {trustDomain: example.org, serial: xyz}",
            expect![[r#"
                f.yaml:5: spec.certificate.serial: `xyz` is not a serial number in hex, such as `4b:c3:7b` or `4BC37B`
            "#]],
        ),
        (
            "  certificate: {trustDomain: example.org, serial: \"0\"}",
            expect![[r#"
                f.yaml:5: spec.certificate.serial: a serial number of zero belongs to no certificate
            "#]],
        ),
        (
            "  certificate: {trustDomain: example.org, serial: 123456}",
            expect![[r#"
                f.yaml:5: spec.certificate.serial: integer `123456` where a string is expected: put it in quotes
            "#]],
        ),
        (
            "  certificate: {trustDomain: example.org, serial: \"112233445566778899aabbccddeeff001122334455\"}",
            expect![[r#"
                f.yaml:5: spec.certificate.serial: longer than the 20 bytes that a serial number may have (RFC 5280 section 4.1.2.2)
            "#]],
        ),
        (
            "  certificate: {serial: \"1\"}",
            expect![[r#"
            f.yaml:5: spec.certificate: missing field `trustDomain`
        "#]],
        ),
    ] {
        check_revocation(&format!("{what}\n{rest}"), expected);
    }
    for (rest, expected) in [
        (
            "",
            expect![[r#"
            f.yaml:4: spec.until: required: when what is revoked would have expired anyway, e.g. `2030-01-31T00:00:00Z`; an entry without an end would stay on every sidecar forever
            f.yaml:4: spec.reason: required: why, for whoever reads the records
        "#]],
        ),
        (
            "  until: never\n  reason: x",
            expect![[r#"
            f.yaml:6: spec.until: `never` is not a time as RFC 3339 has it, e.g. `2030-01-31T00:00:00Z`
        "#]],
        ),
        (
            "  until: 2030-01-31\n  reason: \" \"",
            expect![[r#"
            f.yaml:6: spec.until: `2030-01-31` is not a time as RFC 3339 has it, e.g. `2030-01-31T00:00:00Z`
            f.yaml:7: spec.reason: required: why, for whoever reads the records
        "#]],
        ),
        (
            "  until: 2030-01-31T12:00:00Z\n  reason: \"a\\nb\"",
            expect![[r#"
                f.yaml:7: spec.reason: more than 256 bytes, or more than one line
            "#]],
        ),
    ] {
        check_revocation(&format!("  token: {{jti: a}}\n{rest}"), expected);
    }
    check(
        "apiVersion: kith.dev/v1alpha1\nkind: Revocation\nmetadata: {namespace: shop, name: r}\nspec: {token: {jti: a}, until: 2030-01-31T12:00:00Z, reason: x}\n---\napiVersion: security.istio.io/v1\nkind: Revocation\nmetadata: {name: r}",
        expect![[r#"
            f.yaml:3: metadata.namespace: a Revocation is in no namespace: remove it
            f.yaml:7: kind: `Revocation` is not a kind of `security.istio.io/v1` known here
        "#]],
    );
}

/// As `check`, for the one rule of a RequestAuthentication, which begins at line 6.
fn check_rule(rule: &str, expected: Expect) {
    let text = format!(
        "apiVersion: kith.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {{namespace: shop, name: tokens}}\nspec:\n  jwtRules:\n{rule}"
    );
    let said = match load_str(Path::new("f.yaml"), &text) {
        Ok(loaded) => {
            let document = &loaded.files().next().unwrap().request_authentications[0];
            format!(
                "{:#?}\n{:?}\n{:?}\n",
                document.spec.to_wire(&KeySets::default()),
                document.spec.rules()[0].fetch(),
                document.spec.warnings
            )
        }
        Err(problems) => lines(&problems),
    };
    expected.assert_eq(&said);
}

const KEY: &str = r#"{"kty": "EC", "crv": "P-256", "kid": "one", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

#[test]
fn a_token_rule_goes_over_the_wire_whole() {
    check_rule(
        "  - issuer: https://issuer.example.org/a/
    audiences: [orders]
    fromHeaders: [{name: X-Token, prefix: \"Token \"}, {name: authorization}]
    fromParams: [token]
    fromCookies: [session]
    outputPayloadToHeader: X-Payload
    outputClaimToHeaders: [{header: X-Group, claim: a.b}]
    forwardOriginalToken: true
    clockSkew: 1m
    requireBoundTokens: true
    timeout: 500ms",
        expect![[r#"
            [
                JwtRule {
                    issuer: "https://issuer.example.org/a/",
                    spiffe_trust_domain: "",
                    audiences: [
                        "orders",
                    ],
                    jwks: "",
                    from_headers: [
                        JwtHeader {
                            name: "x-token",
                            prefix: "Token ",
                        },
                        JwtHeader {
                            name: "authorization",
                            prefix: "",
                        },
                    ],
                    from_params: [
                        "token",
                    ],
                    from_cookies: [
                        "session",
                    ],
                    forward_original_token: true,
                    output_payload_to_header: "x-payload",
                    output_claim_to_headers: [
                        ClaimToHeader {
                            header: "x-group",
                            claim: "a.b",
                        },
                    ],
                    clock_skew_seconds: 60,
                    require_bound_tokens: true,
                },
            ]
            Some(Fetch { source: Discovery { issuer: "https://issuer.example.org/a/", metadata: Url { scheme: "https", cannot_be_a_base: false, username: "", password: None, host: Some(Domain("issuer.example.org")), port: None, path: "/a/.well-known/openid-configuration", query: None, fragment: None } }, timeout: 500ms })
            []
        "#]],
    );
    check_rule(
        "  - spiffeTrustDomain: example.org\n    audiences: [\"spiffe://example.org/orders\"]",
        expect![[r#"
            [
                JwtRule {
                    issuer: "",
                    spiffe_trust_domain: "example.org",
                    audiences: [
                        "spiffe://example.org/orders",
                    ],
                    jwks: "",
                    from_headers: [],
                    from_params: [],
                    from_cookies: [],
                    forward_original_token: false,
                    output_payload_to_header: "",
                    output_claim_to_headers: [],
                    clock_skew_seconds: 0,
                    require_bound_tokens: false,
                },
            ]
            None
            []
        "#]],
    );
    check_rule(
        &format!(
            "  - issuer: me\n    jwks: '{{\"keys\": [{KEY}, {{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}}]}}'"
        ),
        expect![[r#"
            [
                JwtRule {
                    issuer: "me",
                    spiffe_trust_domain: "",
                    audiences: [],
                    jwks: "{\"keys\":[{\"crv\":\"P-256\",\"kid\":\"one\",\"kty\":\"EC\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}",
                    from_headers: [],
                    from_params: [],
                    from_cookies: [],
                    forward_original_token: false,
                    output_payload_to_header: "",
                    output_claim_to_headers: [],
                    clock_skew_seconds: 0,
                    require_bound_tokens: false,
                },
            ]
            None
            [("spec.jwtRules[0].jwks", "key 1 has the member `k` of a private or shared key; it is compromised, replace it: not used")]
        "#]],
    );
    check_rule(
        "  - issuer: me\n    jwksUri: http://idp.example.org/keys",
        expect![[r#"
            [
                JwtRule {
                    issuer: "me",
                    spiffe_trust_domain: "",
                    audiences: [],
                    jwks: "",
                    from_headers: [],
                    from_params: [],
                    from_cookies: [],
                    forward_original_token: false,
                    output_payload_to_header: "",
                    output_claim_to_headers: [],
                    clock_skew_seconds: 0,
                    require_bound_tokens: false,
                },
            ]
            Some(Fetch { source: Jwks(Url { scheme: "http", cannot_be_a_base: false, username: "", password: None, host: Some(Domain("idp.example.org")), port: None, path: "/keys", query: None, fragment: None }), timeout: 5s })
            [("spec.jwtRules[0].jwksUri", "fetched without TLS: whoever is on the way can replace the keys, and with them decide which tokens are genuine; use https")]
        "#]],
    );
}

#[test]
fn refuses_token_rules_that_no_token_could_satisfy_safely() {
    let uri = "    jwksUri: https://idp.example.org/keys";
    for (rule, expected) in [
        (
            "  - audiences: [a]",
            expect![[r#"
            f.yaml:6: spec.jwtRules[0].issuer: required: the `iss` of the tokens; for JWT-SVIDs give `spiffeTrustDomain` instead
        "#]],
        ),
        (
            "  - issuer: a\n    spiffeTrustDomain: example.org",
            expect![[r#"
                f.yaml:7: spec.jwtRules[0].spiffeTrustDomain: the issuer of JWT-SVIDs is their trust domain: remove `issuer`
            "#]],
        ),
        (
            "  - spiffeTrustDomain: example.org\n    jwksUri: https://a.b",
            expect![[r#"
                f.yaml:7: spec.jwtRules[0].jwksUri: the Workload API has the keys of JWT-SVIDs: remove it
            "#]],
        ),
        (
            "  - issuer: a",
            expect![[r#"
            f.yaml:6: spec.jwtRules[0].issuer: `a` is not a URL: relative URL without a base; so its keys cannot be discovered: give `jwksUri` or `jwks`
        "#]],
        ),
        (
            "  - issuer: ftp://a.b",
            expect![[r#"
            f.yaml:6: spec.jwtRules[0].issuer: `ftp://a.b` is neither an https nor an http URL; so its keys cannot be discovered: give `jwksUri` or `jwks`
        "#]],
        ),
        (
            "  - issuer: https://a.b/?x=1",
            expect![[r#"
            f.yaml:6: spec.jwtRules[0].issuer: `https://a.b/?x=1` has a query; so its keys cannot be discovered: give `jwksUri` or `jwks`
        "#]],
        ),
        (
            "  - issuer: a\n    jwks: \"{}\"",
            expect![[r#"
            f.yaml:7: spec.jwtRules[0].jwks: is not a JWK Set (RFC 7517): it has no array `keys` (RFC 7517 5.1)
        "#]],
        ),
        (
            "  - issuer: a\n    jwks: '{\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"a\", \"d\": \"b\", \"kid\": \"mine\"}]}'",
            expect![[r#"
                f.yaml:7: spec.jwtRules[0].jwks: has no key that can be used: key `mine` has the member `d` of a private or shared key; it is compromised, replace it
            "#]],
        ),
        (
            &format!("  - issuer: a\n{uri}\n    clockSkew: 61s"),
            expect![[r#"
                f.yaml:8: spec.jwtRules[0].clockSkew: whole seconds, at most 60s
            "#]],
        ),
        (
            &format!("  - issuer: a\n{uri}\n    clockSkew: 500ms"),
            expect![[r#"
                f.yaml:8: spec.jwtRules[0].clockSkew: whole seconds, at most 60s
            "#]],
        ),
        (
            &format!("  - issuer: a\n{uri}\n    timeout: soon"),
            expect![[r#"
                f.yaml:8: spec.jwtRules[0].timeout: `soon` is not a duration such as `5s`, `500ms` or `1m30s`
            "#]],
        ),
        (
            &format!(
                "  - issuer: a\n{uri}\n    audiences: [\"\"]\n    outputClaimToHeaders: [{{header: x-a, claim: a}}, {{header: X-A, claim: \"\"}}, {{header: \"\", claim: b}}]"
            ),
            expect![[r#"
                f.yaml:8: spec.jwtRules[0].audiences[0]: an empty string: remove it
                f.yaml:9: spec.jwtRules[0].outputClaimToHeaders[1].claim: required: the claim to hand over
                f.yaml:9: spec.jwtRules[0].outputClaimToHeaders[1].header: `x-a` is named twice
                f.yaml:9: spec.jwtRules[0].outputClaimToHeaders[2].header: `` is not the name of a header
            "#]],
        ),
        (
            &format!("  - issuer: a\n{uri}\n    spaceDelimitedClaims: [roles]\n    jwksUrl: b"),
            expect![[r#"
                f.yaml:8: spec.jwtRules[0].spaceDelimitedClaims: is not supported: `scope` and `permission` are always split on spaces, so remove them; for another claim write a condition, such as `cel: (" " + request.auth.claims.roles + " ").contains(" admin ")`
                f.yaml:9: spec.jwtRules[0].jwksUrl: unknown field `jwksUrl`, expected one of `issuer`, `spiffeTrustDomain`, `audiences`, `jwksUri`, `jwks_uri`, `jwks`, `fromHeaders`, `fromParams`, `fromCookies`, `outputPayloadToHeader`, `forwardOriginalToken`, `outputClaimToHeaders`, `timeout`, `clockSkew`, `requireBoundTokens`
            "#]],
        ),
        (
            &format!("  - issuer: a\n{uri}\n    jwksUrl: b"),
            expect![[r#"
                f.yaml:8: spec.jwtRules[0].jwksUrl: unknown field `jwksUrl`, expected one of `issuer`, `spiffeTrustDomain`, `audiences`, `jwksUri`, `jwks_uri`, `jwks`, `fromHeaders`, `fromParams`, `fromCookies`, `outputPayloadToHeader`, `forwardOriginalToken`, `outputClaimToHeaders`, `timeout`, `clockSkew`, `requireBoundTokens`
            "#]],
        ),
    ] {
        check_rule(rule, expected);
    }
}

#[test]
fn refuses_policies_that_the_engine_cannot_honour() {
    for (spec, expected) in [
        (
            "  action: DENY",
            expect![[r#"
            f.yaml:4: spec.rules: a DENY without rules denies nothing; to deny everything, write one empty rule
        "#]],
        ),
        (
            "  rules:\n  - from: []",
            expect![[r#"
            f.yaml:6: spec.rules[0].from: an empty list: name at least one entry, or remove the field
        "#]],
        ),
        (
            "  rules:\n  - from:\n    - source: {}",
            expect![[r#"
            f.yaml:7: spec.rules[0].from[0].source: a source without any field; remove it, or name who is meant
        "#]],
        ),
        (
            "  rules:\n  - to:\n    - operation:\n        methods: []",
            expect![[r#"
            f.yaml:8: spec.rules[0].to[0].operation.methods: an empty list: name at least one entry, or remove the field
        "#]],
        ),
        (
            "  rules:\n  - to:\n    - operation: {}",
            expect![[r#"
            f.yaml:7: spec.rules[0].to[0].operation: an operation without any field; remove it, or name what is meant
        "#]],
        ),
        (
            "  rules:\n  - from:\n    - source:\n        principals:\n        - a/ns/b/sa/c\n        - \"\"",
            expect![[r#"
            f.yaml:10: spec.rules[0].from[0].source.principals[1]: an empty string matches nothing; remove it
        "#]],
        ),
        (
            "  rules:\n  - from:\n    - source:\n        notPrincipals: [\"a/*/c\"]",
            expect![[r#"
            f.yaml:8: spec.rules[0].from[0].source.notPrincipals[0]: `a/*/c` has a `*` in the wrong place: one may stand alone, first or last, and is never literal
        "#]],
        ),
        (
            "  rules:\n  - to:\n    - operation:\n        ports: [http]",
            expect![[r#"
            f.yaml:8: spec.rules[0].to[0].operation.ports[0]: `http` is not a port: a decimal number from 1 to 65535
        "#]],
        ),
        (
            "  rules:\n  - to:\n    - operation:\n        ports: [8080]",
            expect![[r#"
            f.yaml:8: spec.rules[0].to[0].operation.ports[0]: integer `8080` where a string is expected: put it in quotes
        "#]],
        ),
        (
            "  rules:\n  - to:\n    - operation:\n        paths: [\"/{**}/{*}\"]",
            expect![[r#"
            f.yaml:8: spec.rules[0].to[0].operation.paths[0]: `/{**}/{*}`: no template and no `*` may follow `{**}`
        "#]],
        ),
        (
            "  rules:\n  - when:\n    - key: request.heeders[x]\n      values: [a]",
            expect![[r#"
                f.yaml:7: spec.rules[0].when[0].key: `request.heeders[x]` is not a condition, `request.headers[x]` is; known are request.headers[name], source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount, source.trustDomain, request.auth.principal, request.auth.audiences, request.auth.presenter, request.auth.claims[name], destination.ip, destination.port and connection.sni; paths, methods, hosts and ports belong in `to`, and whatever else in `cel`
            "#]],
        ),
        (
            "  rules:\n  - when:\n    - key: source.ip\n      notValues: [10.0.0]",
            expect![[r#"
            f.yaml:8: spec.rules[0].when[0].notValues[0]: `10.0.0` is neither an address nor a CIDR; for every address use `0.0.0.0/0` and `::/0`
        "#]],
        ),
        (
            "  rules: {}",
            expect![[r#"
            f.yaml:5: spec.rules: invalid type: map, expected a sequence
        "#]],
        ),
        (
            "  rules:",
            expect![[r#"
            f.yaml:5: spec.rules: nothing is behind it: say what is meant, or remove the key
        "#]],
        ),
    ] {
        check_policy(spec, expected);
    }
}

/// A key whose entries were commented out, or that a template left empty, is no key that is absent: it would
/// quietly drop a restriction (a cluster refuses it as well: "must be of type array").
#[test]
fn a_key_with_nothing_behind_it_is_refused() {
    for (spec, field) in [
        (
            "  rules: [{from: , to: [{operation: {methods: [GET]}}]}]",
            "spec.rules[0].from",
        ),
        (
            "  rules:\n  - from: [{source: {namespaces: [a], principals: null}}]",
            "spec.rules[0].from[0].source.principals",
        ),
        (
            "  rules: [{to: [{operation: {ports: ['80'], methods: ~}}]}]",
            "spec.rules[0].to[0].operation.methods",
        ),
        (
            "  rules: [{when: [{key: source.ip, values: [10.0.0.1], notValues: }]}]",
            "spec.rules[0].when[0].notValues",
        ),
        (
            "  rules: [{from: [{source: {principals: [ ~ ]}}]}]",
            "spec.rules[0].from[0].source.principals[0]",
        ),
    ] {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: orders}}\nspec:\n{spec}"
        );
        let said = load_str(Path::new("f.yaml"), &text)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(said.len(), 1, "{spec}: {}", lines(&said));
        assert_eq!(said[0].field, field, "{spec}: {}", lines(&said));
    }
    let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {namespace: shop, name: t, creationTimestamp: null}\nspec:\n  jwtRules:\n  - issuer: https://i.example\n";
    assert!(load_str(Path::new("f.yaml"), tokens).is_ok());
    for key in ["jwks", "timeout"] {
        let text = format!("{tokens}    {key}: null\n");
        let said = load_str(Path::new("f.yaml"), &text)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            said[0].field,
            format!("spec.jwtRules[0].{key}"),
            "{}",
            lines(&said)
        );
    }
}

#[test]
fn says_where_a_file_is_not_yaml() {
    check(
        "apiVersion: [kith.dev/v1alpha1\nkind: Workload\n",
        expect![[r#"
        f.yaml:2: not valid YAML: illegal placement of ':' indicator
    "#]],
    );
    check(
        "a: 1\na: 2\n",
        expect![[r#"
        f.yaml:2: not valid YAML: duplicate mapping key `a` is not allowed here
    "#]],
    );
    check(
        "a: *nobody\n",
        expect![[r#"
        f.yaml:1: not valid YAML: reference to unknown value
    "#]],
    );
    check(
        "a: \"\\q\"\n",
        expect![[r#"
        f.yaml:1: not valid YAML: while parsing a quoted scalar, found unknown escape character
    "#]],
    );
    check(
        "\tkind: Workload\n",
        expect![[r#"
        f.yaml:1: apiVersion: required: say what kind of document this is
    "#]],
    );
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let before = i - 1;
        text += &format!(
            "a{i}: &a{i} [{}]\n",
            vec![format!("*a{before}"); 10].join(", ")
        );
    }
    let problems = load_str(Path::new("f.yaml"), &text).unwrap_err();
    assert_eq!(problems.len(), 1, "{}", lines(&problems));
}

#[test]
fn reads_a_folder_in_the_order_of_its_files_and_reports_all_problems() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("b.yaml", "kind: x\n");
    write("a/z.yml", "- no\n");
    write(".hidden/c.yaml", "not: read\n");
    write(".d.yaml", "not: read\n");
    write("notes.txt", "not: read\n");
    let problems = load_dir(dir.path()).unwrap_err();
    let said = lines(&problems).replace(&dir.path().display().to_string(), "DIR");
    expect![[r#"
        DIR/a/z.yml:1: expected a document with `apiVersion`, `kind` and `metadata`
        DIR/b.yaml:1: apiVersion: required: say what kind of document this is
    "#]]
    .assert_eq(&said);

    let missing = load_dir(&dir.path().join("missing")).unwrap_err();
    let said = lines(&missing).replace(&dir.path().display().to_string(), "DIR");
    expect![[r#"
        DIR/missing: cannot be read: No such file or directory (os error 2)
    "#]]
    .assert_eq(&said);
}

/// A policy in a place that is not looked at would be missing without a word.
#[test]
fn nothing_that_looks_like_a_policy_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (dir.path().join("folder"), dir.path().join("elsewhere"));
    for made in [&folder, &elsewhere, &folder.join("..2030")] {
        std::fs::create_dir(made).unwrap();
    }
    let broken = "apiVersion: kith.dev/v1alpha1\nkind: Nonsense\n";
    std::fs::write(elsewhere.join("deny.yaml"), broken).unwrap();
    // As a mounted ConfigMap has it.
    std::os::unix::fs::symlink("..2030", folder.join("..data")).unwrap();
    assert!(load_dir(&folder).is_ok());
    std::os::unix::fs::symlink(&elsewhere, folder.join("shared")).unwrap();
    let problems = load_dir(&folder).unwrap_err();
    assert_eq!(problems.len(), 1, "{}", lines(&problems));
    assert!(
        problems[0].message.contains("link to a folder"),
        "{}",
        lines(&problems)
    );
    std::fs::remove_file(folder.join("shared")).unwrap();
    std::fs::write(folder.join("DENY.YAML"), broken).unwrap();
    let problems = load_dir(&folder).unwrap_err();
    assert_eq!(problems[0].field, "kind", "{}", lines(&problems));
    std::fs::remove_file(folder.join("DENY.YAML")).unwrap();
    // A link that leads nowhere is no file that is not there.
    std::os::unix::fs::symlink("gone.yaml", folder.join("lost.yaml")).unwrap();
    assert!(load_dir(&folder).is_err());
}

#[test]
fn parses_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = |domain: &str| {
        format!(
            "apiVersion: kith.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: m}}\nspec: {{trustDomain: {domain}}}\n"
        )
    };
    std::fs::write(dir.path().join("a.yaml"), mesh("a.example")).unwrap();
    std::fs::write(dir.path().join("b.yaml"), mesh("b.example")).unwrap();
    let mut loader = Loader::default();
    let first = loader.load(dir.path()).unwrap();
    std::fs::write(dir.path().join("b.yaml"), mesh("c.example")).unwrap();
    let second = loader.load(dir.path()).unwrap();
    let files = |loaded: &super::Loaded| loaded.files().map(std::ptr::from_ref).collect::<Vec<_>>();
    assert_eq!(files(&first)[0], files(&second)[0]);
    assert_ne!(files(&first)[1], files(&second)[1]);
    assert_eq!(
        second.files().nth(1).unwrap().mesh_configs[0]
            .spec
            .trust_domain
            .0
            .as_str(),
        "c.example"
    );
}

#[test]
fn a_root_namespace_is_a_namespace() {
    for root in ["\"\"", "istio.system", "Kith"] {
        let text = format!(
            "apiVersion: kith.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{trustDomain: example.org, rootNamespace: {root}}}"
        );
        let problems = load_str(Path::new("f.yaml"), &text).unwrap_err();
        assert_eq!(problems[0].field, "spec.rootNamespace");
    }
}
