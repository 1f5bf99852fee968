//! May this happen? One pure call into the policy engine, on one snapshot, deny by default.
//!
//! **Architecture invariant:** a `Permit` has private fields and is made here only; forwarding needs one.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
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

/// The address that x-forwarded-for names once the trusted hops are counted from its right end; the TCP peer when none
/// are trusted or there is no such header. `None`: it does not reach that far, or names no address there.
pub(crate) fn remote_address(
    snapshot: &Snapshot,
    peer: IpAddr,
    request: &Request<'_>,
) -> Option<IpAddr> {
    match named_by_hops(request.headers, snapshot.workload().trusted_hops as usize) {
        Named::Nothing => Some(peer),
        Named::Address(address) => Some(address),
        Named::NoAddress => None,
    }
}

/// What trusted hops say of where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// None are trusted, or none said anything.
    Nothing,
    Address(IpAddr),
    /// What stands there is none, or fewer of them spoke than are trusted.
    NoAddress,
}

/// What the outermost of so many trusted hops says; whatever stands to the left of it anybody may have written.
pub(crate) fn named_by_hops(headers: &dyn kith_policy::Headers, hops: usize) -> Named {
    if hops == 0 {
        return Named::Nothing;
    }
    // No more of them are kept than count: a head has room for tens of thousands.
    let mut last: VecDeque<Option<IpAddr>> = VecDeque::new();
    headers.for_each("x-forwarded-for", &mut |value| {
        for part in value.split(|byte| *byte == b',') {
            let text = std::str::from_utf8(part).ok().map(str::trim);
            if last.len() == hops {
                last.pop_front();
            }
            last.push_back(text.and_then(forwarded_address));
        }
    });
    match last.pop_front() {
        None => Named::Nothing,
        Some(Some(address)) if last.len() + 1 == hops => Named::Address(address.to_canonical()),
        Some(_) => Named::NoAddress,
    }
}

/// Some load balancers write a port behind it, and brackets around IPv6 then.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let bracketed = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = match bracketed {
        Some(address) => address.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Said(&'static [&'static str]);

    impl kith_policy::Headers for Said {
        fn for_each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
            assert_eq!(name, "x-forwarded-for");
            self.0.iter().for_each(|value| visit(value.as_bytes()));
        }
    }

    #[test]
    fn row_17_only_what_a_trusted_hop_saw_is_a_remote_address() {
        let at = |address: &str| Named::Address(address.parse().unwrap());
        for (values, hops, expected) in [
            (&["192.0.2.1"][..], 0, Named::Nothing),
            (&[], 1, Named::Nothing),
            (&["192.0.2.1"], 1, at("192.0.2.1")),
            (&["192.0.2.1, 10.0.0.1"], 1, at("10.0.0.1")),
            (&["192.0.2.1 ,10.0.0.1"], 2, at("192.0.2.1")),
            (&["192.0.2.1", "10.0.0.1"], 2, at("192.0.2.1")),
            (&["1.1.1.1,2.2.2.2", "3.3.3.3,4.4.4.4"], 3, at("2.2.2.2")),
            (&["::ffff:10.0.0.1"], 1, at("10.0.0.1")),
            (&["10.0.0.1:80"], 1, at("10.0.0.1")),
            (&["[2001:db8::1]"], 1, at("2001:db8::1")),
            (&["[::ffff:10.0.0.1]:80"], 1, at("10.0.0.1")),
            (&["192.0.2.1"], 2, Named::NoAddress),
            (&["192.0.2.1,unknown"], 1, Named::NoAddress),
            (&["192.0.2.1,"], 1, Named::NoAddress),
            (&["[10.0.0.1]"], 1, Named::NoAddress),
            (&["10.0.0.1:80:80"], 1, Named::NoAddress),
        ] {
            assert_eq!(
                named_by_hops(&Said(values), hops),
                expected,
                "{values:?} {hops}"
            );
        }
    }
}
