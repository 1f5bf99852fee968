use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use DocumentKind::{
    AuthorizationPolicy, IstioAuthorizationPolicy, MeshConfig, RequestAuthentication, Revocation,
};

fn object(kind: DocumentKind, name: &str, created: i64, spec: Value) -> Object {
    let mut metadata = json!({"name": name});
    if !matches!(kind, MeshConfig | Revocation) {
        metadata["namespace"] = "shop".into();
    }
    Object {
        uid: format!("uid of {name}"),
        generation: 1,
        created,
        status: None,
        document: Arc::new(
            json!({"apiVersion": kind.api_version(), "kind": kind.kind(), "metadata": metadata, "spec": spec}),
        ),
    }
}

fn id(kind: DocumentKind, name: &str) -> Id {
    match kind {
        MeshConfig | Revocation => name.into(),
        _ => format!("shop/{name}").into(),
    }
}

fn apply(
    documents: &mut Documents,
    kind: DocumentKind,
    name: &str,
    created: i64,
    spec: Value,
) -> bool {
    documents.apply(kind, &id(kind, name), object(kind, name, created, spec))
}

fn mesh() -> Documents {
    let mut documents = Documents::default();
    let spec = json!({"trustDomain": "example.org"});
    apply(&mut documents, MeshConfig, "default", 10, spec);
    documents
}

/// As `Rules` does it: of two documents of one name the second is at fault.
fn make(loaded: &Loaded) -> Result<(), Vec<Problem>> {
    let mut seen = std::collections::BTreeSet::new();
    let repeated: Vec<_> = loaded
        .files()
        .flat_map(|file| &file.authorization_policies)
        .filter(|policy| !seen.insert(policy.id()))
        .map(|policy| policy.place.problem("metadata.name", "exists already"))
        .collect();
    if repeated.is_empty() {
        Ok(())
    } else {
        Err(repeated)
    }
}

/// What holds, and what is said of each object that is at fault.
fn check(documents: &mut Documents, expected: Expect) {
    let mut told = String::new();
    let findings = match documents.settle(make) {
        Ok(settled) => {
            for file in settled.loaded.files() {
                for mesh in &file.mesh_configs {
                    told += &format!("MeshConfig {}\n", mesh.spec.trust_domain.0);
                }
                for policy in &file.authorization_policies {
                    let spec = policy.spec.policy();
                    told += &format!("{} {:?} {}\n", policy.id(), spec.action, spec.rules.len());
                }
                for revocation in &file.revocations {
                    told += &format!("{} {:?}\n", revocation.id(), revocation.spec.what);
                }
            }
            settled.findings
        }
        Err((problems, findings)) => {
            for problem in problems {
                told += &format!("{problem}\n");
            }
            findings
        }
    };
    for (key, verdict) in documents.verdicts(&findings).iter() {
        if !verdict.problems.is_empty() {
            told += &format!("! {key}: {}\n", verdict.problems.join("; "));
        }
    }
    expected.assert_eq(&told);
}

#[test]
fn one_authors_mistake_does_not_stop_the_others_and_gets_stricter() {
    let mut documents = mesh();
    apply(
        &mut documents,
        AuthorizationPolicy,
        "good",
        2,
        json!({"rules": [{}]}),
    );
    apply(
        &mut documents,
        AuthorizationPolicy,
        "bad",
        1,
        json!({"action": "DENY", "rules": [{"from": []}]}),
    );
    apply(&mut documents, RequestAuthentication, "bad", 1, json!(7));
    check(
        &mut documents,
        expect![[r#"
            MeshConfig example.org
            shop/bad Deny 1
            shop/bad.requestauthentication Deny 1
            shop/good Allow 1
            ! AuthorizationPolicy/shop/bad: spec.rules[0].from: an empty list: name at least one entry, or remove the field; until it is corrected everything is denied where it holds
            ! RequestAuthentication/shop/bad: spec: integer `7` where a map is expected; until it is corrected everything is denied where it holds
        "#]],
    );
}

#[test]
fn the_older_of_two_that_contradict_each_other_holds() {
    let mut documents = mesh();
    let allow = json!({"rules": [{}]});
    let deny = json!({"action": "DENY", "rules": [{}, {}]});
    apply(&mut documents, AuthorizationPolicy, "web", 7, allow.clone());
    apply(&mut documents, IstioAuthorizationPolicy, "web", 3, deny);
    check(
        &mut documents,
        expect![[r#"
            MeshConfig example.org
            shop/web.authorizationpolicy Allow 0
            shop/web Deny 2
            ! AuthorizationPolicy/shop/web: metadata.name: exists already; until it is corrected it allows nothing
        "#]],
    );
}

#[test]
fn nobody_can_take_the_name_of_a_substitute() {
    let mut documents = mesh();
    apply(&mut documents, RequestAuthentication, "jwt", 9, json!(7));
    apply(
        &mut documents,
        AuthorizationPolicy,
        "jwt.requestauthentication",
        1,
        json!({"rules": [{}]}),
    );
    check(
        &mut documents,
        expect![[r#"
            MeshConfig example.org
            shop/jwt.requestauthentication.authorizationpolicy Allow 0
            shop/jwt.requestauthentication Deny 1
            ! AuthorizationPolicy/shop/jwt.requestauthentication: metadata.name: exists already; until it is corrected it allows nothing
            ! RequestAuthentication/shop/jwt: spec: integer `7` where a map is expected; until it is corrected everything is denied where it holds
        "#]],
    );
}

#[test]
fn what_a_broken_revocation_names_readably_is_revoked() {
    let mut documents = mesh();
    let spec = json!({"principal": "spiffe://example.org/a", "certificate": {"serial": "x"}});
    apply(&mut documents, Revocation, "r", 1, spec);
    check(
        &mut documents,
        expect![[r#"
            MeshConfig example.org
            r.principal Principal(spiffe://example.org/a)
            ! Revocation/r: spec.certificate: missing field `trustDomain`; until it is corrected what can be read of what it names is revoked for good
        "#]],
    );
}

#[test]
fn without_a_mesh_config_nothing_holds_and_authors_are_told_all_the_same() {
    let mut documents = Documents::default();
    apply(&mut documents, AuthorizationPolicy, "bad", 1, json!(7));
    check(
        &mut documents,
        expect![[r#"
            cluster: no valid MeshConfig: apply one with the mesh's `spec.trustDomain`
            ! AuthorizationPolicy/shop/bad: spec: integer `7` where a map is expected
        "#]],
    );
}

#[test]
fn the_oldest_mesh_config_counts_and_the_others_are_told_so() {
    let mut documents = mesh();
    let spec = |domain: &str| json!({"trustDomain": domain});
    apply(&mut documents, MeshConfig, "younger", 11, spec("other.org"));
    apply(&mut documents, MeshConfig, "as-old", 10, spec("third.org"));
    check(
        &mut documents,
        expect![[r#"
            MeshConfig third.org
            ! MeshConfig/default: kind: a second MeshConfig; `as-old` counts, which is older: remove one of the two
            ! MeshConfig/younger: kind: a second MeshConfig; `as-old` counts, which is older: remove one of the two
        "#]],
    );
}

#[test]
fn a_mesh_config_that_becomes_invalid_holds_as_it_was() {
    let mut documents = mesh();
    apply(
        &mut documents,
        MeshConfig,
        "younger",
        11,
        json!({"trustDomain": "other.org"}),
    );
    documents.settle(make).unwrap();
    apply(
        &mut documents,
        MeshConfig,
        "default",
        10,
        json!({"trustDomain": 7}),
    );
    check(
        &mut documents,
        expect![[r#"
            MeshConfig example.org
            ! MeshConfig/default: spec.trustDomain: integer `7` where a string is expected: put it in quotes; until it is corrected its last valid version holds
            ! MeshConfig/younger: kind: a second MeshConfig; `default` counts, which is older: remove one of the two
        "#]],
    );
    documents.remove(MeshConfig, &"default".into());
    check(
        &mut documents,
        expect![[r#"
            MeshConfig other.org
        "#]],
    );
    documents.remove(MeshConfig, &"younger".into());
    check(
        &mut documents,
        expect![[r#"
            MeshConfig other.org
        "#]],
    );
}

#[test]
fn a_status_that_was_written_changes_nothing_but_what_is_known_of_it() {
    let mut documents = mesh();
    let spec = json!({"rules": [{}]});
    assert!(apply(
        &mut documents,
        AuthorizationPolicy,
        "web",
        1,
        spec.clone()
    ));
    let mut written = object(AuthorizationPolicy, "web", 1, spec);
    written.status = Some(json!({"conditions": []}));
    assert!(!documents.apply(
        AuthorizationPolicy,
        &id(AuthorizationPolicy, "web"),
        written
    ));
    let verdicts = documents.verdicts(&Findings::new());
    let verdict = &verdicts[&key(AuthorizationPolicy, &"shop/web".into())];
    assert_eq!(verdict.status, Some(json!({"conditions": []})));
    // What did not change is not made anew.
    let again = documents.verdicts(&Findings::new());
    assert!(
        verdicts
            .iter()
            .all(|(key, verdict)| Arc::ptr_eq(verdict, &again[key]))
    );
}
