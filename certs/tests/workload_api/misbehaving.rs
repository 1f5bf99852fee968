//! What must be survived.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith_certs::authority::{Authority, AuthorityConfig, Entry, Malformed};
use kith_certs::trust::{JwtBundles, UpdateError};
use kith_certs::workload_api::proto::{X509svid, X509svidResponse};
use kith_certs::{Endpoint, IdentitySource, SourceConfig, TrustSnapshot};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::{Lab, WEB, config, domain, eventually, first_svid, id, scripted, source};

/// A usable message of an authority that serves nobody.
fn message(authority: &Authority, name: &str, hint: &str) -> X509svid {
    let issued = authority.issue(&id(name), Duration::from_secs(60)).unwrap();
    let mut svid = X509svid::default();
    svid.spiffe_id = name.to_owned();
    svid.x509_svid = issued.certificate_der;
    svid.x509_svid_key = issued.key_pkcs8.to_vec();
    svid.bundle = authority.bundle_der();
    svid.hint = hint.to_owned();
    svid
}

fn update(svids: Vec<X509svid>) -> X509svidResponse {
    X509svidResponse {
        svids,
        ..Default::default()
    }
}

fn unserved() -> Authority {
    Authority::start(AuthorityConfig::new(domain("example.org"))).unwrap()
}

#[tokio::test]
async fn a_missing_socket_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path().join("web.sock"));
    eventually(&source, "a failure", |_, status| {
        status.last_error.is_some()
    })
    .await;
    let status = source.status();
    assert!(
        status.to_string().contains("No such file or directory"),
        "{status}"
    );
    assert!(!status.is_ready() && !status.connected && source.current().is_none());
    let _authority = Authority::start(config(&dir)).unwrap();
    first_svid(&source).await;
    assert!(source.status().is_ready());
    assert_eq!(source.current().unwrap().principal().as_str(), WEB);
}

#[tokio::test]
async fn silence_after_accept_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("web.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let source = source(socket);
    let (_first, _) = listener.accept().await.unwrap();
    // It hangs up by itself and comes again.
    let (_second, _) = timeout(Duration::from_secs(5), listener.accept())
        .await
        .unwrap()
        .unwrap();
    assert!(source.status().last_error.is_some());
}

#[tokio::test]
async fn a_server_that_takes_calls_but_says_nothing_is_noticed() {
    let lab = Lab::new(60);
    lab.authority.freeze(true);
    let source = lab.source();
    eventually(&source, "noticed", |_, status| {
        status.to_string().contains("is the agent frozen?")
    })
    .await;
    lab.authority.freeze(false);
    first_svid(&source).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_raises_an_alarm_and_expiry_fails_closed() {
    let lab = Lab::new(3);
    let source = lab.source();
    first_svid(&source).await;
    lab.authority.freeze(true);
    eventually(&source, "overdue", |_, status| status.overdue).await;
    assert!(
        !source.status().expired,
        "the alarm must come well before the end"
    );
    eventually(&source, "expired", |_, status| status.expired).await;
    let snapshot = source.current().unwrap();
    assert!(snapshot.check_own_validity(SystemTime::now()).is_err());
    assert!(!source.status().is_ready());
    assert!(
        source.status().to_string().contains("expired"),
        "{}",
        source.status()
    );
    // The stream that was up and dead is replaced without being asked.
    lab.authority.freeze(false);
    eventually(&source, "ready again", |_, status| {
        status.is_ready() && !status.overdue
    })
    .await;
}

#[tokio::test]
async fn denied_before_the_first_svid_keeps_asking() {
    let lab = Lab::new(60);
    lab.authority.deny(true);
    let source = lab.source();
    eventually(&source, "denied", |_, status| status.denied_since.is_some()).await;
    assert!(source.current().is_none());
    assert!(
        source.status().to_string().contains("PermissionDenied"),
        "{}",
        source.status()
    );
    lab.authority.deny(false);
    first_svid(&source).await;
    assert!(source.status().denied_since.is_none());
}

#[tokio::test]
async fn denied_after_the_first_svid_stops_using_it_after_the_grace() {
    let lab = Lab::new(60);
    let source = lab.source();
    first_svid(&source).await;
    let mut updates = source.subscribe();
    updates.borrow_and_update();
    lab.authority.deny(true);
    eventually(&source, "denied", |_, status| status.denied_since.is_some()).await;
    assert!(
        source.current().is_some(),
        "within the grace it stays in use"
    );
    timeout(Duration::from_secs(5), updates.wait_for(Option::is_none))
        .await
        .unwrap()
        .unwrap();
    assert!(source.current().is_none() && !source.status().is_ready());
    assert!(source.status().withdrawn);
    lab.authority.deny(false);
    first_svid(&source).await;
    assert!(source.status().is_ready());
}

#[tokio::test]
async fn a_denial_within_the_grace_is_forgiven() {
    let lab = Lab::new(60);
    let source = lab.source();
    first_svid(&source).await;
    let generation = source.current().unwrap().generation();
    lab.authority.deny(true);
    eventually(&source, "denied", |_, status| status.denied_since.is_some()).await;
    lab.authority.deny(false);
    eventually(&source, "forgiven", |_, status| {
        status.denied_since.is_none()
    })
    .await;
    sleep(Duration::from_millis(600)).await;
    // The same SVID came again: nothing new to publish, and nothing was withdrawn.
    assert_eq!(source.current().unwrap().generation(), generation);
}

#[tokio::test]
async fn invalid_argument_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("web.sock");
    let server = scripted::serve(&socket, |_| Err(Status::invalid_argument("no header")));
    let source = source(socket);
    eventually(&source, "given up", |_, status| status.gave_up).await;
    sleep(Duration::from_millis(700)).await;
    assert_eq!(server.calls(), 1);
    assert!(source.status().to_string().contains("no header"));
}

#[tokio::test]
async fn unusable_updates_leave_the_last_good_one_in_force() {
    let lab = Lab::new(60);
    let source = lab.source();
    first_svid(&source).await;
    let serial = source.current().unwrap().serial().to_owned();
    for (kind, part) in [
        (Malformed::NoSvids, "no SVID"),
        (Malformed::EmptySvid, "`x509_svid` is empty"),
        (Malformed::EmptyKey, "`x509_svid_key` is empty"),
        (Malformed::EmptyBundle, "`bundle` is empty"),
        (Malformed::WrongKey, "doesn't belong to its certificate"),
        (Malformed::WrongId, "the message says"),
        (Malformed::GarbageChain, "no concatenated DER"),
        (Malformed::Oversized, "too large"),
    ] {
        lab.authority.malformed(Some(kind));
        eventually(&source, part, |_, status| {
            status.last_error.as_ref().is_some_and(|e| e.contains(part))
        })
        .await;
        assert_eq!(source.current().unwrap().serial(), serial, "{kind:?}");
        assert!(source.status().is_ready());
        lab.authority.malformed(None);
        eventually(&source, "well again", |_, status| {
            status.last_error.is_none()
        })
        .await;
    }
    assert!(source.status().refused_updates >= 7);
}

#[tokio::test]
async fn one_bad_federated_bundle_harms_no_other() {
    let lab = Lab::new(60);
    let other = Authority::start(AuthorityConfig::new(domain("other.org"))).unwrap();
    lab.authority
        .federate(&domain("other.org"), &other.bundle_der(), None)
        .unwrap();
    lab.authority.malformed(Some(Malformed::BadFederatedBundle));
    let source = lab.source();
    first_svid(&source).await;
    let snapshot = source.current().unwrap();
    assert!(snapshot.bundle("other.org").is_some() && snapshot.bundle("broken.example").is_none());
    let refused = source.status().refused_bundles;
    assert_eq!(refused[0].trust_domain, "spiffe://broken.example");

    lab.authority.malformed(Some(Malformed::FederatedOwnDomain));
    eventually(&source, "own domain federated", |_, status| {
        status
            .refused_bundles
            .iter()
            .any(|refused| refused.trust_domain == "spiffe://example.org")
    })
    .await;

    // Absent is redacted: nothing of it is kept from an older message.
    lab.authority.malformed(None);
    assert!(lab.authority.unfederate(&domain("other.org")));
    eventually(&source, "redacted", |source, _| {
        source.current().unwrap().bundle("other.org").is_none()
    })
    .await;
}

#[tokio::test]
async fn one_bad_jwt_bundle_harms_no_other() {
    let lab = Lab::new(60);
    let other = Authority::start(AuthorityConfig::new(domain("other.org"))).unwrap();
    let federate = |jwks: &[u8]| {
        lab.authority
            .federate(&domain("other.org"), &other.bundle_der(), Some(jwks))
            .unwrap();
    };
    federate(b"{\"keys\":7}");
    let source = lab.source();
    eventually(&source, "refused", |source, status| {
        !status.refused_jwt_bundles.is_empty()
            && source
                .current()
                .is_some_and(|s| s.jwks("example.org").is_some())
    })
    .await;
    assert!(source.current().unwrap().jwks("other.org").is_none());
    let refused = source.status().refused_jwt_bundles;
    assert_eq!(refused[0].trust_domain, "spiffe://other.org");
    assert!(refused[0].why.contains("no array `keys`"), "{refused:?}");

    federate(b"{\"keys\":[]}");
    eventually(&source, "well again", |source, status| {
        status.refused_jwt_bundles.is_empty()
            && source.current().unwrap().jwks("other.org").is_some()
    })
    .await;
}

#[tokio::test]
async fn a_thousand_updates_a_second_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("web.sock");
    let authority = unserved();
    let pair = [
        message(&authority, WEB, ""),
        message(&authority, "spiffe://example.org/other", ""),
    ];
    let all_sent = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&all_sent);
    let _server = scripted::serve(&socket, move |sender| {
        let (pair, tell) = (pair.clone(), Arc::clone(&tell));
        tokio::spawn(async move {
            for round in 0..1001 {
                let svid = pair[round % 2].clone();
                if sender.send(Ok(update(vec![svid]))).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(1)).await;
            }
            tell.notify_one();
            sender.closed().await;
        });
        Ok(())
    });
    let source = source(socket);
    let started = std::time::Instant::now();
    first_svid(&source).await;
    all_sent.notified().await;
    // One more merge takes the last of them in.
    sleep(Duration::from_secs(1)).await;
    let status = source.status();
    assert_eq!(
        source.current().unwrap().principal().as_str(),
        WEB,
        "the newest counts"
    );
    let most = 10 + started.elapsed().as_millis() / 40;
    assert!(
        u128::from(status.generation) < most,
        "{} snapshots",
        status.generation
    );
    assert!(status.connected);
}

#[tokio::test]
async fn a_message_of_almost_4_mib_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("web.sock");
    let mut large = update(vec![message(&unserved(), WEB, "")]);
    large.crl.push(vec![0; 4 * 1024 * 1024 - 4096]);
    let _server = scripted::serve(&socket, move |sender| {
        sender.try_send(Ok(large.clone())).unwrap();
        tokio::spawn(async move { sender.closed().await });
        Ok(())
    });
    first_svid(&source(socket)).await;
}

#[tokio::test]
async fn a_socket_that_is_deleted_and_created_anew_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let mut config = config(&dir);
        config.state_dir = Some(dir.path().join("state"));
        Authority::start(config).unwrap()
    };
    let authority = start();
    let source = source(dir.path().join("web.sock"));
    first_svid(&source).await;
    let before = source.current().unwrap();
    drop(authority);
    eventually(&source, "gone", |_, status| !status.connected).await;
    assert!(source.status().is_ready(), "what is valid stays in use");
    let _authority = start();
    eventually(&source, "back", |source, status| {
        status.connected && source.current().unwrap().serial() != before.serial()
    })
    .await;
    // Killed and restarted with its state, it is the same authority.
    assert!(
        !source
            .current()
            .unwrap()
            .bundle_differs(&before, "example.org")
    );
}

#[tokio::test]
async fn svids_may_be_reordered_and_share_a_hint() {
    let authority = unserved();
    let (a, b) = ("spiffe://example.org/a", "spiffe://example.org/b");
    let chosen = |svids: Vec<X509svid>, hint: Option<&str>| {
        let jwks = Arc::new(JwtBundles::new());
        TrustSnapshot::from_update(&update(svids), hint, jwks, 1, SystemTime::now())
            .map(|s| s.principal().to_string())
    };
    let (x, y) = (
        message(&authority, a, "internal"),
        message(&authority, b, "external"),
    );
    assert_eq!(chosen(vec![x.clone(), y.clone()], None).unwrap(), a);
    assert_eq!(chosen(vec![y.clone(), x.clone()], None).unwrap(), b);
    for order in [vec![x.clone(), y.clone()], vec![y.clone(), x.clone()]] {
        assert_eq!(chosen(order, Some("external")).unwrap(), b);
    }
    let same = message(&authority, b, "internal");
    assert_eq!(
        chosen(vec![x.clone(), same], Some("internal")).unwrap(),
        a,
        "the first of the same hint"
    );
    assert!(matches!(
        chosen(vec![x, y], Some("none")),
        Err(UpdateError::NoSuchHint { offered: 2, .. })
    ));
}

#[tokio::test]
async fn a_hint_picks_one_of_several_svids() {
    let lab = Lab::with(|dir, config| {
        let mut second = Entry::for_socket(
            id("spiffe://example.org/second"),
            dir.path().join("web.sock"),
        );
        second.hint = "second".to_owned();
        config.entries.push(second);
    });
    let endpoint = Endpoint::unix(lab.socket("web.sock"));
    let first = IdentitySource::start(SourceConfig::new(endpoint.clone()));
    let second = IdentitySource::start(SourceConfig {
        hint: Some("second".to_owned()),
        ..SourceConfig::new(endpoint)
    });
    first_svid(&first).await;
    first_svid(&second).await;
    assert_eq!(first.current().unwrap().principal().as_str(), WEB);
    assert_eq!(
        second.current().unwrap().principal().as_str(),
        "spiffe://example.org/second"
    );
    let in_use: Vec<bool> = second
        .status()
        .svids
        .iter()
        .map(|svid| svid.in_use)
        .collect();
    assert_eq!(in_use, [false, true]);
}

#[tokio::test]
async fn the_task_ends_with_its_last_handle_or_subscription() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("web.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let config = SourceConfig::new(Endpoint::unix(&socket));
    let source = IdentitySource::start(config.clone());
    let (mut connection, _) = listener.accept().await.unwrap();
    let subscription = source.subscribe();
    drop(source.clone());
    drop(source);
    let mut bytes = Vec::new();
    let still_there = timeout(
        Duration::from_millis(200),
        connection.read_to_end(&mut bytes),
    )
    .await
    .is_err();
    assert!(still_there, "a subscription keeps it alive");
    drop(subscription);
    timeout(Duration::from_secs(5), connection.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();

    let source = IdentitySource::start(config);
    let (mut connection, _) = listener.accept().await.unwrap();
    source.shutdown();
    timeout(Duration::from_secs(5), connection.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
}
