use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::write::{End, Writer};
use super::*;
use crate::jwks::KeySets;
use crate::kubernetes::verdict::{Effect, Verdicts};
use crate::resolve::resolve;
use crate::serve::replica::{ByNode, Said};
use crate::yaml::load_str;

const WALL: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T04:00:00Z";

/// Two `web`s and one `orders`; a policy for each app, one for nobody; modes and tokens for `orders`.
const SHOP: &str = "
{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org}}
---
{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {namespace: shop, name: web-1, labels: {app: web}}, spec: {serviceAccount: web, addresses: [10.0.0.1]}}
---
{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {namespace: shop, name: web-2, labels: {app: web}}, spec: {serviceAccount: web, addresses: [10.0.0.2]}}
---
{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {namespace: shop, name: orders, labels: {app: orders}}, spec: {serviceAccount: orders, addresses: [10.0.0.3]}}
---
{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: web}, spec: {selector: {matchLabels: {app: web}}}}
---
{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: orders}, spec: {selector: {matchLabels: {app: orders}}}}
---
{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: nobody}, spec: {selector: {matchLabels: {app: none}}}}
---
{apiVersion: kith.dev/v1alpha1, kind: PeerAuthentication, metadata: {namespace: shop, name: orders}, spec: {selector: {matchLabels: {app: orders}}, mtls: {mode: STRICT}}}
---
{apiVersion: kith.dev/v1alpha1, kind: Revocation, metadata: {name: r}, spec: {token: {jti: a}, until: 2099-01-01T00:00:00Z, reason: x}}
";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn catalog(text: &str) -> Catalog {
    let loaded = load_str(Path::new("f.yaml"), text).unwrap();
    resolve(&loaded, &KeySets::default()).unwrap().catalog
}

/// Words of `node=what`: `all` what is served, `old` another configuration and list, `no` the same because it refused
/// these, `list` the list alone.
fn heard(catalog: &Catalog, words: &str) -> Heard {
    let mut nodes = ByNode::new();
    for word in words.split_whitespace() {
        let (node, what) = word.split_once('=').unwrap();
        let id = format!("shop/{node}");
        let revision = catalog.node(&id).unwrap().revision.to_string();
        let list = catalog.revocations.version().to_owned();
        let said = match what {
            "all" => (Some(revision), Some(list)),
            "old" | "no" => (Some("before".into()), Some("before".into())),
            "list" => (None, Some(list)),
            other => panic!("{other}"),
        };
        let (revision, revocations) = said;
        nodes.insert(
            id.into(),
            Said {
                revision,
                revocations,
                refused_configuration: (what == "no")
                    .then(|| "AuthorizationPolicy: web: rules[0]: new".into()),
                refused_revocations: (what == "no").then(|| "list: entries[0]: new".into()),
            },
        );
    }
    let mut heard = Heard::default();
    heard.update([&nodes], Instant::now());
    heard
}

fn key(text: &str) -> ObjectKey {
    let parts: Vec<&str> = text.split('/').collect();
    let (kind, namespace, name) = match parts[..] {
        [kind, name] => (kind, "", name),
        [kind, namespace, name] => (kind, namespace, name),
        _ => panic!("{text}"),
    };
    ObjectKey {
        kind: kind.to_owned().leak(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn verdict(generation: i64, problems: &[&str]) -> Verdict {
    Verdict {
        uid: "u".into(),
        generation,
        problems: problems.iter().map(ToString::to_string).collect(),
        warnings: Vec::new(),
        effect: Effect::Decides,
        status: None,
    }
}

fn lines(status: &Status) -> String {
    let mut text = match status.sidecars {
        Some(Sidecars { selected, enforced }) => format!("{enforced}/{selected}\n"),
        None => String::new(),
    };
    for it in &status.conditions {
        assert_eq!(it.observed_generation, status.observed_generation);
        text += &format!(
            "{}={} {}: {}\n",
            it.r#type, it.status, it.reason, it.message
        );
    }
    text
}

fn check(object: &str, words: &str, silent: usize, expected: Expect) {
    let catalog = catalog(SHOP);
    let heard = heard(&catalog, words);
    let tally = Tally::of(&catalog, &heard, silent);
    let status = desired(&key(object), &verdict(3, &[]), &tally, None, time(WALL));
    expected.assert_eq(&lines(&status));
}

#[test]
fn a_policy_is_enforced_when_every_sidecar_it_selects_says_so() {
    let web = "AuthorizationPolicy/shop/web";
    check(
        web,
        "web-1=all web-2=all",
        0,
        expect![[r#"
        2/2
        Accepted=True Valid: accepted as written
        Enforced=True AllSidecars: 2 of 2 sidecars enforce generation 3
    "#]],
    );
    check(
        web,
        "web-1=all web-2=old orders=all",
        0,
        expect![[r#"
        1/2
        Accepted=True Valid: accepted as written
        Enforced=False Waiting: 1 of 2 sidecars enforce generation 3
    "#]],
    );
    // Connected, and nothing in force yet.
    check(
        web,
        "web-1=all web-2=list",
        0,
        expect![[r#"
        1/2
        Accepted=True Valid: accepted as written
        Enforced=False Waiting: 1 of 2 sidecars enforce generation 3
    "#]],
    );
    check(
        web,
        "web-1=all",
        0,
        expect![[r#"
        1/2
        Accepted=True Valid: accepted as written
        Enforced=False Waiting: 1 of 2 sidecars enforce generation 3; 1 is not connected
    "#]],
    );
    check(
        web,
        "",
        1,
        expect![[r#"
        0/2
        Accepted=True Valid: accepted as written
        Enforced=False Waiting: 0 of 2 sidecars enforce generation 3; 2 are not connected; what sidecars of 1 other replica of the control plane enforce is unknown
    "#]],
    );
    // What a silent replica could add does not matter when all are known.
    check(
        "AuthorizationPolicy/shop/orders",
        "orders=all",
        2,
        expect![[r#"
        1/1
        Accepted=True Valid: accepted as written
        Enforced=True AllSidecars: 1 of 1 sidecar enforces generation 3
    "#]],
    );
    check(
        "AuthorizationPolicy/shop/nobody",
        "orders=all",
        0,
        expect![[r#"
        0/0
        Accepted=True Valid: accepted as written
        Enforced=False NoSidecars: no sidecar is selected: nothing enforces generation 3
    "#]],
    );
}

#[test]
fn a_sidecar_that_refused_is_named_with_its_reason() {
    check(
        "AuthorizationPolicy/shop/web",
        "web-1=no web-2=all",
        0,
        expect![[r#"
        1/2
        Accepted=True Valid: accepted as written
        Enforced=False Refused: 1 of 2 sidecars enforce generation 3; 1 refused an update: shop/web-1: AuthorizationPolicy: web: rules[0]: new
    "#]],
    );
    // Not of another application's.
    check(
        "AuthorizationPolicy/shop/orders",
        "web-1=no web-2=no",
        0,
        expect![[r#"
        0/1
        Accepted=True Valid: accepted as written
        Enforced=False Waiting: 0 of 1 sidecar enforces generation 3; 1 is not connected
    "#]],
    );
    check(
        "MeshConfig/mesh",
        "web-1=no web-2=no",
        0,
        expect![[r#"
        0/3
        Accepted=True Valid: accepted as written
        Enforced=False Refused: 0 of 3 sidecars enforce generation 3; 1 is not connected; 2 refused an update, among them shop/web-1: AuthorizationPolicy: web: rules[0]: new
    "#]],
    );
    check(
        "Revocation/r",
        "web-1=all web-2=no orders=all",
        0,
        expect![[r#"
        2/3
        Accepted=True Valid: accepted as written
        Enforced=False Refused: 2 of 3 sidecars enforce generation 3; 1 refused an update: shop/web-2: list: entries[0]: new
    "#]],
    );
}

#[test]
fn each_kind_concerns_its_own_sidecars() {
    check(
        "PeerAuthentication/shop/orders",
        "orders=all",
        0,
        expect![[r#"
        1/1
        Accepted=True Valid: accepted as written
        Enforced=True AllSidecars: 1 of 1 sidecar enforces generation 3
    "#]],
    );
    // Of the same name and another kind.
    check(
        "RequestAuthentication/shop/orders",
        "orders=all",
        0,
        expect![[r#"
        0/0
        Accepted=True Valid: accepted as written
        Enforced=False NoSidecars: no sidecar is selected: nothing enforces generation 3
    "#]],
    );
    let mixed = "web-1=list web-2=all orders=old";
    check(
        "MeshConfig/mesh",
        mixed,
        0,
        expect![[r#"
        1/3
        Accepted=True Valid: accepted as written
        Enforced=False Waiting: 1 of 3 sidecars enforce generation 3
    "#]],
    );
    check(
        "Revocation/r",
        mixed,
        0,
        expect![[r#"
        2/3
        Accepted=True Valid: accepted as written
        Enforced=False Waiting: 2 of 3 sidecars enforce generation 3
    "#]],
    );
    check(
        "Workload/shop/web-1",
        mixed,
        0,
        expect![[r#"
        Accepted=True Valid: accepted as written
    "#]],
    );
}

#[test]
fn what_is_not_accepted_is_not_enforced_whatever_stands_in_for_it() {
    let catalog = catalog(SHOP);
    let heard = heard(&catalog, "orders=all");
    let tally = Tally::of(&catalog, &heard, 0);
    let bad = verdict(4, &["spec.rules[0]: a rule", "spec.action: CUSTOM"]);
    let status = |object: &str, verdict: &Verdict| {
        lines(&desired(&key(object), verdict, &tally, None, time(WALL)))
    };
    expect![[r#"
        0/1
        Accepted=False Invalid: spec.rules[0]: a rule; spec.action: CUSTOM
        Enforced=False NotAccepted: generation 4 is not accepted: see condition Accepted
    "#]]
    .assert_eq(&status("AuthorizationPolicy/shop/orders", &bad));
    let doubtful = Verdict {
        warnings: vec!["spec.rules[0]: wider on TCP".into()],
        ..verdict(4, &[])
    };
    expect![[r#"
        Accepted=True Valid: accepted as written, but see: spec.rules[0]: wider on TCP
    "#]]
    .assert_eq(&status("Service/shop/a", &doubtful));
    // Bounded, and cut between characters.
    let endless = "ä".repeat(MOST_WORDS);
    let long = desired(
        &key("Service/shop/a"),
        &verdict(1, &[&endless]),
        &tally,
        None,
        time(WALL),
    );
    assert_eq!(
        long.conditions[0].message.len(),
        MOST_WORDS + '…'.len_utf8()
    );
}

#[test]
fn what_decides_nothing_is_not_said_to_decide() {
    let catalog = catalog(SHOP);
    let heard = heard(&catalog, "web-1=all web-2=all orders=all");
    let tally = Tally::of(&catalog, &heard, 0);
    let until = |text: &str| Effect::Until(time(text).into());
    let status = |object: &str, effect, problems: &[&str], now| {
        let verdict = Verdict {
            effect,
            ..verdict(3, problems)
        };
        let status = desired(&key(object), &verdict, &tally, None, time(now));
        lines(&status).replace("Accepted=True Valid: accepted as written\n", "")
    };
    expect![[r#"
        2/2
        Enforced=True AllSidecars: 2 of 2 sidecars enforce generation 3, which is recorded and decides nothing
    "#]]
    .assert_eq(&status("AuthorizationPolicy/shop/web", Effect::Records, &[], WALL));
    let revocation = "Revocation/r";
    expect![[r#"
        3/3
        Enforced=True AllSidecars: 3 of 3 sidecars enforce generation 3
    "#]]
    .assert_eq(&status(revocation, until(LATER), &[], WALL));
    // Every sidecar has it, and none honours it: who waits for this condition must not believe that it is in force.
    expect![[r#"
        0/3
        Enforced=False Expired: spec.until of generation 3 is over since 2026-01-02T04:00:00Z: no sidecar honours it any more. Delete it, or give it a later time
    "#]]
    .assert_eq(&status(revocation, until(LATER), &[], LATER));
    // What stands in for one that is not accepted is for good.
    expect![[r#"
        0/3
        Accepted=False Invalid: spec.reason: is required
        Enforced=False NotAccepted: generation 3 is not accepted: see condition Accepted
    "#]]
    .assert_eq(&status(
        revocation,
        until(WALL),
        &["spec.reason: is required"],
        LATER,
    ));
}

#[test]
fn authors_are_told_while_nothing_can_be_served() {
    let tally = Tally::of_nothing();
    let status = |object: &str, problems: &[&str]| {
        let verdict = verdict(1, problems);
        lines(&desired(&key(object), &verdict, &tally, None, time(WALL)))
    };
    expect![[r#"
        0/0
        Accepted=False Invalid: spec.trustDomain: is required
        Enforced=False NotAccepted: generation 1 is not accepted: see condition Accepted
    "#]]
    .assert_eq(&status(
        "MeshConfig/mesh",
        &["spec.trustDomain: is required"],
    ));
    expect![[r#"
        0/0
        Accepted=True Valid: accepted as written
        Enforced=False NothingServed: generation 1 is not served, since nothing can be: most often no MeshConfig is valid. /ready of the control plane says why
    "#]]
    .assert_eq(&status("AuthorizationPolicy/shop/web", &[]));
    expect![[r#"
        Accepted=True Valid: accepted as written
    "#]]
    .assert_eq(&status("Workload/shop/web-1", &[]));
}

#[test]
fn the_time_of_a_condition_changes_with_its_status_and_not_with_its_words() {
    let catalog = catalog(SHOP);
    let web = key("AuthorizationPolicy/shop/web");
    let at = |words: &str, generation, current: Option<&Status>, now| {
        let heard = heard(&catalog, words);
        let tally = Tally::of(&catalog, &heard, 0);
        desired(&web, &verdict(generation, &[]), &tally, current, time(now))
    };
    let times = |status: &Status| {
        let conditions = status.conditions.iter();
        let times = conditions.map(|one| one.last_transition_time.clone());
        times.collect::<Vec<_>>()
    };
    let none = at("", 1, None, WALL);
    assert_eq!(times(&none), [WALL, WALL]);
    let some = at("web-1=all", 2, Some(&none), LATER);
    assert_eq!(times(&some), [WALL, WALL]);
    let all = at("web-1=all web-2=all", 2, Some(&some), LATER);
    assert_eq!(times(&all), [WALL, LATER]);
    let later = "2026-01-02T05:00:00Z";
    assert_eq!(at("web-1=all web-2=all", 2, Some(&all), later), all);
}

#[test]
fn a_status_is_read_back_without_what_others_added() {
    let catalog = catalog(SHOP);
    let heard = heard(&catalog, "orders=all");
    let tally = Tally::of(&catalog, &heard, 0);
    let policy = key("AuthorizationPolicy/shop/orders");
    let status = desired(&policy, &verdict(1, &[]), &tally, None, time(WALL));
    let mut stored = serde_json::to_value(&status).unwrap();
    expect![[r#"{"conditions":[{"lastTransitionTime":"2026-01-02T03:04:05Z","message":"accepted as written","observedGeneration":1,"reason":"Valid","status":"True","type":"Accepted"},{"lastTransitionTime":"2026-01-02T03:04:05Z","message":"1 of 1 sidecar enforces generation 1","observedGeneration":1,"reason":"AllSidecars","status":"True","type":"Enforced"}],"observedGeneration":1,"sidecars":{"enforced":1,"selected":1}}"#]]
        .assert_eq(&stored.to_string());
    let conditions = stored["conditions"].as_array_mut().unwrap();
    conditions.reverse();
    let mut theirs = conditions[0].clone();
    theirs["type"] = "Theirs".into();
    conditions.insert(1, theirs);
    assert_eq!(Status::read(&stored), Some(status));
    for nonsense in [
        json!(null),
        json!({}),
        json!({"observedGeneration": "1", "conditions": []}),
    ] {
        assert_eq!(Status::read(&nonsense), None);
    }
}

/// One writer, by hand: what is due, and how it ends.
struct Desk {
    catalog: Catalog,
    writer: Writer,
    begun: Instant,
    verdicts: BTreeMap<ObjectKey, Arc<Verdict>>,
    /// The watch never tells of what was written.
    lags: bool,
}

impl Desk {
    fn new(objects: &[&str]) -> Self {
        let verdicts = objects.iter();
        let verdicts = verdicts.map(|object| (key(object), Arc::new(verdict(1, &[]))));
        Self {
            catalog: catalog(SHOP),
            writer: Writer::default(),
            begun: Instant::now(),
            verdicts: verdicts.collect(),
            lags: false,
        }
    }

    /// The objects due at `millis`, which end as `end` says; and when to come back.
    fn round(&mut self, millis: u64, words: &str, end: fn() -> End) -> (Vec<String>, Option<u128>) {
        let now = self.begun + Duration::from_millis(millis);
        let heard = heard(&self.catalog, words);
        let tally = Tally::of(&self.catalog, &heard, 0);
        let verdicts: Verdicts = Arc::new(self.verdicts.clone());
        let (writes, next) = self.writer.due(&verdicts, &tally, now, time(WALL));
        let names = writes.iter().map(|write| write.key.to_string()).collect();
        for write in writes {
            if end() == End::Done && !self.lags {
                let known = self.verdicts.get_mut(&write.key).unwrap();
                let status = Some(serde_json::to_value(&write.status).unwrap());
                let verdict = Verdict::clone(known);
                *known = Arc::new(Verdict { status, ..verdict });
            }
            self.writer.ended(write, &verdicts, end(), now);
        }
        (names, next.map(|next| (next - self.begun).as_millis()))
    }

    /// The watch says that the status is this now.
    fn watched(&mut self, object: &str, generation: i64, status: Value) {
        let verdict = Verdict {
            status: Some(status),
            ..verdict(generation, &[])
        };
        self.verdicts.insert(key(object), Arc::new(verdict));
    }
}

const WEB: &str = "AuthorizationPolicy/shop/web";

#[test]
fn what_is_written_is_not_written_again_although_the_watch_lags() {
    let mut desk = Desk::new(&[WEB, "AuthorizationPolicy.security.istio.io/shop/web"]);
    desk.lags = true;
    assert_eq!(desk.round(0, "", || End::Done).0, [WEB], "not Istio's");
    assert_eq!(desk.round(300, "", || End::Done), (vec![], None));
    // The watch still says that there is none: it is written once more.
    assert_eq!(desk.round(10_000, "", || End::Done).0, [WEB]);
    // Somebody else wrote something else over it.
    desk.watched(WEB, 1, json!({"observedGeneration": 0, "conditions": []}));
    assert_eq!(desk.round(10_300, "", || End::Done).0, [WEB]);
    // Deleted and made again.
    let verdict = Verdict {
        uid: "v".into(),
        ..verdict(1, &[])
    };
    desk.verdicts.insert(key(WEB), Arc::new(verdict));
    assert_eq!(desk.round(10_600, "", || End::Done).0, [WEB]);
}

#[test]
fn people_wait_for_news_and_mere_numbers_wait_for_people() {
    let mut desk = Desk::new(&[WEB]);
    assert_eq!(desk.round(0, "", || End::Done).0, [WEB]);
    // More sidecars, not all: 5 s after the last write.
    assert_eq!(
        desk.round(1000, "web-1=all", || End::Done),
        (vec![], Some(5000))
    );
    // All: at once.
    assert_eq!(
        desk.round(1300, "web-1=all web-2=all", || End::Done).0,
        [WEB]
    );
    // One reconnects, and is back: nothing.
    assert_eq!(
        desk.round(60_000, "web-1=all", || End::Done),
        (vec![], Some(62_000))
    );
    assert_eq!(
        desk.round(61_000, "web-1=all web-2=all", || End::Done),
        (vec![], None)
    );
    // One is gone for good.
    assert_eq!(
        desk.round(62_000, "web-1=all", || End::Done),
        (vec![], Some(64_000))
    );
    assert_eq!(desk.round(64_000, "web-1=all", || End::Done).0, [WEB]);
    // Another generation: at once, whatever it says.
    desk.verdicts.insert(key(WEB), Arc::new(verdict(2, &[])));
    assert_eq!(desk.round(64_300, "web-1=all", || End::Done).0, [WEB]);
    // That one refuses it: at once. That one refuses another update, when all had it: as when one is gone.
    let refused = "web-1=all web-2=no";
    assert_eq!(desk.round(64_600, refused, || End::Done).0, [WEB]);
    let all = "web-1=all web-2=all";
    assert_eq!(desk.round(64_900, all, || End::Done).0, [WEB]);
    assert_eq!(
        desk.round(80_000, refused, || End::Done),
        (vec![], Some(82_000))
    );
}

#[test]
fn a_revocation_is_looked_at_again_when_its_time_is_over() {
    let mut desk = Desk::new(&["Revocation/r"]);
    let all = "web-1=all web-2=all orders=all";
    let until = |time: Timestamp| Verdict {
        effect: Effect::Until(time.into()),
        ..verdict(1, &[])
    };
    let soon = time(WALL) + Duration::from_secs(60);
    desk.verdicts
        .insert(key("Revocation/r"), Arc::new(until(soon)));
    let first = desk.round(0, all, || End::Done);
    assert_eq!(first, (vec!["Revocation/r".to_owned()], Some(60_000)));
    // However far that is, the clock on the wall is looked at now and then.
    let far = time("9999-12-30T00:00:00Z");
    desk.verdicts
        .insert(key("Revocation/r"), Arc::new(until(far)));
    assert_eq!(desk.round(300, all, || End::Done).1, Some(3_600_300));
}

#[test]
fn numbers_that_nobody_waits_for_are_written_a_few_at_a_time() {
    let names: Vec<String> = (10..40).map(|n| format!("Revocation/r-{n}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push(WEB);
    let mut desk = Desk::new(&names);
    for millis in [0, 250] {
        desk.round(millis, "web-1=all web-2=all", || End::Done);
    }
    // Other numbers for every Revocation, and a policy that is no longer enforced: it comes first.
    let fewer = "web-2=all";
    assert_eq!(desk.round(60_000, fewer, || End::Done).0.len(), 0);
    let due = desk.round(62_000, fewer, || End::Done);
    let expected = vec![WEB.to_owned(), "Revocation/r-10".to_owned()];
    assert_eq!(due, (expected, Some(62_250)));
    let due = desk.round(62_250, fewer, || End::Done).0;
    assert_eq!(due, ["Revocation/r-11", "Revocation/r-12"]);
    // What people wait for is not held up by them.
    let all = "orders=all web-1=all web-2=all";
    assert_eq!(desk.round(62_500, all, || End::Done).0.len(), 20);
    assert_eq!(desk.round(62_750, all, || End::Done).0.len(), 11);
}

#[test]
fn a_round_is_bounded_and_begins_with_what_is_waited_for() {
    let names: Vec<String> = (10..40).map(|n| format!("Workload/shop/w-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut desk = Desk::new(&names);
    let (first, next) = desk.round(0, "", || End::Done);
    assert_eq!((first.len(), next), (20, Some(250)));
    assert_eq!(desk.round(250, "", || End::Done).0.len(), 10);
    assert_eq!(desk.round(500, "", || End::Done), (vec![], None));
}

#[test]
fn what_fails_is_tried_again_as_late_as_it_may_help() {
    // Gone, most likely: the watch will say so.
    let mut desk = Desk::new(&[WEB, "Workload/shop/web-1"]);
    assert_eq!(desk.round(0, "", || End::Gone).0.len(), 2);
    assert_eq!(desk.round(300, "", || End::Done), (vec![], Some(30_000)));
    assert_eq!(desk.round(30_000, "", || End::Done).0.len(), 2);

    // May not: the kind, and only the kind.
    let mut desk = Desk::new(&[WEB]);
    assert_eq!(desk.round(0, "", || End::Forbidden("no".into())).0, [WEB]);
    let others = ["AuthorizationPolicy/shop/orders", "Workload/shop/web-1"];
    for other in others {
        desk.verdicts.insert(key(other), Arc::new(verdict(1, &[])));
    }
    let due = desk.round(300, "", || End::Done);
    assert_eq!(due, (vec![others[1].to_owned()], Some(30_000)));
    assert_eq!(desk.round(30_000, "", || End::Done).0.len(), 2);

    // Not answered: everything waits, ever longer.
    let mut desk = Desk::new(&[WEB]);
    let mut now = 0;
    for (least, most) in [(500, 1000), (1000, 2000), (2000, 4000)] {
        assert_eq!(desk.round(now, "", || End::Later("?".into())).0, [WEB]);
        let (due, next) = desk.round(now, "", || End::Done);
        let wait = next.unwrap() as u64 - now;
        assert!(due.is_empty() && (least..=most).contains(&wait), "{wait}");
        now += wait + 1;
    }
    assert_eq!(desk.round(now, "", || End::Done).0, [WEB]);
}

#[test]
fn sidecars_with_the_same_policies_and_with_others_are_counted_apart() {
    let mut text = "{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org, rootNamespace: root}}\n".to_owned();
    for number in 0..300 {
        let (a, b, app) = (number / 250, number % 250, number % 3);
        text += &format!(
            "---\n{{apiVersion: kith.dev/v1alpha1, kind: Workload, metadata: {{namespace: shop, name: w-{number}, labels: {{app: app-{app}}}}}, spec: {{serviceAccount: web, addresses: [10.0.{a}.{b}]}}}}\n"
        );
    }
    for number in 0..100 {
        let selector = match number {
            3.. => String::new(),
            app => format!("selector: {{matchLabels: {{app: app-{app}}}}}"),
        };
        text += &format!(
            "---\n{{apiVersion: kith.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{namespace: root, name: p-{number}}}, spec: {{{selector}}}}}\n"
        );
    }
    let catalog = catalog(&text);
    // All but `w-0`, which has app-0.
    let words: Vec<String> = (1..300).map(|number| format!("w-{number}=all")).collect();
    let heard = heard(&catalog, &words.join(" "));
    let tally = Tally::of(&catalog, &heard, 0);
    for (number, expected) in [
        (0, (100, 99, 1)),
        (1, (100, 100, 0)),
        (2, (100, 100, 0)),
        (3, (300, 299, 1)),
        (99, (300, 299, 1)),
    ] {
        let (namespace, name) = ("root", format!("p-{number}"));
        let object = key(&format!("AuthorizationPolicy/{namespace}/{name}"));
        let count = tally.count(&object).unwrap();
        let count = (count.selected, count.enforced, count.absent);
        assert_eq!(count, expected, "{number}");
    }
}
