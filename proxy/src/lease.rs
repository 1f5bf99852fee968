//! A live mTLS connection is always backed by valid SVIDs: it holds a lease until the earlier expiry of the
//! two that opened or last renewed it. Pure: time is passed in.

use std::time::{Duration, SystemTime};

/// What happens to connections whose lease ran out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grace {
    /// How long what is in flight may go on.
    pub(crate) kith: Duration,
    /// The same for peers that can't renew.
    pub(crate) foreign: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    granted: SystemTime,
    until: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Valid,
    /// Nothing new may start.
    RanOut,
    /// What was in flight had its grace.
    Over,
}

impl Lease {
    pub(crate) fn new(now: SystemTime, own_expiry: SystemTime, peer_expiry: SystemTime) -> Lease {
        Lease {
            granted: now,
            until: own_expiry.min(peer_expiry),
        }
    }

    pub(crate) fn until(&self) -> SystemTime {
        self.until
    }

    /// A renewal never shortens a lease.
    pub(crate) fn extend(&mut self, renewed: Lease) {
        if renewed.until > self.until {
            *self = renewed;
        }
    }

    /// Our own SVID may be used no longer, however long it is valid.
    pub(crate) fn end(&mut self, now: SystemTime) {
        self.until = self.until.min(now);
    }

    /// Half of it is over.
    pub(crate) fn wants_renewal(&self, now: SystemTime) -> bool {
        let life = self.until.duration_since(self.granted).unwrap_or_default();
        now >= self.granted + life / 2
    }

    pub(crate) fn stage(&self, now: SystemTime, grace: &Grace, kith: bool) -> Stage {
        if now < self.until {
            return Stage::Valid;
        }
        let grace = if kith { grace.kith } else { grace.foreign };
        if now < self.until + grace {
            Stage::RanOut
        } else {
            Stage::Over
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const GRACE: Grace = Grace {
        kith: Duration::from_secs(30),
        foreign: Duration::from_secs(3600),
    };

    #[test]
    fn ends_early_when_our_svid_may_no_longer_be_used_and_is_renewed_by_another() {
        let mut lease = Lease::new(at(0), at(100), at(100));
        lease.end(at(10));
        assert_eq!(lease.stage(at(10), &GRACE, true), Stage::RanOut);
        assert!(lease.wants_renewal(at(10)));
        lease.end(at(20));
        assert_eq!(lease.until(), at(10), "an end is never put off");
        lease.extend(Lease::new(at(15), at(200), at(200)));
        assert_eq!(lease.stage(at(20), &GRACE, true), Stage::Valid);
    }

    #[test]
    fn lasts_until_the_earlier_expiry() {
        assert_eq!(Lease::new(at(0), at(60), at(100)).until(), at(60));
        assert_eq!(Lease::new(at(0), at(100), at(60)).until(), at(60));
    }

    #[test]
    fn stages_follow_expiry_and_grace() {
        let lease = Lease::new(at(0), at(60), at(100));
        for (now, kith, expected) in [
            (59, true, Stage::Valid),
            (60, true, Stage::RanOut),
            (89, true, Stage::RanOut),
            (90, true, Stage::Over),
            (90, false, Stage::RanOut),
            (3660, false, Stage::Over),
        ] {
            assert_eq!(lease.stage(at(now), &GRACE, kith), expected, "at {now}");
        }
    }

    #[test]
    fn renewal_is_due_at_half_and_never_shortens() {
        let mut lease = Lease::new(at(0), at(60), at(60));
        assert!(!lease.wants_renewal(at(29)));
        assert!(lease.wants_renewal(at(30)));
        lease.extend(Lease::new(at(30), at(50), at(50)));
        assert_eq!(lease.until(), at(60));
        lease.extend(Lease::new(at(30), at(90), at(95)));
        assert_eq!(lease.until(), at(90));
    }
}
