//! Resources that a sidecar can't honour, from a control plane that says whatever the test wants.

use std::time::Duration;

use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};
use kith_tests::caller::Caller;
use kith_tests::xds::{self, Xds};
use kith_xds_client::Kind;
use kith_xds_client::api::mesh;
use prost::Message;

/// What the control plane would say of a workload with HTTP on port 8080.
fn configuration(workload: &Workload, revision: &str, policies: &[&str]) -> Vec<u8> {
    mesh::WorkloadConfig {
        revision: revision.to_owned(),
        namespace: workload.spec.namespace.clone(),
        name: workload.spec.name.clone(),
        service_account: workload.spec.service_account.clone(),
        trust_domain: "example.org".to_owned(),
        addresses: workload
            .addresses
            .both()
            .map(|address| address.to_string())
            .into(),
        default_mtls_mode: mesh::MtlsMode::Strict.into(),
        ports: vec![mesh::Port {
            number: 8080,
            protocol: mesh::Protocol::Http1.into(),
            mtls_mode: mesh::MtlsMode::Strict.into(),
            ..mesh::Port::default()
        }],
        default_action: mesh::DefaultAction::Deny.into(),
        policies: policies.iter().map(|&name| name.to_owned()).collect(),
        egress_mode: mesh::EgressMode::Allow.into(),
        ..mesh::WorkloadConfig::default()
    }
    .encode_to_vec()
}

/// `caller` may GET a path.
fn policy(name: &str, path: &str) -> mesh::AuthorizationPolicy {
    let source = mesh::Source {
        principals: vec!["example.org/caller".to_owned()],
        ..mesh::Source::default()
    };
    let operation = mesh::Operation {
        paths: vec![path.to_owned()],
        ..mesh::Operation::default()
    };
    mesh::AuthorizationPolicy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action: mesh::Action::Allow.into(),
        rules: vec![mesh::Rule {
            from: vec![source],
            to: vec![operation],
            when: Vec::new(),
        }],
        dry_run: false,
    }
}

#[tokio::test]
async fn rows_22_23_a_resource_that_cannot_be_honoured_is_refused_whole_with_its_field_and_the_rest_applies()
 {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let stage = lab
        .workload(
            WorkloadSpec::new("shop", "stage")
                .without_sidecar()
                .unannounced(),
        )
        .await
        .unwrap();
    let raw = Caller::new(&lab, "spiffe://example.org/raw-control").await;
    let caller = Caller::new(&lab, "spiffe://example.org/caller").await;
    let mut control = Xds::listen(&stage, raw).await;
    let orders = WorkloadSpec::new("shop", "orders")
        .port(8080, "HTTP")
        .env(
            "KITH_XDS_ADDRESS",
            &format!("https://{}:{}", stage.addresses.v4, xds::PORT),
        )
        .env("KITH_XDS_SPIFFE_ID", "spiffe://example.org/raw-control");
    let orders = lab.start_workload(orders).await.unwrap();
    let _app = orders.app(&["http"]).await.unwrap();
    let ask = |path: &'static str| {
        let (caller, stage, to) = (
            caller.clone(),
            stage.clone(),
            (orders.addresses.v4, 8080).into(),
        );
        async move {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
            caller
                .raw(&stage, to, b"http/1.1", request)
                .await
                .map(|heard| heard.statuses())
        }
    };
    let of = |paths: [&'static str; 3]| async move {
        let mut statuses = Vec::new();
        for path in paths {
            statuses.extend(ask(path).await.unwrap());
        }
        statuses
    };
    assert_eq!(
        control.subscription(Kind::WorkloadConfig).await,
        ["shop/orders"]
    );

    // A configuration that names a policy which is not there: nothing is in force, everything is denied.
    let first = control.say(
        Kind::WorkloadConfig,
        &[(
            "shop/orders",
            configuration(&orders, "1", &["shop/a", "shop/b", "shop/c"]),
        )],
    );
    let mut names = control.subscription(Kind::AuthorizationPolicy).await;
    names.sort();
    assert_eq!(names, ["shop/a", "shop/b", "shop/c"]);
    assert!(ask("/a").await.is_err(), "the handshake is refused");
    let record = orders
        .wait_record(|record| record["direction"] == "inbound")
        .await
        .unwrap();
    assert_eq!(
        (&record["decision"], &record["reason"]),
        (&"deny".into(), &"no-configuration".into()),
        "{record}"
    );
    let why = orders.health("/ready").await.unwrap();
    assert!(
        why.status == 503 && why.text().contains("missing shop/a, shop/b, shop/c"),
        "{}",
        why.text()
    );

    // An action from the future in one of them: that one is refused, whole, and the others are taken.
    let bad = mesh::AuthorizationPolicy {
        action: 77,
        ..policy("c", "/c")
    };
    let all = [
        ("shop/a", policy("a", "/a")),
        ("shop/b", policy("b", "/b")),
        ("shop/c", bad),
    ]
    .map(|(name, it)| (name, it.encode_to_vec()));
    let nack = control
        .send(Kind::AuthorizationPolicy, &all)
        .await
        .expect("a NACK");
    println!("{nack}");
    assert!(
        nack.contains("shop/c")
            && nack.contains("action")
            && nack.contains("77")
            && !nack.contains("shop/a"),
        "{nack}"
    );
    let why = orders.health("/ready").await.unwrap();
    assert!(
        why.status == 503 && why.text().contains("missing shop/c"),
        "{}",
        why.text()
    );
    let good = control.say(
        Kind::AuthorizationPolicy,
        &[("shop/c", policy("c", "/c").encode_to_vec())],
    );
    // In any order: the configuration takes effect with its last policy.
    assert_eq!(control.answer(&first).await, None);
    assert_eq!(control.answer(&good).await, None);
    orders.ready(Duration::from_secs(5)).await.unwrap();
    assert_eq!(of(["/a", "/b", "/c"]).await, [200, 200, 200]);

    // Of two changes one is no good: the other takes effect, and what was in force of the first stays.
    let empty = mesh::AuthorizationPolicy {
        rules: vec![mesh::Rule {
            from: vec![mesh::Source::default()],
            ..mesh::Rule::default()
        }],
        ..policy("a", "/a")
    };
    let both = [
        ("shop/a", empty.encode_to_vec()),
        ("shop/b", policy("b", "/elsewhere").encode_to_vec()),
    ];
    let nack = control
        .send(Kind::AuthorizationPolicy, &both)
        .await
        .expect("a NACK");
    println!("{nack}");
    assert!(
        nack.contains("shop/a: rules[0].from[0]: a source without any field"),
        "{nack}"
    );
    assert_eq!(of(["/a", "/b", "/c"]).await, [200, 403, 200]);

    // A configuration that cannot be honoured; bytes that are none; a name that dangles: the old one stays in force.
    let mut config = mesh::WorkloadConfig::decode(&configuration(&orders, "2", &[])[..]).unwrap();
    config.ports[0].mtls_mode = 9;
    let nack = control
        .send(
            Kind::WorkloadConfig,
            &[("shop/orders", config.encode_to_vec())],
        )
        .await
        .expect("a NACK");
    assert!(nack.contains("ports[0].mtls_mode"), "{nack}");
    let nack = control
        .send(Kind::WorkloadConfig, &[("shop/orders", vec![0xff; 20])])
        .await
        .expect("a NACK");
    assert!(nack.contains("shop/orders"), "{nack}");
    let dangling = control.say(
        Kind::WorkloadConfig,
        &[(
            "shop/orders",
            configuration(&orders, "3", &["shop/a", "shop/ghost"]),
        )],
    );
    assert_eq!(
        control.subscription(Kind::AuthorizationPolicy).await,
        ["shop/ghost"]
    );
    assert_eq!(of(["/a", "/b", "/c"]).await, [200, 403, 200]);
    let config = orders.admin("/config").await.unwrap().json();
    assert_eq!(config["in_force"]["revision"], "1", "{config}");
    control.say(
        Kind::AuthorizationPolicy,
        &[("shop/ghost", policy("ghost", "/ghost").encode_to_vec())],
    );
    assert_eq!(control.answer(&dangling).await, None);
    assert_eq!(of(["/a", "/ghost", "/c"]).await, [200, 200, 403]);
}
