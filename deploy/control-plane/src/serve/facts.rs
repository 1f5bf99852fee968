//! What a sidecar says of itself with its requests, in `node.metadata` under `kith`.
//!
//! | key | value |
//! |---|---|
//! | `svid_serial` | serial number of its SVID, lower-case hex |
//! | `svid_expires` | when that SVID ends, seconds since 1970 |
//! | `plaintext` | plaintext connections it accepted since it started |
//! | `closed` | on an ACK: live connections that were closed to enforce the response |
//! | `enforced_ms` | on an ACK: how long that took it, in milliseconds |
//!
//! Facts are for people. Nothing is decided by them, since a sidecar could say anything.

use std::time::{Duration, SystemTime};

use kith_xds_client::api::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost_types::{Struct, value::Kind};

/// Numbers beyond this are no count that a sidecar has (and no integer that a double holds exactly).
const MAX: f64 = 9_007_199_254_740_992.0;
/// The end of the year 9999, after which RFC 3339 has no time.
const END: Duration = Duration::from_secs(253_402_300_800);
/// Twenty octets (RFC 5280 section 4.1.2.2), and some that are longer.
const LONGEST_SERIAL: usize = 64;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) svid_serial: Option<String>,
    pub(super) svid_expires: Option<SystemTime>,
    pub(super) plaintext: Option<u64>,
    pub(super) closed: Option<u64>,
    pub(super) enforced: Option<Duration>,
}

impl Facts {
    /// What is absent or of another type is not known.
    pub(super) fn of(request: &DeltaDiscoveryRequest) -> Self {
        let metadata = request
            .node
            .as_ref()
            .and_then(|node| node.metadata.as_ref());
        let Some(Kind::StructValue(facts)) = metadata.and_then(|all| field(all, "kith")) else {
            return Self::default();
        };
        let seconds = |key, scale: f64| {
            let seconds = number(facts, key)? / scale;
            Duration::try_from_secs_f64(seconds).ok()
        };
        Self {
            svid_serial: match field(facts, "svid_serial") {
                Some(Kind::StringValue(serial)) if is_serial(serial) => Some(serial.clone()),
                _ => None,
            },
            svid_expires: seconds("svid_expires", 1.0)
                .filter(|since| *since < END)
                .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)),
            plaintext: number(facts, "plaintext").map(|count| count as u64),
            closed: number(facts, "closed").map(|count| count as u64),
            enforced: seconds("enforced_ms", 1000.0),
        }
    }
}

/// It ends up on a terminal: digits and nothing else.
fn is_serial(text: &str) -> bool {
    (1..=LONGEST_SERIAL).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn field<'a>(of: &'a Struct, key: &str) -> Option<&'a Kind> {
    of.fields.get(key)?.kind.as_ref()
}

fn number(of: &Struct, key: &str) -> Option<f64> {
    match field(of, key) {
        Some(Kind::NumberValue(number)) if (0.0..MAX).contains(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kith_xds_client::api::envoy::config::core::v3::Node;
    use prost_types::Value;

    use super::*;

    fn request(facts: &[(&str, Kind)]) -> DeltaDiscoveryRequest {
        let value = |kind| Value { kind: Some(kind) };
        let of = |fields: Vec<(String, Value)>| Struct {
            fields: fields.into_iter().collect(),
        };
        let facts = facts
            .iter()
            .map(|(key, kind)| ((*key).to_owned(), value(kind.clone())));
        let facts = of(facts.collect());
        let metadata = of(vec![("kith".to_owned(), value(Kind::StructValue(facts)))]);
        DeltaDiscoveryRequest {
            node: Some(Node {
                metadata: Some(metadata),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn facts_are_read_from_the_metadata_of_the_node() {
        let facts = Facts::of(&request(&[
            ("svid_serial", Kind::StringValue("ab12".into())),
            ("svid_expires", Kind::NumberValue(1_800_000_000.5)),
            ("plaintext", Kind::NumberValue(3.0)),
            ("closed", Kind::NumberValue(100.0)),
            ("enforced_ms", Kind::NumberValue(12.5)),
        ]));
        let expected = Facts {
            svid_serial: Some("ab12".into()),
            svid_expires: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_500)),
            plaintext: Some(3),
            closed: Some(100),
            enforced: Some(Duration::from_micros(12_500)),
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn what_makes_no_sense_is_not_known() {
        for number in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            let facts = ["svid_expires", "plaintext", "closed", "enforced_ms"];
            let facts = facts.map(|key| (key, Kind::NumberValue(number)));
            assert_eq!(Facts::of(&request(&facts)), Facts::default(), "{number}");
        }
        // Beyond the year 9999 no clock shows a time, and no report may fail over it.
        let expires = [("svid_expires", Kind::NumberValue(253_402_300_800.0))];
        assert_eq!(Facts::of(&request(&expires)), Facts::default());
        // It is shown on people's terminals.
        for serial in [
            "a".repeat(65),
            "\u{1b}[2J".into(),
            String::new(),
            "AB".into(),
        ] {
            let serial = [("svid_serial", Kind::StringValue(serial))];
            assert_eq!(Facts::of(&request(&serial)), Facts::default());
        }
        assert_eq!(
            Facts::of(&DeltaDiscoveryRequest::default()),
            Facts::default()
        );
    }
}
