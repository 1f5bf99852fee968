use prost_types::Timestamp;
use wire::revocation::What;
use wire::{CertificateSerial, Revocation, RevocationList};

use super::*;

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const TOKEN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn entry(what: Option<What>, until: Option<(i64, i32)>) -> Revocation {
    Revocation {
        what,
        until: until.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
        reason: "stolen laptop".into(),
    }
}

fn principal(id: &str) -> Option<What> {
    Some(What::Principal(id.into()))
}

fn certificate(trust_domain: &str, serial: &str) -> Option<What> {
    Some(What::Certificate(CertificateSerial {
        trust_domain: trust_domain.into(),
        serial: serial.into(),
    }))
}

fn token(id: &str) -> Option<What> {
    Some(What::TokenId(id.into()))
}

fn list(entries: Vec<Revocation>) -> Result<Revocations, Vec<FieldError>> {
    Revocations::new(
        NAME,
        &RevocationList {
            revocations: entries,
        },
    )
}

fn valid(what: Option<What>) -> Revocations {
    list(vec![entry(what, Some((1000, 0)))]).unwrap()
}

#[test]
fn a_principal_is_revoked_whole_and_until_its_time() {
    let revocations = valid(principal(WEB));
    for (id, now, expected) in [
        (WEB, 0, true),
        (WEB, 999, true),
        (WEB, 1000, false),
        (WEB, 5000, false),
        ("spiffe://example.org/ns/shop/sa/we", 0, false),
        ("spiffe://example.org/ns/shop/sa/web2", 0, false),
        ("spiffe://partner.test/ns/shop/sa/web", 0, false),
    ] {
        assert_eq!(
            revocations.principal(id, at(now)),
            expected,
            "{id} at {now}"
        );
    }
}

#[test]
fn a_serial_is_revoked_in_its_trust_domain_however_many_zeros_lead_it() {
    let revocations = valid(certificate("example.org", "a1b"));
    for (trust_domain, serial, expected) in [
        ("example.org", "a1b", true),
        // As certificates show it: whole octets.
        ("example.org", "0a1b", true),
        ("example.org", "a1b0", false),
        ("example.org", "1b", false),
        ("partner.test", "a1b", false),
    ] {
        let revoked = revocations.serial(trust_domain, serial, at(0));
        assert_eq!(revoked, expected, "{trust_domain} {serial}");
    }
    assert!(!revocations.serial("example.org", "a1b", at(1000)));
    assert!(valid(certificate("example.org", "0")).serial("example.org", "00", at(0)));
}

#[test]
fn a_token_is_revoked_by_its_own_hash_or_that_of_its_jti() {
    // printf abc | sha256sum
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let revocations = valid(token(abc));
    let hash: Digest = digest(&SHA256, b"abc").as_ref().try_into().unwrap();
    assert!(revocations.token(&hash, None, at(0)));
    assert!(revocations.token(&[0; 32], Some("abc"), at(0)));
    assert!(!revocations.token(&[0; 32], Some("abd"), at(0)));
    assert!(
        !revocations.token(&[0; 32], Some(abc), at(0)),
        "not hashed twice"
    );
    assert!(!revocations.token(&[0; 32], None, at(0)));
    assert!(!revocations.token(&hash, Some("abc"), at(1000)));
}

#[test]
fn the_principal_is_named_before_the_serial() {
    let who = Principal::parse(WEB).unwrap();
    let both = list(vec![
        entry(certificate("example.org", "7"), Some((2000, 0))),
        entry(principal(WEB), Some((1000, 0))),
    ])
    .unwrap();
    for (serial, now, expected) in [
        ("07", 0, Some(Reason::PrincipalRevoked)),
        ("08", 0, Some(Reason::PrincipalRevoked)),
        ("07", 1500, Some(Reason::SvidRevoked)),
        ("08", 1500, None),
        ("07", 2000, None),
    ] {
        assert_eq!(
            both.svid(&who, serial, at(now)),
            expected,
            "{serial} at {now}"
        );
    }
}

#[test]
fn of_two_entries_about_the_same_thing_the_longer_holds() {
    for times in [[1000, 2000], [2000, 1000]] {
        let entries = times.map(|until| entry(principal(WEB), Some((until, 0))));
        let revocations = list(entries.into()).unwrap();
        assert!(revocations.principal(WEB, at(1999)), "{times:?}");
        assert_eq!(revocations.len(), 1);
    }
}

#[test]
fn nothing_revoked_is_nothing_to_ask() {
    let nothing = list(Vec::new()).unwrap();
    assert!(nothing.is_empty() && Revocations::default().is_empty());
    assert!(!nothing.principal(WEB, at(0)));
    assert!(!nothing.serial("example.org", "1", at(0)));
    assert!(!nothing.token(&[0; 32], Some("id"), at(0)));
    assert!(!valid(token(TOKEN)).is_empty());
}

#[test]
fn what_cannot_be_honoured_exactly_is_refused_by_its_field() {
    let later = Some((1000, 0));
    for (what, until, field, part) in [
        (None, later, "what", "says nothing"),
        (principal(""), later, "principal", "spiffe://"),
        (
            principal("example.org/web"),
            later,
            "principal",
            "spiffe://",
        ),
        (
            principal("spiffe://example.org"),
            later,
            "principal",
            "path",
        ),
        (
            principal("spiffe://Example.org/web"),
            later,
            "principal",
            "upper case",
        ),
        (
            principal("spiffe://example.org/*"),
            later,
            "principal",
            "segment",
        ),
        (
            certificate("", "1"),
            later,
            "certificate.trust_domain",
            "not a trust domain",
        ),
        (
            certificate("a/b", "1"),
            later,
            "certificate.trust_domain",
            "not a trust domain",
        ),
        (
            certificate("A", "1"),
            later,
            "certificate.trust_domain",
            "not a trust domain",
        ),
        (certificate("a", ""), later, "certificate.serial", "hex"),
        (
            certificate("a", "0A"),
            later,
            "certificate.serial",
            "lower-case",
        ),
        (
            certificate("a", "a:b"),
            later,
            "certificate.serial",
            "separators",
        ),
        (
            certificate("a", "0a"),
            later,
            "certificate.serial",
            "leading zeros",
        ),
        (
            certificate("a", &"a".repeat(41)),
            later,
            "certificate.serial",
            "1 to 40",
        ),
        (token(""), later, "token_id", "64"),
        (token(&TOKEN[1..]), later, "token_id", "64"),
        (
            token(&TOKEN.to_uppercase()),
            later,
            "token_id",
            "lower-case",
        ),
        (token("the-jti-itself"), later, "token_id", "SHA-256"),
        (principal(WEB), None, "until", "required"),
        (principal(WEB), Some((-1, 0)), "until", "1970"),
        (principal(WEB), Some((253_402_300_800, 0)), "until", "9999"),
        (principal(WEB), Some((1, -1)), "until", "no time"),
        (principal(WEB), Some((1, 1_000_000_000)), "until", "no time"),
    ] {
        // One bad entry refuses the list: the good one beside it must not look enforced.
        let good = entry(principal(WEB), later);
        let errors = list(vec![good, entry(what.clone(), until)]).unwrap_err();
        let [only] = errors.as_slice() else {
            panic!("{what:?}: {errors:?}")
        };
        assert_eq!(only.field, format!("revocations[1].{field}"), "{what:?}");
        assert!(only.message.contains(part), "{what:?}: {}", only.message);
    }
    let all = list(vec![entry(None, None), entry(token("x"), Some((1, 0)))]).unwrap_err();
    assert_eq!(all.len(), 2, "every entry at once: {all:?}");
    let other = Revocations::new("other", &RevocationList::default()).unwrap_err();
    assert_eq!(other[0].field, "name");
}
