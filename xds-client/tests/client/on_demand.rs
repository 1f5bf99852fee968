use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_xds_client::api::mesh;
use kith_xds_client::{
    Client, Config, Kind, Lookup, OnDemand, OnDemandSettings, Rejection, Resource,
};

use crate::control_plane::{ControlPlane, Session, address};
use crate::{PATIENCE, config, disconnected, patient, start, with_folder};

const ADDRESS: Kind = Kind::Address;

/// Here an address is the name of its workload, which must be in the namespace `shop`.
type Addresses = OnDemand<String>;

fn parse(name: &str, resource: &Resource) -> Result<String, Rejection> {
    match resource {
        Resource::Address(mesh::Address {
            kind: Some(mesh::address::Kind::Workload(endpoint)),
        }) if endpoint.workload.starts_with("shop/") => Ok(endpoint.workload.clone()),
        _ => Err(Rejection {
            name: name.to_owned(),
            field: "workload.workload".to_owned(),
            message: "is not in the shop".to_owned(),
        }),
    }
}

fn settings() -> OnDemandSettings {
    OnDemandSettings {
        wait: PATIENCE,
        ..Default::default()
    }
}

/// A client whose deliveries are all taken by the `OnDemand`.
fn addresses(config: Config, settings: OnDemandSettings) -> (Client, Addresses) {
    let (client, mut deliveries) = Client::start(config);
    let addresses = Addresses::new(client.clone(), ADDRESS, settings);
    let applying = addresses.clone();
    tokio::spawn(async move {
        while let Some(delivery) = deliveries.recv().await {
            let rejected = applying.apply(&delivery, parse);
            delivery.finish(rejected);
        }
    });
    (client, addresses)
}

async fn set_up(
    dir: &Path,
    settings: OnDemandSettings,
) -> (ControlPlane, Session, Client, Addresses) {
    let mut control_plane = ControlPlane::start(&dir.join("xds"));
    let (client, addresses) = addresses(config(&dir.join("xds")), settings);
    let (session, ..) = control_plane.greeted_session().await;
    patient(
        "the connection",
        client.status().wait_for(|status| status.connected),
    )
    .await
    .unwrap();
    (control_plane, session, client, addresses)
}

/// Looks `name` up while the control plane answers with `workload` (empty: no such resource).
async fn learn(
    addresses: &Addresses,
    session: &mut Session,
    name: &str,
    workload: &str,
) -> Lookup<String> {
    let getting = tokio::spawn({
        let (addresses, name) = (addresses.clone(), name.to_owned());
        async move { addresses.get(&name).await }
    });
    session.expect_subscription(ADDRESS, &[name], &[]).await;
    match workload {
        "" => session.send(ADDRESS, "n", vec![], &[name]),
        _ => session.send(ADDRESS, "n", vec![address(name, workload)], &[]),
    }
    let lookup = patient("the lookup", getting).await.unwrap();
    session.expect_ack(ADDRESS, "n").await;
    lookup
}

#[track_caller]
fn found(lookup: &Lookup<String>, workload: &str) {
    assert!(
        matches!(lookup, Lookup::Found(value) if **value == workload),
        "{lookup:?}"
    );
}

#[tokio::test]
async fn lookups_of_one_name_from_any_thread_share_one_question() {
    let dir = tempfile::tempdir().unwrap();
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings()).await;
    assert!(addresses.peek("10.0.0.1").is_none());
    assert_eq!(addresses.len(), 0, "peeking asks for nothing");

    let threads: Vec<_> = (0..4)
        .map(|_| {
            let addresses = addresses.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let getters: Vec<_> = (0..25)
                    .map(|_| {
                        let addresses = addresses.clone();
                        runtime.spawn(async move { addresses.get("10.0.0.1").await })
                    })
                    .collect();
                runtime.block_on(async {
                    let mut lookups = Vec::new();
                    for getter in getters {
                        lookups.push(getter.await.unwrap());
                    }
                    lookups
                })
            })
        })
        .collect();
    session
        .expect_subscription(ADDRESS, &["10.0.0.1"], &[])
        .await;
    session.expect_silence().await;
    session.send(ADDRESS, "1", vec![address("10.0.0.1", "shop/a")], &[]);
    session.expect_ack(ADDRESS, "1").await;
    for thread in threads {
        let lookups = thread.join().unwrap();
        assert_eq!(lookups.len(), 25);
        lookups.iter().for_each(|lookup| found(lookup, "shop/a"));
    }
    session.expect_silence().await;
}

#[tokio::test]
async fn waits_no_longer_than_it_should_and_once_only() {
    let dir = tempfile::tempdir().unwrap();
    let wait = Duration::from_millis(150);
    let settings = OnDemandSettings {
        wait,
        negative_ttl: Duration::from_secs(600),
        ..settings()
    };
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings).await;

    let started = Instant::now();
    assert!(matches!(
        addresses.get("10.0.0.1").await,
        Lookup::Unavailable
    ));
    // When it was asked is kept in whole milliseconds.
    assert!(started.elapsed() + Duration::from_millis(1) >= wait);
    // The one question has been waited for; the next caller isn't made to wait again.
    let mut second = Box::pin(addresses.get("10.0.0.1"));
    let polled =
        std::future::poll_fn(|context| std::task::Poll::Ready(second.as_mut().poll(context))).await;
    assert!(matches!(
        polled,
        std::task::Poll::Ready(Lookup::Unavailable)
    ));
    drop(second);

    // An answer that comes late is still an answer.
    session
        .expect_subscription(ADDRESS, &["10.0.0.1"], &[])
        .await;
    session.send(ADDRESS, "1", vec![address("10.0.0.1", "shop/a")], &[]);
    session.expect_ack(ADDRESS, "1").await;
    found(&addresses.get("10.0.0.1").await, "shop/a");
}

#[tokio::test]
async fn asks_again_about_what_was_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OnDemandSettings {
        wait: Duration::from_millis(50),
        negative_ttl: Duration::from_millis(20),
        ..settings()
    };
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings).await;
    assert!(matches!(
        addresses.get("10.0.0.1").await,
        Lookup::Unavailable
    ));
    session
        .expect_subscription(ADDRESS, &["10.0.0.1"], &[])
        .await;

    tokio::time::sleep(settings.negative_ttl).await;
    let getting = tokio::spawn(async move { addresses.get("10.0.0.1").await });
    session
        .expect_subscription(ADDRESS, &["10.0.0.1"], &[])
        .await;
    assert!(matches!(getting.await.unwrap(), Lookup::Unavailable));
}

#[tokio::test]
async fn an_absence_is_cached_asked_about_again_and_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OnDemandSettings {
        negative_ttl: Duration::from_millis(300),
        ..settings()
    };
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings).await;
    assert!(matches!(
        learn(&addresses, &mut session, "10.0.0.1", "").await,
        Lookup::Absent
    ));
    assert!(matches!(addresses.get("10.0.0.1").await, Lookup::Absent));
    assert!(matches!(addresses.peek("10.0.0.1"), Some(Lookup::Absent)));

    // Then the question is put again, by one caller, and nobody waits for the answer.
    tokio::time::sleep(settings.negative_ttl).await;
    for _ in 0..5 {
        assert!(matches!(addresses.get("10.0.0.1").await, Lookup::Absent));
    }
    session
        .expect_subscription(ADDRESS, &["10.0.0.1"], &[])
        .await;
    session.expect_silence().await;

    session.send(ADDRESS, "2", vec![address("10.0.0.1", "shop/a")], &[]);
    session.expect_ack(ADDRESS, "2").await;
    found(&addresses.peek("10.0.0.1").unwrap(), "shop/a");
    session.send(ADDRESS, "3", vec![], &["10.0.0.1"]);
    session.expect_ack(ADDRESS, "3").await;
    assert!(matches!(addresses.get("10.0.0.1").await, Lookup::Absent));
}

#[tokio::test]
async fn holders_keep_the_old_and_lookers_see_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings()).await;
    let old = learn(&addresses, &mut session, "10.0.0.1", "shop/a").await;
    session.send(ADDRESS, "2", vec![address("10.0.0.1", "shop/b")], &[]);
    session.expect_ack(ADDRESS, "2").await;
    found(&old, "shop/a");
    found(&addresses.peek("10.0.0.1").unwrap(), "shop/b");
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_and_never_taken_for_absent() {
    let dir = tempfile::tempdir().unwrap();
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings()).await;
    learn(&addresses, &mut session, "10.0.0.1", "shop/a").await;
    assert!(matches!(
        learn(&addresses, &mut session, "10.0.0.2", "").await,
        Lookup::Absent
    ));

    let bad = ["10.0.0.1", "10.0.0.2"].map(|name| address(name, "bank/a"));
    session.send(ADDRESS, "2", bad.to_vec(), &[]);
    assert_eq!(
        session.expect_nack(ADDRESS, "2").await,
        "10.0.0.1: workload.workload: is not in the shop; 10.0.0.2: workload.workload: is not in the shop"
    );
    found(&addresses.get("10.0.0.1").await, "shop/a");
    assert!(matches!(
        addresses.get("10.0.0.2").await,
        Lookup::Unavailable
    ));

    // Nor what this client itself could not decode: the lookup ends at once.
    let getting = tokio::spawn({
        let addresses = addresses.clone();
        async move { addresses.get("10.0.0.3").await }
    });
    session
        .expect_subscription(ADDRESS, &["10.0.0.3"], &[])
        .await;
    session.send(
        ADDRESS,
        "3",
        vec![crate::control_plane::raw_resource(
            ADDRESS,
            "10.0.0.3",
            "1",
            vec![0xff],
        )],
        &[],
    );
    session.expect_nack(ADDRESS, "3").await;
    let started = Instant::now();
    assert!(matches!(getting.await.unwrap(), Lookup::Unavailable));
    assert!(started.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn gives_up_what_nobody_looks_up() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OnDemandSettings {
        idle: Duration::from_secs(600),
        ..settings()
    };
    let (_control_plane, mut session, client, addresses) = set_up(dir.path(), settings).await;
    for name in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        learn(&addresses, &mut session, name, "shop/a").await;
    }
    addresses.sweep(Instant::now() + settings.idle - Duration::from_secs(60));
    assert_eq!(addresses.len(), 3);
    session.expect_silence().await;

    addresses.sweep(Instant::now() + settings.idle);
    session
        .expect_subscription(ADDRESS, &[], &["10.0.0.1", "10.0.0.2", "10.0.0.3"])
        .await;
    assert!(addresses.is_empty());
    assert!(addresses.peek("10.0.0.1").is_none());
    found(
        &learn(&addresses, &mut session, "10.0.0.2", "shop/b").await,
        "shop/b",
    );
    assert_eq!(addresses.names(), ["10.0.0.2"]);

    // Not while the control plane is away: it could not be had back.
    drop(_control_plane);
    disconnected(&client).await;
    addresses.sweep(Instant::now() + settings.idle);
    assert_eq!(addresses.names(), ["10.0.0.2"]);
}

#[tokio::test]
async fn a_name_that_is_waited_for_is_not_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OnDemandSettings {
        idle: Duration::ZERO,
        capacity: 1,
        ..settings()
    };
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings).await;
    let getting = tokio::spawn({
        let addresses = addresses.clone();
        async move { addresses.get("10.0.0.1").await }
    });
    session
        .expect_subscription(ADDRESS, &["10.0.0.1"], &[])
        .await;
    addresses.sweep(Instant::now() + Duration::from_secs(3600));
    assert!(
        matches!(addresses.get("10.0.0.2").await, Lookup::Unavailable),
        "there is no room"
    );
    session.send(ADDRESS, "1", vec![address("10.0.0.1", "shop/a")], &[]);
    found(&getting.await.unwrap(), "shop/a");
    assert_eq!(addresses.evicted(), 0);
}

#[tokio::test]
async fn when_full_the_absent_and_the_longest_unused_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OnDemandSettings {
        capacity: 3,
        ..settings()
    };
    let (_control_plane, mut session, _client, addresses) = set_up(dir.path(), settings).await;
    let tick = || tokio::time::sleep(Duration::from_millis(2));
    for (name, workload) in [
        ("10.0.0.1", "shop/a"),
        ("10.0.0.2", "shop/b"),
        ("10.0.0.3", ""),
    ] {
        learn(&addresses, &mut session, name, workload).await;
        tick().await;
    }
    found(&addresses.peek("10.0.0.1").unwrap(), "shop/a");

    for (new, given_up) in [("10.0.0.4", "10.0.0.3"), ("10.0.0.5", "10.0.0.2")] {
        tick().await;
        let getting = tokio::spawn({
            let addresses = addresses.clone();
            async move { addresses.get(new).await }
        });
        // One request or two, as the stream finds them.
        let mut request = session.request().await;
        if request.resource_names_subscribe.is_empty() {
            request.resource_names_subscribe = session.request().await.resource_names_subscribe;
        }
        assert_eq!(request.resource_names_unsubscribe, [given_up]);
        assert_eq!(request.resource_names_subscribe, [new]);
        session.send(ADDRESS, "n", vec![address(new, "shop/c")], &[]);
        found(&getting.await.unwrap(), "shop/c");
        session.expect_ack(ADDRESS, "n").await;
    }
    assert_eq!(addresses.names(), ["10.0.0.1", "10.0.0.4", "10.0.0.5"]);
    assert_eq!(addresses.evicted(), 2);
}

#[tokio::test]
async fn serves_the_last_known_while_the_control_plane_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OnDemandSettings {
        wait: Duration::from_millis(30),
        ..settings()
    };
    let (control_plane, mut session, client, addresses) = set_up(dir.path(), settings).await;
    found(
        &learn(&addresses, &mut session, "10.0.0.1", "shop/a").await,
        "shop/a",
    );
    drop(control_plane);
    disconnected(&client).await;
    found(&addresses.get("10.0.0.1").await, "shop/a");
    assert!(matches!(
        addresses.get("10.0.0.2").await,
        Lookup::Unavailable
    ));

    // Once it is known to be away, nobody waits.
    tokio::time::sleep(settings.wait).await;
    let mut unknown = Box::pin(addresses.get("10.0.0.3"));
    let polled =
        std::future::poll_fn(|context| std::task::Poll::Ready(unknown.as_mut().poll(context)))
            .await;
    assert!(matches!(
        polled,
        std::task::Poll::Ready(Lookup::Unavailable)
    ));

    // What was asked for meanwhile is asked for when it is back.
    let mut control_plane = ControlPlane::start(&dir.path().join("xds"));
    let (mut session, ..) = control_plane.greeted_session().await;
    let request = session.request().await;
    assert_eq!(
        request.resource_names_subscribe,
        ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    );
    assert_eq!(
        request.initial_resource_versions,
        [("10.0.0.1".to_owned(), "shop/a".to_owned())].into()
    );
}

#[test]
fn knows_what_the_disk_remembers() {
    with_folder(async |dir| {
        let socket = dir.join("xds");
        let with_state = || Config {
            state_dir: Some(dir.join("state")),
            ..config(&socket)
        };
        let mut control_plane = ControlPlane::start(&socket);
        let (_client, first) = addresses(with_state(), settings());
        let (mut session, ..) = control_plane.greeted_session().await;
        learn(&first, &mut session, "10.0.0.1", "shop/a").await;
        learn(&first, &mut session, "10.0.0.2", "shop/b").await;
        let file = dir.join("state").join("last-good");
        let written = || {
            std::fs::read(&file)
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("shop/b"))
        };
        patient("the file", async {
            while !written() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        drop(control_plane);

        let capacity = OnDemandSettings {
            capacity: 1,
            ..settings()
        };
        let (client, second) = addresses(with_state(), capacity);
        patient("the resources on disk", async {
            while second.is_empty() || second.peek("10.0.0.1").is_none() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        found(&second.get("10.0.0.1").await, "shop/a");
        assert_eq!(
            second.names(),
            ["10.0.0.1"],
            "no more than there is room for"
        );
        let mut control_plane = ControlPlane::start(&socket);
        let mut seen = control_plane.greeted_session().await.0;
        // Both clients come back; the second one has given up what it had no room for.
        let mut other = control_plane.greeted_session().await.0;
        let mut subscriptions = [seen.request().await, other.request().await]
            .map(|request| request.resource_names_subscribe);
        subscriptions.sort();
        assert_eq!(
            subscriptions,
            [vec!["10.0.0.1"], vec!["10.0.0.1", "10.0.0.2"]]
        );
        drop(client);
    });
}

#[tokio::test]
async fn can_be_shared_and_awaited_anywhere() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let dir = tempfile::tempdir().unwrap();
    let (client, _deliveries) = start(&dir.path().join("nobody"));
    let wait = Duration::from_millis(1);
    let addresses = Arc::new(Addresses::new(
        client,
        ADDRESS,
        OnDemandSettings { wait, ..settings() },
    ));
    assert!(matches!(
        is_send(addresses.get("10.0.0.1")).await,
        Lookup::Unavailable
    ));
}
