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
