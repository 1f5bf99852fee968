//! How the registry speaks to the one task that owns a connection or a stream.
//!
//! Single-threaded on purpose: a connection never leaves its data worker, so that a check between two
//! polls costs a few loads, and asking 10,000 connections costs no lock.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use kith_policy::{Decision, Reason};
use tokio::sync::oneshot;

use crate::record::{ClosedBy, Record};

/// Why a live connection or request must end.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    pub(crate) by: Option<ClosedBy>,
    pub(crate) reason: Reason,
    /// The decision that forbids it, when a policy does.
    pub(crate) decision: Option<Decision>,
}

impl Closing {
    pub(crate) fn new(by: impl Into<Option<ClosedBy>>, reason: Reason) -> Self {
        Closing {
            by: by.into(),
            reason,
            decision: None,
        }
    }

    pub(crate) fn forbidden(decision: Decision) -> Self {
        Closing {
            by: Some(ClosedBy::Policy),
            reason: Reason::PolicyChanged,
            decision: Some(decision),
        }
    }
}

impl Closing {
    /// Writes it down: an allowed connection or request lost what it was allowed.
    pub(crate) fn record(&self, record: &mut Record) {
        match self.by {
            Some(ClosedBy::Policy | ClosedBy::Expiry) => {
                record.revoke(self.reason, self.decision.as_ref())
            }
            _ => record.fail(self.reason),
        }
        record.closed_by = self.by;
    }
}

/// What the owner of a connection is asked to do.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Decide again about what is in flight; the policy changed.
    Recheck(Rc<Barrier>),
    /// Take no new request, finish what is in flight, then end.
    Drain,
    /// End now.
    Close(Closing),
}

/// For work that no policy is about.
pub(crate) fn still_fine() -> Result<(), Closing> {
    Ok(())
}

/// Held by everyone who has been asked; when the last one lets go, the asker knows that all have acted.
#[derive(Debug)]
pub(crate) struct Barrier(Option<oneshot::Sender<()>>);

impl Barrier {
    pub(crate) fn new() -> (Rc<Self>, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Rc::new(Barrier(Some(sender))), receiver)
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

#[derive(Default)]
pub(crate) struct Signal {
    close: RefCell<Option<Closing>>,
    recheck: RefCell<Option<Rc<Barrier>>>,
    drain: Cell<Drain>,
    /// Kept until the connection is gone, so that a barrier also waits for the socket to be closed.
    held: RefCell<Vec<Rc<Barrier>>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Drain {
    #[default]
    No,
    Asked,
    Told,
}

impl Signal {
    pub(crate) fn close(&self, closing: Closing) {
        // The first cause is the true one.
        self.close.borrow_mut().get_or_insert(closing);
        self.wake();
    }

    pub(crate) fn recheck(&self, barrier: Rc<Barrier>) {
        *self.recheck.borrow_mut() = Some(barrier);
        self.wake();
    }

    /// As [`recheck`](Self::recheck) when nobody waits for it: one that is pending sees the same change.
    pub(crate) fn recheck_some_time(&self) {
        self.recheck
            .borrow_mut()
            .get_or_insert_with(|| Barrier::new().0);
        self.wake();
    }

    pub(crate) fn drain(&self) {
        if self.drain.get() == Drain::No {
            self.drain.set(Drain::Asked);
            self.wake();
        }
    }

    /// The barrier is let go only when this signal, and with it the connection, is dropped.
    pub(crate) fn hold(&self, barrier: Rc<Barrier>) {
        self.held.borrow_mut().push(barrier);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.get() != Drain::No
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.close.borrow().is_some()
    }

    pub(crate) fn closing(&self) -> Option<Closing> {
        self.close.borrow().clone()
    }

    /// Takes the next ask. `Drain` is told once; `Close` every time.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Ask> {
        if let Some(closing) = &*self.close.borrow() {
            return Poll::Ready(Ask::Close(closing.clone()));
        }
        if let Some(barrier) = self.recheck.borrow_mut().take() {
            return Poll::Ready(Ask::Recheck(barrier));
        }
        if self.drain.get() == Drain::Asked {
            self.drain.set(Drain::Told);
            return Poll::Ready(Ask::Drain);
        }
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(context.waker()) => {}
            _ => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Does `work` unless the registry wants it ended; `recheck` says whether a change of policy does. Draining is a
    /// state, not an event, and stays to be seen in [`is_draining`](Self::is_draining).
    pub(crate) async fn unless_closed<T>(
        &self,
        recheck: &dyn Fn() -> Result<(), Closing>,
        work: impl Future<Output = T>,
    ) -> Result<T, Closing> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            while let Poll::Ready(ask) = self.poll(context) {
                match ask {
                    Ask::Close(closing) => return Poll::Ready(Err(closing)),
                    Ask::Drain => {}
                    Ask::Recheck(barrier) => {
                        if let Err(closing) = recheck() {
                            self.hold(barrier);
                            return Poll::Ready(Err(closing));
                        }
                    }
                }
            }
            work.as_mut().poll(context).map(Ok)
        })
        .await
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
