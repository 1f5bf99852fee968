//! PeerAuthentication, RequestAuthentication, Revocation.

use std::time::SystemTime;

use kith_xds_client::api::mesh as api;

use super::policy::token_fields;
use super::{Found, Meaning};
use crate::yaml::schema::{MtlsMode, PeerAuthentication};
use crate::yaml::{Document, RequestAuthentication};

pub(super) fn check(meaning: &Meaning<'_>, now: SystemTime, found: &mut Found) {
    for file in meaning.loaded.files() {
        for document in &file.peer_authentications {
            if !meaning.selects_nothing(document, &document.spec.selector, found) {
                disabled(meaning, document, found);
                undeclared_ports(meaning, document, found);
            }
        }
        for document in &file.request_authentications {
            for (field, message) in &document.spec.warnings {
                found.add("surprising", document, field, message.as_str());
            }
            if !meaning.selects_nothing(document, &document.spec.selector, found) {
                required_by_nobody(meaning, document, found);
            }
        }
        for document in file.revocations.iter().filter(|it| it.spec.until <= now) {
            let message = "is over: it has no effect any more, and the document can go";
            found.add("revocation-expired", document, "spec.until", message);
        }
    }
}

/// Sidecars never send plaintext to the mesh (README, Limits).
fn disabled(meaning: &Meaning<'_>, document: &Document<PeerAuthentication>, found: &mut Found) {
    let selected = meaning.selected(document, &document.spec.selector);
    let mut warn = |field: &str, speaks_plaintext: &dyn Fn(usize) -> bool| {
        let effective: Vec<_> = selected
            .iter()
            .copied()
            .filter(|position| speaks_plaintext(*position))
            .collect();
        if effective.is_empty() {
            return;
        }
        let message = format!(
            "sidecars never send plaintext to the mesh, and refuse {} as `server-unauthenticated`: \
             PERMISSIVE lets callers in that have no sidecar",
            meaning.names(&effective)
        );
        found.add("disabled-in-mesh", document, field, message);
    };
    if document.spec.mtls.mode == MtlsMode::Disable {
        warn("spec.mtls.mode", &|position| {
            meaning.modes[position].default == api::MtlsMode::Disable
        });
    }
    for (port, mtls) in &document.spec.port_level_mtls {
        if mtls.mode == MtlsMode::Disable {
            let field = format!("spec.portLevelMtls.{}", port.get());
            warn(&field, &|position| {
                meaning.modes[position].ports.get(&port.get()) == Some(&api::MtlsMode::Disable)
            });
        }
    }
}

fn undeclared_ports(
    meaning: &Meaning<'_>,
    document: &Document<PeerAuthentication>,
    found: &mut Found,
) {
    let selected = meaning.selected(document, &document.spec.selector);
    for port in document.spec.port_level_mtls.keys() {
        if let Some(message) = meaning.undeclared(&selected, port.get()) {
            let field = format!("spec.portLevelMtls.{}", port.get());
            found.add("no-such-port", document, &field, message);
        }
    }
}

/// A request without a token passes as before, which surprises whoever wrote this alone.
fn required_by_nobody(
    meaning: &Meaning<'_>,
    document: &Document<RequestAuthentication>,
    found: &mut Found,
) {
    let mut unprotected = meaning.selected(document, &document.spec.selector);
    let policies = (meaning.loaded.files()).flat_map(|file| &file.authorization_policies);
    for policy in policies {
        let rules = &policy.spec.policy().rules;
        if rules.iter().any(|rule| !token_fields(rule).is_empty()) {
            let asked = meaning.selected(policy, &policy.spec.selector);
            unprotected.retain(|position| !asked.contains(position));
        }
    }
    if !unprotected.is_empty() && !document.spec.rules().is_empty() {
        let message = format!(
            "no policy for {} asks for a token: a request without one passes as before; an ALLOW with \
             `requestPrincipals: [\"*\"]` requires one",
            meaning.names(&unprotected)
        );
        found.add("token-not-required", document, "spec", message);
    }
}
