use std::path::Path;

use expect_test::expect;

use super::*;
use crate::resolve::resolve;
use crate::yaml::load_str;

const MESH: &str = "{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org, trustDomainAliases: [old.example]}}\n";

fn loaded(text: &str) -> Loaded {
    load_str(Path::new("f.yaml"), text).unwrap()
}

fn rules_of(text: &str) -> Result<Rules, Vec<Problem>> {
    Rules::new(&loaded(text), &KeySets::default())
}

/// `{apiVersion…, kind, metadata: {namespace, name}, spec}`
fn document(kind: &str, id: &str, spec: &str) -> String {
    let (namespace, name) = id.split_once('/').unwrap();
    format!(
        "---\n{{apiVersion: kith.dev/v1alpha1, kind: {kind}, metadata: {{namespace: {namespace}, name: {name}}}, spec: {{{spec}}}}}\n"
    )
}

fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    let of = of.iter();
    of.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn pod<'a>(labels: &'a BTreeMap<String, String>, addresses: &'a [IpAddr]) -> Subject<'a> {
    Subject {
        namespace: "shop",
        name: "pod",
        labels,
        service_account: "web",
        addresses,
        mesh: true,
        spiffe_id: None,
        ports: &[],
    }
}

const ADDRESSES: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1))];

/// Everything of it, in words that can be compared.
fn described(placed: &Placed) -> String {
    let node = placed.node.as_ref().map(|node| {
        let policies: Vec<&str> = node.policies().map(|(name, _)| name).collect();
        let authentications = node.authentications.iter();
        let authentications: Vec<_> = authentications
            .map(|(kind, id)| format!("{kind} {id}"))
            .collect();
        format!("{} {policies:?} {authentications:?}", node.principal)
    });
    format!("{node:?} {:?}", placed.ports)
}

#[test]
fn one_workload_gets_what_the_whole_folder_would_give_it() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut policies_in_force = 0;
    for _ in 0..30 {
        let selector = |random: &mut fastrand::Rng| match random.u8(..4) {
            0 => String::new(),
            1 => format!("selector: {{matchLabels: {{a: x{}}}}}", random.u8(..3)),
            2 => format!("selector: {{matchLabels: {{b: x{}}}}}", random.u8(..3)),
            _ => format!(
                "selector: {{matchLabels: {{a: x{}, b: x{}}}}}",
                random.u8(..3),
                random.u8(..3)
            ),
        };
        let namespaces = ["shop", "bank", "kith-system"];
        let mut text = MESH.to_owned();
        for i in 0..20 {
            let namespace = namespaces[random.usize(..3)];
            let id = |kind: &str| format!("{namespace}/{kind}{i}");
            let chosen = selector(&mut random);
            text += &document("AuthorizationPolicy", &id("p"), &chosen);
            let mode = ["STRICT", "PERMISSIVE", "DISABLE", "UNSET"][random.usize(..4)];
            let comma = if chosen.is_empty() { "" } else { ", " };
            text += &document(
                "PeerAuthentication",
                &id("m"),
                &format!("{chosen}{comma}mtls: {{mode: {mode}}}"),
            );
            text += &document(
                "RequestAuthentication",
                &id("t"),
                &format!(
                    "{chosen}{comma}jwtRules: [{{issuer: i{i}, jwksUri: \"https://idp.example/{i}\", fromHeaders: [{{name: x-{i}}}]}}]"
                ),
            );
        }
        let others = text.clone();
        for i in 0..20 {
            let (namespace, mesh) = (namespaces[random.usize(..2)], random.u8(..5) > 0);
            text += &format!(
                "---\n{{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {{namespace: {namespace}, name: w{i}, labels: {{a: x{}, b: x{}}}}}, spec: {{serviceAccount: s{i}, mesh: {mesh}, addresses: [10.0.0.{i}], ports: [{{port: 80, protocol: HTTP}}]}}}}\n",
                random.u8(..3),
                random.u8(..3)
            );
        }
        let whole = loaded(&text);
        let all = resolve(&whole, &KeySets::default()).unwrap().catalog;
        // Compiled without a word of any workload.
        let rules = rules_of(&others).unwrap();
        for document in whole.files().flat_map(|file| &file.workloads) {
            let addresses = addresses_of(document);
            let placed = rules.workload(&subject(document, &addresses)).unwrap();
            assert_eq!(placed.node.as_ref(), all.node(&document.id()));
            policies_in_force += placed.node.map_or(0, |node| node.policies.len());
        }
    }
    assert!(policies_in_force > 500, "{policies_in_force}");
}

#[test]
fn a_workload_is_placed_with_the_names_of_all_that_holds_for_it() {
    let text = MESH.to_owned()
        + &document("PeerAuthentication", "kith-system/mesh", "")
        + &document("PeerAuthentication", "shop/all", "mtls: {mode: PERMISSIVE}")
        + &document(
            "PeerAuthentication",
            "shop/web",
            "selector: {matchLabels: {app: web}}, portLevelMtls: {9: {mode: DISABLE}}",
        )
        + &document(
            "PeerAuthentication",
            "shop/web-again",
            "selector: {matchLabels: {app: web}}",
        )
        + &document(
            "RequestAuthentication",
            "shop/tokens",
            "jwtRules: [{issuer: me, jwksUri: \"https://idp.example/keys\"}]",
        )
        + &document(
            "RequestAuthentication",
            "bank/tokens",
            "jwtRules: [{issuer: me, jwksUri: \"https://idp.example/keys\"}]",
        )
        + &document("AuthorizationPolicy", "shop/b", "")
        + &document(
            "AuthorizationPolicy",
            "kith-system/c",
            "selector: {matchLabels: {app: web}}",
        )
        + &document("AuthorizationPolicy", "bank/d", "");
    let rules = rules_of(&text).unwrap();
    let (web, orders) = (labels(&[("app", "web")]), labels(&[("app", "orders")]));
    let said = |labels| described(&rules.workload(&pod(labels, &ADDRESSES)).unwrap());
    expect![[r#"Some("spiffe://example.org/ns/shop/sa/web [\"kith-system/c\", \"shop/b\"] [\"PeerAuthentication kith-system/mesh\", \"PeerAuthentication shop/all\", \"PeerAuthentication shop/web\", \"RequestAuthentication shop/tokens\"]") [Port { number: 9, protocol: Unspecified, mtls_mode: Disable, encoded_slash: Refuse }]"#]]
    .assert_eq(&said(&web));
    expect![[r#"Some("spiffe://example.org/ns/shop/sa/web [\"shop/b\"] [\"PeerAuthentication kith-system/mesh\", \"PeerAuthentication shop/all\", \"RequestAuthentication shop/tokens\"]") []"#]]
    .assert_eq(&said(&orders));
    let overlapping = |labels| rules.overlapping(&pod(labels, &ADDRESSES));
    assert!(overlapping(&orders).is_empty());
    assert_eq!(
        overlapping(&web)[0].message,
        "has no effect where `shop/web` (f.yaml:7) speaks of the same workloads: the first one wins"
    );
    // Without a sidecar nobody proves or enforces anything.
    let outside = Subject {
        mesh: false,
        ..pod(&orders, &ADDRESSES)
    };
    assert_eq!(described(&rules.workload(&outside).unwrap()), "None []");
}

#[test]
fn tokens_that_contradict_each_other_refuse_the_workloads_where_they_meet() {
    let tokens = |id, rest: &str| {
        document(
            "RequestAuthentication",
            id,
            &format!("{rest}jwtRules: [{{issuer: me, jwksUri: \"https://idp.example/keys\"}}]"),
        )
    };
    let text = MESH.to_owned()
        + &tokens("shop/a", "")
        + &tokens("shop/b", "selector: {matchLabels: {app: web}}, ");
    let rules = rules_of(&text).unwrap();
    let (web, orders) = (labels(&[("app", "web")]), labels(&[("app", "orders")]));
    // Asked twice: what was found is remembered, and still so.
    for _ in 0..2 {
        let refused = rules.workload(&pod(&web, &ADDRESSES)).unwrap_err();
        expect![[r#"f.yaml:5: spec.jwtRules[0].issuer: where `shop/a` and `shop/b` hold together, this is the second rule about "me"; put both into one"#]]
        .assert_eq(&refused.to_string());
        assert!(rules.workload(&pod(&orders, &ADDRESSES)).is_ok());
    }
    // What is wrong with one alone is so wherever it is, and whoever there is.
    let bad = document(
        "RequestAuthentication",
        "shop/c",
        "jwtRules: [{issuer: c, jwksUri: \"https://idp.example/keys\", fromHeaders: [{name: host}]}]",
    );
    let refused = rules_of(&(MESH.to_owned() + &bad)).unwrap_err();
    assert_eq!((refused.len(), refused[0].line), (1, 3));
}

#[test]
fn an_account_that_makes_no_spiffe_id_has_no_place() {
    let rules = rules_of(MESH).unwrap();
    let none = labels(&[]);
    let subject = Subject {
        service_account: "a b",
        ..pod(&none, &ADDRESSES)
    };
    let Err(Misplaced::Principal(message)) = rules.workload(&subject) else {
        panic!("placed");
    };
    assert!(
        message.starts_with("`spiffe://example.org/ns/shop/sa/a b` "),
        "{message}"
    );
}

#[test]
fn contradictions_and_surprises_are_told_without_any_workload() {
    let twice = document("AuthorizationPolicy", "shop/a", "").repeat(2);
    expect![[r#"
        [
            "f.yaml:5: metadata.name: AuthorizationPolicy `shop/a` exists already at f.yaml:3",
        ]
    "#]]
    .assert_debug_eq(&texts(&rules_of(&(MESH.to_owned() + &twice)).unwrap_err()));
    expect![[r#"
        [
            "f.yaml: no MeshConfig: add one with the mesh's `spec.trustDomain`",
        ]
    "#]]
    .assert_debug_eq(&texts(&rules_of("").unwrap_err()));
    let surprising = document("PeerAuthentication", "shop/a", "")
        + &document("PeerAuthentication", "shop/b", "");
    expect![[r#"
        [
            "f.yaml:5: spec: has no effect where `shop/a` (f.yaml:3) speaks of the same workloads: the first one wins",
        ]
    "#]]
    .assert_debug_eq(&texts(rules_of(&(MESH.to_owned() + &surprising)).unwrap().warnings()));
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_declared_service_is_found_by_those_whom_it_selects() {
    let service = "hosts: [db.example], addresses: [10.9.9.9], selector: {app: db}, ports: [{port: 5432, targetPort: 15432, protocol: TCP}]";
    let rules = rules_of(
        &(MESH.to_owned()
            + &document("Service", "shop/db", service)
            + &document("Service", "bank/db", service)),
    )
    .unwrap();
    let (db, web) = (
        labels(&[("app", "db"), ("x", "y")]),
        labels(&[("app", "web")]),
    );
    assert_eq!(rules.services_of(&pod(&db, &ADDRESSES)), [0]);
    assert!(rules.services_of(&pod(&web, &ADDRESSES)).is_empty());
    let declared = rules.services().next().unwrap();
    assert_eq!((&*declared.namespace, &*declared.name), ("shop", "db"));
    assert_eq!(
        (declared.addresses.len(), &*declared.hosts[0]),
        (1, "db.example")
    );
    assert_eq!(
        (declared.ports[0].number, declared.ports[0].target),
        (5432, 15432)
    );
}
