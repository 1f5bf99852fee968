//! What each call is answered with, at this moment, to this caller.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Map;
use tonic::Status;

use crate::authority::caller::Caller;
use crate::authority::state::{Inner, State};
use crate::authority::{AuthorityError, Entry, Malformed, jwt};
use crate::jwt::{Jwks, Jwt, JwtSvid};
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
        svids: Vec::new(),
        crl: inner.revocations.lists(),
        federated_bundles: federated(&inner),
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
            crl: inner.revocations.lists(),
            bundles,
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
    let mut bundles: BTreeMap<String, Vec<u8>> = inner
        .federated
        .iter()
        .filter_map(|(domain, federated)| Some((domain.id(), federated.jwks.clone()?)))
        .collect();
    bundles.insert(
        state.trust_domain().id(),
        inner.jwks().to_string().into_bytes(),
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
            .sign(&entry.id, &request.audience, ttl, now, Map::new())
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
    let domain = state.trust_domain().as_str();
    let refused = |why: String| Status::invalid_argument(why);
    let keys = Jwks::parse_spiffe_bundle(inner.jwks().to_string().as_bytes())
        .map_err(|why| Status::internal(why.to_string()))?;
    let token = Jwt::parse(&request.svid).map_err(|why| refused(why.to_string()))?;
    let svid = JwtSvid::verify(&token, domain, &keys).map_err(|why| refused(why.to_string()))?;
    if !token.audiences().any(|meant| meant == request.audience) {
        let audience = &request.audience;
        return Err(refused(format!(
            "the token isn't for audience {audience:?}"
        )));
    }
    if svid.exp() <= SystemTime::now() {
        return Err(refused("the token has expired".to_owned()));
    }
    Ok(ValidateJwtsvidResponse {
        spiffe_id: svid.id().to_string(),
        claims: Some(jwt::to_struct(token.claims().clone())),
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
        (Malformed::BadCrl, _) => message.crl.push(b"this is no CRL".to_vec()),
        (Malformed::Oversized, _) => message.crl.push(vec![0; 5 * 1024 * 1024]),
        (_, None) => {}
    }
    Ok(())
}
