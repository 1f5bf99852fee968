use std::path::Path;

use expect_test::{Expect, expect};
use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;
use prost::Message;

use super::{Resolved, resolve};
use crate::catalog::{Catalog, Encoded};
use crate::jwks::{KeySets, Source};
use crate::problem::Problem;
use crate::yaml::load_str;

const MESH: &str = "
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: example.org}
";

/// Workloads are `namespace/name labels spec`; everything else is a whole document.
fn documents(workloads: &[(&str, &str)], others: &[&str]) -> String {
    let mut text = MESH.to_owned();
    for (id, rest) in workloads {
        let (namespace, name) = id.split_once('/').unwrap();
        text += &format!(
            "---\napiVersion: kith.dev/v1alpha1\nkind: Workload\nmetadata: {{namespace: {namespace}, name: {name}, {rest}\n"
        );
    }
    others
        .iter()
        .for_each(|other| text += &format!("---\n{other}\n"));
    text
}

fn resolved(text: &str) -> Result<Resolved, Vec<Problem>> {
    resolve(
        &load_str(Path::new("f.yaml"), text).unwrap(),
        &KeySets::default(),
    )
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

fn config(catalog: &Catalog, node: &str) -> api::WorkloadConfig {
    decode(catalog.find(node, Kind::WorkloadConfig, node).unwrap())
}

fn decode<M: Message + Default>(encoded: &Encoded) -> M {
    M::decode(encoded.to_wire().resource.unwrap().value.as_slice()).unwrap()
}

const WEB: (&str, &str) = (
    "shop/web-1",
    "labels: {app: web}}\nspec: {serviceAccount: web, addresses: [10.0.0.1]}",
);
const ORDERS: (&str, &str) = (
    "shop/orders-1",
    "labels: {app: orders, tier: back}}\nspec: {serviceAccount: orders, addresses: [\"fd00::2\", 10.0.0.2], ports: [{port: 8080, protocol: HTTP, encodedSlash: DECODE}, {port: 5432, protocol: TCP}]}",
);

#[test]
fn a_workload_gets_everything_it_must_know() {
    let text = documents(
        &[ORDERS],
        &[
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {namespace: shop, name: p}\nspec: {selector: {matchLabels: {app: orders}}, portLevelMtls: {5432: {mode: PERMISSIVE}, 15: {mode: DISABLE}}}",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: b}\nspec: {}",
        ],
    );
    let catalog = resolved(&text).unwrap().catalog;
    expect![[r#"
        WorkloadConfig {
            revision: "87d5d9f66c57",
            namespace: "shop",
            name: "orders-1",
            service_account: "orders",
            labels: {
                "app": "orders",
                "tier": "back",
            },
            trust_domain: "example.org",
            trust_domain_aliases: [],
            addresses: [
                "fd00::2",
                "10.0.0.2",
            ],
            default_mtls_mode: Strict,
            ports: [
                Port {
                    number: 15,
                    protocol: Unspecified,
                    mtls_mode: Disable,
                    encoded_slash: Refuse,
                },
                Port {
                    number: 5432,
                    protocol: Tcp,
                    mtls_mode: Permissive,
                    encoded_slash: Refuse,
                },
                Port {
                    number: 8080,
                    protocol: Http1,
                    mtls_mode: Strict,
                    encoded_slash: Decode,
                },
            ],
            default_action: Deny,
            policies: [
                "shop/b",
            ],
            egress_mode: Refuse,
            trusted_forwarded_hops: 0,
            request_authentication: [],
        }
    "#]]
    .assert_debug_eq(&config(&catalog, "shop/orders-1"));
}

#[test]
fn policies_reach_their_namespace_or_from_the_root_namespace_the_mesh() {
    let policy = |id: &str, spec: &str| {
        let (namespace, name) = id.split_once('/').unwrap();
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {spec}"
        )
    };
    let other = (
        "bank/web-1",
        "labels: {app: web}}\nspec: {serviceAccount: web, addresses: [10.0.1.1]}",
    );
    let policies = [
        policy("shop/all", "{}"),
        policy("shop/orders", "{selector: {matchLabels: {app: orders}}}"),
        policy(
            "shop/back-orders",
            "{selector: {matchLabels: {app: orders, tier: back}}}",
        ),
        policy(
            "shop/front-orders",
            "{selector: {matchLabels: {app: orders, tier: front}}}",
        ),
        policy("shop/empty-selector", "{selector: {}}"),
        policy("bank/all", "{}"),
        policy("kith-system/mesh", "{}"),
        policy("kith-system/web", "{selector: {matchLabels: {app: web}}}"),
        policy("empty/all", "{}"),
    ];
    let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
    let catalog = resolved(&documents(&[WEB, ORDERS, other], &policies))
        .unwrap()
        .catalog;
    let names = |node: &str| config(&catalog, node).policies.join(" ");
    assert_eq!(
        names("shop/web-1"),
        "kith-system/mesh kith-system/web shop/all shop/empty-selector"
    );
    assert_eq!(
        names("shop/orders-1"),
        "kith-system/mesh shop/all shop/back-orders shop/empty-selector shop/orders"
    );
    assert_eq!(
        names("bank/web-1"),
        "bank/all kith-system/mesh kith-system/web"
    );
    // Only the policies of its own configuration exist for a node.
    assert!(
        catalog
            .find("shop/web-1", Kind::AuthorizationPolicy, "shop/all")
            .is_some()
    );
    assert!(
        catalog
            .find("shop/web-1", Kind::AuthorizationPolicy, "shop/orders")
            .is_none()
    );
    assert!(
        catalog
            .find("shop/web-1", Kind::WorkloadConfig, "shop/orders-1")
            .is_none()
    );
}

#[test]
fn policies_go_over_the_wire_as_they_were_written() {
    let text = documents(
        &[ORDERS],
        &[r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  action: DENY
  rules:
  - from:
    - source:
        principals: [a/ns/b/sa/c]
        notPrincipals: [a/ns/b/sa/d]
        namespaces: [n]
        notNamespaces: [m]
        serviceAccounts: [n/a]
        notServiceAccounts: [n/b]
        trustDomains: [t]
        notTrustDomains: [u]
        ipBlocks: [10.0.0.0/8]
        notIpBlocks: [10.1.0.0/16]
        remoteIpBlocks: [10.2.0.1]
        notRemoteIpBlocks: [10.3.0.1]
    to:
    - operation:
        hosts: [a.b]
        notHosts: [c.d]
        ports: ["80"]
        notPorts: ["81"]
        methods: [GET]
        notMethods: [PUT]
        paths: [/a]
        notPaths: [/b]
    when:
    - {key: source.ip, values: [10.0.0.1], notValues: [10.0.0.2]}
  - {}
"#],
    );
    let resolved = resolved(&text).unwrap();
    let found = resolved
        .catalog
        .find("shop/orders-1", Kind::AuthorizationPolicy, "shop/orders")
        .unwrap();
    expect![[r#"
        AuthorizationPolicy {
            namespace: "shop",
            name: "orders",
            action: Deny,
            rules: [
                Rule {
                    from: [
                        Source {
                            principals: [
                                "a/ns/b/sa/c",
                            ],
                            not_principals: [
                                "a/ns/b/sa/d",
                            ],
                            namespaces: [
                                "n",
                            ],
                            not_namespaces: [
                                "m",
                            ],
                            service_accounts: [
                                "n/a",
                            ],
                            not_service_accounts: [
                                "n/b",
                            ],
                            trust_domains: [
                                "t",
                            ],
                            not_trust_domains: [
                                "u",
                            ],
                            ip_blocks: [
                                "10.0.0.0/8",
                            ],
                            not_ip_blocks: [
                                "10.1.0.0/16",
                            ],
                            remote_ip_blocks: [
                                "10.2.0.1",
                            ],
                            not_remote_ip_blocks: [
                                "10.3.0.1",
                            ],
                            request_principals: [],
                            not_request_principals: [],
                        },
                    ],
                    to: [
                        Operation {
                            hosts: [
                                "a.b",
                            ],
                            not_hosts: [
                                "c.d",
                            ],
                            ports: [
                                "80",
                            ],
                            not_ports: [
                                "81",
                            ],
                            methods: [
                                "GET",
                            ],
                            not_methods: [
                                "PUT",
                            ],
                            paths: [
                                "/a",
                            ],
                            not_paths: [
                                "/b",
                            ],
                        },
                    ],
                    when: [
                        Condition {
                            key: "source.ip",
                            values: [
                                "10.0.0.1",
                            ],
                            not_values: [
                                "10.0.0.2",
                            ],
                            cel: "",
                        },
                    ],
                },
                Rule {
                    from: [],
                    to: [],
                    when: [],
                },
            ],
            dry_run: false,
        }
    "#]]
    .assert_debug_eq(&decode::<api::AuthorizationPolicy>(found));
    expect![[r#"
        f.yaml:18: spec.rules[0]: hosts, methods, paths, headers and tokens do not exist on opaque TCP: there this rule denies by its other parts alone; restrict it to HTTP ports if that is not meant
    "#]].assert_eq(&lines(&resolved.warnings));
}

/// Each row: PeerAuthentications as `namespace/name spec`, and the modes of `shop/orders-1`: its default,
/// then what differs or is declared by port.
fn check_modes(policies: &[(&str, &str)], expected: Expect) {
    let policies: Vec<String> = policies
        .iter()
        .map(|(id, spec)| {
            let (namespace, name) = id.split_once('/').unwrap();
            format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {spec}")
        })
        .collect();
    let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
    let Resolved { catalog, warnings } = resolved(&documents(&[ORDERS], &policies)).unwrap();
    let config = config(&catalog, "shop/orders-1");
    let mut said = format!("{:?}", config.default_mtls_mode());
    config
        .ports
        .iter()
        .for_each(|port| said += &format!(" {}={:?}", port.number, port.mtls_mode()));
    said += "\n";
    expected.assert_eq(&(said + &lines(&warnings)));
}

#[test]
fn mtls_modes_inherit_workload_over_namespace_over_mesh() {
    const OWN: &str = "selector: {matchLabels: {app: orders}}";
    let own = |rest: &str| format!("{{{OWN}, {rest}}}");
    check_modes(
        &[],
        expect![[r#"
        Strict 5432=Strict 8080=Strict
    "#]],
    );
    check_modes(
        &[("kith-system/m", "{mtls: {mode: PERMISSIVE}}")],
        expect![[r#"
        Permissive 5432=Permissive 8080=Permissive
    "#]],
    );
    check_modes(
        &[("kith-system/m", "{mtls: {mode: UNSET}}")],
        expect![[r#"
        Strict 5432=Strict 8080=Strict
    "#]],
    );
    check_modes(
        &[
            ("kith-system/m", "{mtls: {mode: PERMISSIVE}}"),
            ("shop/n", "{mtls: {mode: STRICT}}"),
        ],
        expect![[r#"
        Strict 5432=Strict 8080=Strict
    "#]],
    );
    check_modes(
        &[
            ("kith-system/m", "{mtls: {mode: PERMISSIVE}}"),
            ("shop/n", "{}"),
        ],
        expect![[r#"
        Permissive 5432=Permissive 8080=Permissive
    "#]],
    );
    check_modes(
        &[("bank/n", "{mtls: {mode: DISABLE}}")],
        expect![[r#"
        Strict 5432=Strict 8080=Strict
    "#]],
    );
    check_modes(
        &[
            ("shop/n", "{mtls: {mode: PERMISSIVE}}"),
            ("shop/w", &own("mtls: {mode: DISABLE}")),
        ],
        expect![[r#"
            Disable 5432=Disable 8080=Disable
        "#]],
    );
    check_modes(
        &[
            ("shop/n", "{mtls: {mode: PERMISSIVE}}"),
            (
                "shop/w",
                &own(
                    "portLevelMtls: {8080: {mode: STRICT}, 5432: {mode: UNSET}, 9: {mode: DISABLE}}",
                ),
            ),
        ],
        expect![[r#"
            Permissive 9=Disable 5432=Permissive 8080=Strict
        "#]],
    );
    // A selector in the root namespace speaks of workloads, wherever they are.
    check_modes(
        &[
            ("shop/n", "{mtls: {mode: STRICT}}"),
            ("kith-system/w", &own("mtls: {mode: PERMISSIVE}")),
        ],
        expect![[r#"
            Permissive 5432=Permissive 8080=Permissive
        "#]],
    );
    check_modes(
        &[
            ("shop/w1", &own("mtls: {mode: PERMISSIVE}")),
            (
                "shop/w2",
                "{selector: {matchLabels: {tier: back}}, mtls: {mode: DISABLE}}",
            ),
            ("shop/n1", "{}"),
            ("shop/n2", "{}"),
        ],
        expect![[r#"
            Permissive 5432=Permissive 8080=Permissive
            f.yaml:20: spec: has no effect where `shop/w1` (f.yaml:12) speaks of the same workloads: the first one wins
            f.yaml:30: spec: has no effect where `shop/n1` (f.yaml:22) speaks of the same workloads: the first one wins
        "#]],
    );
}

#[test]
fn every_address_and_host_has_what_stands_behind_it() {
    let legacy = (
        "shop/legacy",
        "labels: {app: orders}}\nspec: {mesh: false, addresses: [10.0.0.9], ports: [{port: 8080, protocol: HTTP}]}",
    );
    let foreign = (
        "bank/orders",
        "labels: {app: orders}}\nspec: {serviceAccount: x, addresses: [10.0.1.2], spiffeId: \"spiffe://bank.example/orders\"}",
    );
    let text = documents(
        &[ORDERS, legacy, foreign],
        &[
            "apiVersion: kith.dev/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: orders}\nspec: {addresses: [10.0.255.2, \"fd00:0:0::ff\"], hosts: [Orders.Shop.], selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080, protocol: HTTP}, {port: 5432}]}",
        ],
    );
    let catalog = resolved(&text).unwrap().catalog;
    let mut names: Vec<&str> = catalog.addresses.keys().map(AsRef::as_ref).collect();
    names.sort_unstable();
    assert_eq!(
        names.join(" "),
        "10.0.0.2 10.0.0.9 10.0.1.2 10.0.255.2 fd00::2 fd00::ff orders.shop"
    );
    let find =
        |name| decode::<api::Address>(catalog.find("shop/orders-1", Kind::Address, name).unwrap());
    expect![[r#"
        Address {
            kind: Some(
                Service(
                    Service {
                        namespace: "shop",
                        name: "orders",
                        ports: [
                            ServicePort {
                                number: 80,
                                protocol: Http1,
                                target_port: 8080,
                            },
                            ServicePort {
                                number: 5432,
                                protocol: Unspecified,
                                target_port: 5432,
                            },
                        ],
                        endpoints: [
                            Endpoint {
                                workload: "shop/orders-1",
                                address: "10.0.0.2",
                                spiffe_ids: [
                                    "spiffe://example.org/ns/shop/sa/orders",
                                ],
                                ports: [
                                    Port {
                                        number: 5432,
                                        protocol: Tcp,
                                        mtls_mode: Strict,
                                        encoded_slash: Refuse,
                                    },
                                    Port {
                                        number: 8080,
                                        protocol: Http1,
                                        mtls_mode: Strict,
                                        encoded_slash: Decode,
                                    },
                                ],
                                target_ports: {},
                            },
                            Endpoint {
                                workload: "shop/legacy",
                                address: "10.0.0.9",
                                spiffe_ids: [],
                                ports: [
                                    Port {
                                        number: 8080,
                                        protocol: Http1,
                                        mtls_mode: Disable,
                                        encoded_slash: Refuse,
                                    },
                                ],
                                target_ports: {},
                            },
                        ],
                    },
                ),
            ),
        }
    "#]]
    .assert_debug_eq(&find("10.0.255.2"));
    expect![[r#"
        Address {
            kind: Some(
                Workload(
                    Endpoint {
                        workload: "bank/orders",
                        address: "10.0.1.2",
                        spiffe_ids: [
                            "spiffe://bank.example/orders",
                        ],
                        ports: [],
                        target_ports: {},
                    },
                ),
            ),
        }
    "#]]
    .assert_debug_eq(&find("10.0.1.2"));
    let endpoints = |name| match find(name).kind.unwrap() {
        api::address::Kind::Service(service) => service
            .endpoints
            .into_iter()
            .map(|e| e.address)
            .collect::<Vec<_>>()
            .join(" "),
        api::address::Kind::Workload(endpoint) => endpoint.address,
    };
    // Of the family that was dialled, if the workload has one; its first address for a host.
    assert_eq!(endpoints("fd00::ff"), "fd00::2 10.0.0.9");
    assert_eq!(endpoints("orders.shop"), "fd00::2 10.0.0.9");
}

#[test]
fn contradictions_between_documents_are_refused_together() {
    let text = documents(
        &[
            WEB,
            ORDERS,
            (
                "shop/web-1",
                "}\nspec: {serviceAccount: a b, addresses: [10.0.0.3]}"
                    .replace("a b", "ab")
                    .leak(),
            ),
        ],
        &[
            "apiVersion: kith.dev/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: s}\nspec: {addresses: [10.0.0.4, \"::ffff:10.0.0.1\"], selector: {a: b}, ports: [{port: 1}]}",
            "apiVersion: kith.dev/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: s}\nspec: {hosts: [a.b, A.B.], selector: {a: b}, ports: [{port: 1}]}",
        ],
    );
    expect![[r#"
        f.yaml:19: metadata.name: Workload `shop/web-1` exists already at f.yaml:7
        f.yaml:25: spec.addresses[1]: `10.0.0.1` belongs already to the document at f.yaml:7
        f.yaml:29: metadata.name: Service `shop/s` exists already at f.yaml:22
        f.yaml:30: spec.hosts[1]: `a.b` belongs already to the document at f.yaml:27
    "#]]
    .assert_eq(&lines(&resolved(&text).unwrap_err()));
}

#[test]
fn a_mesh_has_exactly_one_mesh_config() {
    expect![[r#"
        f.yaml: no MeshConfig: add one with the mesh's `spec.trustDomain`
    "#]]
    .assert_eq(&lines(&resolved("").unwrap_err()));
    expect![[r#"
        f.yaml:8: kind: a second MeshConfig; there is one already at f.yaml:2
    "#]]
    .assert_eq(&lines(&resolved(&format!("{MESH}---{MESH}")).unwrap_err()));
}

#[test]
fn equal_content_has_an_equal_revision_and_other_content_another() {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: a}\nspec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}";
    let of = |text: &str| {
        let catalog = resolved(text).unwrap().catalog;
        (
            config(&catalog, "shop/web-1").revision,
            config(&catalog, "shop/orders-1").revision,
        )
    };
    let (web, orders) = of(&documents(&[WEB, ORDERS], &[policy]));
    assert_eq!((web.len(), orders.len()), (12, 12));
    // The order of documents is no content.
    assert_eq!(
        of(&documents(&[ORDERS, WEB], &[policy])),
        (web.clone(), orders.clone())
    );
    // The names are the same, a policy's text is not: only whom it selects notices.
    let (other_web, other_orders) =
        of(&documents(&[WEB, ORDERS], &[&policy.replace("GET", "PUT")]));
    assert_ne!(other_web, web);
    assert_eq!(other_orders, orders);
}

const TOKENS: &str = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {namespace: shop, name: tokens}\nspec: {selector: {matchLabels: {app: orders}}, jwtRules: [{issuer: me, jwksUri: \"https://idp.example.org/keys\"}]}";

#[test]
fn request_authentication_reaches_whom_it_selects_with_the_keys_known_now() {
    let text = documents(
        &[WEB, ORDERS],
        &[
            TOKENS,
            "apiVersion: kith.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {namespace: kith-system, name: svids}\nspec: {jwtRules: [{spiffeTrustDomain: example.org}]}",
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {namespace: shop, name: nothing}\nspec: {}",
        ],
    );
    let loaded = load_str(Path::new("f.yaml"), &text).unwrap();
    let with = |keys: &KeySets| resolve(&loaded, keys).unwrap().catalog;
    let said = |catalog: &Catalog, node: &str| {
        let rules = config(catalog, node).request_authentication.into_iter();
        rules
            .map(|it| {
                let rule = &it.rules[0];
                format!(
                    "{}/{}: {}{} {:?}\n",
                    it.namespace, it.name, rule.issuer, rule.spiffe_trust_domain, rule.jwks
                )
            })
            .collect::<String>()
    };
    let without = with(&KeySets::default());
    expect![[r#"
        kith-system/svids: example.org ""
        shop/tokens: me ""
    "#]]
    .assert_eq(&said(&without, "shop/orders-1"));
    expect![[r#"
        kith-system/svids: example.org ""
    "#]]
    .assert_eq(&said(&without, "shop/web-1"));
    let source = Source::jwks("https://idp.example.org/keys").unwrap();
    let keys = KeySets::from_iter([(source, "{}".into())]);
    let fetched = with(&keys);
    expect![[r#"
        kith-system/svids: example.org ""
        shop/tokens: me "{}"
    "#]]
    .assert_eq(&said(&fetched, "shop/orders-1"));
    // Who has none of it notices nothing.
    let revision = |catalog: &Catalog, node| config(catalog, node).revision;
    assert_ne!(
        revision(&without, "shop/orders-1"),
        revision(&fetched, "shop/orders-1")
    );
    assert_eq!(
        revision(&without, "shop/web-1"),
        revision(&fetched, "shop/web-1")
    );
}

#[test]
fn the_revocation_list_is_the_same_whatever_the_order_of_documents() {
    let revocation = |name: &str, what: &str| {
        format!(
            "apiVersion: kith.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: {name}}}\nspec: {{{what}, until: 2020-01-01T00:00:00Z, reason: lost}}"
        )
    };
    let a = revocation("a", "principal: \"spiffe://example.org/b\"");
    let b = revocation(
        "b",
        "certificate: {trustDomain: example.org, serial: \"0A\"}",
    );
    let of = |others: &[&str]| {
        let catalog = resolved(&documents(&[], others)).unwrap().catalog;
        let encoded = catalog
            .find("any", Kind::RevocationList, "mesh")
            .unwrap()
            .clone();
        (
            encoded.version().to_owned(),
            decode::<api::RevocationList>(&encoded).revocations.len(),
            catalog.counts.revocations,
        )
    };
    let (version, ..) = of(&[&a, &b]);
    assert_eq!(of(&[&a, &b]), (version.clone(), 2, 2));
    assert_eq!(of(&[&b, &a]), (version.clone(), 2, 2));
    // Said twice, it holds once.
    let again = a.replace("name: a", "name: c");
    assert_eq!(of(&[&b, &a, &again]), (version, 2, 3));
    let text = documents(&[], &[&a, &a, TOKENS, TOKENS]);
    expect![[r#"
        f.yaml:14: metadata.name: Revocation `a` exists already at f.yaml:7
        f.yaml:24: metadata.name: RequestAuthentication `shop/tokens` exists already at f.yaml:17
    "#]]
    .assert_eq(&lines(&resolved(&text).unwrap_err()));
}

#[test]
fn what_a_sidecar_would_refuse_of_token_rules_is_refused_here() {
    let tokens = |id: &str, rules: &str| {
        let (namespace, name) = id.split_once('/').unwrap();
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec:\n  jwtRules:\n{rules}"
        )
    };
    let uri = "jwksUri: \"https://idp.example.org/keys\"";
    let text = documents(
        &[WEB, ORDERS],
        &[
            &tokens(
                "shop/a",
                &format!(
                    "  - {{issuer: a, {uri}}}\n  - {{issuer: b, {uri}, fromHeaders: [{{name: x-a}}]}}"
                ),
            ),
            &tokens("kith-system/b", &format!("  - {{issuer: a, {uri}}}")),
            &tokens(
                "elsewhere/c",
                &format!(
                    "  - {{issuer: a, {uri}}}\n  - {{issuer: c, {uri}, fromHeaders: [{{name: host}}]}}"
                ),
            ),
        ],
    );
    expect![[r#"
        f.yaml:22: spec.jwtRules[0].issuer: where `kith-system/b` and `shop/a` hold together, this is the second rule about "a"; put both into one
        f.yaml:38: spec.jwtRules[1].fromHeaders[0].name: "host" can't be used: it has a meaning of its own
    "#]].assert_eq(&lines(&resolved(&text).unwrap_err()));
}
