//! Bearer tokens of requests (RFC 6750, RFC 7519): which count, whether one is good, and what the application sees of it.
//!
//! A request has one of three things: no token, a good one, or a bad one, and a bad one is refused before any policy is
//! asked (security.md, row 16). Modules in reading order:
//! - `rules`: what the configuration says, and where tokens may be
//! - `locate`, with `query` and `cookie`: finding the one token of a request
//! - `verify`: signature once, everything that may change on every use
//! - `cache`: tokens whose signature was verified
//! - `claims`: claims as headers
//! - `expiry`: nothing outlives its token
//!
//! **Architecture invariant:** a [`Verified`] has private fields and is made here only. The text of a token leaves this
//! module to the application, where the configuration says so, and never to a record or a log.

mod cache;
mod claims;
mod cookie;
mod expiry;
mod locate;
pub(crate) mod query;
pub mod rules;
mod verify;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use kith_policy::{Headers, Reason};

pub(crate) use cache::Cache;
pub(crate) use expiry::while_valid;
pub(crate) use locate::AllHeaders;
use rules::{Location, Rules};
pub(crate) use verify::Verified;
use verify::{Circumstances, Refused};

use crate::authenticate::Peer;
use crate::headers::same_name;
use crate::record::EndUser;
use crate::revocation::Revocations;
use crate::snapshot::Snapshot;
use crate::worker::Worker;

/// What is known of a request's token, and what becomes of it on the way to the application.
#[derive(Default)]
pub(crate) struct Examined {
    rules: Option<Arc<Rules>>,
    token: Option<Rc<Verified>>,
    /// The locations to take it from before the application sees the request, one bit each.
    stripped: u64,
}

/// A request with a token that is not good.
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// What is proved of it all the same, for the record.
    pub(crate) end_user: Option<Rc<EndUser>>,
}

/// Looks for the request's token and asks everything of it that this snapshot wants to know. `query` is the request's.
pub(crate) fn examine<'a>(
    worker: &Worker,
    snapshot: &Snapshot,
    peer: Option<&Rc<Peer>>,
    headers: &dyn AllHeaders<'a>,
    query: Option<&'a str>,
) -> Result<Examined, Refusal> {
    let Some(rules) = snapshot.token_rules() else {
        return Ok(Examined::default());
    };
    let own = rules
        .any_trust_domain()
        .then(|| worker.shared.identity.current())
        .flatten();
    let circumstances = Circumstances {
        now: SystemTime::now(),
        own: own.as_deref(),
        thumbprint: peer.map(|peer| peer.svid().thumbprint()),
        revoked: &|token, now| is_revoked(snapshot.revocations(), token, now),
    };
    examined(rules, &worker.tokens, &circumstances, headers, query).map_err(|refused| {
        tracing::debug!(
            reason = refused.reason.as_str(),
            why = refused.why,
            "refused a token"
        );
        Refusal {
            reason: refused.reason,
            end_user: refused.end_user,
        }
    })
}

fn examined<'a>(
    rules: &Arc<Rules>,
    cache: &Cache,
    circumstances: &Circumstances<'_>,
    headers: &dyn AllHeaders<'a>,
    query: Option<&'a str>,
) -> Result<Examined, Refused> {
    let mut examined = Examined {
        rules: Some(Arc::clone(rules)),
        ..Examined::default()
    };
    let Some(found) = locate::locate(rules.locations(), headers, query)? else {
        return Ok(examined);
    };
    let token = match cache.get(&found.text) {
        Some(known) if known.is_current(rules, circumstances.own) => known,
        _ => {
            let verified = Rc::new(verify::verify(&found.text, rules, circumstances.own)?);
            cache.insert(&verified);
            verified
        }
    };
    token.check(rules.lists(&token.rule(), found.at), circumstances)?;
    if !token.rule().forward {
        examined.stripped = found.at;
    }
    examined.token = Some(token);
    Ok(examined)
}

fn is_revoked(list: &Revocations, token: &Verified, now: SystemTime) -> bool {
    if list.is_empty() {
        return false;
    }
    // A JWT-SVID of somebody who is no longer to be trusted is not, either.
    if list.principal(token.policy_token().subject, now) {
        return true;
    }
    let (digest, twin) = token.digests();
    list.token(&digest, token.jti(), now) || twin.is_some_and(|twin| list.token(&twin, None, now))
}

impl Examined {
    /// As the policy engine sees it.
    pub(crate) fn policy_token(&self) -> Option<kith_policy::Token<'_>> {
        self.token.as_deref().map(Verified::policy_token)
    }

    pub(crate) fn end_user(&self) -> Option<Rc<EndUser>> {
        self.token.as_ref().map(|token| Rc::clone(token.end_user()))
    }

    /// When whatever this token allowed ends.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        self.token.as_ref().map(|token| token.ends())
    }

    /// Headers that the application gets claims in.
    pub(crate) fn set(&self) -> &[(String, Vec<u8>)] {
        self.token.as_deref().map_or(&[], Verified::headers)
    }

    /// Headers of the caller that the application must not see, lower case: the token where it is not forwarded,
    /// and always whatever stands in the place of claims (security.md, row 17).
    pub(crate) fn removed(&self) -> impl Iterator<Item = &str> {
        let claims = self.rules.iter().flat_map(|rules| rules.claim_headers());
        claims
            .map(String::as_str)
            .chain(self.stripped().filter_map(|location| match location {
                Location::Header { name, .. } => Some(name.as_str()),
                _ => None,
            }))
    }

    /// Names that no trailer may have, since an application may take trailers for headers: those of headers that
    /// carry claims or tokens.
    pub(crate) fn own_headers(&self) -> Option<Arc<[String]>> {
        Some(Arc::clone(self.rules.as_ref()?.own_headers()))
    }

    /// The query as the application gets it.
    pub(crate) fn query<'q>(&self, query: Option<&'q str>) -> Option<Cow<'q, str>> {
        let query = query?;
        let doomed = |name: &str| {
            self.stripped()
                .any(|location| matches!(location, Location::Param(param) if param == name))
        };
        if !self
            .stripped()
            .any(|location| matches!(location, Location::Param(_)))
        {
            return Some(Cow::Borrowed(query));
        }
        query::without(query, doomed).map(Cow::Owned)
    }

    /// The cookies as the application gets them; `None` when they stay as they are, empty when none are left.
    pub(crate) fn cookies<'a>(&self, headers: &dyn AllHeaders<'a>) -> Option<Vec<u8>> {
        let doomed = |name: &[u8]| {
            self.stripped().any(
                |location| matches!(location, Location::Cookie(cookie) if cookie.as_bytes() == name),
            )
        };
        self.stripped()
            .any(|location| matches!(location, Location::Cookie(_)))
            .then(|| cookie::without(headers, doomed))
    }

    fn stripped(&self) -> impl Iterator<Item = &Location> {
        let locations = match &self.rules {
            Some(rules) if self.stripped != 0 => rules.locations(),
            _ => &[],
        };
        let bits = self.stripped;
        locations
            .iter()
            .enumerate()
            .filter(move |(index, _)| bits & (1 << index) != 0)
            .map(|(_, location)| location)
    }
}

/// The headers of a request as the application will see them: policy decides about nothing else.
pub(crate) struct Shown<'e, H> {
    pub(crate) received: &'e H,
    pub(crate) examined: &'e Examined,
}

impl<'a, H: Headers + AllHeaders<'a>> Headers for Shown<'_, H> {
    fn for_each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        let mut set = self.examined.set().iter();
        if let Some((_, value)) = set.find(|(set, _)| set == name) {
            return visit(value);
        }
        if self
            .examined
            .removed()
            .any(|removed| same_name(removed, name))
        {
            return;
        }
        match (name == "cookie").then(|| self.examined.cookies(self.received)) {
            Some(Some(left)) if left.is_empty() => {}
            Some(Some(left)) => visit(&left),
            _ => self.received.for_each(name, visit),
        }
    }
}

#[cfg(fuzzing)]
pub(crate) mod fuzzing;
#[cfg(test)]
pub(crate) mod tests;
