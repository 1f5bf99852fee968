//! Who may have a stream: the node must be known, and the principal must be its own.

use kith_certs::SpiffeId;
use tonic::Status;

use crate::catalog::Catalog;
use crate::interest::Listener;
use crate::status::{Served, Source, State};

/// Waits for a node that is not known yet for as long as the source of what is served allows.
pub(super) async fn admit(
    state: &State,
    node: &str,
    principal: &SpiffeId,
) -> Result<Listener, Status> {
    let deadline = tokio::time::Instant::now() + state.patience;
    let listener = state.interest.listen(node);
    loop {
        listener.take();
        let catalog = served(state)?.catalog;
        let refused = match authorize(&catalog, node, principal, state.source) {
            Ok(()) => return Ok(listener),
            Err(refused) => refused,
        };
        // Somebody else's stays somebody else's.
        let known = node.is_empty() || catalog.node(node).is_some();
        drop(catalog);
        if known
            || tokio::time::timeout_at(deadline, listener.woken())
                .await
                .is_err()
        {
            return Err(refused);
        }
    }
}

/// What a stream of `node` looks at, each time anew: a workload that is gone loses its resources, and one that is somebody
/// else's now, the stream.
pub(super) fn current(state: &State, node: &str, principal: &SpiffeId) -> Result<Served, Status> {
    let served = served(state)?;
    if served.catalog.node(node).is_some() {
        authorize(&served.catalog, node, principal, state.source)?;
    }
    Ok(served)
}

fn served(state: &State) -> Result<Served, Status> {
    let served = state.served();
    served.ok_or_else(|| Status::unavailable("nothing is loaded yet"))
}

/// A node's resources go to the principal that its Workload or pod has, and to nobody else.
fn authorize(
    catalog: &Catalog,
    node: &str,
    principal: &SpiffeId,
    source: Source,
) -> Result<(), Status> {
    if node.is_empty() {
        return Err(Status::permission_denied(
            "the first request names no node: set `node.id` to `namespace/name`",
        ));
    }
    let Some(declared) = catalog.node(node) else {
        return Err(Status::permission_denied(match source {
            Source::Files => format!(
                "no Workload `{node}` with a sidecar is declared here: declare it, or correct KITH_NODE_ID"
            ),
            Source::Cluster => format!(
                "no pod `{node}` with a Kith sidecar is known to the Kubernetes API: let the pod be injected, or \
                 correct KITH_NODE_ID"
            ),
        }));
    };
    if declared.principal == *principal {
        return Ok(());
    }
    let declared = &declared.principal;
    Err(Status::permission_denied(match source {
        Source::Files => format!(
            "Workload `{node}` is {declared}, and your SVID says {principal}: correct KITH_NODE_ID, the Workload, \
             or the registration entry at the SPIFFE authority"
        ),
        Source::Cluster => format!(
            "pod `{node}` is {declared} by its service account, and your SVID says {principal}: correct KITH_NODE_ID, \
             the pod's service account, or the registration entry at the SPIFFE authority"
        ),
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use expect_test::{Expect, expect};

    use super::*;
    use crate::catalog::Changed;
    use crate::jwks::KeySets;
    use crate::resolve::resolve;
    use crate::yaml::load_str;

    const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

    /// What is served when these, `name serviceAccount`, are all the workloads of `shop`.
    fn serve(state: &State, workloads: &[(&str, &str)]) {
        let mut text = "{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org}}\n".to_owned();
        for (i, (name, account)) in workloads.iter().enumerate() {
            text += &format!(
                "---\n{{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {{namespace: shop, name: {name}}}, spec: {{serviceAccount: {account}, addresses: [10.0.0.{i}]}}}}\n"
            );
        }
        let loaded = load_str(Path::new("f.yaml"), &text).unwrap();
        let catalog = resolve(&loaded, &KeySets::default()).unwrap().catalog;
        let changed = match state.catalog() {
            Some(before) => Changed::between(&before, &catalog),
            None => Changed::all(&catalog),
        };
        state.publish(Arc::new(catalog), &changed);
    }

    async fn refused(state: &State, node: &str, expected: Expect) -> Duration {
        let begun = Instant::now();
        let refused = admit(state, node, &WEB.parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        expected.assert_eq(refused.message());
        begun.elapsed()
    }

    fn cluster(patience: Duration) -> Arc<State> {
        let mut state = State::new(Source::Cluster);
        state.patience = patience;
        Arc::new(state)
    }

    #[tokio::test]
    async fn a_sidecar_that_starts_before_its_pod_is_known_is_waited_for() {
        let state = cluster(Duration::from_secs(20));
        serve(&state, &[("other", "web")]);
        let admitted = tokio::spawn({
            let state = Arc::clone(&state);
            async move { admit(&state, "shop/web-1", &WEB.parse().unwrap()).await }
        });
        tokio::task::yield_now().await;
        // Somebody else's news is none of its own.
        serve(&state, &[("other", "web"), ("another", "web")]);
        tokio::task::yield_now().await;
        assert!(!admitted.is_finished());
        serve(&state, &[("other", "web"), ("web-1", "web")]);
        let listener = admitted.await.unwrap().unwrap();
        assert_eq!(&**listener.node(), "shop/web-1");
    }

    #[tokio::test]
    async fn who_never_becomes_known_is_refused_in_the_end() {
        let state = cluster(Duration::from_millis(100));
        serve(&state, &[("other", "web")]);
        let took = refused(&state, "shop/web-1", expect!["no pod `shop/web-1` with a Kith sidecar is known to the Kubernetes API: let the pod be injected, or correct KITH_NODE_ID"]).await;
        assert!(took >= Duration::from_millis(100), "{took:?}");
        // A folder says at once what is in it.
        let files = State::default();
        serve(&files, &[("other", "web")]);
        refused(&files, "shop/web-1", expect!["no Workload `shop/web-1` with a sidecar is declared here: declare it, or correct KITH_NODE_ID"]).await;
    }

    #[test]
    fn a_stream_sees_nothing_of_a_node_that_is_somebody_elses_by_now() {
        let state = cluster(Duration::ZERO);
        let sees = || current(&state, "shop/web-1", &WEB.parse().unwrap());
        serve(&state, &[("web-1", "web")]);
        assert!(sees().unwrap().catalog.node("shop/web-1").is_some());
        // Gone: there is something to be taken away.
        serve(&state, &[("other", "web")]);
        assert!(sees().unwrap().catalog.node("shop/web-1").is_none());
        serve(&state, &[("web-1", "orders")]);
        let code = sees().unwrap_err().code();
        assert_eq!(code, tonic::Code::PermissionDenied);
    }

    #[tokio::test]
    async fn who_is_somebody_else_is_not_waited_for() {
        let state = cluster(Duration::from_secs(3600));
        serve(&state, &[("web-1", "orders")]);
        refused(&state, "shop/web-1", expect!["pod `shop/web-1` is spiffe://example.org/ns/shop/sa/orders by its service account, and your SVID says spiffe://example.org/ns/shop/sa/web: correct KITH_NODE_ID, the pod's service account, or the registration entry at the SPIFFE authority"]).await;
        refused(
            &state,
            "",
            expect!["the first request names no node: set `node.id` to `namespace/name`"],
        )
        .await;
    }
}
