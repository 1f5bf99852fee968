//! Which of several endpoints: the less loaded of two picked at random, a choice that needs no shared
//! state and never herds.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::resolve::Target;

/// How many requests and connections this worker has under way, by address. Addresses with none are forgotten.
#[derive(Default)]
pub(crate) struct Loads {
    by_address: RefCell<HashMap<SocketAddr, Rc<Cell<u32>>>>,
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
                let fresh: Vec<&Arc<Target>> = if avoid.is_empty() {
                    Vec::new()
                } else {
                    targets
                        .iter()
                        .filter(|target| !avoid.contains(&target.address))
                        .collect()
                };
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

    pub(crate) fn forget_idle(&self) {
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
