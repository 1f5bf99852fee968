//! What this side says of itself beside its answers, for people who ask the control plane how the mesh is doing.
//! Nothing is decided by it.
//!
//! It travels in `node.metadata` of requests, a place that every xDS server knows and may ignore, under `kith`:
//! `svid_serial`, `svid_expires` (Unix seconds), `plaintext`, and on the answer to a response `closed` and
//! `enforced_ms`.

use std::time::{Duration, SystemTime};

use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// Under which they travel.
const KEY: &str = "kith";

/// What is true of this side at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Serial number of the SVID in use, lower-case hex; empty: there is none yet.
    pub svid_serial: String,
    /// When that SVID ends.
    pub svid_expires: Option<SystemTime>,
    /// Inbound plaintext connections accepted since the start.
    pub plaintext: u64,
}

/// What it took to put a response in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Live connections that had to be closed.
    pub closed: u64,
    /// From the publication to the last of them closed.
    pub took: Duration,
}

pub(crate) fn metadata(facts: &Facts, enforced: Option<Enforced>) -> Struct {
    let mut said = Struct::default();
    let mut say = |key: &str, kind| {
        said.fields
            .insert(key.to_owned(), Value { kind: Some(kind) });
    };
    if !facts.svid_serial.is_empty() {
        say("svid_serial", Kind::StringValue(facts.svid_serial.clone()));
    }
    if let Some(expires) = facts.svid_expires {
        let since = expires
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        say("svid_expires", Kind::NumberValue(since.as_secs() as f64));
    }
    say("plaintext", Kind::NumberValue(facts.plaintext as f64));
    if let Some(Enforced { closed, took }) = enforced {
        say("closed", Kind::NumberValue(closed as f64));
        say(
            "enforced_ms",
            Kind::NumberValue(took.as_secs_f64() * 1000.0),
        );
    }
    let kith = Value {
        kind: Some(Kind::StructValue(said)),
    };
    Struct {
        fields: [(KEY.to_owned(), kith)].into(),
    }
}
