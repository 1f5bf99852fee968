//! The dev authority as others see it: a foreign SPIFFE client, the control socket, the files.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use kith_certs::authority::{self, AuthorityConfig, Entry};
use kith_certs::workload_api::WorkloadApiClient;
use kith_certs::{Endpoint, SpiffeId};
use serde_json::{Value, json};
use tonic::Code;

use crate::{Lab, WEB, domain, eventually, first_svid, id};

fn client(endpoint: &std::path::Path) -> WorkloadApiClient {
    WorkloadApiClient::new(&Endpoint::unix(endpoint), Duration::from_secs(10))
}

#[tokio::test]
async fn serves_a_foreign_spiffe_client() {
    let lab = Lab::new(60);
    let foreign = spiffe::WorkloadApiClient::connect_to(format!(
        "unix://{}",
        lab.socket("web.sock").display()
    ))
    .await
    .unwrap();

    let context = foreign.fetch_x509_context().await.unwrap();
    let svid = context.default_svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), WEB);
    let trust_domain = spiffe::TrustDomain::new("example.org").unwrap();
    assert_eq!(
        context
            .bundle_set()
            .get(&trust_domain)
            .unwrap()
            .authorities()
            .len(),
        1
    );
    assert_eq!(foreign.fetch_x509_bundles().await.unwrap().len(), 1);

    let token = foreign.fetch_jwt_svid(["orders"], None).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), WEB);
    let jwt_bundles = foreign.fetch_jwt_bundles().await.unwrap();
    let bundle = jwt_bundles.get(&trust_domain).unwrap();
    assert!(bundle.find_jwt_authority(token.key_id()).is_some());
    let validated = foreign
        .validate_jwt_token("orders", token.token())
        .await
        .unwrap();
    assert_eq!(validated.spiffe_id().to_string(), WEB);
    assert!(
        foreign
            .validate_jwt_token("payments", token.token())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn entries_select_by_uid_executable_and_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one.sock"), dir.path().join("two.sock"));
    let uid = fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap();
    let any = |name: &str| Entry {
        id: id(name),
        hint: String::new(),
        uid: None,
        path: None,
        socket: None,
    };
    let mut config = AuthorityConfig::new(domain("example.org"));
    config.sockets = vec![one.clone()];
    config.entries = vec![
        Entry {
            uid: Some(uid),
            ..any("spiffe://example.org/uid")
        },
        Entry {
            uid: Some(uid + 1),
            ..any("spiffe://example.org/other-uid")
        },
        Entry {
            path: Some(env::current_exe().unwrap()),
            ..any("spiffe://example.org/path")
        },
        Entry {
            path: Some("/usr/bin/other".into()),
            ..any("spiffe://example.org/other-path")
        },
        Entry {
            uid: Some(uid),
            ..Entry::for_socket(id("spiffe://example.org/both"), &two)
        },
    ];
    let _authority = authority::Authority::start(config).unwrap();
    let names = async |socket: &std::path::Path| -> Vec<String> {
        let message = client(socket)
            .watch_x509_svids()
            .await
            .unwrap()
            .message()
            .await
            .unwrap()
            .unwrap();
        message
            .svids
            .iter()
            .map(|svid| svid.spiffe_id.rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&one).await, ["uid", "path"]);
    assert_eq!(names(&two).await, ["uid", "path", "both"]);
}

#[tokio::test]
async fn requires_the_security_header() {
    use kith_certs::workload_api::proto::X509svidRequest;
    use kith_certs::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
    let lab = Lab::new(60);
    let socket = lab.socket("web.sock");
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        }))
        .await
        .unwrap();
    let status = SpiffeWorkloadApiClient::new(channel)
        .fetch_x509svid(X509svidRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn our_client_speaks_every_call() {
    let lab = Lab::new(60);
    let mut client = client(&lab.socket("web.sock"));
    let bundles = client
        .watch_x509_bundles()
        .await
        .unwrap()
        .message()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        bundles.bundles["spiffe://example.org"],
        lab.authority.bundle_der()
    );
    let svids = client
        .fetch_jwt_svids(&["orders".to_owned()], Some(&id(WEB)))
        .await
        .unwrap();
    let validated = client
        .validate_jwt_svid("orders", &svids[0].svid)
        .await
        .unwrap();
    assert_eq!(validated.spiffe_id, WEB);
    assert!(validated.claims.unwrap().fields.contains_key("exp"));
    let status = client.fetch_jwt_svids(&[], None).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let stranger: SpiffeId = id("spiffe://example.org/stranger");
    let status = client
        .fetch_jwt_svids(&["orders".to_owned()], Some(&stranger))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_source_holds_the_jwks_of_every_trust_domain() {
    let lab = Lab::new(60);
    let source = lab.source();
    eventually(&source, "JWKS", |source, _| {
        source
            .current()
            .is_some_and(|s| s.jwks("example.org").is_some())
    })
    .await;
    let serial = source.current().unwrap().serial().to_owned();
    let jwks: Value =
        serde_json::from_slice(source.current().unwrap().jwks("example.org").unwrap()).unwrap();
    assert_eq!(jwks["keys"][0]["use"], "jwt-svid");

    let foreign = authority::Authority::start(AuthorityConfig::new(domain("other.org"))).unwrap();
    lab.authority
        .federate(
            &domain("other.org"),
            foreign.bundle_pem().as_bytes(),
            Some(b"{\"keys\":[]}"),
        )
        .unwrap();
    eventually(&source, "federated", |source, _| {
        source.current().unwrap().jwks("other.org").is_some()
    })
    .await;
    let snapshot = source.current().unwrap();
    assert_eq!(
        snapshot.jwks("other.org").unwrap().as_ref(),
        b"{\"keys\":[]}"
    );
    // A federation renews nobody's SVID.
    assert_eq!(
        (snapshot.serial(), source.status().rotations),
        (serial.as_str(), 0)
    );
    // Two keys overlap with two roots.
    lab.authority.rotate_root().unwrap();
    eventually(&source, "two keys", |source, _| {
        let snapshot = source.current().unwrap();
        let jwks: Value = serde_json::from_slice(snapshot.jwks("example.org").unwrap()).unwrap();
        jwks["keys"].as_array().unwrap().len() == 2
    })
    .await;
}

#[tokio::test]
async fn obeys_its_control_socket() {
    let mut lab = Lab::new(60);
    let control = lab.socket("control.sock");
    lab.authority.serve_control(&control).unwrap();
    assert_eq!(
        fs::metadata(&control).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let say = async |command: Value| authority::command(&control, &command).await.unwrap();
    let source = lab.source();
    first_svid(&source).await;
    let first = source.current().unwrap();

    assert_eq!(
        say(json!({"command": "rotate-leaf"})).await,
        json!({"ok": true})
    );
    eventually(&source, "rotated", |_, status| status.rotations == 1).await;
    assert_eq!(say(json!({"command": "rotate-root"})).await["ok"], true);
    eventually(&source, "two roots", |source, _| {
        source
            .current()
            .unwrap()
            .bundle("example.org")
            .unwrap()
            .len()
            == 2
    })
    .await;
    eventually(&source, "signed by the new root", |_, status| {
        status.rotations == 2
    })
    .await;
    let status = say(json!({"command": "status"})).await;
    let signs: Vec<bool> = status["roots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|root| root["signs"].as_bool().unwrap())
        .collect();
    assert_eq!(signs, [false, true]);
    assert!(
        source
            .current()
            .unwrap()
            .bundle_differs(&first, "example.org")
    );

    assert_eq!(
        say(json!({"command": "set-ttl", "seconds": 30})).await["ok"],
        true
    );
    eventually(&source, "shorter", |source, _| {
        source.current().unwrap().not_after() < SystemTime::now() + Duration::from_secs(31)
    })
    .await;

    let late = lab.socket("late.sock");
    let entry = json!({"id": "spiffe://example.org/late", "socket": late});
    assert_eq!(
        say(json!({"command": "add-entry", "entry": entry})).await["ok"],
        true
    );
    let latecomer = crate::source(late);
    first_svid(&latecomer).await;
    let removed = say(json!({"command": "remove-entry", "id": "spiffe://example.org/late"})).await;
    assert_eq!(removed, json!({"ok": true, "removed": true}));
    eventually(&latecomer, "withdrawn", |source, _| {
        source.current().is_none()
    })
    .await;

    let dir = lab.socket("files");
    assert_eq!(
        say(json!({"command": "issue", "id": "spiffe://example.org/curl", "dir": dir})).await["ok"],
        true
    );
    let snapshot = source.current().unwrap();
    let pem = |name: &str| fs::read(dir.join(name)).unwrap();
    let leaf = pem_to_der(&pem("svid.pem"));
    let none: &[&[u8]] = &[];
    let peer = snapshot
        .verify(&leaf, none, SystemTime::now(), kith_certs::Usage::Client)
        .unwrap();
    assert_eq!(peer.as_str(), "spiffe://example.org/curl");
    assert!(pem("key.pem").starts_with(b"-----BEGIN PRIVATE KEY"));
    assert_eq!(
        fs::metadata(dir.join("key.pem"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert_eq!(
        say(json!({"command": "bundle"})).await["bundle"]
            .as_str()
            .unwrap()
            .as_bytes(),
        pem("bundle.pem")
    );

    for wrong in [
        json!({"command": "nonsense"}),
        json!({"command": "remove-entry", "id": "spiffe://Example.org/a"}),
        json!(7),
    ] {
        let reply = say(wrong).await;
        assert_eq!(reply["ok"], false);
        assert!(reply["error"].as_str().unwrap().len() > 10, "{reply}");
    }
    drop(lab.authority);
    assert!(!control.exists(), "no socket is left behind");
}

#[tokio::test]
async fn keeps_its_roots_private() {
    let lab = Lab::with(|dir, config| config.state_dir = Some(dir.path().join("state")));
    let kept = lab.socket("state").join("roots.json");
    assert_eq!(
        fs::metadata(kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn replaces_a_root_that_grows_old() {
    let lab = Lab::with(|_, config| (config.root_ttl_seconds, config.ttl_seconds) = (6, 2));
    let source = lab.source();
    first_svid(&source).await;
    let first = source.current().unwrap();
    eventually(&source, "a successor", |source, _| {
        source
            .current()
            .unwrap()
            .bundle_differs(&first, "example.org")
    })
    .await;
    assert!(source.status().is_ready());
}

#[test]
fn its_configuration_is_json_and_mistakes_are_named() {
    let config: AuthorityConfig = serde_json::from_value(json!({
        "trust_domain": "example.org",
        "entries": [{"id": WEB, "uid": 1000}],
    }))
    .unwrap();
    assert_eq!(
        (config.ttl_seconds, config.entries[0].uid),
        (60, Some(1000))
    );
    for (wrong, part) in [
        (
            json!({"trust_domain": "Example.org"}),
            "in its trust domain",
        ),
        (
            json!({"trust_domain": "example.org", "entries": [{"id": "spiffe://example.org/a/"}]}),
            "trailing `/`",
        ),
        (
            json!({"trust_domain": "example.org", "ttl": 1}),
            "unknown field `ttl`",
        ),
    ] {
        let error = serde_json::from_value::<AuthorityConfig>(wrong)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    let mut foreign = AuthorityConfig::new(domain("example.org"));
    foreign
        .entries
        .push(Entry::for_socket(id("spiffe://other.org/a"), "/nowhere"));
    assert!(authority::Authority::start(foreign).is_err());
}

fn pem_to_der(pem: &[u8]) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(pem)
        .unwrap()
        .to_vec()
}
