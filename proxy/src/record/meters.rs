//! What a record adds to the metrics. Counters are looked up once per connection and outcome, not per request.

use std::cell::RefCell;
use std::time::Duration;

use kith_policy::Reason;

use super::{Direction, Kind, Record, Verdict};
use crate::telemetry::metrics::{self, Counter, Pair, RequestLabels};

/// The outcomes that one connection meets are few: a list is searched faster than a map.
type Known = Vec<(Outcome, Counter)>;

#[derive(Clone, Copy, PartialEq)]
struct Outcome {
    direction: Direction,
    allowed: bool,
    reason: Reason,
    code: Option<u16>,
}

/// The request counters of one pair of principals.
pub(super) struct Meters {
    pair: Pair,
    known: RefCell<Known>,
}

impl Meters {
    pub(super) fn new(source: &str, destination: &str) -> Self {
        Meters {
            pair: metrics::pair(source, destination),
            known: RefCell::default(),
        }
    }

    /// Nobody proved anything.
    pub(super) fn unidentified() -> Self {
        Meters {
            pair: Pair::unidentified(),
            known: RefCell::default(),
        }
    }

    fn count(&self, outcome: Outcome) {
        let mut known = self.known.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(seen, _)| *seen == outcome) {
            counter.increment(1);
            return;
        }
        let counter = metrics::requests(&RequestLabels {
            direction: outcome.direction.as_str(),
            source: self.pair.source.clone(),
            destination: self.pair.destination.clone(),
            decision: decision(outcome.allowed),
            reason: outcome.reason.as_str(),
            code: outcome.code,
        });
        counter.increment(1);
        known.push((outcome, counter));
    }
}

pub(super) fn count(record: &Record, took: Duration) {
    let direction = record.connection.direction();
    let (allowed, reason) = record.outcome();
    match record.kind {
        Kind::Connection => {
            metrics::connections(direction.as_str(), decision(allowed), reason.as_str())
                .increment(1);
        }
        Kind::Request => {
            let meters = match &record.hop {
                Some((hop, _)) => hop.meters(),
                None => record.connection.meters(),
            };
            // Whatever an application answers, there are at most 500 codes.
            let code = record.status.filter(|code| (100..600).contains(code));
            meters.count(Outcome {
                direction,
                allowed,
                reason,
                code,
            });
            metrics::request_duration(direction, took);
        }
    }
    if let Verdict::Decided(decision) = &record.verdict
        && let Some(would_allow) = decision.would_allow
    {
        metrics::shadow_decision(direction, would_allow);
    }
    metrics::bytes(direction, record.bytes_in, record.bytes_out);
}

pub(super) fn connection_of_requests(direction: Direction) {
    metrics::connections(direction.as_str(), "per-request", "per-request").increment(1);
}

fn decision(allowed: bool) -> &'static str {
    if allowed { "allow" } else { "deny" }
}
