//! Every certificate of the hostile list, as a client's and as a server's, in real TLS 1.3
//! handshakes against our configurations; the attacker's side accepts and presents anything.

#![allow(clippy::unwrap_used)]

#[path = "hostile/attacker.rs"]
mod attacker;
#[path = "hostile/forge.rs"]
mod forge;
#[path = "hostile/lists.rs"]
mod lists;
#[path = "hostile/revocation.rs"]
mod revocation;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use attacker::{Handshake, as_client, as_server};
use forge::{Authority, DAY, Forged, san, sha256, signer, svid};
use kith_certs::trust::JwtBundles;
use kith_certs::workload_api::proto::{X509svid, X509svidResponse};
use kith_certs::{IdentitySource, SvidReason, TrustSnapshot, Usage};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};

const DOMAIN: &str = "example.org";

/// Us: an SVID of example.org, trusting the given bundles.
fn us(own: &Authority, own_bundle: Vec<u8>, federated: &[(&str, Vec<u8>)]) -> Arc<TrustSnapshot> {
    us_with_crls(own, own_bundle, federated, Vec::new())
}

fn us_with_crls(
    own: &Authority,
    own_bundle: Vec<u8>,
    federated: &[(&str, Vec<u8>)],
    crls: Vec<Vec<u8>>,
) -> Arc<TrustSnapshot> {
    us_at(own, own_bundle, federated, crls, SystemTime::now(), |_| {})
}

fn us_at(
    own: &Authority,
    own_bundle: Vec<u8>,
    federated: &[(&str, Vec<u8>)],
    crls: Vec<Vec<u8>>,
    now: SystemTime,
    change: impl FnOnce(&mut CertificateParams),
) -> Arc<TrustSnapshot> {
    let mut params = svid("spiffe://example.org/us");
    change(&mut params);
    let ours = own.sign(&params);
    let mut message = X509svid::default();
    message.spiffe_id = "spiffe://example.org/us".to_owned();
    message.x509_svid = ours.chain.concat();
    message.x509_svid_key = ours.key.serialize_der();
    message.bundle = own_bundle;
    let federated_bundles = federated
        .iter()
        .map(|(domain, bundle)| (format!("spiffe://{domain}"), bundle.clone()))
        .collect();
    let update = X509svidResponse {
        svids: vec![message],
        crl: crls,
        federated_bundles,
    };
    Arc::new(
        TrustSnapshot::from_update(&update, None, Arc::new(JwtBundles::new()), 1, now).unwrap(),
    )
}

/// Both directions must say the same: a reason with a text that names the fault, or the ID.
async fn check(
    case: &str,
    snapshot: &Arc<TrustSnapshot>,
    presented: &Forged,
    expected: Result<&str, (SvidReason, &str)>,
) {
    // `verify` itself, for both ends.
    for usage in [Usage::Client, Usage::Server] {
        let verified = snapshot
            .verify(
                &presented.chain[0],
                &presented.chain[1..],
                SystemTime::now(),
                usage,
            )
            .map(|peer| peer.as_str().to_owned());
        compare(
            case,
            "verify",
            &verified.map_err(|e| (e.reason(), e.to_string())),
            expected,
        );
    }
    let source = IdentitySource::fixed(snapshot.clone());
    for (side, handshake) in [
        ("as client", as_client(&source, presented).await),
        ("as server", as_server(&source, presented).await),
    ] {
        let outcome = match handshake {
            Handshake::Authenticated(peer) => Ok(peer.as_str().to_owned()),
            Handshake::Refused(error) => Err((error.reason(), error.to_string())),
            Handshake::Failed(error) => {
                panic!("{case}, {side}: failed for another reason: {error}")
            }
        };
        compare(case, side, &outcome, expected);
    }
}

fn compare(
    case: &str,
    side: &str,
    outcome: &Result<String, (SvidReason, String)>,
    expected: Result<&str, (SvidReason, &str)>,
) {
    match (outcome, expected) {
        (Ok(id), Ok(expected)) if id == expected => {}
        (Err((reason, text)), Err((expected, part)))
            if *reason == expected && text.contains(part) => {}
        _ => panic!("{case}, {side}: got {outcome:?}, expected {expected:?}"),
    }
}

fn malformed(part: &str) -> Result<&str, (SvidReason, &str)> {
    Err((SvidReason::Malformed, part))
}

fn untrusted(part: &str) -> Result<&str, (SvidReason, &str)> {
    Err((SvidReason::Untrusted, part))
}

#[tokio::test]
async fn accepts_proper_svids() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let id = "spiffe://example.org/ns/shop/sa/web";
    check("plain", &snapshot, &root.sign(&svid(id)), Ok(id)).await;

    let mut with_dns = svid(id);
    with_dns
        .subject_alt_names
        .push(SanType::DnsName("web.shop".try_into().unwrap()));
    check(
        "DNS SANs are ignored",
        &snapshot,
        &root.sign(&with_dns),
        Ok(id),
    )
    .await;

    let mut without_eku = svid(id);
    without_eku.extended_key_usages.clear();
    check(
        "extendedKeyUsage is optional",
        &snapshot,
        &root.sign(&without_eku),
        Ok(id),
    )
    .await;

    let mut without_basic_constraints = svid(id);
    without_basic_constraints.is_ca = IsCa::NoCa;
    check(
        "absent BasicConstraints mean no CA",
        &snapshot,
        &root.sign(&without_basic_constraints),
        Ok(id),
    )
    .await;

    let intermediate = root.intermediate(&signer(
        "spiffe://example.org",
        BasicConstraints::Constrained(0),
    ));
    check(
        "through an intermediate",
        &snapshot,
        &intermediate.sign(&svid(id)),
        Ok(id),
    )
    .await;

    let longest = format!("spiffe://example.org/{}", "x".repeat(2048 - 21));
    check(
        "2048 bytes",
        &snapshot,
        &root.sign(&svid(&longest)),
        Ok(&longest),
    )
    .await;
}

#[tokio::test]
async fn row_12_refuses_what_breaks_the_profile_of_a_leaf() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign};
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let id = "spiffe://example.org/web";
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    type Change = Box<dyn Fn(&mut CertificateParams)>;
    let cases: Vec<(&str, Change, &str)> = vec![
        (
            "no URI SAN",
            Box::new(|p| p.subject_alt_names = vec![SanType::DnsName("web".try_into().unwrap())]),
            "no URI SAN",
        ),
        (
            "no SAN at all",
            Box::new(|p| p.subject_alt_names.clear()),
            "no URI SAN",
        ),
        (
            "two SPIFFE URIs",
            Box::new(move |p| p.subject_alt_names.push(uri("spiffe://example.org/b"))),
            "more than one URI SAN",
        ),
        (
            "SPIFFE plus https",
            Box::new(move |p| p.subject_alt_names.push(uri("https://example.org"))),
            "more than one URI SAN",
        ),
        (
            "https only",
            Box::new(move |p| p.subject_alt_names = vec![uri("https://example.org/web")]),
            "does not begin with",
        ),
        (
            "duplicate SAN extension",
            Box::new(|p| p.custom_extensions.push(san(b"spiffe://example.org/b"))),
            "same extension twice",
        ),
        (
            "no path",
            Box::new(move |p| p.subject_alt_names = vec![uri("spiffe://example.org")]),
            "without a path",
        ),
        (
            "cA leaf",
            Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "has cA set",
        ),
        (
            "keyUsage missing",
            Box::new(|p| p.key_usages.clear()),
            "no keyUsage",
        ),
        (
            "no digitalSignature",
            Box::new(|p| p.key_usages = vec![KeyAgreement]),
            "no digitalSignature",
        ),
        (
            "keyCertSign leaf",
            Box::new(|p| p.key_usages = vec![DigitalSignature, KeyCertSign]),
            "keyCertSign or cRLSign",
        ),
        (
            "cRLSign leaf",
            Box::new(|p| p.key_usages = vec![DigitalSignature, CrlSign]),
            "keyCertSign or cRLSign",
        ),
        (
            "serverAuth only",
            Box::new(|p| p.extended_key_usages = vec![ServerAuth]),
            "both serverAuth and clientAuth",
        ),
        (
            "clientAuth only",
            Box::new(|p| p.extended_key_usages = vec![ClientAuth]),
            "both serverAuth and clientAuth",
        ),
        (
            "a hundred extensions",
            Box::new(|p| {
                for arc in 0..100 {
                    p.custom_extensions.push(CustomExtension::from_oid_content(
                        &[1, 3, 6, 1, 4, 1, 99999, arc],
                        vec![5, 0],
                    ));
                }
            }),
            "more than 64 extensions",
        ),
        (
            "unknown critical extension",
            Box::new(|p| {
                let mut extension =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                extension.set_criticality(true);
                p.custom_extensions.push(extension);
            }),
            "critical extension",
        ),
    ];
    for (case, change, part) in cases {
        let mut params = svid(id);
        change(&mut params);
        check(case, &snapshot, &root.sign(&params), malformed(part)).await;
    }
}

#[tokio::test]
async fn row_12_refuses_ids_that_are_not_canonical() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let long_domain = format!("spiffe://{}/web", "a".repeat(256));
    let too_long = format!("spiffe://example.org/{}", "x".repeat(2049 - 21));
    for (uri, part) in [
        (b"spiffe://example.org/a%2eb".as_slice(), "in its path"),
        (b"spiffe://example.org//web", "empty path segment"),
        (b"spiffe://example.org/a/../b", "`..` path segment"),
        (b"spiffe://example.org/./b", "`..` path segment"),
        (b"spiffe://example.org/web/", "trailing `/`"),
        (b"spiffe://example.org/", "trailing `/`"),
        (b"spiffe://example.org/web?a=b", "in its path"),
        (b"spiffe://example.org/web#a", "in its path"),
        (b"spiffe://example.org:443/web", "in its trust domain"),
        (b"spiffe://me@example.org/web", "in its trust domain"),
        (b"spiffe://Example.org/web", "in its trust domain"),
        (b"SPIFFE://example.org/web", "does not begin with"),
        (b"spiffe:///web", "no trust domain"),
        (b"", "does not begin with"),
        (long_domain.as_bytes(), "longer than 255"),
        (too_long.as_bytes(), "longer than 2048"),
        (b"spiffe://example.org/web\0", "in its path"),
        (
            b"spiffe://example.org\0.evil.org/web",
            "in its trust domain",
        ),
        ("spiffe://example.org/w\u{e4}b".as_bytes(), "in its path"),
        (b"spiffe://example.org/\xff\xfe", "isn't ASCII"),
    ] {
        let mut params = svid("spiffe://example.org/web");
        params.subject_alt_names.clear();
        params.custom_extensions.push(san(uri));
        let case = String::from_utf8_lossy(uri).into_owned();
        check(&case, &snapshot, &root.sign(&params), malformed(part)).await;
    }
}

#[tokio::test]
async fn row_13_trusts_the_bundle_of_the_leafs_own_trust_domain_only() {
    let (ours, theirs, stranger) = (
        Authority::root(DOMAIN),
        Authority::root("other.org"),
        Authority::root("third.org"),
    );
    let snapshot = us(&ours, ours.der(), &[("other.org", theirs.der())]);
    let id = "spiffe://other.org/web";
    check("federated", &snapshot, &theirs.sign(&svid(id)), Ok(id)).await;
    check(
        "theirs signs for us",
        &snapshot,
        &theirs.sign(&svid("spiffe://example.org/web")),
        untrusted("no signer leads"),
    )
    .await;
    check(
        "ours signs for them",
        &snapshot,
        &ours.sign(&svid(id)),
        untrusted("no signer leads"),
    )
    .await;
    let unknown = (
        SvidReason::TrustDomainUnknown,
        "no bundle for trust domain third.org",
    );
    check(
        "no bundle",
        &snapshot,
        &stranger.sign(&svid("spiffe://third.org/web")),
        Err(unknown),
    )
    .await;
    let impostor = Authority::root(DOMAIN);
    check(
        "same names, another key",
        &snapshot,
        &impostor.sign(&svid("spiffe://example.org/web")),
        untrusted("signature"),
    )
    .await;
}

#[tokio::test]
async fn refuses_what_is_outside_its_validity() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let now = SystemTime::now();
    let mut expired = svid("spiffe://example.org/web");
    expired.not_before = (now - DAY).into();
    expired.not_after = (now - Duration::from_secs(2)).into();
    check(
        "expired",
        &snapshot,
        &root.sign(&expired),
        Err((SvidReason::Expired, "expired 2 s ago")),
    )
    .await;
    let mut early = svid("spiffe://example.org/web");
    early.not_before = (now + Duration::from_secs(60)).into();
    check(
        "not yet valid",
        &snapshot,
        &root.sign(&early),
        Err((SvidReason::Expired, "becomes valid in")),
    )
    .await;
    let mut old_signer = signer("spiffe://example.org", BasicConstraints::Unconstrained);
    old_signer.not_after = (now - Duration::from_secs(2)).into();
    let intermediate = root.intermediate(&old_signer);
    let leaf = intermediate.sign(&svid("spiffe://example.org/web"));
    check(
        "expired intermediate",
        &snapshot,
        &leaf,
        Err((SvidReason::Expired, "authority that signed")),
    )
    .await;
}

#[tokio::test]
async fn refuses_signers_that_may_not_sign() {
    use BasicConstraints::{Constrained, Unconstrained};
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let id = "spiffe://example.org/web";
    let leaf = svid(id);

    let sibling = Authority::from(root.sign(&svid("spiffe://example.org/sibling")));
    check(
        "SVID used as issuer",
        &snapshot,
        &sibling.sign(&leaf),
        untrusted("no authority"),
    )
    .await;

    let mut params = signer("spiffe://example.org", Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    check(
        "no keyCertSign",
        &snapshot,
        &root.intermediate(&params).sign(&leaf),
        untrusted("keyCertSign"),
    )
    .await;

    let mut params = signer("spiffe://example.org", Unconstrained);
    params.key_usages.clear();
    check(
        "no keyUsage",
        &snapshot,
        &root.intermediate(&params).sign(&leaf),
        untrusted("keyCertSign"),
    )
    .await;

    let mut params = signer("spiffe://example.org", Unconstrained);
    params.is_ca = IsCa::NoCa;
    check(
        "no BasicConstraints",
        &snapshot,
        &root.intermediate(&params).sign(&leaf),
        untrusted("no authority"),
    )
    .await;

    let params = signer("spiffe://example.org/path", Unconstrained);
    check(
        "signer's ID has a path",
        &snapshot,
        &root.intermediate(&params).sign(&leaf),
        untrusted("has a path"),
    )
    .await;

    let first = root.intermediate(&signer("spiffe://example.org", Constrained(0)));
    let second = first.intermediate(&signer("spiffe://example.org", Unconstrained));
    check(
        "pathLen exceeded",
        &snapshot,
        &second.sign(&leaf),
        untrusted("fewer intermediates"),
    )
    .await;

    let short = Authority::root_with(signer("spiffe://example.org", Constrained(0)));
    let snapshot = us(&short, short.der(), &[]);
    check(
        "anchor's pathLen kept",
        &snapshot,
        &short.sign(&leaf),
        Ok(id),
    )
    .await;
    let below = short.intermediate(&signer("spiffe://example.org", Unconstrained));
    check(
        "anchor's pathLen exceeded",
        &snapshot,
        &below.sign(&leaf),
        untrusted("fewer intermediates"),
    )
    .await;
}

#[tokio::test]
async fn expired_and_non_ca_certificates_in_a_bundle_are_no_anchors() {
    let now = SystemTime::now();
    let good = Authority::root(DOMAIN);
    let mut params = signer("spiffe://example.org", BasicConstraints::Unconstrained);
    params.not_before = (now - 2 * DAY).into();
    params.not_after = (now - DAY).into();
    let expired = Authority::root_with(params);
    let mut params = signer("spiffe://example.org", BasicConstraints::Unconstrained);
    params.is_ca = IsCa::NoCa;
    let not_a_ca = Authority::root_with(params);
    let mut params = signer("spiffe://example.org", BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let no_cert_sign = Authority::root_with(params);

    let snapshot = us(
        &good,
        [
            expired.der(),
            not_a_ca.der(),
            no_cert_sign.der(),
            good.der(),
        ]
        .concat(),
        &[],
    );
    let leaf = svid("spiffe://example.org/web");
    check(
        "the good one",
        &snapshot,
        &good.sign(&leaf),
        Ok("spiffe://example.org/web"),
    )
    .await;
    for (case, authority) in [
        ("expired", &expired),
        ("no CA", &not_a_ca),
        ("no keyCertSign", &no_cert_sign),
    ] {
        check(case, &snapshot, &authority.sign(&leaf), untrusted("")).await;
    }
    let bundle = snapshot.bundle(DOMAIN).unwrap();
    assert_eq!(
        (bundle.len(), bundle.valid_at(now), bundle.ignored().len()),
        (2, 1, 2)
    );

    let theirs = Authority::root_with({
        let mut params = signer("spiffe://other.org", BasicConstraints::Unconstrained);
        params.not_after = (now - DAY).into();
        params.not_before = (now - 2 * DAY).into();
        params
    });
    let snapshot = us(&good, good.der(), &[("other.org", theirs.der())]);
    check(
        "only expired",
        &snapshot,
        &theirs.sign(&svid("spiffe://other.org/web")),
        untrusted("no authority in the bundle"),
    )
    .await;
}

#[tokio::test]
async fn refuses_certificates_with_bytes_after_their_end() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let mut leaf = root.sign(&svid("spiffe://example.org/web"));
    leaf.chain[0].push(0);
    check(
        "trailing DER",
        &snapshot,
        &leaf,
        malformed("data after its end"),
    )
    .await;
    // Garbage never gets as far as the chain's verification in the attacker's own TLS stack.
    for garbage in [
        &b""[..],
        b"\x30",
        b"\x30\x80\x00\x00",
        &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
    ] {
        let error = snapshot
            .verify(garbage, &[[0u8; 0]; 0], SystemTime::now(), Usage::Client)
            .unwrap_err();
        assert_eq!(error.reason(), SvidReason::Malformed);
    }
}

#[test]
fn no_changed_or_missing_byte_goes_unnoticed() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let leaf = root.sign(&svid("spiffe://example.org/web"));
    let der = &leaf.chain[0];
    let none: &[&[u8]] = &[];
    let verify = |der: &[u8]| snapshot.verify(der, none, SystemTime::now(), Usage::Client);
    verify(der).unwrap();
    for at in 0..der.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut changed = der.clone();
            changed[at] ^= bit;
            assert!(verify(&changed).is_err(), "byte {at}, bit {bit:#x}");
        }
        assert!(verify(&der[..at]).is_err(), "cut at {at}");
    }
}

#[tokio::test]
async fn a_hundred_cross_signed_intermediates_cost_bounded_time() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let leaf = forge::cross_signed(&root, 100);
    assert_eq!(leaf.chain.len(), 101);
    let started = Instant::now();
    for usage in [Usage::Client, Usage::Server] {
        let error = snapshot
            .verify(&leaf.chain[0], &leaf.chain[1..], SystemTime::now(), usage)
            .unwrap_err();
        assert_eq!(error.reason(), SvidReason::Untrusted);
    }
    let took = started.elapsed();
    // 100 signature checks each; an unbounded search would take for ever, whatever else the machine does.
    assert!(took < Duration::from_secs(20), "{took:?}");
    check("cross-signed", &snapshot, &leaf, untrusted("")).await;
}

#[tokio::test]
async fn fails_closed_when_our_own_svid_has_expired() {
    let root = Authority::root(DOMAIN);
    let then = SystemTime::now() - 2 * DAY;
    let snapshot = us_at(&root, root.der(), &[], Vec::new(), then, |params| {
        params.not_before = (then - DAY).into();
        params.not_after = (then + DAY).into();
    });
    let source = IdentitySource::fixed(snapshot);
    let proper = root.sign(&svid("spiffe://example.org/web"));
    match as_server(&source, &proper).await {
        Handshake::Refused(error) => {
            assert_eq!(error.reason(), SvidReason::Expired);
            assert!(error.to_string().starts_with("our own SVID"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // As a server we have nothing to present, so it ends before the client's turn.
    assert!(matches!(
        as_client(&source, &proper).await,
        Handshake::Failed(_)
    ));
}

#[tokio::test]
async fn a_chain_verified_before_is_refused_once_it_has_expired() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let source = IdentitySource::fixed(snapshot);
    let mut params = svid("spiffe://example.org/web");
    // Long enough for the handshakes before.
    let ends = SystemTime::now() + Duration::from_secs(6);
    params.not_after = ends.into();
    let leaf = root.sign(&params);
    let attacker = attacker::Ends::new(&source);
    for _ in 0..3 {
        assert!(matches!(
            attacker.as_client(&leaf).await,
            Handshake::Authenticated(_)
        ));
        assert!(matches!(
            attacker.as_server(&leaf).await,
            Handshake::Authenticated(_)
        ));
    }
    // Certificates count whole seconds, the last one included.
    let over = ends + Duration::from_millis(1100);
    let left = over.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left).await;
    for outcome in [
        attacker.as_client(&leaf).await,
        attacker.as_server(&leaf).await,
    ] {
        match outcome {
            Handshake::Refused(error) => assert_eq!(error.reason(), SvidReason::Expired),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_no_connection() {
    let root = Authority::root(DOMAIN);
    let source = IdentitySource::fixed(us(&root, root.der(), &[]));
    let mut nobody = root.sign(&svid("spiffe://example.org/web"));
    nobody.chain.clear();
    match as_client(&source, &nobody).await {
        Handshake::Failed(error) => assert!(error.contains("no certificates"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn live_peers_lose_trust_with_their_signing_root_and_not_by_overlap() {
    let (old, new, theirs) = (
        Authority::root(DOMAIN),
        Authority::root(DOMAIN),
        Authority::root("other.org"),
    );
    let now = SystemTime::now();
    let before = us(&old, old.der(), &[("other.org", theirs.der())]);
    let verify = |leaf: &Forged| {
        before
            .verify(&leaf.chain[0], &leaf.chain[1..], now, Usage::Client)
            .unwrap()
    };
    let local = verify(&old.sign(&svid("spiffe://example.org/web")));
    let foreign = verify(&theirs.sign(&svid("spiffe://other.org/web")));

    let overlap = us(
        &new,
        [old.der(), new.der()].concat(),
        &[("other.org", theirs.der())],
    );
    overlap.still_trusts(&local, now).unwrap();
    overlap.still_trusts(&foreign, now).unwrap();
    assert!(overlap.bundle_differs(&before, DOMAIN));
    assert!(!overlap.bundle_differs(&before, "other.org"));

    let rotated = us(&new, new.der(), &[]);
    assert_eq!(
        rotated.still_trusts(&local, now).unwrap_err().reason(),
        SvidReason::Untrusted
    );
    assert_eq!(
        rotated.still_trusts(&foreign, now).unwrap_err().reason(),
        SvidReason::TrustDomainUnknown
    );
    assert!(rotated.bundle_differs(&before, "other.org"));

    // How long a connection outlives its SVID is the lease's affair.
    before
        .still_trusts(&local, local.not_after() + Duration::from_secs(30))
        .unwrap();
}

#[test]
fn a_verified_peer_has_its_facts() {
    let root = Authority::root(DOMAIN);
    let snapshot = us(&root, root.der(), &[]);
    let mut params = svid("spiffe://example.org/web");
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x80, 0x0a, 0xff]));
    let leaf = root.sign(&params);
    let peer = snapshot
        .verify(
            &leaf.chain[0],
            &leaf.chain[1..],
            SystemTime::now(),
            Usage::Client,
        )
        .unwrap();
    assert_eq!(
        (peer.as_str(), peer.trust_domain()),
        ("spiffe://example.org/web", DOMAIN)
    );
    assert_eq!(peer.serial(), "800aff");
    assert_eq!(peer.thumbprint().as_slice(), sha256(&leaf.chain[0]));
    assert!(peer.not_before() < peer.not_after());
    assert_eq!(peer.usage(), Usage::Client);
}

#[tokio::test]
async fn row_13_speaks_tls13_with_post_quantum_exchange_and_gives_nothing_to_resume() {
    let root = Authority::root(DOMAIN);
    let source = IdentitySource::fixed(us(&root, root.der(), &[]));
    let facts = attacker::between_ours(&source).await;
    expect_test::expect![[r#"
        version TLSv1_3
        suite TLS13_AES_128_GCM_SHA256
        group X25519MLKEM768
        alpn kith-h2
        tickets 0
        server name none
    "#]]
    .assert_eq(&facts);
    let refused = attacker::tls12_client(&source).await;
    expect_test::expect!["peer is incompatible: SupportedVersionsExtensionRequired"]
        .assert_eq(&refused);
}
