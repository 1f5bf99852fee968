//! Revoked by CRL: honoured for leaf and intermediate, in both directions, and by nobody but the issuer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith_certs::{SvidReason, TrustSnapshot, Usage};
use rcgen::{BasicConstraints, SanType};

use crate::forge::{Authority, DAY, Forged, der, list_signer, named, serial, signer, svid};
use crate::lists::{extension, list, spoilt};
use crate::{DOMAIN, check, us_with_crls};

const WEB: &str = "spiffe://example.org/web";
const API: &str = "spiffe://example.org/api";

/// A root that may sign lists, named as its domain's operator names it.
fn root(domain: &str) -> Authority {
    let mut params = list_signer(
        &format!("spiffe://{domain}"),
        BasicConstraints::Unconstrained,
    );
    params.distinguished_name = named(&format!("root of {domain}"));
    Authority::root_with(params)
}

fn revoked(part: &str) -> Result<&str, (SvidReason, &str)> {
    Err((SvidReason::Revoked, part))
}

/// Us, trusting our own root and `other.org`'s, told of these lists.
fn told(ours: &Authority, theirs: &Authority, lists: Vec<Vec<u8>>) -> Arc<TrustSnapshot> {
    us_with_crls(ours, ours.der(), &[("other.org", theirs.der())], lists)
}

fn verify(snapshot: &TrustSnapshot, leaf: &Forged) -> Result<(), SvidReason> {
    snapshot
        .verify(
            &leaf.chain[0],
            &leaf.chain[1..],
            SystemTime::now(),
            Usage::Client,
        )
        .map(drop)
        .map_err(|error| error.reason())
}

#[tokio::test]
async fn refuses_what_its_issuer_has_revoked_in_both_directions() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let (bad, good) = (ours.sign(&svid(WEB)), ours.sign(&svid(API)));
    let foreign = theirs.sign(&svid("spiffe://other.org/web"));
    let snapshot = told(
        &ours,
        &theirs,
        vec![
            list(&ours, &[bad.serial()]),
            list(&theirs, &[foreign.serial()]),
        ],
    );
    check(
        "revoked",
        &snapshot,
        &bad,
        revoked("revoked by its issuer's CRL"),
    )
    .await;
    check("another", &snapshot, &good, Ok(API)).await;
    check(
        "federated",
        &snapshot,
        &foreign,
        revoked("spiffe://other.org/web"),
    )
    .await;
    assert!(snapshot.crls().refused().is_empty());
    let mut named: Vec<_> = snapshot
        .crls()
        .lists()
        .map(|crl| (crl.issuer(), crl.trust_domains()[0].as_str(), crl.len()))
        .collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            ("CN=root of example.org", "example.org", 1),
            ("CN=root of other.org", "other.org", 1),
        ]
    );
}

#[tokio::test]
async fn honours_lists_about_and_by_intermediates() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let constraints = BasicConstraints::Constrained(0);
    let intermediate = ours.intermediate(&list_signer("spiffe://example.org", constraints));
    let (bad, good) = (intermediate.sign(&svid(WEB)), intermediate.sign(&svid(API)));

    let about = told(
        &ours,
        &theirs,
        vec![list(&ours, &[serial(&intermediate.der())])],
    );
    let text = "an authority that signed the SVID of";
    check("intermediate revoked", &about, &good, revoked(text)).await;

    // No bundle has the intermediate, so the list waits for somebody who presents it.
    let by = told(&ours, &theirs, vec![list(&intermediate, &[bad.serial()])]);
    assert!(by.crls().lists().all(|crl| crl.trust_domains().is_empty()));
    check(
        "revoked by an intermediate",
        &by,
        &bad,
        revoked("the SVID of"),
    )
    .await;
    check("not revoked by it", &by, &good, Ok(API)).await;

    // The root doesn't speak for what the intermediate issued.
    let above = told(&ours, &theirs, vec![list(&ours, &[bad.serial()])]);
    check("another issuer's number", &above, &bad, Ok(WEB)).await;

    let silent = ours.intermediate(&signer("spiffe://example.org", constraints));
    let leaf = silent.sign(&svid(WEB));
    let snapshot = told(&ours, &theirs, vec![list(&silent, &[leaf.serial()])]);
    check("no cRLSign, no list", &snapshot, &leaf, Ok(WEB)).await;
}

/// Revocation is a means of attack, too.
#[tokio::test]
async fn nobody_revokes_what_another_has_issued() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let leaf = ours.sign(&svid(WEB));
    let serials = [leaf.serial()];
    let impostor = root(DOMAIN);
    let mut forged = list(&ours, &serials);
    *forged.last_mut().unwrap() ^= 1;
    for (case, lists, idle) in [
        ("in its own name", vec![list(&theirs, &serials)], 0),
        (
            "in our name",
            vec![spoilt(&theirs, &serials, |list| list.issuer = ours.name())],
            1,
        ),
        (
            "another key of our name",
            vec![list(&impostor, &serials)],
            1,
        ),
        ("changed signature", vec![forged], 1),
    ] {
        let snapshot = told(&ours, &theirs, lists);
        let waiting = |crl: &&kith_certs::trust::Crl| crl.trust_domains().is_empty();
        assert_eq!(
            snapshot.crls().lists().filter(waiting).count(),
            idle,
            "{case}"
        );
        check(case, &snapshot, &leaf, Ok(WEB)).await;
    }
    // A peer that signs a list can't use it either: leaves sign nothing.
    let leaf_as_issuer = Authority::from(ours.sign(&svid(API)));
    let snapshot = told(&ours, &theirs, vec![list(&leaf_as_issuer, &serials)]);
    check("by a leaf", &snapshot, &leaf, Ok(WEB)).await;
}

#[test]
fn an_unusable_list_is_named_and_harms_no_other() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let (bad, other) = (ours.sign(&svid(WEB)), ours.sign(&svid(API)));
    let mut mute = signer("spiffe://example.org", BasicConstraints::Unconstrained);
    mute.distinguished_name = named("mute root");
    let mute = Authority::root_with(mute);
    let wrong = |change: &dyn Fn(&mut crate::lists::List)| {
        spoilt(&ours, &[other.serial()], |list| change(list))
    };
    let add = |number: u8, critical: bool, value: &[u8]| {
        let added = extension(number, critical, value);
        wrong(&|list| list.extensions.push(added.clone()))
    };
    let sequence = |content: &[u8]| der(0x30, content);
    let full_name = der(0xa0, &der(0xa0, &der(0x86, b"http://example.org/crl")));
    let name = "CN=root of example.org";
    let cases = [
        (
            "empty",
            Vec::new(),
            "CRL 0 of the message",
            "no well-formed CRL",
        ),
        (
            "garbage",
            b"this is no CRL".to_vec(),
            "CRL 0 of the message",
            "no well-formed CRL",
        ),
        ("a certificate", ours.der(), "", ""),
        (
            "delta",
            add(27, true, &der(2, &[1])),
            name,
            "delta CRL (RFC 5280 5.2.4)",
        ),
        (
            "indirect",
            add(
                28,
                true,
                &sequence(&[&full_name[..], &[0x84, 1, 0xff]].concat()),
            ),
            name,
            "indirect",
        ),
        (
            "some reasons",
            add(
                28,
                true,
                &sequence(&[&full_name[..], &[0x83, 2, 6, 0x40]].concat()),
            ),
            name,
            "some reasons only",
        ),
        (
            "no point's name",
            add(28, true, &sequence(&[0x81, 1, 0xff])),
            name,
            "no full name",
        ),
        (
            "unknown critical",
            add(99, true, &[5, 0]),
            name,
            "critical extension",
        ),
        (
            "unknown critical in an entry",
            wrong(&|list| list.entry_extensions.push(extension(99, true, &[5, 0]))),
            name,
            "critical extension",
        ),
        (
            "entry of another issuer",
            wrong(&|list| {
                list.entry_extensions
                    .push(extension(29, true, &sequence(&[])))
            }),
            name,
            "indirect",
        ),
        (
            "the same extension twice",
            wrong(&|list| {
                let point = extension(28, true, &sequence(&full_name));
                list.extensions.extend([point.clone(), point]);
            }),
            name,
            "extension twice",
        ),
        ("version 1", wrong(&|list| list.version = None), "", ""),
        (
            "version 3",
            wrong(&|list| list.version = Some(2)),
            name,
            "isn't of version 2",
        ),
        (
            "no nextUpdate",
            wrong(&|list| list.next_update = None),
            name,
            "nextUpdate",
        ),
        (
            "no extensions",
            wrong(&|list| list.extensions.clear()),
            name,
            "extensions",
        ),
        (
            "two algorithms",
            wrong(&|list| list.outer_algorithm = vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]),
            name,
            "two different signature algorithms",
        ),
        (
            "no cRLSign",
            list(&mute, &[other.serial()]),
            "CN=mute root",
            "no cRLSign",
        ),
    ];
    for (case, spoilt, issuer, part) in cases {
        let lists = vec![spoilt, list(&ours, &[bad.serial()])];
        let federated = [("other.org", theirs.der())];
        let snapshot = us_with_crls(&ours, [ours.der(), mute.der()].concat(), &federated, lists);
        let [refused] = snapshot.crls().refused() else {
            panic!("{case}: {:?}", snapshot.crls())
        };
        assert!(refused.why.contains(part), "{case}: {refused:?}");
        assert!(
            issuer.is_empty() || refused.issuer == issuer,
            "{case}: {refused:?}"
        );
        assert_eq!(verify(&snapshot, &bad), Err(SvidReason::Revoked), "{case}");
        assert_eq!(verify(&snapshot, &other), Ok(()), "{case}");
    }
    // Not critical, so not necessary to understand; a distribution point that leaves nothing out is fine.
    for usable in [
        add(99, false, &[5, 0]),
        add(28, true, &sequence(&full_name)),
        wrong(&|list| {
            list.entry_extensions
                .push(extension(21, false, &[10, 1, 1]))
        }),
    ] {
        let snapshot = told(&ours, &theirs, vec![usable]);
        assert_eq!(verify(&snapshot, &other), Err(SvidReason::Revoked));
    }
}

#[test]
fn an_overdue_list_stays_in_force_and_is_known_to_be() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let leaf = ours.sign(&svid(WEB));
    let now = SystemTime::now();
    let overdue = spoilt(&ours, &[leaf.serial()], |list| {
        list.this_update = now - 2 * DAY;
        list.next_update = Some(now - DAY);
    });
    let snapshot = told(&ours, &theirs, vec![overdue]);
    assert_eq!(verify(&snapshot, &leaf), Err(SvidReason::Revoked));
    assert!(snapshot.crls().lists().all(|crl| crl.is_stale(now)));
    let status = kith_certs::IdentitySource::fixed(snapshot).status();
    assert!(status.crls[0].stale && status.crls[0].revoked == 1);
}

#[test]
fn lists_in_one_element_and_odd_numbers_are_honoured() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let (one, two) = (ours.sign(&svid(WEB)), ours.sign(&svid(API)));
    let both = [list(&ours, &[one.serial()]), list(&ours, &[two.serial()])].concat();
    let snapshot = told(&ours, &theirs, vec![both.clone()]);
    assert_eq!(snapshot.crls().lists().count(), 2);
    assert_eq!(verify(&snapshot, &one), Err(SvidReason::Revoked));
    assert_eq!(verify(&snapshot, &two), Err(SvidReason::Revoked));
    // Bytes after the end are one more list, that can't be read.
    let snapshot = told(&ours, &theirs, vec![[both, vec![0x30]].concat()]);
    assert_eq!(verify(&snapshot, &two), Err(SvidReason::Revoked));
    assert_eq!(snapshot.crls().refused().len(), 1);

    for number in [
        &[1][..],
        &[0x7f; 20],
        &[0x80; 20],
        &[0xff; 16],
        &[1; 40],
        &[1; 200],
    ] {
        let mut params = svid(WEB);
        params.serial_number = Some(rcgen::SerialNumber::from_slice(number));
        let leaf = ours.sign(&params);
        let mut padded = leaf.serial();
        padded.insert(0, 0);
        let near = leaf.serial()[..leaf.serial().len() - 1].to_vec();
        let near = [near, vec![9]].concat();
        let snapshot = told(&ours, &theirs, vec![list(&ours, &[near])]);
        assert_eq!(verify(&snapshot, &leaf), Ok(()), "{number:?}");
        for written in [leaf.serial(), padded] {
            let snapshot = told(&ours, &theirs, vec![list(&ours, &[written])]);
            assert_eq!(
                verify(&snapshot, &leaf),
                Err(SvidReason::Revoked),
                "{number:?}"
            );
        }
    }
    let endless = told(&ours, &theirs, vec![list(&ours, &[vec![1; 300]])]);
    assert!(
        endless.crls().refused()[0]
            .why
            .contains("more than 255 bytes")
    );
}

#[test]
fn live_peers_are_asked_about_when_lists_of_their_trust_domain_change() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let (leaf, other) = (ours.sign(&svid(WEB)), ours.sign(&svid(API)));
    let now = SystemTime::now();
    let before = told(&ours, &theirs, Vec::new());
    let peer = before
        .verify(&leaf.chain[0], &leaf.chain[1..], now, Usage::Server)
        .unwrap();
    let differs = |a: &TrustSnapshot, b: &TrustSnapshot| {
        ["example.org", "other.org", "third.org"].map(|domain| {
            assert_eq!(a.bundle_differs(b, domain), b.bundle_differs(a, domain));
            a.bundle_differs(b, domain)
        })
    };
    let after = told(&ours, &theirs, vec![list(&ours, &[leaf.serial()])]);
    assert_eq!(differs(&before, &after), [true, false, false]);
    let error = after.still_trusts(&peer, now).unwrap_err();
    assert_eq!(error.reason().as_str(), "svid-revoked");
    // Also when the SVID is long past its end and only its lease still holds.
    let late = peer.not_after() + Duration::from_secs(60);
    assert_eq!(
        after.still_trusts(&peer, late).unwrap_err().reason(),
        SvidReason::Revoked
    );

    // The same list published anew changes nothing; another entry does.
    let renewed = told(&ours, &theirs, vec![list(&ours, &[leaf.serial()])]);
    assert_eq!(differs(&after, &renewed), [false; 3]);
    let more = told(
        &ours,
        &theirs,
        vec![list(&ours, &[leaf.serial(), other.serial()])],
    );
    assert_eq!(differs(&after, &more), [true, false, false]);
    // What the next message doesn't have is gone (SPIFFE_Workload_API 4.4).
    assert_eq!(differs(&after, &before), [true, false, false]);
    before.still_trusts(&peer, now).unwrap();

    // A list by somebody in no bundle may be about anybody whose bundle we have.
    let nobody = root("nobody.org");
    let waiting = told(&ours, &theirs, vec![list(&nobody, &[leaf.serial()])]);
    assert_eq!(differs(&before, &waiting), [true, true, false]);
    waiting.still_trusts(&peer, now).unwrap();
}

#[test]
fn a_way_around_a_revoked_intermediate_counts_only_if_it_is_good() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let params = list_signer("spiffe://example.org", BasicConstraints::Constrained(0));
    let intermediate = ours.intermediate(&params);
    let leaf = intermediate.sign(&svid(WEB));
    // The same name and key, certified a second time, as it is done when an intermediate is renewed.
    let mut renewed = params.clone();
    renewed.serial_number = Some(rcgen::SerialNumber::from_slice(&[7; 16]));
    let twin = ours.certify(&renewed, intermediate.key());
    let mut both = leaf;
    both.chain.push(twin.clone());
    let old = serial(&intermediate.der());
    let snapshot = told(
        &ours,
        &theirs,
        vec![list(&ours, std::slice::from_ref(&old))],
    );
    assert_eq!(verify(&snapshot, &both), Ok(()));
    let snapshot = told(&ours, &theirs, vec![list(&ours, &[old, serial(&twin)])]);
    assert_eq!(verify(&snapshot, &both), Err(SvidReason::Revoked));
}

#[test]
fn no_changed_byte_of_a_list_is_believed() {
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let (bad, good) = (ours.sign(&svid(WEB)), ours.sign(&svid(API)));
    let proper = list(&ours, &[bad.serial()]);
    for at in 0..proper.len() {
        let mut changed = proper.clone();
        changed[at] ^= 1 << (at % 8);
        for spoilt in [changed, proper[..at].to_vec()] {
            let snapshot = told(&ours, &theirs, vec![spoilt]);
            assert_eq!(verify(&snapshot, &bad), Ok(()), "byte {at}");
            assert_eq!(verify(&snapshot, &good), Ok(()), "byte {at}");
        }
    }
}

#[test]
fn a_hundred_thousand_numbers_are_searched_at_once() {
    const COUNT: u32 = 100_000;
    let (ours, theirs) = (root(DOMAIN), root("other.org"));
    let numbered = |number: u32| {
        let mut serial = vec![0x55; 16];
        serial[8..12].copy_from_slice(&number.reverse_bits().to_be_bytes());
        serial
    };
    let leaf = |number: u32| {
        let mut params = svid(WEB);
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&numbered(number)));
        params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
        ours.sign(&params)
    };
    let (first, middle, last) = (leaf(0), leaf(COUNT / 2), leaf(COUNT - 1));
    let (good, near) = (leaf(COUNT), ours.sign(&svid(API)));
    let serials: Vec<Vec<u8>> = (0..COUNT).map(numbered).collect();
    let lists = vec![list(&ours, &serials)];
    assert!(lists[0].len() < 4 * 1024 * 1024, "it fits a message");

    let started = Instant::now();
    let snapshot = told(&ours, &theirs, lists);
    let read = started.elapsed();
    assert_eq!(
        snapshot.crls().lists().next().unwrap().len(),
        COUNT as usize
    );
    for revoked in [&first, &middle, &last] {
        assert_eq!(verify(&snapshot, revoked), Err(SvidReason::Revoked));
    }
    // As a share of path validation, whose signatures cost the same with and without. In turns, and the shortest of each:
    // whatever else the machine does makes some of them longer.
    let time = |snapshot: &TrustSnapshot| {
        let started = Instant::now();
        for _ in 0..2 {
            verify(snapshot, &good).unwrap();
            verify(snapshot, &near).unwrap();
        }
        started.elapsed()
    };
    let unlisted = told(&ours, &theirs, Vec::new());
    let rounds = (0..100).map(|_| (time(&snapshot), time(&unlisted)));
    let (with, without) = rounds
        .reduce(|least, round| (least.0.min(round.0), least.1.min(round.1)))
        .unwrap();
    println!("read in {read:?}; 4 paths: {with:?} with the list, {without:?} without");
    assert!(read < Duration::from_secs(30), "{read:?}");
    assert!(with < without * 3, "{with:?}, {without:?}");
}
