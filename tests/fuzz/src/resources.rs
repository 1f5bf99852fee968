//! Resources as they come over xDS.

use kith_proxy::revocation::Revocations;
use kith_proxy::translate;
use kith_xds_client::{Kind, Resource};

/// A resource is used whole or refused by field; either way the sidecar goes on.
pub(crate) fn xds(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let kinds = [
        Kind::WorkloadConfig,
        Kind::AuthorizationPolicy,
        Kind::Address,
        Kind::RevocationList,
    ];
    let kind = kinds[usize::from(*choice) % kinds.len()];
    match kind.decode(bytes) {
        Ok(resource) => {
            let name = match &resource {
                Resource::WorkloadConfig(it) => format!("{}/{}", it.namespace, it.name),
                Resource::AuthorizationPolicy(it) => format!("{}/{}", it.namespace, it.name),
                Resource::Address(_) | Resource::RevocationList(_) => "mesh".to_owned(),
            };
            let _ = translated(&name, &resource);
        }
        Err(fault) => assert!(!fault.message.is_empty()),
    }
}

fn translated(name: &str, resource: &Resource) -> Result<(), String> {
    let words = |errors| format!("{errors:?}");
    match resource {
        Resource::WorkloadConfig(it) => translate::workload(name, it).map(drop).map_err(words),
        Resource::AuthorizationPolicy(it) => translate::policy(name, it).map(drop).map_err(words),
        Resource::Address(it) => translate::destination(it).map(drop).map_err(words),
        Resource::RevocationList(it) => Revocations::new(name, it).map(drop).map_err(words),
    }
}

/// What was made by the control plane must be taken by a sidecar.
pub(crate) fn accepted(kind: &str, name: &str, bytes: &[u8]) {
    let kind = [Kind::WorkloadConfig, Kind::AuthorizationPolicy]
        .into_iter()
        .find(|known| known.name() == kind);
    let Some(kind) = kind else { return };
    let outcome = match kind.decode(bytes) {
        Ok(resource) => translated(name, &resource),
        Err(fault) => Err(format!("{fault:?}")),
    };
    if let Err(error) = outcome {
        panic!("accepted by the control plane and refused by the sidecar: {kind} {name}: {error}");
    }
}
