//! A request, and whatever it was upgraded to, ends when its token does.

use std::cell::Cell;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use kith_policy::Reason;

use crate::record::ClosedBy;
use crate::signal::{Closing, Signal};

/// How long to sleep at most before looking at the wall clock again: it may be set, and it goes on while a machine sleeps.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Does `work`; has it ended by its own signal at `ends`, which it may change when it asks again. Without a time no
/// timer is made.
pub(crate) async fn while_valid<T>(
    ends: &Cell<Option<SystemTime>>,
    signal: &Signal,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> T {
    let (mut set_to, mut timer) = (None, None);
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if set_to != ends.get() {
            set_to = ends.get();
            timer = set_to.map(|ends| Box::pin(tokio::time::sleep(until(ends))));
        }
        let (Some(ends), Some(timer)) = (set_to, &mut timer) else {
            return Poll::Pending;
        };
        while !signal.is_closing() && timer.as_mut().poll(context).is_ready() {
            let left = until(ends);
            if left.is_zero() {
                signal.close(Closing::new(ClosedBy::Expiry, Reason::TokenExpired));
                return work.as_mut().poll(context);
            }
            timer.set(tokio::time::sleep(left));
        }
        Poll::Pending
    })
    .await
}

fn until(ends: SystemTime) -> Duration {
    ends.duration_since(SystemTime::now())
        .unwrap_or_default()
        .min(LOOK_AGAIN)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use super::*;
    use crate::signal::still_fine;

    #[tokio::test]
    async fn ends_work_when_the_token_does() {
        let signal = Signal::default();
        let started = SystemTime::now();
        let ends = started + Duration::from_millis(60);
        let work = pin!(signal.unless_closed(&still_fine, pending::<()>()));
        let ends = Cell::new(Some(ends));
        let closing = while_valid(&ends, &signal, work).await.unwrap_err();
        assert_eq!(closing.reason, Reason::TokenExpired);
        assert_eq!(closing.by, Some(ClosedBy::Expiry));
        let took = started.elapsed().unwrap();
        assert!(took >= Duration::from_millis(60), "{took:?}");
        assert!(took < Duration::from_millis(1000), "{took:?}");
    }

    #[tokio::test]
    async fn a_time_that_is_heard_of_later_counts_all_the_same() {
        for before in [None, Some(Duration::from_secs(60))] {
            let signal = Signal::default();
            let ends = Cell::new(before.map(|before| SystemTime::now() + before));
            let work = pin!(async {
                tokio::task::yield_now().await;
                ends.set(Some(SystemTime::now() + Duration::from_millis(60)));
                signal.unless_closed(&still_fine, pending::<()>()).await
            });
            let ended = while_valid(&ends, &signal, work);
            let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
            assert_eq!(ended.unwrap().unwrap_err().reason, Reason::TokenExpired);
        }
    }

    #[tokio::test]
    async fn work_that_is_done_before_is_left_alone() {
        let signal = Signal::default();
        for ends in [None, Some(SystemTime::now() + Duration::from_secs(60))] {
            let work = pin!(async { 7 });
            assert_eq!(while_valid(&Cell::new(ends), &signal, work).await, 7);
            assert!(!signal.is_closing());
        }
    }
}
