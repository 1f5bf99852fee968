use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::lease::{Decision, Observation, decide, held, jittered, released};

fn wall(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn spec(holder: &str, renewed: i64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        renew_time: Some(MicroTime(wall(renewed))),
        lease_transitions: Some(3),
        ..LeaseSpec::default()
    }
}

/// What `a` does at the end, after having read each of these at its second.
fn check(reads: &[(u64, LeaseSpec)], now: u64, expected: &str) {
    let begun = Instant::now();
    let at = |second| begun + Duration::from_secs(second);
    let mut seen: Option<Observation> = None;
    for (second, spec) in reads {
        seen = Some(Observation::of(spec, seen.as_ref(), at(*second)));
    }
    let decision = match decide("a", &seen.unwrap(), at(now)) {
        Decision::Claim => "claim".to_owned(),
        Decision::Renew => "renew".to_owned(),
        Decision::Wait(until) => format!("wait until {}", (until - begun).as_secs()),
    };
    assert_eq!(decision, expected, "{reads:?} at {now}");
}

#[test]
fn a_lease_is_claimed_when_it_is_free_and_renewed_when_it_is_ours() {
    check(&[(0, spec("", 0))], 0, "claim");
    check(&[(0, LeaseSpec::default())], 0, "claim");
    check(&[(0, spec("a", 0))], 0, "renew");
    // However long ago: the process was restarted under the same name, and nobody claimed it meanwhile.
    check(&[(0, spec("a", 0))], 100, "renew");
    check(
        &[(0, spec("b", 0)), (5, released(&spec("b", 0), wall(5)))],
        5,
        "claim",
    );
}

#[test]
fn a_lease_of_another_runs_out_by_what_was_seen_here_and_not_by_its_times() {
    check(&[(0, spec("b", 0))], 14, "wait until 15");
    check(&[(0, spec("b", 0))], 15, "claim");
    // Read again, nothing new: it still runs out 15 s after it was first seen.
    check(
        &[(0, spec("b", 0)), (10, spec("b", 0))],
        14,
        "wait until 15",
    );
    check(&[(0, spec("b", 0)), (10, spec("b", 0))], 15, "claim");
    // Renewed.
    check(
        &[(0, spec("b", 0)), (10, spec("b", 5))],
        24,
        "wait until 25",
    );
    // The holder's clock is a day behind or ahead, or goes backwards: a change is a sign of life.
    check(&[(0, spec("b", -86_400))], 14, "wait until 15");
    check(&[(0, spec("b", 86_400))], 15, "claim");
    check(
        &[(0, spec("b", 9)), (10, spec("b", 2))],
        24,
        "wait until 25",
    );
    // Another holder with the same time.
    check(
        &[(0, spec("b", 0)), (10, spec("c", 0))],
        24,
        "wait until 25",
    );
}

#[test]
fn a_stated_duration_counts_within_reason() {
    let lasting = |seconds| LeaseSpec {
        lease_duration_seconds: seconds,
        ..spec("b", 0)
    };
    for (stated, until) in [
        (Some(1), 1),
        (Some(40), 40),
        (Some(i32::MAX), 60),
        (Some(0), 15),
        (Some(-5), 15),
        (None, 15),
    ] {
        check(&[(0, lasting(stated))], 0, &format!("wait until {until}"));
    }
}

#[test]
fn a_claim_counts_transitions_and_a_renewal_does_not() {
    let summary = |spec: LeaseSpec| {
        let seconds = |time: Option<MicroTime>| time.map(|time| time.0.as_second() - 1_800_000_000);
        (
            spec.holder_identity,
            seconds(spec.acquire_time),
            seconds(spec.renew_time),
            spec.lease_transitions,
        )
    };
    let a = Some("a".to_owned());
    let first = held("a", None, wall(1));
    assert_eq!(
        summary(first.clone()),
        (a.clone(), Some(1), Some(1), Some(0))
    );
    let renewed = held("a", Some(&first), wall(6));
    assert_eq!(
        summary(renewed.clone()),
        (a.clone(), Some(1), Some(6), Some(0))
    );
    let given_up = released(&renewed, wall(7));
    assert_eq!(summary(given_up.clone()), (None, None, Some(7), Some(0)));
    let taken = held("b", Some(&given_up), wall(8));
    assert_eq!(
        summary(taken),
        (Some("b".to_owned()), Some(8), Some(8), Some(1))
    );
}

#[test]
fn jitter_stays_within_a_tenth() {
    let base = Duration::from_secs(10);
    assert_eq!(jittered(base, 0.0), Duration::from_secs(9));
    assert_eq!(jittered(base, 1.0), Duration::from_secs(11));
    assert_eq!(jittered(base, 7.0), Duration::from_secs(11));
}
