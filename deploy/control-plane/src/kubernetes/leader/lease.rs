//! Who may lead, decided from what the Lease says: free of IO, and of anybody else's clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// How long a holder that says nothing keeps the Lease.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long stops, well before anybody else may begin.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);
/// Between renewals.
pub(super) const RENEW: Duration = Duration::from_secs(5);
/// Between looks at somebody else's Lease, and after an attempt that failed.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// A Lease that claims to last longer is treated as if it lasted this long: nobody may lock the others out.
const LONGEST: Duration = Duration::from_secs(60);

/// What the Lease says, and since when, by this process's own clock. The times inside the Lease come from the holder's
/// clock, which may be wrong by any amount, so they are compared with each other and never with ours.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observation {
    /// None: free.
    pub(super) holder: Option<String>,
    renewed: Option<MicroTime>,
    transitions: i32,
    duration: Duration,
    /// When it was first seen to say exactly this.
    since: Instant,
}

#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// It is free, or its holder is silent for too long.
    Claim,
    /// It is ours already.
    Renew,
    /// It is somebody else's, at least until then.
    Wait(Instant),
}

impl Observation {
    /// What was just read, in the light of what was read before.
    pub(super) fn of(spec: &LeaseSpec, before: Option<&Self>, now: Instant) -> Self {
        let stated = spec.lease_duration_seconds.unwrap_or_default();
        let duration = match u64::try_from(stated) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds).min(LONGEST),
            _ => DURATION,
        };
        let mut read = Self {
            holder: (spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
            renewed: spec.renew_time.clone(),
            transitions: spec.lease_transitions.unwrap_or_default(),
            duration,
            since: now,
        };
        if let Some(before) = before {
            let since = std::mem::replace(&mut read.since, before.since);
            if read != *before {
                read.since = since;
            }
        }
        read
    }
}

pub(super) fn decide(me: &str, seen: &Observation, now: Instant) -> Decision {
    match seen.holder.as_deref() {
        None => Decision::Claim,
        Some(holder) if holder == me => Decision::Renew,
        Some(_) => {
            let expires = seen.since + seen.duration;
            if expires <= now {
                Decision::Claim
            } else {
                Decision::Wait(expires)
            }
        }
    }
}

/// What `me` writes to hold the Lease that said `before`.
pub(super) fn held(me: &str, before: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
    let ours = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(me));
    let transitions = before.and_then(|spec| spec.lease_transitions);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(DURATION.as_secs() as i32),
        acquire_time: match before {
            Some(spec) if ours => spec.acquire_time.clone(),
            _ => Some(MicroTime(wall)),
        },
        renew_time: Some(MicroTime(wall)),
        lease_transitions: match transitions {
            Some(count) if ours => Some(count),
            Some(count) => Some(count.saturating_add(1)),
            None => Some(0),
        },
        ..LeaseSpec::default()
    }
}

/// What its holder writes at the end, so that nobody has to wait.
pub(super) fn released(before: &LeaseSpec, wall: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: None,
        lease_duration_seconds: Some(1),
        acquire_time: None,
        renew_time: Some(MicroTime(wall)),
        ..before.clone()
    }
}

/// Within a tenth of `base`, so that replicas that started together do not ask together.
pub(super) fn jittered(base: Duration, random: f64) -> Duration {
    base.mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0))
}
