//! Everything live, checked again: against a new snapshot, and against new trust.

use std::rc::Rc;
use std::time::Instant;

use kith_certs::TrustSnapshot;
use kith_policy::Reason;

use super::{DOUBT, Live, Registry};
use crate::authorize::{plaintext_allowed, revoked};
use crate::record::{ClosedBy, Direction};
use crate::signal::{Barrier, Closing};
use crate::snapshot::{Protocol, Snapshot};
use crate::telemetry::metrics;

/// Chains verified before other work gets its turn.
const AT_ONCE: usize = 16;

impl Registry {
    /// Closes what the snapshot forbids and has requests in flight decided again; returns how many connections
    /// that were. The barrier falls when all of it has happened: forbidden sockets closed, forbidden requests reset.
    ///
    /// Idle connections to servers have no task that could act on it: whoever keeps them is to look at them afterwards.
    pub(crate) fn recheck(&self, snapshot: &Snapshot, barrier: &Rc<Barrier>) -> u64 {
        let mut closed: Vec<(Reason, u64)> = Vec::new();
        for live in self.all() {
            if live.direction == Direction::Outbound && live.mesh.borrow().is_none() {
                // From the application, or to a server without a name: nothing in a snapshot is about it.
                continue;
            }
            if live.signal.is_closing() {
                // Told to close by an earlier change, and not gone yet.
                live.signal.hold(Rc::clone(barrier));
                continue;
            }
            match live.still_allowed(snapshot) {
                Ok(()) => live.ask_in_flight(barrier),
                Err(closing) => {
                    match closed
                        .iter_mut()
                        .find(|(reason, _)| *reason == closing.reason)
                    {
                        Some((_, count)) => *count += 1,
                        None => closed.push((closing.reason, 1)),
                    }
                    live.signal.hold(Rc::clone(barrier));
                    live.signal.close(closing);
                }
            }
        }
        for (reason, count) in &closed {
            metrics::policy_closed(reason.as_str(), *count);
        }
        closed.iter().map(|(_, count)| count).sum()
    }

    /// Closes the connections whose peer this trust does not vouch for. Only those of trust domains whose bundle
    /// changed are looked at, a few at a time, since each costs a chain verification.
    ///
    /// Who lost only its authority, and can renew, gets a moment to do so: when a root is replaced in a hurry, both
    /// ends may have fresh SVIDs and one of them not know it of the other yet. Returns whether there are any such.
    pub(crate) async fn recheck_trust(
        &self,
        before: Option<&TrustSnapshot>,
        trust: &TrustSnapshot,
    ) -> bool {
        let (mut verified, mut doubted) = (0, false);
        for live in self.all() {
            let Some(peer) = live.peer() else { continue };
            if before
                .is_some_and(|before| !before.bundle_differs(trust, peer.svid().trust_domain()))
            {
                continue;
            }
            match peer.still_trusted(trust) {
                Ok(()) => live.doubted_until.set(None),
                Err(Reason::SvidUntrusted) if live.can_renew() => {
                    live.doubt();
                    doubted = true;
                }
                Err(reason) => live.lose_trust(reason),
            }
            verified += 1;
            if verified % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        doubted
    }
}

impl Registry {
    /// Has requests in flight decided again, since keys that tokens are verified with have changed.
    pub(crate) fn recheck_requests(&self) {
        for live in self.all() {
            if live.direction == Direction::Outbound {
                continue;
            }
            if live.in_flight.get() > 0 {
                live.signal.recheck_some_time();
            }
            for (_, stream) in &*live.streams.borrow() {
                if let Some(stream) = stream.upgrade() {
                    stream.recheck_some_time();
                }
            }
        }
    }
}

impl Live {
    /// Is there anything that this connection may still do?
    pub(crate) fn still_allowed(&self, snapshot: &Snapshot) -> Result<(), Closing> {
        let Some(protocol) = self.protocol.get() else {
            // Not authenticated yet: it meets the new snapshot at its first check.
            return Ok(());
        };
        let lost = |reason| Closing::new(ClosedBy::Policy, reason);
        if let Some(reason) = self.revoked(snapshot) {
            return Err(lost(reason));
        }
        if self.direction == Direction::Outbound {
            // Whom the application may call is for the server's policies to say.
            return Ok(());
        }
        let peer = self.peer();
        plaintext_allowed(snapshot, self.destination.port(), peer.is_some()).map_err(lost)?;
        let attributes = self.attributes(peer.as_ref());
        match protocol {
            Protocol::Tcp | Protocol::Tls => {
                let decision = snapshot.policies().decide(&attributes, None);
                if decision.allow {
                    Ok(())
                } else {
                    Err(Closing::forbidden(decision))
                }
            }
            Protocol::Http1 | Protocol::Http2 => snapshot
                .policies()
                .could_allow(&attributes)
                .map_err(Closing::forbidden),
        }
    }

    fn can_renew(&self) -> bool {
        self.mesh.borrow().as_ref().is_some_and(|mesh| mesh.kith)
    }

    /// It goes on for a moment, and takes no new request if it can be without.
    fn doubt(&self) {
        if self.is_doubted() {
            return;
        }
        self.doubted_until.set(Some(Instant::now() + DOUBT));
        if matches!(self.protocol.get(), Some(Protocol::Http1 | Protocol::Http2)) {
            self.signal.drain();
        }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted_until.get().is_some()
    }

    /// Its peer's SVID is good no longer, whatever policy says.
    pub(super) fn lose_trust(&self, reason: Reason) {
        if !self.signal.is_closing() {
            metrics::policy_closed(reason.as_str(), 1);
            self.signal.close(Closing::new(ClosedBy::Policy, reason));
        }
    }

    /// Our own SVID was rotated.
    pub(crate) fn outdate(&self) {
        self.outdated.set(self.can_renew());
    }

    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.get()
    }

    /// The server has heard of our SVID.
    pub(crate) fn told(&self) {
        self.outdated.set(false);
    }

    /// Why its peer, by the SVID that backs the connection now, is not to be dealt with any more.
    pub(crate) fn revoked(&self, snapshot: &Snapshot) -> Option<Reason> {
        let mesh = self.mesh.borrow();
        revoked(snapshot, &mesh.as_ref()?.peer)
    }

    fn ask_in_flight(&self, barrier: &Rc<Barrier>) {
        if self.direction == Direction::Outbound {
            return;
        }
        if self.in_flight.get() > 0 {
            self.signal.recheck(Rc::clone(barrier));
        }
        for (_, stream) in &*self.streams.borrow() {
            if let Some(stream) = stream.upgrade() {
                stream.recheck(Rc::clone(barrier));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kith_xds_client::api::mesh;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::super::Registered;
    use super::*;
    use crate::translate;

    /// Nothing is allowed.
    fn deny_all() -> Snapshot {
        let config = mesh::WorkloadConfig {
            revision: "1".into(),
            namespace: "shop".into(),
            name: "orders".into(),
            trust_domain: "example.org".into(),
            addresses: vec!["10.0.0.1".into()],
            default_mtls_mode: mesh::MtlsMode::Permissive.into(),
            default_action: mesh::DefaultAction::Deny.into(),
            egress_mode: mesh::EgressMode::Refuse.into(),
            ..Default::default()
        };
        let workload = Arc::new(translate::workload("shop/orders", &config).unwrap());
        Snapshot::complete(&workload, &Arc::default(), |_| None).unwrap()
    }

    fn open(registry: &Rc<Registry>) -> Registered {
        let source = "10.0.0.2:40000".parse().unwrap();
        let destination = "10.0.0.1:7000".parse().unwrap();
        let live = registry.open(Direction::Inbound, source, destination);
        live.protocol.set(Some(Protocol::Tcp));
        live
    }

    #[test]
    fn row_25_the_barrier_falls_when_the_last_forbidden_connection_is_gone_however_long_that_takes()
    {
        let (registry, snapshot) = (Rc::<Registry>::default(), deny_all());
        let (quick, stuck) = (open(&registry), open(&registry));
        let (barrier, mut fallen) = Barrier::new();
        assert_eq!(registry.recheck(&snapshot, &barrier), 2);
        drop(barrier);
        drop(quick);
        assert_eq!(fallen.try_recv(), Err(TryRecvError::Empty));
        // The next change waits for it too, and does not count it again.
        let (barrier, mut fallen_too) = Barrier::new();
        assert_eq!(registry.recheck(&snapshot, &barrier), 0);
        drop(barrier);
        assert_eq!(fallen_too.try_recv(), Err(TryRecvError::Empty));
        drop(stuck);
        assert_eq!((fallen.try_recv(), fallen_too.try_recv()), (Ok(()), Ok(())));
    }
}
