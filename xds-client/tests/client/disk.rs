use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use kith_xds_client::{Client, Config, Delivery, Kind, Rejection};
use tokio::sync::mpsc;

use crate::control_plane::{ControlPlane, address, config, policy};
use crate::{NODE, config as client_config, next, patient, with_folder};

fn start(dir: &Path) -> (Client, mpsc::Receiver<Delivery>) {
    Client::start(Config {
        state_dir: Some(dir.join("state")),
        ..client_config(&dir.join("xds"))
    })
}

fn file(dir: &Path) -> std::path::PathBuf {
    dir.join("state").join("last-good")
}

/// Waits for the file to have been written, whole, with something in it.
async fn written(dir: &Path, has: &str) {
    let contains =
        || fs::read(file(dir)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(has));
    let written = async {
        while !contains() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    patient("the file", written).await;
}

/// Lets a client learn a configuration, a policy and an address, keep them on disk, and end.
async fn fill(dir: &Path) {
    let mut control_plane = ControlPlane::start(&dir.join("xds"));
    let (client, mut deliveries) = start(dir);
    client.subscribe(Kind::AuthorizationPolicy, ["shop/a".to_owned()]);
    client.subscribe(Kind::Address, ["10.0.0.1".to_owned()]);
    let (mut session, ..) = control_plane.greeted_session().await;
    session.request().await;
    session.request().await;
    session.send(Kind::WorkloadConfig, "1", vec![config("r1")], &[]);
    session.send(
        Kind::AuthorizationPolicy,
        "2",
        vec![policy("shop/a", "p1")],
        &[],
    );
    session.send(
        Kind::Address,
        "3",
        vec![address("10.0.0.1", "shop/orders")],
        &[],
    );
    let unanswered = [
        next(&mut deliveries).await,
        next(&mut deliveries).await,
        next(&mut deliveries).await,
    ];
    unanswered
        .into_iter()
        .for_each(|delivery| delivery.finish(Vec::new()));
    written(dir, "shop/orders").await;
}

async fn initial_versions(control_plane: &mut ControlPlane) -> [Vec<(String, String)>; 3] {
    let (mut session, config, _) = control_plane.greeted_session().await;
    let policies = session.request().await;
    let addresses = session.request().await;
    assert_eq!(policies.resource_names_subscribe, ["shop/a"]);
    assert_eq!(addresses.resource_names_subscribe, ["10.0.0.1"]);
    [config, policies, addresses]
        .map(|request| request.initial_resource_versions.into_iter().collect())
}

fn held(name: &str, version: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), version.to_owned())]
}

#[test]
fn starts_with_the_last_good_resources_and_has_them_validated() {
    with_folder(async |dir| {
        fill(dir).await;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file(dir)), 0o600);
        assert_eq!(mode(&dir.join("state")), 0o700);
        assert_eq!(
            fs::read_dir(dir.join("state")).unwrap().count(),
            1,
            "nothing temporary is left"
        );

        // No control plane.
        let (_client, mut deliveries) = start(dir);
        for kind in [
            Kind::WorkloadConfig,
            Kind::AuthorizationPolicy,
            Kind::Address,
        ] {
            let delivery = next(&mut deliveries).await;
            assert_eq!((delivery.kind, delivery.from_disk), (kind, true));
            assert_eq!(delivery.changed.len(), 1);
            delivery.finish(Vec::new());
        }

        let mut control_plane = ControlPlane::start(&dir.join("xds"));
        let versions = initial_versions(&mut control_plane).await;
        assert_eq!(
            versions,
            [
                held(NODE, "r1"),
                held("shop/a", "p1"),
                held("10.0.0.1", "shop/orders")
            ]
        );
    });
}

#[test]
fn the_first_stream_waits_for_what_came_from_disk_but_not_for_ever() {
    with_folder(async |dir| {
        fill(dir).await;
        let mut control_plane = ControlPlane::start(&dir.join("xds"));
        let (_client, mut deliveries) = start(dir);
        let rejected = next(&mut deliveries).await;
        let unanswered = next(&mut deliveries).await;
        let accepted = next(&mut deliveries).await;
        accepted.finish(Vec::new());
        let rejection = Rejection {
            name: NODE.to_owned(),
            field: String::new(),
            message: "no".to_owned(),
        };
        rejected.finish(vec![rejection]);
        let versions = initial_versions(&mut control_plane).await;
        assert_eq!(versions, [vec![], vec![], held("10.0.0.1", "shop/orders")]);
        drop(unanswered);
    });
}

#[test]
fn forgets_on_disk_what_was_removed() {
    with_folder(async |dir| {
        fill(dir).await;
        let mut control_plane = ControlPlane::start(&dir.join("xds"));
        let (client, mut deliveries) = start(dir);
        for _ in 0..3 {
            next(&mut deliveries).await.finish(Vec::new());
        }
        let (mut session, ..) = control_plane.greeted_session().await;
        session.request().await;
        session.request().await;
        client.unsubscribe(Kind::Address, ["10.0.0.1"]);
        session
            .expect_subscription(Kind::Address, &[], &["10.0.0.1"])
            .await;
        session.send(Kind::AuthorizationPolicy, "1", vec![], &["shop/a"]);
        session.send(Kind::WorkloadConfig, "2", vec![config("r2")], &[]);
        for (kind, nonce) in [
            (Kind::AuthorizationPolicy, "1"),
            (Kind::WorkloadConfig, "2"),
        ] {
            next(&mut deliveries).await.finish(Vec::new());
            session.expect_ack(kind, nonce).await;
        }
        written(dir, "r2").await;

        drop(deliveries);
        patient("the end", session.end()).await;
        let (_client, mut deliveries) = start(dir);
        let delivery = next(&mut deliveries).await;
        assert_eq!(
            (delivery.kind, delivery.changed[0].version.as_str()),
            (Kind::WorkloadConfig, "r2")
        );
        delivery.finish(Vec::new());
        drop(control_plane);
        let mut control_plane = ControlPlane::start(&dir.join("xds"));
        let (mut session, ..) = control_plane.greeted_session().await;
        session.expect_silence().await;
    });
}

#[test]
fn ignores_a_file_that_it_cannot_trust() {
    with_folder(async |dir| {
        type Damage = fn(&Path);
        let cases: [(&str, Damage); 8] = [
            ("cut short", |path| {
                let bytes = fs::read(path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
            }),
            ("empty", |path| fs::write(path, b"").unwrap()),
            ("not a file of this kind", |path| {
                fs::write(path, vec![0xa5; 4096]).unwrap()
            }),
            ("one bit flipped", |path| {
                let mut bytes = fs::read(path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(path, bytes).unwrap();
            }),
            ("of a later version", |path| {
                let text = fs::read(path).unwrap();
                let text = String::from_utf8_lossy(&text).replacen("resources 1", "resources 2", 1);
                fs::write(path, text).unwrap();
            }),
            ("writable by others", |path| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o620)).unwrap()
            }),
            ("a symbolic link", |path| {
                let target = path.with_extension("target");
                fs::rename(path, &target).unwrap();
                std::os::unix::fs::symlink(target, path).unwrap();
            }),
            ("a directory", |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        ];
        fill(dir).await;
        let good = fs::read(file(dir)).unwrap();
        for (case, damage) in cases {
            damage(&file(dir));
            let mut control_plane = ControlPlane::start(&dir.join("xds"));
            let (_client, mut deliveries) = start(dir);
            let (mut session, config_request, _) = control_plane.greeted_session().await;
            assert!(
                config_request.initial_resource_versions.is_empty(),
                "{case}"
            );
            session.send(Kind::WorkloadConfig, "1", vec![config("r9")], &[]);
            let delivery = next(&mut deliveries).await;
            assert!(!delivery.from_disk, "{case}");
            delivery.finish(Vec::new());
            session.expect_ack(Kind::WorkloadConfig, "1").await;
            if case != "a directory" {
                written(dir, "r9").await;
                drop(deliveries);
                fs::write(file(dir), &good).unwrap();
            }
        }
    });
}

#[test]
fn ignores_what_another_node_left() {
    with_folder(async |dir| {
        fill(dir).await;
        let mut control_plane = ControlPlane::start(&dir.join("xds"));
        let (_client, _deliveries) = Client::start(Config {
            state_dir: Some(dir.join("state")),
            node_id: "shop/other".to_owned(),
            ..client_config(&dir.join("xds"))
        });
        let mut session = control_plane.session().await;
        for name in ["mesh", "shop/other"] {
            let request = session.request().await;
            assert_eq!(request.resource_names_subscribe, [name]);
            assert!(request.initial_resource_versions.is_empty());
        }
    });
}

#[test]
fn goes_on_when_nothing_can_be_written() {
    with_folder(async |dir| {
        fs::write(dir.join("state"), b"in the way").unwrap();
        let mut control_plane = ControlPlane::start(&dir.join("xds"));
        let (_client, mut deliveries) = start(dir);
        let (mut session, ..) = control_plane.greeted_session().await;
        for nonce in ["1", "2"] {
            session.send(Kind::WorkloadConfig, nonce, vec![config(nonce)], &[]);
            next(&mut deliveries).await.finish(Vec::new());
            session.expect_ack(Kind::WorkloadConfig, nonce).await;
        }
    });
}
