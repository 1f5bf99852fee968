//! Which of several endpoints: the less loaded of two picked at random, a choice that needs no shared
//! state and never herds. One that failed is left alone for a while.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_policy::Reason;

use crate::resolve::Target;

/// How long an endpoint that failed is left alone, when there are others: twice as long each time it fails again.
const AVOIDED: Duration = Duration::from_secs(1);
const AVOIDED_AT_MOST: Duration = Duration::from_secs(32);

/// How many requests and connections this worker has under way, by address. Addresses with none are forgotten.
#[derive(Default)]
pub(crate) struct Loads {
    by_address: RefCell<HashMap<SocketAddr, Rc<Cell<u32>>>>,
    failed: RefCell<HashMap<SocketAddr, Failed>>,
}

/// An endpoint that could not be reached, or whose application is gone.
struct Failed {
    until: Instant,
    /// How long it was avoided the last time.
    time: Duration,
}

/// Counts one request or connection for as long as it lives.
pub(crate) struct Load(Rc<Cell<u32>>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Loads {
    pub(crate) fn begin(&self, address: SocketAddr) -> Load {
        let mut by_address = self.by_address.borrow_mut();
        let count = Rc::clone(by_address.entry(address).or_default());
        count.set(count.get() + 1);
        Load(count)
    }

    /// Others are picked for a while.
    pub(crate) fn failed(&self, address: SocketAddr, now: Instant) {
        let mut failed = self.failed.borrow_mut();
        let known = failed.get(&address);
        // What else is under way to it fails for the same reason.
        if known.is_some_and(|known| now < known.until) {
            return;
        }
        let time = known.map_or(AVOIDED, |known| (known.time * 2).min(AVOIDED_AT_MOST));
        let until = now + time;
        failed.insert(address, Failed { until, time });
    }

    /// It answered, or its proxy in its place: `reason` is why, if that is a Kith.
    pub(crate) fn answered(&self, address: SocketAddr, reason: Option<Reason>, now: Instant) {
        // The application is gone, and this request could not be sent to another.
        if reason == Some(Reason::ServerUnreachable) {
            self.failed(address, now);
        } else {
            self.worked(address);
        }
    }

    fn worked(&self, address: SocketAddr) {
        let mut failed = self.failed.borrow_mut();
        if !failed.is_empty() {
            failed.remove(&address);
        }
    }

    /// `avoid` names addresses that already failed for this request; they are used only when nothing else is left.
    pub(crate) fn pick<'a>(
        &self,
        targets: &'a [Arc<Target>],
        avoid: &[SocketAddr],
    ) -> Option<&'a Arc<Target>> {
        match targets {
            [] => None,
            [only] => Some(only),
            _ => {
                let fresh = self.fresh(targets, avoid);
                if fresh.is_empty() {
                    let (one, two) = two_of(targets.len());
                    Some(self.lighter(&targets[one], &targets[two]))
                } else {
                    let (one, two) = two_of(fresh.len());
                    Some(self.lighter(fresh[one], fresh[two]))
                }
            }
        }
    }

    /// Those worth trying first; none when that would be all or nobody.
    fn fresh<'a>(&self, targets: &'a [Arc<Target>], avoid: &[SocketAddr]) -> Vec<&'a Arc<Target>> {
        let failed = self.failed.borrow();
        if avoid.is_empty() && failed.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let untried = |target: &&Arc<Target>| !avoid.contains(&target.address);
        let well = |target: &&Arc<Target>| {
            let failed = failed.get(&target.address);
            failed.is_none_or(|failed| failed.until <= now)
        };
        let both: Vec<_> = targets.iter().filter(untried).filter(well).collect();
        if both.is_empty() {
            return targets.iter().filter(untried).collect();
        }
        both
    }

    pub(crate) fn forget_idle(&self) {
        let now = Instant::now();
        self.failed
            .borrow_mut()
            .retain(|_, failed| now < failed.until + failed.time);
        self.by_address
            .borrow_mut()
            .retain(|_, count| count.get() > 0);
    }

    fn lighter<'a>(&self, one: &'a Arc<Target>, two: &'a Arc<Target>) -> &'a Arc<Target> {
        let by_address = self.by_address.borrow();
        let load = |target: &Target| {
            by_address
                .get(&target.address)
                .map_or(0, |count| count.get())
        };
        if load(two) < load(one) { two } else { one }
    }
}

fn two_of(count: usize) -> (usize, usize) {
    if count < 2 {
        return (0, 0);
    }
    let one = fastrand::usize(..count);
    let two = fastrand::usize(..count - 1);
    (one, if two >= one { two + 1 } else { two })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(count: u8) -> Vec<Arc<Target>> {
        (0..count)
            .map(|last| {
                Arc::new(Target {
                    workload: "shop/orders".into(),
                    address: SocketAddr::from(([10, 0, 0, last], 80)),
                    principals: Arc::from([]),
                })
            })
            .collect()
    }

    #[test]
    fn prefers_the_less_loaded_of_two() {
        let loads = Loads::default();
        let targets = targets(2);
        let _busy = loads.begin(targets[0].address);
        for _ in 0..50 {
            assert_eq!(
                loads.pick(&targets, &[]).unwrap().address,
                targets[1].address
            );
        }
    }

    #[test]
    fn avoids_what_failed_while_there_is_another() {
        let loads = Loads::default();
        let targets = targets(3);
        let failed = [targets[0].address, targets[1].address];
        for _ in 0..50 {
            assert_eq!(
                loads.pick(&targets, &failed).unwrap().address,
                targets[2].address
            );
        }
        assert!(loads.pick(&targets[..1], &failed).is_some());
        assert!(loads.pick(&[], &[]).is_none());
    }

    #[test]
    fn leaves_what_failed_alone_for_longer_each_time_until_it_works() {
        let loads = Loads::default();
        let targets = targets(3);
        let (bad, start) = (targets[0].address, Instant::now());
        let picks_it = || (0..60).any(|_| loads.pick(&targets, &[]).unwrap().address == bad);
        assert!(picks_it());
        loads.failed(bad, start);
        // At once again is the same failure.
        loads.failed(bad, start);
        assert!(!picks_it());
        assert!(loads.failed.borrow()[&bad].until == start + AVOIDED);
        loads.failed(bad, start + AVOIDED);
        assert!(loads.failed.borrow()[&bad].until == start + AVOIDED * 3);
        for target in &targets[1..] {
            loads.failed(target.address, start);
        }
        // Better than nobody.
        assert!(picks_it());
        loads.answered(bad, Some(Reason::DeniedByRule), start);
        for _ in 0..50 {
            assert_eq!(loads.pick(&targets, &[]).unwrap().address, bad);
            assert_ne!(loads.pick(&targets, &[bad]).unwrap().address, bad);
        }
    }

    #[test]
    fn an_answer_that_its_application_is_gone_does_not_count_as_one() {
        let loads = Loads::default();
        let targets = targets(2);
        let (gone, now) = (targets[0].address, Instant::now());
        loads.answered(gone, Some(Reason::ServerUnreachable), now);
        for _ in 0..50 {
            assert_ne!(loads.pick(&targets, &[]).unwrap().address, gone);
        }
    }

    #[test]
    fn two_of_are_always_different() {
        for _ in 0..1000 {
            let (one, two) = two_of(5);
            assert!(one != two && one < 5 && two < 5);
        }
    }

    #[test]
    fn a_load_ends_with_its_guard() {
        let loads = Loads::default();
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        drop(loads.begin(address));
        loads.forget_idle();
        assert!(loads.by_address.borrow().is_empty());
    }
}
