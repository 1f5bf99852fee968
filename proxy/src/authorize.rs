//! May this happen? One pure call into the policy engine, on one snapshot, deny by default.
//!
//! **Architecture invariant:** a `Permit` has private fields and is made here only; forwarding needs one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use kith_policy::{Decision, Reason, Request};

use crate::authenticate::Peer;
use crate::connections::Live;
use crate::record::{ClosedBy, Record};
use crate::signal::Closing;
use crate::snapshot::{MtlsMode, Snapshot};

/// Proof that a decision allowed this.
#[derive(Debug)]
pub(crate) struct Permit(Decision);

/// The opposite, with the reason.
#[derive(Debug)]
pub(crate) enum Denial {
    Decided(Decision),
    /// Refused before any policy was asked.
    Refused(Reason),
}

impl Permit {
    /// Outbound calls are not subject to the caller's own policies; the record says so with the default's name.
    pub(crate) fn outbound(revision: &Arc<str>) -> Permit {
        Permit(Decision {
            allow: true,
            reason: Reason::AllowedByDefault,
            policy: None,
            rule: None,
            nearest: None,
            shadow: Vec::new(),
            would_allow: None,
            revision: Arc::clone(revision),
        })
    }

    pub(crate) fn decision(&self) -> &Decision {
        &self.0
    }
}

impl Denial {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Denial::Decided(decision) => decision.reason,
            Denial::Refused(reason) => *reason,
        }
    }

    pub(crate) fn record(&self, record: &mut Record) {
        match self {
            Denial::Decided(decision) => record.decide(decision),
            Denial::Refused(reason) => record.refuse(*reason),
        }
    }

    /// What a live request or connection that this denies ends for.
    pub(crate) fn closing(self) -> Closing {
        match self {
            Denial::Decided(decision) => Closing::forbidden(decision),
            Denial::Refused(reason) => Closing::new(ClosedBy::Policy, reason),
        }
    }
}

/// Inbound, per connection for opaque bytes (`request` absent) and per request for HTTP.
pub(crate) fn inbound(
    snapshot: &Snapshot,
    live: &Live,
    peer: Option<&Rc<Peer>>,
    request: Option<&Request<'_>>,
) -> Result<Permit, Denial> {
    if let Some(reason) = live.revoked(snapshot) {
        return Err(Denial::Refused(reason));
    }
    plaintext_allowed(snapshot, live.destination.port(), peer.is_some())
        .map_err(Denial::Refused)?;
    let mut attributes = live.attributes(peer);
    if let Some(request) = request {
        attributes.remote = remote_address(snapshot, live.source.ip(), request);
    }
    let decision = snapshot.policies().decide(&attributes, request);
    if decision.allow {
        Ok(Permit(decision))
    } else {
        Err(Denial::Decided(decision))
    }
}

/// Why this peer, client or server, is not to be dealt with whatever policies say: its principal or its SVID is on the
/// revocation list.
pub(crate) fn revoked(snapshot: &Snapshot, peer: &Peer) -> Option<Reason> {
    let revocations = snapshot.revocations();
    if revocations.is_empty() {
        return None;
    }
    revocations.svid(peer.principal(), peer.svid().serial(), SystemTime::now())
}

/// Plaintext is refused where mTLS is strict, and wherever any policy of the port is about identity: a
/// permissive port must not let somebody without a name pass as "not that principal" (resources.md, stricter rule 3).
pub(crate) fn plaintext_allowed(
    snapshot: &Snapshot,
    port: u16,
    authenticated: bool,
) -> Result<(), Reason> {
    let strict = snapshot.port(port).mtls == MtlsMode::Strict;
    if !authenticated && (strict || snapshot.policies().uses_identity(port)) {
        return Err(Reason::PeerUnauthenticated);
    }
    Ok(())
}

/// The address that x-forwarded-for names once the trusted hops are counted from its right end; the
/// TCP peer when none are trusted or the header does not reach that far.
pub(crate) fn remote_address(
    snapshot: &Snapshot,
    peer: std::net::IpAddr,
    request: &Request<'_>,
) -> std::net::IpAddr {
    let hops = snapshot.workload().trusted_hops as usize;
    if hops == 0 {
        return peer;
    }
    let mut addresses: Vec<Option<std::net::IpAddr>> = Vec::new();
    request.headers.for_each("x-forwarded-for", &mut |value| {
        for part in value.split(|byte| *byte == b',') {
            let text = std::str::from_utf8(part).ok().map(str::trim);
            addresses.push(text.and_then(|text| text.parse().ok()));
        }
    });
    match addresses
        .len()
        .checked_sub(hops)
        .and_then(|index| addresses.get(index))
    {
        Some(Some(address)) => address.to_canonical(),
        _ => peer,
    }
}
