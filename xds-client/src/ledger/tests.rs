use prost::Message as _;

use super::*;
use crate::api::mesh;

const ADDRESS: &str = "type.googleapis.com/kith.mesh.v1.Address";

fn ledger() -> Ledger {
    let mut ledger = Ledger::new(Node::default(), true);
    ledger.subscribe(Kind::Address, ["a".to_owned(), "b".to_owned()]);
    start_stream(&mut ledger);
    ledger
}

/// The versions that the first request of the new stream says are held.
fn start_stream(ledger: &mut Ledger) -> Vec<(String, String)> {
    ledger.stream_started();
    let request = ledger.next_request().unwrap();
    assert!(ledger.next_request().is_none());
    request.initial_resource_versions.into_iter().collect()
}

fn held(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
        .collect()
}

fn resource(name: &str, version: &str) -> WireResource {
    let any = prost_types::Any {
        type_url: ADDRESS.to_owned(),
        value: mesh::Address::default().encode_to_vec(),
    };
    WireResource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any),
        aliases: Vec::new(),
    }
}

fn response(nonce: &str, resources: Vec<WireResource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ADDRESS.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn deliver(
    ledger: &mut Ledger,
    nonce: &str,
    resources: Vec<WireResource>,
    removed: &[&str],
) -> Parcel {
    match ledger.receive(response(nonce, resources, removed)) {
        Received::Deliver(parcel) => parcel,
        Received::Answered(answered) => panic!("not for the consumer: {answered:?}"),
    }
}

fn accept(ledger: &mut Ledger, parcel: &Parcel) {
    ledger
        .finish(parcel.sequence, Some(Vec::new()), None)
        .unwrap();
}

#[test]
fn a_name_dropped_and_wanted_again_before_the_server_heard_is_asked_for_again() {
    let mut ledger = ledger();
    let first = deliver(&mut ledger, "1", vec![resource("a", "1")], &[]);
    accept(&mut ledger, &first);
    assert_eq!(ledger.next_request().unwrap().response_nonce, "1");

    ledger.unsubscribe(Kind::Address, ["a"]);
    ledger.subscribe(Kind::Address, ["a".to_owned()]);
    let request = ledger.next_request().unwrap();
    assert_eq!(request.resource_names_subscribe, ["a"]);
    assert!(request.resource_names_unsubscribe.is_empty());
    assert!(request.initial_resource_versions.is_empty());
}

#[test]
fn an_answer_that_comes_after_the_name_was_dropped_does_not_bring_it_back() {
    let mut ledger = ledger();
    let first = deliver(
        &mut ledger,
        "1",
        vec![resource("a", "1"), resource("b", "1")],
        &[],
    );
    ledger.unsubscribe(Kind::Address, ["a"]);
    ledger.subscribe(Kind::Address, ["a".to_owned()]);
    accept(&mut ledger, &first);
    assert_eq!(start_stream(&mut ledger), held(&[("b", "1")]));
}

#[test]
fn the_newest_delivery_has_the_last_word_in_whatever_order_they_are_answered() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
        let mut ledger = ledger();
        let parcels = [
            deliver(
                &mut ledger,
                "1",
                vec![resource("a", "1"), resource("b", "1")],
                &[],
            ),
            deliver(&mut ledger, "2", vec![resource("b", "2")], &["a"]),
            deliver(&mut ledger, "3", vec![resource("b", "3")], &[]),
        ];
        order
            .iter()
            .for_each(|index| accept(&mut ledger, &parcels[*index]));
        assert_eq!(start_stream(&mut ledger), held(&[("b", "3")]), "{order:?}");
    }
}

#[test]
fn what_is_held_is_not_written_while_something_is_unanswered() {
    let mut ledger = ledger();
    let first = deliver(&mut ledger, "1", vec![resource("a", "1")], &[]);
    let second = deliver(&mut ledger, "2", vec![resource("b", "1")], &[]);
    accept(&mut ledger, &second);
    assert!(ledger.held_since(Revisions::default()).is_none());
    accept(&mut ledger, &first);
    let remembered = ledger.held_since(Revisions::default()).unwrap();
    let revision = remembered.revisions;
    let decoded = DeltaDiscoveryResponse::decode_length_delimited(&*remembered.encoded).unwrap();
    assert_eq!(decoded.resources, [resource("a", "1"), resource("b", "1")]);
    assert!(ledger.held_since(revision).is_none());

    let same_again = deliver(&mut ledger, "3", vec![resource("a", "1")], &[]);
    accept(&mut ledger, &same_again);
    assert!(ledger.held_since(revision).is_none(), "nothing has changed");
}

#[test]
fn a_name_that_a_response_has_twice_is_refused() {
    let mut ledger = ledger();
    let parcel = deliver(
        &mut ledger,
        "1",
        vec![resource("a", "1"), resource("b", "1")],
        &["a"],
    );
    assert_eq!(
        parcel.refused[0].to_string(),
        "a: named more than once in one response"
    );
    assert_eq!(parcel.changed.len(), 1);
    assert!(parcel.removed.is_empty());
    accept(&mut ledger, &parcel);
    let nack = ledger.next_request().unwrap().error_detail.unwrap();
    assert_eq!(nack.message, "a: named more than once in one response");
    assert_eq!(start_stream(&mut ledger), held(&[("b", "1")]));
}

#[test]
fn a_refused_removal_leaves_the_resource_held() {
    let mut ledger = ledger();
    let first = deliver(&mut ledger, "1", vec![resource("a", "1")], &[]);
    accept(&mut ledger, &first);
    let removal = deliver(&mut ledger, "2", vec![], &["a"]);
    ledger.finish(removal.sequence, None, None);
    assert_eq!(start_stream(&mut ledger), held(&[("a", "1")]));
}

#[test]
fn a_nack_names_the_first_reasons_and_counts_the_rest() {
    let rejection = Rejection {
        name: "a".to_owned(),
        field: "f".to_owned(),
        message: "m".to_owned(),
    };
    assert_eq!(nack::reason(&[]), None);
    assert_eq!(
        nack::reason(&vec![rejection.clone(); 2]).unwrap(),
        "a: f: m; a: f: m"
    );
    assert!(
        nack::reason(&vec![rejection; 25])
            .unwrap()
            .ends_with("a: f: m; and 5 more")
    );
}

fn told(request: &DeltaDiscoveryRequest) -> Option<Vec<(String, String)>> {
    use prost_types::value::Kind::{NumberValue, StringValue, StructValue};
    let metadata = request.node.as_ref()?.metadata.as_ref()?;
    let Some(StructValue(kith)) = &metadata.fields["kith"].kind else {
        panic!("{metadata:?}")
    };
    let text = |value: &prost_types::Value| match &value.kind {
        Some(StringValue(text)) => text.clone(),
        Some(NumberValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let fields = kith.fields.iter();
    Some(
        fields
            .map(|(key, value)| (key.clone(), text(value)))
            .collect(),
    )
}

fn plaintext(plaintext: u64) -> Facts {
    Facts {
        plaintext,
        ..Facts::default()
    }
}

#[test]
fn facts_that_changed_are_told_at_most_every_ten_seconds() {
    let mut ledger = ledger();
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(
        ledger.facts_due(start),
        None,
        "the first request took them along"
    );
    ledger.set_facts(plaintext(1));
    assert_eq!(ledger.facts_due(start), Some(start));
    let request = ledger.request(start).unwrap();
    assert!(!request.type_url.is_empty() && request.response_nonce.is_empty());
    assert!(request.resource_names_subscribe.is_empty());
    assert_eq!(told(&request), Some(held(&[("plaintext", "1")])));
    assert_eq!(ledger.facts_due(after(60)), None, "known by now");

    ledger.set_facts(plaintext(2));
    assert_eq!(ledger.facts_due(after(3)), Some(after(10)));
    assert_eq!(ledger.request(after(9)), None);
    ledger.set_facts(plaintext(3));
    let request = ledger.request(after(10)).unwrap();
    assert_eq!(told(&request), Some(held(&[("plaintext", "3")])));

    ledger.set_facts(plaintext(4));
    ledger.set_facts(plaintext(3));
    assert_eq!(
        ledger.facts_due(after(60)),
        None,
        "nothing that it does not know"
    );
    ledger.set_facts(plaintext(5));
    ledger.stream_ended();
    assert_eq!(ledger.request(after(60)), None);
    ledger.stream_started();
    assert_eq!(ledger.facts_due(after(60)), None, "nobody to tell yet");
    let first = ledger.request(after(60)).unwrap();
    assert_eq!(told(&first), Some(held(&[("plaintext", "5")])));
    assert_eq!(ledger.facts_due(after(60)), None);
}

#[test]
fn an_answer_tells_what_it_took_and_the_facts_of_now() {
    let mut ledger = ledger();
    let expires = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_900);
    for (enforced, expected) in [
        (None, None),
        (
            Some(Enforced {
                closed: 7,
                took: Duration::from_micros(12_500),
            }),
            Some(held(&[
                ("closed", "7"),
                ("enforced_ms", "12.5"),
                ("plaintext", "2"),
                ("svid_expires", "1800000000"),
                ("svid_serial", "0a1b"),
            ])),
        ),
    ] {
        let Received::Deliver(parcel) =
            ledger.receive(response("1", vec![resource("a", "1")], &[]))
        else {
            panic!("a delivery")
        };
        ledger.finish(parcel.sequence, Some(Vec::new()), enforced);
        ledger.set_facts(Facts {
            svid_serial: "0a1b".into(),
            svid_expires: Some(expires),
            plaintext: 2,
        });
        let answer = ledger.next_request().unwrap();
        assert_eq!(answer.response_nonce, "1");
        assert_eq!(told(&answer), expected);
    }
    assert_eq!(
        ledger.facts_due(Instant::now()),
        None,
        "told along with the answer"
    );
}
