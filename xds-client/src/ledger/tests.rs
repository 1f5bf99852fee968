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
    ledger.finish(parcel.sequence, Some(Vec::new())).unwrap();
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
    assert!(ledger.held_since(0).is_none());
    accept(&mut ledger, &first);
    let (revision, remembered) = ledger.held_since(0).unwrap();
    assert_eq!(
        remembered[0].resources,
        [resource("a", "1"), resource("b", "1")]
    );
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
    ledger.finish(removal.sequence, None);
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
