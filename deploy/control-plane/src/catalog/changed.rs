//! What two catalogs differ in, for streams to look at nothing else.

use std::collections::HashSet;
use std::sync::Arc;

use super::Catalog;

/// Names under which there may be something else now than before. One too many costs a comparison, one too few leaves
/// a sidecar with what is no longer so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Node ids: their configuration, their policies, or whose they are.
    pub(crate) nodes: HashSet<Arc<str>>,
    /// Names of `Address` resources.
    pub(crate) addresses: HashSet<Arc<str>>,
    pub(crate) revocations: bool,
}

#[allow(
    dead_code,
    reason = "a folder is always read as a whole; what changes bit by bit needs it"
)]
impl Changed {
    /// Everything that is not the same in both.
    pub(crate) fn between(old: &Catalog, new: &Catalog) -> Self {
        // Most of it is the very same, and needs no look inside. A revision speaks for the configuration and every policy.
        let nodes = old.nodes.differing(&new.nodes, |old, new| {
            Arc::ptr_eq(old, new)
                || (old.revision == new.revision && old.principal == new.principal)
        });
        let addresses = (old.addresses).differing(&new.addresses, |old, new| {
            Arc::ptr_eq(old, new) || old.stamp() == new.stamp()
        });
        Self {
            nodes: nodes.cloned().collect(),
            addresses: addresses.cloned().collect(),
            revocations: old.revocations.stamp() != new.revocations.stamp(),
        }
    }

    /// Everything that there is.
    pub(crate) fn all(catalog: &Catalog) -> Self {
        Self {
            nodes: catalog.nodes.keys().cloned().collect(),
            addresses: catalog.addresses.keys().cloned().collect(),
            revocations: true,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.addresses.is_empty() && !self.revocations
    }

    /// What changed in either step.
    pub(crate) fn extend(&mut self, later: Self) {
        self.nodes.extend(later.nodes);
        self.addresses.extend(later.addresses);
        self.revocations |= later.revocations;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::jwks::KeySets;
    use crate::resolve::resolve;
    use crate::yaml::load_str;

    const MESH: &str = "
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: example.org}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {serviceAccount: web, addresses: [10.0.0.1]}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders, labels: {app: orders}}
spec: {serviceAccount: orders, addresses: [10.0.0.2], ports: [{port: 80}]}
---
apiVersion: kith.dev/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {hosts: [orders.shop], selector: {app: orders}, ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: a}
spec: {selector: {matchLabels: {app: orders}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
";
    const REVOKED: &str = "---\n{apiVersion: kith.dev/v1alpha1, kind: Revocation, metadata: {name: r}, spec: {token: {jti: a}, until: 2099-01-01T00:00:00Z, reason: x}}\n";

    fn catalog(text: &str) -> Catalog {
        let loaded = load_str(Path::new("f.yaml"), text).unwrap();
        resolve(&loaded, &KeySets::default()).unwrap().catalog
    }

    /// What an edit, replacing `old` by `new`, changes: nodes, addresses, `revocations`.
    fn check(old: &str, new: &str, expected: &str) {
        assert!(MESH.contains(old), "nothing to replace");
        let (before, after) = (catalog(MESH), catalog(&MESH.replace(old, new)));
        for (one, other) in [(&before, &after), (&after, &before)] {
            let changed = Changed::between(one, other);
            let all = changed.nodes.iter().chain(&changed.addresses);
            let mut all: Vec<&str> = all.map(AsRef::as_ref).collect();
            all.sort_unstable();
            all.extend(changed.revocations.then_some("revocations"));
            assert_eq!(all.join(" "), expected, "{old} -> {new}");
            assert_eq!(changed.is_empty(), expected.is_empty());
        }
    }

    #[test]
    fn an_edit_changes_what_depends_on_it_and_no_more() {
        check("GET", "GET", "");
        check("methods: [GET]", "methods: [PUT]", "shop/orders");
        check(
            "{app: orders}}, rules",
            "{app: web}}, rules",
            "shop/orders shop/web",
        );
        check(
            "ports: [{port: 80}]}\n---\napiVersion: kith.dev/v1alpha1\nkind: Service",
            "ports: [{port: 80, protocol: TCP}]}\n---\napiVersion: kith.dev/v1alpha1\nkind: Service",
            "10.0.0.2 orders.shop shop/orders",
        );
        check(
            "serviceAccount: orders",
            "serviceAccount: others",
            "10.0.0.2 orders.shop shop/orders",
        );
        check(
            "addresses: [10.0.0.1]",
            "addresses: [10.0.0.3]",
            "10.0.0.1 10.0.0.3 shop/web",
        );
        check("orders.shop", "o.shop", "o.shop orders.shop");
        check(
            "name: web, labels",
            "name: web-2, labels",
            "10.0.0.1 shop/web shop/web-2",
        );
        check(
            "serviceAccount: web",
            "spiffeId: \"spiffe://other.org/x\", serviceAccount: web",
            "10.0.0.1 shop/web",
        );
        check(
            "---\napiVersion: security",
            &format!("{REVOKED}---\napiVersion: security"),
            "revocations",
        );
        check(
            "trustDomain: example.org",
            "trustDomain: example.org, egress: ALLOW",
            "shop/orders shop/web",
        );
    }

    #[test]
    fn steps_add_up() {
        let one = catalog(MESH);
        let two = catalog(&MESH.replace("GET", "PUT"));
        let three =
            catalog(&(MESH.replace("GET", "PUT").replace("orders.shop", "o.shop") + REVOKED));
        let mut both = Changed::between(&one, &two);
        both.extend(Changed::between(&two, &three));
        assert_eq!(both, Changed::between(&one, &three));
        let all = Changed::all(&three);
        assert_eq!(
            (all.nodes.len(), all.addresses.len(), all.revocations),
            (2, 3, true)
        );
    }
}
