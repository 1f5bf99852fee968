use std::path::Path;

use expect_test::{Expect, expect};

use super::{Loader, load_dir, load_str};
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
                "mesh {} workloads {} services {} authorization {} peer {}\n",
                file.mesh_configs.len(),
                file.workloads.len(),
                file.services.len(),
                file.authorization_policies.len(),
                file.peer_authentications.len()
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
            mesh 1 workloads 2 services 1 authorization 2 peer 1
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
            f.yaml:14: metadata.finalizers: unknown field `finalizers`, expected one of `namespace`, `name`, `labels`, `annotations`
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
fn refuses_what_is_not_supported_yet_by_name() {
    for (spec, expected) in [
        (
            "  action: AUDIT\n  rules: [{}]",
            expect![[r#"
            f.yaml:5: spec.action: AUDIT is not supported yet
        "#]],
        ),
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
            "  dryRun: true",
            expect![[r#"
            f.yaml:5: spec.dryRun: dry-run is not supported yet
        "#]],
        ),
        (
            "  targetRefs: [{kind: Gateway, name: g}]",
            expect![[r#"
            f.yaml:5: spec.targetRefs: not supported yet
        "#]],
        ),
        (
            "  rules:\n  - from:\n    - source:\n        requestPrincipals: [\"*\"]",
            expect![[r#"
            f.yaml:8: spec.rules[0].from[0].source.requestPrincipals: not supported yet
        "#]],
        ),
        (
            "  rules:\n  - from:\n    - source: {notRequestPrincipals: [\"*\"]}",
            expect![[r#"
            f.yaml:7: spec.rules[0].from[0].source.notRequestPrincipals: not supported yet
        "#]],
        ),
        (
            "  rules:\n  - when:\n    - key: request.auth.claims[group]\n      values: [admin]",
            expect![[r#"
            f.yaml:7: spec.rules[0].when[0].key: `request.auth.claims[group]` needs request tokens, which are not supported yet
        "#]],
        ),
        (
            "  rules:\n  - when:\n    - cel: \"true\"",
            expect![[r#"
            f.yaml:7: spec.rules[0].when[0].cel: not supported yet
        "#]],
        ),
    ] {
        check_policy(spec, expected);
    }
    check(
        r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  namespace: shop
  name: a
  annotations:
    istio.io/dry-run: "true"
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {namespace: shop, name: a}
---
apiVersion: kith.dev/v1alpha1
kind: Revocation
metadata: {namespace: shop, name: a}
"#,
        expect![[r#"
            f.yaml:7: metadata.annotations.istio.io/dry-run: dry-run is not supported yet
            f.yaml:10: kind: `RequestAuthentication` is not supported yet
            f.yaml:14: kind: `Revocation` is not supported yet
        "#]],
    );
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
            f.yaml:7: spec.rules[0].when[0].key: `request.heeders[x]` is not a condition; known are request.headers[name], source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount, source.trustDomain, destination.ip, destination.port and connection.sni
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
            f.yaml:5: spec.rules: invalid type: null, expected a sequence
        "#]],
        ),
    ] {
        check_policy(spec, expected);
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
