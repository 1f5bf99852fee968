//! What each call is answered with, at this moment, to this caller.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::json;
use tonic::Status;

use crate::authority::caller::Caller;
use crate::authority::state::{Inner, State};
use crate::authority::{AuthorityError, Entry, Malformed, jwt};
use crate::workload_api::proto::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesResponse, X509svid, X509svidResponse,
};
use crate::{SpiffeId, TrustDomain};

pub(super) struct Answer<M> {
    pub(super) message: M,
    /// When it becomes stale by itself.
    pub(super) renew_at: Option<SystemTime>,
}

pub(super) fn x509_svids(
    state: &State,
    caller: &Caller,
) -> Result<Answer<X509svidResponse>, Status> {
    let now = SystemTime::now();
    let mut inner = state.lock();
    let entries = entitled(&inner, caller)?;
    let bundle = inner.ca.bundle_der();
    let mut message = X509svidResponse {
        federated_bundles: federated(&inner),
        ..Default::default()
    };
    let mut renew_at = None;
    for entry in entries {
        let current = inner.current(&entry.id, now).map_err(internal)?;
        renew_at =
            Some(renew_at.map_or(current.renew_at, |at: SystemTime| at.min(current.renew_at)));
        let mut svid = X509svid::default();
        svid.spiffe_id = entry.id.to_string();
        svid.x509_svid = current.svid.certificate_der.clone();
        svid.x509_svid_key = current.svid.key_pkcs8.to_vec();
        svid.bundle = bundle.clone();
        svid.hint = entry.hint;
        message.svids.push(svid);
    }
    if let Some(kind) = inner.switches.malformed {
        spoil(&mut message, kind, state.trust_domain(), &mut inner)?;
    }
    Ok(Answer { message, renew_at })
}

pub(super) fn x509_bundles(
    state: &State,
    caller: &Caller,
) -> Result<Answer<X509BundlesResponse>, Status> {
    let inner = state.lock();
    entitled(&inner, caller)?;
    let mut bundles = federated(&inner);
    bundles.insert(state.trust_domain().id(), inner.ca.bundle_der());
    Ok(Answer {
        message: X509BundlesResponse {
            bundles,
            ..Default::default()
        },
        renew_at: None,
    })
}

pub(super) fn jwt_bundles(
    state: &State,
    caller: &Caller,
) -> Result<Answer<JwtBundlesResponse>, Status> {
    let inner = state.lock();
    entitled(&inner, caller)?;
    let keys: Vec<_> = inner.ca.roots().iter().map(|root| root.jwt.jwk()).collect();
    let mut bundles: BTreeMap<String, Vec<u8>> = inner
        .federated
        .iter()
        .filter_map(|(domain, federated)| Some((domain.id(), federated.jwks.clone()?)))
        .collect();
    bundles.insert(
        state.trust_domain().id(),
        json!({"keys": keys}).to_string().into_bytes(),
    );
    Ok(Answer {
        message: JwtBundlesResponse { bundles },
        renew_at: None,
    })
}

pub(super) fn jwt_svids(
    state: &State,
    caller: &Caller,
    request: &JwtsvidRequest,
) -> Result<JwtsvidResponse, Status> {
    let now = SystemTime::now();
    let mut inner = state.lock();
    let mut entries = entitled(&inner, caller)?;
    // SPIFFE_Workload_API 4.5: mandatory.
    if request.audience.iter().all(String::is_empty) {
        return Err(Status::invalid_argument("a JWT-SVID needs an audience"));
    }
    if !request.spiffe_id.is_empty() {
        let wanted = SpiffeId::parse(&request.spiffe_id)
            .map_err(|fault| Status::invalid_argument(fault.to_string()))?;
        entries.retain(|entry| entry.id == wanted);
        if entries.is_empty() {
            return Err(Status::permission_denied(format!(
                "the caller isn't entitled to {wanted}"
            )));
        }
    }
    let ttl = inner.ttl;
    let key = inner.ca.signing_jwt_key(now, now + ttl);
    let svids = entries.into_iter().map(|entry| {
        let token = key
            .sign(&entry.id, &request.audience, ttl, now)
            .map_err(internal)?;
        Ok(Jwtsvid {
            spiffe_id: entry.id.to_string(),
            svid: token,
            hint: entry.hint,
        })
    });
    Ok(JwtsvidResponse {
        svids: svids.collect::<Result<_, Status>>()?,
    })
}

/// Tokens of our own trust domain; foreign ones are the callers' to verify.
pub(super) fn validate_jwt_svid(
    state: &State,
    caller: &Caller,
    request: &ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    let inner = state.lock();
    entitled(&inner, caller)?;
    let now = SystemTime::now();
    let claims = inner
        .ca
        .roots()
        .iter()
        .find_map(|root| root.jwt.validate(&request.svid, &request.audience, now))
        .unwrap_or_else(|| Err("no key of this trust domain signed the token".to_owned()))
        .map_err(Status::invalid_argument)?;
    let spiffe_id = claims
        .get("sub")
        .and_then(|sub| sub.as_str())
        .unwrap_or_default()
        .to_owned();
    Ok(ValidateJwtsvidResponse {
        spiffe_id,
        claims: Some(jwt::to_struct(claims)),
    })
}

fn entitled(inner: &Inner, caller: &Caller) -> Result<Vec<Entry>, Status> {
    let mut entries: Vec<Entry> = Vec::new();
    if !inner.switches.deny {
        for entry in inner
            .entries
            .iter()
            .filter(|entry| caller.is_entitled_to(entry))
        {
            // Entitled in two ways is still one identity.
            if !entries
                .iter()
                .any(|known| known.id == entry.id && known.hint == entry.hint)
            {
                entries.push(entry.clone());
            }
        }
    }
    if entries.is_empty() {
        return Err(Status::permission_denied("no identity issued"));
    }
    Ok(entries)
}

fn federated(inner: &Inner) -> BTreeMap<String, Vec<u8>> {
    inner
        .federated
        .iter()
        .map(|(domain, federated)| (domain.id(), federated.bundle.clone()))
        .collect()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn internal(problem: AuthorityError) -> Status {
    Status::internal(problem.to_string())
}

/// Makes an answer wrong in one way, for tests of clients.
fn spoil(
    message: &mut X509svidResponse,
    kind: Malformed,
    own: &TrustDomain,
    inner: &mut Inner,
) -> Result<(), Status> {
    let now = SystemTime::now();
    let ttl = inner.ttl;
    let stranger = |inner: &mut Inner| {
        let id = SpiffeId::parse(&format!("{}/stranger", own.id()))
            .map_err(|e| Status::internal(e.to_string()))?;
        inner.ca.issue(&id, ttl, now).map_err(internal)
    };
    let first = message.svids.first_mut();
    match (kind, first) {
        (Malformed::NoSvids, _) => message.svids.clear(),
        (Malformed::EmptySvid, Some(svid)) => svid.x509_svid.clear(),
        (Malformed::EmptyKey, Some(svid)) => svid.x509_svid_key.clear(),
        (Malformed::EmptyBundle, Some(svid)) => svid.bundle.clear(),
        (Malformed::WrongKey, Some(svid)) => {
            svid.x509_svid_key = stranger(inner)?.key_pkcs8.to_vec()
        }
        (Malformed::WrongId, Some(svid)) => svid.x509_svid = stranger(inner)?.certificate_der,
        (Malformed::GarbageChain, Some(svid)) => {
            svid.x509_svid = b"this is no certificate".to_vec()
        }
        (Malformed::BadFederatedBundle, _) => {
            message.federated_bundles.insert(
                "spiffe://broken.example".to_owned(),
                b"this is no bundle".to_vec(),
            );
        }
        (Malformed::FederatedOwnDomain, Some(svid)) => {
            let bundle = svid.bundle.clone();
            message.federated_bundles.insert(own.id(), bundle);
        }
        (Malformed::Oversized, _) => message.crl.push(vec![0; 5 * 1024 * 1024]),
        (_, None) => {}
    }
    Ok(())
}
