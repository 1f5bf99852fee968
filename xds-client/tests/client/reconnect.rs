use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_xds_client::{AsyncIo, Backoff, Client, Config, Kind};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::control_plane::{ControlPlane, address, config, policy};
use crate::{NODE, config as client_config, disconnected, next, patient, start};

#[tokio::test]
async fn says_on_each_new_stream_what_it_wants_and_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, mut deliveries) = start(&dir.path().join("xds"));
    client.subscribe(Kind::AuthorizationPolicy, ["a".to_owned(), "b".to_owned()]);
    let (mut session, ..) = control_plane.greeted_session().await;
    session.request().await;
    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    session.send(
        Kind::AuthorizationPolicy,
        "2",
        vec![policy("a", "1"), policy("b", "1")],
        &[],
    );
    for (kind, nonce) in [
        (Kind::WorkloadConfig, "1"),
        (Kind::AuthorizationPolicy, "2"),
    ] {
        next(&mut deliveries).await.finish(Vec::new());
        session.expect_ack(kind, nonce).await;
    }

    session.fail(Status::unavailable("moving to another node"));
    disconnected(&client).await;
    let reason = "Unavailable: moving to another node";
    assert_eq!(client.status().borrow().last_error.as_deref(), Some(reason));
    client.unsubscribe(Kind::AuthorizationPolicy, ["b"]);
    client.subscribe(Kind::AuthorizationPolicy, ["c".to_owned()]);

    let (mut session, config, revocations) = control_plane.greeted_session().await;
    assert_eq!(
        config.initial_resource_versions,
        [(NODE.to_owned(), "r1".to_owned())].into()
    );
    assert!(revocations.initial_resource_versions.is_empty());
    // The change while it was away is part of the first request, or comes right after it.
    let policies = session.request().await;
    assert_eq!(policies.initial_resource_versions["a"], "1");
    if policies.resource_names_subscribe == ["a", "b"] {
        session
            .expect_subscription(Kind::AuthorizationPolicy, &["c"], &["b"])
            .await;
    } else {
        assert_eq!(policies.resource_names_subscribe, ["a", "c"]);
        assert_eq!(policies.initial_resource_versions.len(), 1);
    }

    // What vanished meanwhile the server says by itself.
    session.send(
        Kind::AuthorizationPolicy,
        "1",
        vec![policy("c", "1")],
        &["a"],
    );
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.removed, ["a"]);
    delivery.finish(Vec::new());
    session.expect_ack(Kind::AuthorizationPolicy, "1").await;
    drop(session);
    let (mut session, ..) = control_plane.greeted_session().await;
    let policies = session.request().await;
    assert_eq!(
        policies.initial_resource_versions,
        [("c".to_owned(), "1".to_owned())].into()
    );
}

#[tokio::test]
async fn a_delivery_outlives_the_stream_that_brought_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("xds");
    let mut control_plane = ControlPlane::start(&socket);
    let (client, mut deliveries) = start(&socket);
    let (session, ..) = control_plane.greeted_session().await;
    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    let delivery = next(&mut deliveries).await;

    drop(control_plane);
    disconnected(&client).await;
    delivery.finish(Vec::new());

    let mut control_plane = ControlPlane::start(&socket);
    let (mut session, config, _) = control_plane.greeted_session().await;
    assert_eq!(
        config.initial_resource_versions,
        [(NODE.to_owned(), "r1".to_owned())].into()
    );
    session.expect_silence().await;
}

#[tokio::test]
async fn an_answer_to_an_old_stream_is_not_sent_on_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (_client, mut deliveries) = start(&dir.path().join("xds"));
    let (session, ..) = control_plane.greeted_session().await;
    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    let old = next(&mut deliveries).await;
    drop(session);

    let (mut session, ..) = control_plane.greeted_session().await;
    session.send(Kind::WorkloadConfig, "1", vec![config("r2")], &[]);
    let new = next(&mut deliveries).await;
    old.finish(Vec::new());
    session.expect_silence().await;
    new.finish(Vec::new());
    session.expect_ack(Kind::WorkloadConfig, "1").await;
    drop(session);
    let (_session, config, _) = control_plane.greeted_session().await;
    assert_eq!(config.initial_resource_versions[NODE], "r2");
}

#[tokio::test]
async fn comes_back_after_the_control_plane_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("xds");
    let (client, mut deliveries) = start(&socket);
    let mut status = client.status();
    patient(
        "the first failure",
        status.wait_for(|status| status.last_error.is_some()),
    )
    .await
    .unwrap();
    assert!(
        !client.status().borrow().connected,
        "it has never been there"
    );

    for round in ["r1", "r2", "r3"] {
        let mut control_plane = ControlPlane::start(&socket);
        let (mut session, ..) = control_plane.greeted_session().await;
        session.send(Kind::WorkloadConfig, round, vec![config(round)], &[]);
        next(&mut deliveries).await.finish(Vec::new());
        session.expect_ack(Kind::WorkloadConfig, round).await;
        assert!(client.status().borrow().connected);
        drop(control_plane);
        disconnected(&client).await;
        assert!(client.status().borrow().last_error.is_some());
    }
}

#[tokio::test]
async fn waits_between_attempts() {
    let (record, mut attempts) = mpsc::unbounded_channel();
    let dir = tempfile::tempdir().unwrap();
    let min = Duration::from_millis(20);
    let (_client, _deliveries) = Client::start(Config {
        connector: Arc::new(move || {
            let _ = record.send(Instant::now());
            Box::pin(async { Err::<Box<dyn AsyncIo>, _>(io::Error::other("no route")) })
        }),
        backoff: Backoff {
            min,
            max: Duration::from_millis(60),
        },
        ..client_config(dir.path())
    });
    let mut last = patient("an attempt", attempts.recv()).await.unwrap();
    for _ in 0..8 {
        let attempt = patient("an attempt", attempts.recv()).await.unwrap();
        assert!(attempt - last >= min);
        last = attempt;
    }
}

#[tokio::test]
async fn speaks_before_the_server_has_sent_headers() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start_with_late_headers(&dir.path().join("xds"));
    let (client, mut deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;
    client.subscribe(Kind::Address, ["10.0.0.1".to_owned()]);
    session
        .expect_subscription(Kind::Address, &["10.0.0.1"], &[])
        .await;
    patient(
        "the connection",
        client.status().wait_for(|status| status.connected),
    )
    .await
    .unwrap();

    session.send(Kind::Address, "1", vec![address("10.0.0.1", "shop/a")], &[]);
    next(&mut deliveries).await.finish(Vec::new());
    session.expect_ack(Kind::Address, "1").await;
}

#[tokio::test]
async fn gives_up_a_stream_whose_response_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, _deliveries) = start(&dir.path().join("xds"));
    let (session, ..) = control_plane.greeted_session().await;
    let huge = "x".repeat(17 << 20);
    session.send(Kind::WorkloadConfig, "1", vec![config(&huge)], &[]);
    let status = client.status();
    let error = patient("the end of the stream", async {
        let mut status = status.clone();
        status
            .wait_for(|status| status.last_error.is_some())
            .await
            .unwrap()
            .last_error
            .clone()
            .unwrap()
    });
    let error = error.await;
    assert!(error.contains("limit is: 16777216"), "{error}");
    control_plane.greeted_session().await;
}

#[tokio::test]
async fn notices_a_control_plane_that_froze() {
    let dir = tempfile::tempdir().unwrap();
    let (keep, mut kept) = mpsc::unbounded_channel();
    let (client, _deliveries) = Client::start(Config {
        // The other end is held, and never read or written.
        connector: Arc::new(move || {
            let (near, far) = tokio::io::duplex(1 << 16);
            let _ = keep.send(far);
            Box::pin(async { Ok(Box::new(near) as Box<dyn AsyncIo>) })
        }),
        ..client_config(dir.path())
    });
    let mut status = client.status();
    patient("the connection", status.wait_for(|status| status.connected))
        .await
        .unwrap();
    let frozen = tokio::time::timeout(
        Duration::from_secs(25),
        status.wait_for(|status| !status.connected),
    );
    let error = frozen.await.unwrap().unwrap().last_error.clone().unwrap();
    assert!(error.contains("keep-alive timed out"), "{error}");
    patient("a second attempt", async {
        (kept.recv().await, kept.recv().await)
    })
    .await;
}

#[tokio::test]
async fn dials_nothing_before_there_is_an_identity_and_at_once_when_there_is() {
    let (record, mut attempts) = mpsc::unbounded_channel();
    let dir = tempfile::tempdir().unwrap();
    let (identity, seen) = watch::channel(None);
    let (client, _deliveries) = Client::start(Config {
        connector: Arc::new(move || {
            let _ = record.send(());
            Box::pin(async { Err::<Box<dyn AsyncIo>, _>(io::Error::other("no route")) })
        }),
        identity: Some(seen),
        // Longer than anybody here is patient.
        backoff: Backoff {
            min: Duration::from_secs(60),
            max: Duration::from_secs(60),
        },
        ..client_config(dir.path())
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(attempts.try_recv().is_err());
    assert_eq!(client.status().borrow().last_error, None);
    for svid in ["first", "second"] {
        identity.send_replace(Some(svid.to_owned()));
        patient("an attempt", attempts.recv()).await.unwrap();
    }
    identity.send_replace(None);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(attempts.try_recv().is_err(), "it was taken away");
}

#[tokio::test]
async fn opens_the_stream_anew_with_a_new_identity_once_everything_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("xds");
    let mut control_plane = ControlPlane::start(&socket);
    let (identity, seen) = watch::channel(Some("first".to_owned()));
    let (client, mut deliveries) = Client::start(Config {
        identity: Some(seen),
        ..client_config(&socket)
    });
    let (mut session, ..) = control_plane.greeted_session().await;
    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    let delivery = next(&mut deliveries).await;

    identity.send_replace(Some("second".to_owned()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(client.status().borrow().connected);
    delivery.finish(Vec::new());
    session.expect_ack(Kind::WorkloadConfig, "1").await;
    assert_eq!(session.end().await, None, "ended in good order");
    drop(session);

    let (_session, config, _) = control_plane.greeted_session().await;
    assert_eq!(config.initial_resource_versions[NODE], "r1");
    let status = client.status().borrow().clone();
    assert!(
        status.connected && status.last_error.is_none(),
        "{status:?}"
    );
}
