//! One question about one request, asked when it comes and again whenever the world changes while it is in flight.
//!
//! Both protocols ask it here, and each time of the request itself, so that a live request is held to nothing less than
//! a new one: token first, then policy.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use kith_policy::{Headers, Reason, Request};

use crate::authenticate::Peer;
use crate::authorize::{self, Denial, Permit};
use crate::connections::Live;
use crate::record::{ClosedBy, EndUser, Record};
use crate::signal::Closing;
use crate::snapshot::Snapshot;
use crate::token::{self, AllHeaders, Examined, Shown};
use crate::worker::Worker;

/// All that a decision about a request reads besides the snapshot.
#[derive(Clone, Copy)]
pub(super) struct Question<'a, H> {
    pub(super) worker: &'a Worker,
    pub(super) live: &'a Live,
    pub(super) peer: Option<&'a Rc<Peer>>,
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// Normalised.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a H,
}

/// The answer no.
pub(super) struct Refusal {
    denial: Denial,
    end_user: Option<Rc<EndUser>>,
}

impl<'a, H: Headers + AllHeaders<'a>> Question<'a, H> {
    pub(super) fn ask(&self, snapshot: &Snapshot) -> Result<(Permit, Examined), Refusal> {
        let (live, peer) = (self.live, self.peer);
        if snapshot.token_rules().is_some() {
            // Who has no name where one is required gets no signature verified either.
            let port = live.destination.port();
            authorize::plaintext_allowed(snapshot, port, peer.is_some())
                .map_err(Refusal::nameless)?;
        }
        let examined = token::examine(self.worker, snapshot, peer, self.headers, self.query)
            .map_err(|refusal| Refusal {
                denial: Denial::Refused(refusal.reason),
                end_user: refusal.end_user,
            })?;
        let shown = Shown {
            received: self.headers,
            examined: &examined,
        };
        let request = Request {
            method: self.method,
            host: self.host,
            path: self.path,
            headers: &shown,
            token: examined.policy_token(),
        };
        match authorize::inbound(snapshot, live, peer, Some(&request)) {
            Ok(permit) => Ok((permit, examined)),
            Err(denial) => {
                if matches!(
                    denial.reason(),
                    Reason::PrincipalRevoked | Reason::SvidRevoked
                ) {
                    // Nothing will be allowed on this connection any more.
                    live.signal.drain();
                }
                Err(Refusal {
                    denial,
                    end_user: examined.end_user(),
                })
            }
        }
    }

    /// For a request in flight, and for what it was upgraded to. `ends`: when its token does, which may be another time
    /// by now, or the first one since tokens are looked at.
    pub(super) fn ask_again(&self, ends: &Cell<Option<SystemTime>>) -> Result<(), Closing> {
        let snapshot: Option<Arc<Snapshot>> = self.worker.shared.snapshot.load_full();
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        let refusal = match self.ask(&snapshot) {
            Ok((_, examined)) => {
                ends.set(examined.ends());
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        Err(match refusal.reason() {
            // Nobody forbade it: its time has come, a moment before its timer would say so.
            Reason::TokenExpired => Closing::new(ClosedBy::Expiry, Reason::TokenExpired),
            _ => refusal.denial.closing(),
        })
    }
}

impl Refusal {
    fn nameless(reason: Reason) -> Refusal {
        Refusal {
            denial: Denial::Refused(reason),
            end_user: None,
        }
    }

    pub(super) fn reason(&self) -> Reason {
        self.denial.reason()
    }

    pub(super) fn record(self, record: &mut Record) {
        self.denial.record(record);
        record.end_user = self.end_user;
    }
}
