use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use kith_xds_client::{Delivery, Enforced, Facts, Kind, Rejection, Resource, Updates};

use crate::control_plane::{ControlPlane, address, config, policy, raw_resource};
use crate::{NODE, next, patient, start};

fn reject(name: &str, field: &str, message: &str) -> Rejection {
    Rejection {
        name: name.to_owned(),
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

fn names(delivery: &Delivery) -> Vec<&str> {
    delivery
        .changed
        .iter()
        .map(|versioned| versioned.name.as_str())
        .collect()
}

#[tokio::test]
async fn acks_only_when_finished_and_goes_on_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, mut deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;

    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    let config_delivery = next(&mut deliveries).await;
    assert_eq!(config_delivery.kind, Kind::WorkloadConfig);
    assert!(!config_delivery.from_disk);
    assert_eq!(config_delivery.changed[0].version, "r1");
    assert!(
        matches!(&config_delivery.changed[0].resource, Resource::WorkloadConfig(config) if config.revision == "r1")
    );
    session.expect_silence().await;

    // The configuration takes effect with the policies that it names, which have yet to come.
    client.subscribe(Kind::AuthorizationPolicy, ["shop/a".to_owned()]);
    session
        .expect_subscription(Kind::AuthorizationPolicy, &["shop/a"], &[])
        .await;
    session.send(
        Kind::AuthorizationPolicy,
        "2",
        vec![policy("shop/a", "1")],
        &[],
    );
    let policy_delivery = next(&mut deliveries).await;
    session.expect_silence().await;

    policy_delivery.finish(Vec::new());
    session.expect_ack(Kind::AuthorizationPolicy, "2").await;
    config_delivery.finish(Vec::new());
    session.expect_ack(Kind::WorkloadConfig, "1").await;

    let status = client.status().borrow().clone();
    assert!(status.connected && status.last_update.is_some() && status.last_error.is_none());
    assert_eq!(
        status.updates[&Kind::WorkloadConfig],
        Updates { acks: 1, nacks: 0 }
    );
    assert_eq!(status.nacks, 2, "the two that asked for silence");
}

#[tokio::test]
async fn nacks_what_is_rejected_with_its_field_and_holds_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, mut deliveries) = start(&dir.path().join("xds"));
    client.subscribe(
        Kind::AuthorizationPolicy,
        ["a", "b", "c", "d", "e"].map(str::to_owned),
    );
    let (mut session, ..) = control_plane.greeted_session().await;
    session
        .expect_subscription(Kind::AuthorizationPolicy, &["a", "b", "c", "d", "e"], &[])
        .await;

    let of_wrong_type = WireResource {
        resource: address("d", "x").resource,
        ..policy("d", "1")
    };
    let resources = vec![
        policy("a", "1"),
        policy("b", "1"),
        // rules[0].to[0] with a field that does not exist.
        raw_resource(
            Kind::AuthorizationPolicy,
            "c",
            "1",
            vec![0x22, 0x05, 0x12, 0x03, 0x7a, 0x01, b'x'],
        ),
        of_wrong_type,
        WireResource {
            resource: None,
            ..policy("e", "1")
        },
    ];
    session.send(Kind::AuthorizationPolicy, "1", resources, &[]);
    let delivery = next(&mut deliveries).await;
    assert_eq!(names(&delivery), ["a", "b"]);
    assert_eq!(delivery.refused.len(), 3);
    delivery.finish(vec![reject(
        "a",
        "rules[0].from[0].principals[0]",
        "is empty",
    )]);

    assert_eq!(
        session.expect_nack(Kind::AuthorizationPolicy, "1").await,
        "c: rules[0].to[0].#15: a field that this version does not know; \
         d: resource.type_url: expected type.googleapis.com/kith.mesh.v1.AuthorizationPolicy, got type.googleapis.com/kith.mesh.v1.Address; \
         e: resource: missing; \
         a: rules[0].from[0].principals[0]: is empty"
    );
    assert_eq!(
        client.status().borrow().updates[&Kind::AuthorizationPolicy],
        Updates { acks: 0, nacks: 1 }
    );

    drop(session);
    let (mut session, ..) = control_plane.greeted_session().await;
    let request = session.request().await;
    assert_eq!(request.resource_names_subscribe, ["a", "b", "c", "d", "e"]);
    assert_eq!(
        request.initial_resource_versions,
        [("b".to_owned(), "1".to_owned())].into()
    );
}

#[tokio::test]
async fn nacks_a_delivery_that_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (_client, mut deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;

    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    drop(next(&mut deliveries).await);
    assert_eq!(
        session.expect_nack(Kind::WorkloadConfig, "1").await,
        "not applied"
    );

    drop(session);
    let (_session, config, _) = control_plane.greeted_session().await;
    assert!(config.initial_resource_versions.is_empty());
}

#[tokio::test]
async fn answers_in_whatever_order_the_consumer_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (_client, mut deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;

    for version in ["1", "2", "3"] {
        session.send(Kind::WorkloadConfig, version, vec![config(version)], &[]);
    }
    let first = next(&mut deliveries).await;
    let second = next(&mut deliveries).await;
    let third = next(&mut deliveries).await;
    second.finish(Vec::new());
    session.expect_ack(Kind::WorkloadConfig, "2").await;
    third.finish(vec![reject(NODE, "addresses", "is empty")]);
    assert_eq!(
        session.expect_nack(Kind::WorkloadConfig, "3").await,
        "shop/web: addresses: is empty"
    );
    first.finish(Vec::new());
    session.expect_ack(Kind::WorkloadConfig, "1").await;

    drop(session);
    let (_session, config, _) = control_plane.greeted_session().await;
    assert_eq!(
        config.initial_resource_versions,
        [(NODE.to_owned(), "2".to_owned())].into()
    );
}

#[tokio::test]
async fn nacks_types_that_it_does_not_know_or_did_not_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (client, _deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;

    let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    session.send_raw(DeltaDiscoveryResponse {
        type_url: type_url.clone(),
        nonce: "1".to_owned(),
        ..Default::default()
    });
    let answer = session.request().await;
    assert_eq!(
        (answer.type_url, answer.response_nonce.as_str()),
        (type_url.clone(), "1")
    );
    assert_eq!(
        answer.error_detail.unwrap().message,
        format!("{type_url}: this type is not known to this client")
    );

    session.send(Kind::Address, "2", vec![address("10.0.0.1", "shop/a")], &[]);
    let reason = session.expect_nack(Kind::Address, "2").await;
    assert!(
        reason.ends_with("nothing of this type was subscribed to on this stream"),
        "{reason}"
    );
    assert_eq!(client.status().borrow().last_nack, Some(reason));
}

#[tokio::test]
async fn leaves_out_resources_that_nobody_wants() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (_client, mut deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;

    let stray = raw_resource(Kind::WorkloadConfig, "shop/other", "1", vec![0xff]);
    session.send(
        Kind::WorkloadConfig,
        "1",
        vec![stray.clone()],
        &["shop/gone"],
    );
    session.expect_ack(Kind::WorkloadConfig, "1").await;
    session.send(Kind::WorkloadConfig, "2", vec![config("r1"), stray], &[]);
    let delivery = next(&mut deliveries).await;
    assert_eq!(names(&delivery), [NODE]);
    delivery.finish(Vec::new());
    session.expect_ack(Kind::WorkloadConfig, "2").await;
}

#[tokio::test]
async fn answers_while_a_busy_consumer_lets_deliveries_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (_client, mut deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;
    const MANY: usize = 100;
    for nonce in 0..MANY {
        session.send(
            Kind::WorkloadConfig,
            &nonce.to_string(),
            vec![config("r1")],
            &[],
        );
    }
    // Not received before all have been sent, and then answered backwards in pairs.
    for pair in 0..MANY / 2 {
        let first = next(&mut deliveries).await;
        let second = next(&mut deliveries).await;
        second.finish(Vec::new());
        first.finish(Vec::new());
        session
            .expect_ack(Kind::WorkloadConfig, &(2 * pair + 1).to_string())
            .await;
        session
            .expect_ack(Kind::WorkloadConfig, &(2 * pair).to_string())
            .await;
    }
}

#[tokio::test]
async fn ends_when_the_consumer_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (_client, deliveries) = start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;
    drop(deliveries);
    assert_eq!(patient("the end", session.end()).await, None);
}

/// What a request says under `kith`.
fn said(request: &DeltaDiscoveryRequest, key: &str) -> Option<prost_types::value::Kind> {
    let metadata = request.node.as_ref()?.metadata.as_ref()?;
    let Some(prost_types::value::Kind::StructValue(kith)) = &metadata.fields["kith"].kind else {
        panic!("{metadata:?}")
    };
    kith.fields.get(key)?.kind.clone()
}

#[tokio::test]
async fn tells_facts_with_the_first_request_with_answers_and_when_they_change() {
    use prost_types::value::Kind::{NumberValue, StringValue};
    let dir = tempfile::tempdir().unwrap();
    let (client, mut deliveries) = start(&dir.path().join("xds"));
    let facts = |plaintext| Facts {
        svid_serial: "0a1b".to_owned(),
        svid_expires: None,
        plaintext,
    };
    client.set_facts(facts(1));
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (mut session, _, first) = control_plane.greeted_session().await;
    assert_eq!(
        said(&first, "svid_serial"),
        Some(StringValue("0a1b".to_owned()))
    );

    client.set_facts(facts(2));
    let alone = session.request().await;
    assert_eq!(alone.type_url, Kind::WorkloadConfig.type_url());
    assert_eq!(alone.node.as_ref().unwrap().id, NODE);
    assert_eq!(said(&alone, "plaintext"), Some(NumberValue(2.0)));
    assert!(alone.response_nonce.is_empty() && alone.resource_names_subscribe.is_empty());

    client.set_facts(facts(3));
    session.expect_silence().await;
    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    let enforced = Enforced {
        closed: 500,
        took: std::time::Duration::from_millis(25),
    };
    next(&mut deliveries)
        .await
        .finish_enforced(Vec::new(), enforced);
    let answer = session.request().await;
    assert_eq!(
        (&*answer.response_nonce, answer.error_detail.clone()),
        ("1", None)
    );
    for (key, expected) in [("closed", 500.0), ("enforced_ms", 25.0), ("plaintext", 3.0)] {
        assert_eq!(said(&answer, key), Some(NumberValue(expected)), "{key}");
    }
}
