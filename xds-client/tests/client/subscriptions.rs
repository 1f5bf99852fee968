use kith_xds_client::Kind;

use crate::control_plane::{ControlPlane, policy};
use crate::{next, start};

const POLICY: Kind = Kind::AuthorizationPolicy;

fn set<const N: usize>(names: [&str; N]) -> std::collections::BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test]
async fn says_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, mut deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;

    client.set_subscription(POLICY, set(["a", "b"]));
    session.expect_subscription(POLICY, &["a", "b"], &[]).await;
    client.set_subscription(POLICY, set(["b", "c"]));
    session.expect_subscription(POLICY, &["c"], &["a"]).await;
    client.set_subscription(POLICY, set(["b", "c"]));
    client.subscribe(POLICY, set(["b"]));
    session.expect_silence().await;
    client.unsubscribe(POLICY, ["c", "never"]);
    session.expect_subscription(POLICY, &[], &["c"]).await;

    session.send(POLICY, "1", vec![policy("b", "1")], &[]);
    next(&mut deliveries).await.finish(Vec::new());
    session.expect_ack(POLICY, "1").await;

    client.set_subscription(POLICY, set([]));
    session.expect_subscription(POLICY, &[], &["b"]).await;
    client.set_subscription(POLICY, set(["b"]));
    session.expect_subscription(POLICY, &["b"], &[]).await;
}

#[tokio::test]
async fn asks_again_only_for_what_it_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, mut deliveries) = start(&dir.path().join("xds"));
    client.set_subscription(POLICY, set(["a", "b"]));
    let (mut session, ..) = control_plane.greeted_session().await;
    session.expect_subscription(POLICY, &["a", "b"], &[]).await;

    session.send(POLICY, "1", vec![policy("b", "1")], &["a"]);
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.removed, ["a"]);
    delivery.finish(Vec::new());
    session.expect_ack(POLICY, "1").await;

    client.ask_again(POLICY, set(["a", "b", "stranger"]));
    session.expect_subscription(POLICY, &["a"], &[]).await;
}

/// xDS: that is what `*` means, and a first request without names.
#[tokio::test]
async fn never_subscribes_to_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, _deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;
    client.set_subscription(POLICY, set([]));
    client.unsubscribe(POLICY, ["a"]);
    client.subscribe(POLICY, set(["*"]));
    session.expect_silence().await;

    client.set_subscription(POLICY, set(["a"]));
    session.expect_subscription(POLICY, &["a"], &[]).await;
    client.set_subscription(POLICY, set([]));
    session.expect_subscription(POLICY, &[], &["a"]).await;
    drop(session);
    let (mut session, ..) = control_plane.greeted_session().await;
    session.expect_silence().await;
}
