//! CRLs and JWT-SVIDs on their way: from the authority's switches to handshakes and verified tokens.

use std::time::{Duration, SystemTime};

use kith_certs::authority::{self, Authority, AuthorityConfig, Entry, Malformed};
use kith_certs::jwt::{Algorithm, Jwt, JwtError, JwtSvid};
use kith_certs::tls::{ClientAuth, client_config, peer_svid, server_config, server_name};
use kith_certs::workload_api::WorkloadApiClient;
use kith_certs::{Endpoint, IdentitySource, PeerSvid, TrustSnapshot, Usage, svid_error_of_io};
use serde_json::{Map, Value, json};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Lab, WEB, config, domain, eventually, first_svid, id, source};

const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";

/// `web` and `orders`, with the TLS configurations they keep for as long as they run.
struct Pair {
    lab: Lab,
    web: IdentitySource,
    orders: IdentitySource,
    web_calls: TlsConnector,
    orders_calls: TlsConnector,
    web_serves: TlsAcceptor,
    orders_serves: TlsAcceptor,
}

impl Pair {
    async fn new() -> Pair {
        let lab = Lab::new(60);
        let orders_socket = lab.socket("orders.sock");
        lab.authority
            .add_entry(Entry::for_socket(id(ORDERS), &orders_socket))
            .unwrap();
        let (web, orders) = (lab.source(), source(orders_socket));
        first_svid(&web).await;
        first_svid(&orders).await;
        let serves = |source| server_config(source, &[], ClientAuth::Required).into();
        Pair {
            web_calls: client_config(&web, &[]).into(),
            orders_calls: client_config(&orders, &[]).into(),
            web_serves: serves(&web),
            orders_serves: serves(&orders),
            lab,
            web,
            orders,
        }
    }

    /// What `orders` thinks of `web`, as a server and as a client: the peer, or the reason against it.
    async fn verdicts(&self) -> [Result<PeerSvid, &'static str>; 2] {
        let (a, b) = tokio::io::duplex(64 * 1024);
        let (served, _called) = tokio::join!(
            self.orders_serves.accept(a),
            self.web_calls.connect(server_name(), b)
        );
        let (a, b) = tokio::io::duplex(64 * 1024);
        let (_served, called) = tokio::join!(
            self.web_serves.accept(a),
            self.orders_calls.connect(server_name(), b)
        );
        let reason = |error: std::io::Error| svid_error_of_io(&error).unwrap().reason().as_str();
        [
            served
                .map(|stream| peer_svid(stream.get_ref().1, Usage::Client).unwrap())
                .map_err(reason),
            called
                .map(|stream| peer_svid(stream.get_ref().1, Usage::Server).unwrap())
                .map_err(reason),
        ]
    }
}

fn lists(source: &IdentitySource) -> usize {
    source
        .current()
        .map_or(0, |trust| trust.crls().lists().count())
}

#[tokio::test]
async fn a_revoked_svid_is_refused_in_both_directions_until_it_is_renewed() {
    let pair = Pair::new().await;
    // More than once, so that the chain is one that was verified before.
    let mut peers = Vec::new();
    for _ in 0..2 {
        peers.extend(pair.verdicts().await.map(Result::unwrap));
    }
    let before = pair.orders.current().unwrap();
    let serial = pair.web.current().unwrap().serial().to_owned();
    assert!(peers.iter().all(|peer| peer.serial() == serial));

    assert!(pair.lab.authority.revoke(&serial).unwrap());
    eventually(&pair.orders, "told", |source, _| lists(source) == 1).await;
    assert_eq!(
        pair.verdicts().await.map(Result::unwrap_err),
        ["svid-revoked"; 2]
    );
    let after = pair.orders.current().unwrap();
    assert!(after.bundle_differs(&before, "example.org"));
    for peer in &peers {
        let error = after.still_trusts(peer, SystemTime::now()).unwrap_err();
        assert!(error.to_string().contains(&serial), "{error}");
    }
    let status = pair.orders.status();
    assert_eq!((status.crls[0].revoked, status.rotations), (1, 0));
    assert_eq!(status.crls[0].trust_domains, ["example.org"]);

    // The one whom it is about says so.
    eventually(&pair.web, "aware", |_, status| status.revoked).await;
    let line = pair.web.status().to_string();
    assert!(line.contains("was revoked by CRL"), "{line}");
    assert!(!pair.orders.status().revoked);

    // Its next SVID is another.
    pair.lab.authority.rotate_leaf();
    eventually(&pair.web, "rotated", |_, status| status.rotations == 1).await;
    assert!(pair.verdicts().await.iter().all(Result::is_ok));
    assert!(!pair.web.status().revoked);
    // What is in no message is in force no longer.
    assert!(pair.lab.authority.unrevoke(&serial).unwrap());
    eventually(&pair.orders, "forgotten", |source, _| lists(source) == 0).await;
    let trust = pair.orders.current().unwrap();
    trust.still_trusts(&peers[0], SystemTime::now()).unwrap();
}

#[tokio::test]
async fn revocation_outlives_a_new_root_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let mut config = config(&dir);
        config.state_dir = Some(dir.path().join("state"));
        Authority::start(config).unwrap()
    };
    let authority = start();
    let source = source(dir.path().join("web.sock"));
    first_svid(&source).await;
    let stolen = authority
        .issue(&id("spiffe://example.org/stolen"), Duration::from_secs(600))
        .unwrap();
    let refused = |trust: &TrustSnapshot| {
        let none: &[&[u8]] = &[];
        let now = SystemTime::now();
        let verified = trust.verify(&stolen.certificate_der, none, now, Usage::Client);
        verified.is_err_and(|error| error.reason().as_str() == "svid-revoked")
    };
    assert!(!refused(&source.current().unwrap()));
    authority.revoke(&stolen.serial).unwrap();
    eventually(&source, "revoked", |source, _| {
        refused(&source.current().unwrap())
    })
    .await;
    authority.rotate_root().unwrap();
    eventually(&source, "a list of each root", |source, _| {
        lists(source) == 2
    })
    .await;
    assert!(refused(&source.current().unwrap()));
    drop(authority);
    eventually(&source, "gone", |_, status| !status.connected).await;
    let _authority = start();
    eventually(&source, "back", |_, status| status.connected).await;
    assert!(refused(&source.current().unwrap()));
}

#[tokio::test]
async fn one_bad_crl_harms_nothing_and_is_shown() {
    let lab = Lab::new(60);
    let stolen = lab
        .authority
        .issue(&id("spiffe://example.org/stolen"), Duration::from_secs(600))
        .unwrap();
    lab.authority.revoke(&stolen.serial).unwrap();
    lab.authority.malformed(Some(Malformed::BadCrl));
    let source = lab.source();
    first_svid(&source).await;
    let status = source.status();
    assert!(status.last_error.is_none() && status.is_ready());
    assert_eq!((status.crls.len(), status.refused_crls.len()), (1, 1));
    assert!(status.refused_crls[0].why.contains("no well-formed CRL"));
    lab.authority.malformed(None);
    eventually(&source, "well again", |_, status| {
        status.refused_crls.is_empty()
    })
    .await;

    // A federated domain's list comes by the same way.
    let other = Authority::start(AuthorityConfig::new(domain("other.org"))).unwrap();
    lab.authority
        .federate(&domain("other.org"), &other.bundle_der(), None)
        .unwrap();
    other.revoke("4bc37bd5847f397e7ae748dd61226a55").unwrap();
    lab.authority.hand_over_crls(other.crls());
    eventually(&source, "theirs too", |_, status| {
        status
            .crls
            .iter()
            .any(|crl| crl.trust_domains == ["other.org"] && crl.revoked == 1)
    })
    .await;
}

#[tokio::test]
async fn obeys_commands_about_serials_and_tokens() {
    let mut lab = Lab::new(60);
    let control = lab.socket("control.sock");
    lab.authority.serve_control(&control).unwrap();
    let say = async |command: Value| authority::command(&control, &command).await.unwrap();

    let dir = lab.socket("files");
    let issued =
        say(json!({"command": "issue", "id": "spiffe://example.org/curl", "dir": dir})).await;
    let serial = issued["serial"].as_str().unwrap();
    assert_eq!(
        issued["thumbprint"].as_str().unwrap().len(),
        43,
        "32 bytes in base64url"
    );
    let revoke = |serial: &str| json!({"command": "revoke", "serial": serial});
    assert_eq!(
        say(revoke(serial)).await,
        json!({"ok": true, "changed": true})
    );
    assert_eq!(say(revoke(&serial.to_uppercase())).await["changed"], false);
    assert_eq!(
        say(json!({"command": "status"})).await["revoked"],
        json!([serial])
    );
    let unrevoke = json!({"command": "unrevoke", "serial": serial});
    assert_eq!(say(unrevoke).await, json!({"ok": true, "changed": true}));
    for wrong in ["", "xyz", "123", "+1", "\u{e4}\u{e4}", &"0".repeat(42)] {
        let reply = say(revoke(wrong)).await;
        assert!(
            reply["error"]
                .as_str()
                .unwrap()
                .contains("no serial number"),
            "{reply}"
        );
    }

    let reply = say(json!({
        "command": "issue-jwt", "id": WEB, "audience": ["orders"], "ttl_seconds": 7,
        "claims": {"scope": "read write", "cnf": {"x5t#S256": issued["thumbprint"]}, "iss": "me"},
    }))
    .await;
    let token = Jwt::parse(reply["token"].as_str().unwrap()).unwrap();
    let jwks = say(json!({"command": "jwks"})).await["jwks"].to_string();
    let keys = kith_certs::jwt::Jwks::parse_spiffe_bundle(jwks.as_bytes()).unwrap();
    let svid = JwtSvid::verify(&token, "example.org", &keys).unwrap();
    assert_eq!(svid.id().as_str(), WEB);
    assert_eq!(
        (token.claims()["scope"].as_str(), token.issuer()),
        (Some("read write"), Some("me"))
    );
    let life = token.exp().unwrap().duration_since(token.iat().unwrap());
    assert_eq!(life.unwrap(), Duration::from_secs(7));
    let bound = token.certificate_thumbprint().unwrap().unwrap();
    assert_eq!(bound, thumbprint_of(&dir.join("svid.pem")));

    let stranger = authority::jwt::Issuer::generate(Algorithm::Rs256).unwrap();
    let other = Authority::start(AuthorityConfig::new(domain("other.org"))).unwrap();
    let federate = json!({
        "command": "federate", "trust_domain": "other.org", "bundle": other.bundle_pem(),
        "jwks": {"keys": [stranger.jwk()]},
    });
    assert_eq!(say(federate).await["ok"], true);
}

#[tokio::test]
async fn jwt_svids_verify_with_the_bundle_of_their_own_trust_domain() {
    let lab = Lab::new(60);
    let other = Authority::start(AuthorityConfig::new(domain("other.org"))).unwrap();
    lab.authority
        .federate(
            &domain("other.org"),
            &other.bundle_der(),
            Some(other.jwks().as_bytes()),
        )
        .unwrap();
    let source = lab.source();
    eventually(&source, "keys", |source, _| {
        source.current().is_some_and(|trust| {
            trust.jwt_keys("example.org").is_some() && trust.jwt_keys("other.org").is_some()
        })
    })
    .await;
    let before = source.current().unwrap();
    let mut client = WorkloadApiClient::new(
        &Endpoint::unix(lab.socket("web.sock")),
        Duration::from_secs(10),
    );
    let audience = ["orders".to_owned(), "payments".to_owned()];
    let svids = client.fetch_jwt_svids(&audience, None).await.unwrap();
    let token = Jwt::parse(&svids[0].svid).unwrap();
    assert_eq!((token.typ(), token.alg()), (Some("JWT"), Algorithm::Es256));
    assert_eq!(token.audiences().collect::<Vec<_>>(), audience);
    let verify = |trust: &TrustSnapshot, token: &Jwt, domain: &str| {
        let keys = trust.jwt_keys(domain).unwrap();
        JwtSvid::verify(token, domain, keys).map(|svid| svid.id().to_string())
    };
    assert_eq!(verify(&before, &token, "example.org").unwrap(), WEB);
    assert!(matches!(
        verify(&before, &token, "other.org"),
        Err(JwtError::ForeignSubject { .. })
    ));
    // Their key, our name.
    let forged = other
        .issue_jwt(&id(WEB), &audience, None, Map::new())
        .unwrap();
    let forged = Jwt::parse(&forged).unwrap();
    assert!(verify(&before, &forged, "example.org").is_err());
    assert!(verify(&before, &forged, "other.org").is_err());

    // A new key comes with a new root; what the old one signed stays good.
    lab.authority.rotate_root().unwrap();
    eventually(&source, "two keys", |source, _| {
        source
            .current()
            .unwrap()
            .jwt_keys("example.org")
            .unwrap()
            .len()
            == 2
    })
    .await;
    let after = source.current().unwrap();
    assert!(after.jwt_keys_differ(&before, "example.org"));
    assert!(!after.jwt_keys_differ(&before, "other.org"));
    assert!(!after.jwt_keys_differ(&before, "third.org"));
    assert_eq!(verify(&after, &token, "example.org").unwrap(), WEB);
    // The overlap is over when the new one signs.
    let signed_anew = async {
        loop {
            let svids = client.fetch_jwt_svids(&audience, None).await.unwrap();
            let next = Jwt::parse(&svids[0].svid).unwrap();
            if next.kid() != token.kid() {
                return next;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let next = tokio::time::timeout(Duration::from_secs(5), signed_anew)
        .await
        .unwrap();
    assert_eq!(verify(&after, &next, "example.org").unwrap(), WEB);
    assert!(
        verify(&before, &next, "example.org").is_err(),
        "it wasn't known then"
    );

    // An end of federation takes their keys.
    lab.authority.unfederate(&domain("other.org"));
    eventually(&source, "unfederated", |source, _| {
        source.current().unwrap().jwt_keys("other.org").is_none()
    })
    .await;
    assert!(
        source
            .current()
            .unwrap()
            .jwt_keys_differ(&after, "other.org")
    );
}

fn thumbprint_of(pem: &std::path::Path) -> [u8; 32] {
    use rustls::pki_types::pem::PemObject as _;
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(pem).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    digest.as_ref().try_into().unwrap()
}
