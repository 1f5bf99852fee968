use std::net::Ipv4Addr;
use std::path::Path;

use super::*;
use crate::jwks::KeySets;
use crate::resolve::resolve;
use crate::yaml::load_str;

const MESH: &str = "{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org}}\n";
const REVOKED: &str = "---\n{apiVersion: kith.dev/v1alpha1, kind: Revocation, metadata: {name: r}, spec: {token: {jti: a}, until: 2099-01-01T00:00:00Z, reason: x}}\n";

fn catalog(text: &str) -> Arc<Catalog> {
    let loaded = load_str(Path::new("f.yaml"), text).unwrap();
    Arc::new(resolve(&loaded, &KeySets::default()).unwrap().catalog)
}

/// One that has said nothing yet.
pub(crate) fn sidecar(node: &str) -> Sidecar {
    Sidecar {
        node: node.into(),
        principal: "spiffe://example.org/ns/a/sa/a".into(),
        address: (Ipv4Addr::LOCALHOST, 1).into(),
        connected_since: SystemTime::now(),
        revision_wanted: None,
        revision_enforced: None,
        in_force: None,
        behind_since: None,
        last_nack: None,
        subscriptions: Default::default(),
        refused: 0,
        refused_configuration: None,
        refused_list: None,
        svid: Svid {
            serial: String::new(),
            expires: None,
            lifetime: Duration::ZERO,
        },
        plaintext: 0,
        revocations: None,
        unanswered_list: false,
        list_seen: None,
    }
}

#[test]
fn an_equal_revocation_list_is_another_one_when_it_was_lifted_in_between() {
    let state = State::default();
    let revoked = catalog(&format!("{MESH}{REVOKED}"));
    let publish = |catalog: &Arc<Catalog>| {
        state.publish(Arc::clone(catalog), &Changed::default());
        let served = state.served().unwrap();
        (served.lists, served.catalog.revocations.stamp())
    };
    let first = publish(&revoked);
    // Something else changed.
    assert_eq!(publish(&revoked), first);
    let lifted = publish(&catalog(MESH));
    let again = publish(&revoked);
    assert_eq!(again.1, first.1);
    assert!(
        first.0 < lifted.0 && lifted.0 < again.0,
        "{first:?} {again:?}"
    );
}

#[test]
fn a_catalog_is_let_go_of_when_another_one_is_served() {
    let state = State::default();
    let first = catalog(MESH);
    state.publish(Arc::clone(&first), &Changed::all(&first));
    state.publish(catalog(&format!("{MESH}{REVOKED}")), &Changed::default());
    assert_eq!(Arc::strong_count(&first), 1);
}

#[test]
fn what_a_workload_acknowledged_is_forgotten_when_it_and_its_sidecar_are_gone() {
    const WEB: &str = "---\n{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {namespace: shop, name: web}, spec: {serviceAccount: web, addresses: [10.0.0.1]}}\n";
    let state = Arc::new(State::default());
    let (with, without) = (catalog(&format!("{MESH}{WEB}")), catalog(MESH));
    let publish = |now: &Arc<Catalog>| {
        let before = state.catalog();
        let changed = before.map_or_else(|| Changed::all(now), |it| Changed::between(&it, now));
        state.publish(Arc::clone(now), &changed);
    };
    let remembered = || state.inner().acknowledged.contains_key("shop/web");
    let connect = || {
        let listed = state.list(sidecar("shop/web"));
        listed.acknowledged(Version::of(&[b"1"]));
        listed
    };
    // As a pod ends: its sidecar first.
    publish(&with);
    drop(connect());
    assert!(remembered(), "it reconnects");
    publish(&without);
    assert!(!remembered());
    // As a Workload is removed that still runs.
    publish(&with);
    let listed = connect();
    publish(&without);
    assert!(remembered(), "it is shown while it is connected");
    drop(listed);
    assert!(!remembered());
}
