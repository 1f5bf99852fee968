//! What readiness and the admin listener show of the state of the process.

use std::sync::Arc;

use kith_certs::Status;
use kith_certs::trust::RefusedBundle;
use kith_xds_client::Client;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::admin::{AdminState, Condition, Readiness};
use crate::probe::Probes;
use crate::shared::Shared;
use crate::telemetry::logging;
use crate::worker::{Command, Workers};

pub(super) fn admin_state(
    shared: &Arc<Shared>,
    workers: &Workers,
    client: &Client,
    missing: watch::Receiver<Vec<String>>,
    drain: mpsc::Sender<()>,
    log: logging::LogFilter,
) -> AdminState {
    let (ready, config, certs) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
    let xds = client.status();
    let config_xds = client.status();
    let workers = workers.clone();
    let settings = &shared.config;
    let probes = Probes::new(
        &settings.app_probes,
        settings.pod_ip,
        settings.socket_mark,
        settings.own_ports(),
    );
    AdminState {
        longest_probe: probes.longest(),
        probe: Box::new(move |name| {
            let made = probes.make(name)?;
            Some(Box::pin(async move {
                let verdict = made.await;
                (verdict.status, verdict.why)
            }))
        }),
        ready: Box::new(move || readiness(&ready, &xds.borrow(), &missing.borrow())),
        config: Box::new(move || describe_config(&config, &config_xds.borrow())),
        certs: Box::new(move || describe_certs(&certs.identity.status())),
        connections: Box::new(move || {
            let workers = workers.clone();
            Box::pin(async move {
                workers
                    .ask(Command::List)
                    .await
                    .into_iter()
                    .flatten()
                    .collect()
            })
        }),
        drain: Box::new(move || {
            let _ = drain.try_send(());
        }),
        log,
    }
}

fn readiness(shared: &Shared, xds: &kith_xds_client::Status, missing: &[String]) -> Readiness {
    let status = shared.identity.status();
    let svid = match (shared.identity.current(), &status.last_error) {
        (Some(svid), None) if status.expired => {
            let expired = crate::record::rfc3339(svid.not_after());
            (
                false,
                format!(
                    "{} expired at {expired}, and {} has sent no other",
                    svid.principal(),
                    status.endpoint
                ),
            )
        }
        (Some(svid), None) => (
            true,
            format!(
                "{} until {}",
                svid.principal(),
                crate::record::rfc3339(svid.not_after())
            ),
        ),
        (Some(svid), Some(error)) => (
            !status.expired,
            format!(
                "{} until {}, but: {error}",
                svid.principal(),
                crate::record::rfc3339(svid.not_after())
            ),
        ),
        (None, Some(error)) if status.withdrawn => (
            false,
            format!(
                "withdrawn, since {} denies us one: {error}",
                status.endpoint
            ),
        ),
        (None, Some(error)) => (
            false,
            format!("no SVID yet from {}: {error}", status.endpoint),
        ),
        (None, None) => (false, format!("no SVID yet from {}", status.endpoint)),
    };
    let snapshot = shared.snapshot();
    let connected = match (&xds.last_error, xds.connected) {
        (_, true) => format!("connected to {}", shared.config.xds_address),
        (Some(error), false) => format!("not connected to {}: {error}", shared.config.xds_address),
        (None, false) => format!("not connected to {} yet", shared.config.xds_address),
    };
    let configuration = match &*snapshot {
        Some(snapshot) => (
            true,
            format!("revision {}, {connected}", snapshot.revision()),
        ),
        None if missing.is_empty() => (false, connected),
        None => (
            false,
            format!("missing {}; {connected}", missing.join(", ")),
        ),
    };
    let condition = |name, (met, why)| Condition { name, met, why };
    Readiness {
        conditions: vec![
            condition("svid", svid),
            condition("configuration", configuration),
        ],
    }
}

fn describe_config(shared: &Shared, xds: &kith_xds_client::Status) -> serde_json::Value {
    let snapshot = shared.snapshot();
    let workload = snapshot.as_ref().map(|snapshot| {
        let workload = snapshot.workload();
        let mut ports: Vec<_> = workload
            .ports
            .iter()
            .map(|(number, port)| json!({ "port": number, "protocol": port.protocol.map(super::super::snapshot::Protocol::as_str), "mtls": format!("{:?}", port.mtls).to_uppercase() }))
            .collect();
        ports.sort_by_key(|port| port["port"].as_u64());
        json!({
            "workload": format!("{}/{}", workload.namespace, workload.name),
            "revision": workload.revision,
            "trust_domain": workload.mesh.trust_domain,
            "addresses": workload.addresses,
            "policies": workload.policies,
            "default_mtls": format!("{:?}", workload.default_mtls).to_uppercase(),
            "egress": format!("{:?}", workload.egress).to_uppercase(),
            "ports": ports,
        })
    });
    json!({
        "in_force": workload,
        "revocations": snapshot.as_ref().map(|snapshot| snapshot.revocations().len()),
        "destinations": shared.destinations.names(),
        "control_plane": {
            "address": shared.config.xds_address,
            "connected": xds.connected,
            "last_update": xds.last_update.map(crate::record::rfc3339),
            "last_error": xds.last_error,
            "last_nack": xds.last_nack,
        },
    })
}

fn describe_certs(status: &Status) -> serde_json::Value {
    let svids: Vec<_> = status
        .svids
        .iter()
        .map(|svid| {
            json!({
                "id": svid.id.as_str(), "hint": svid.hint, "serial": svid.serial, "in_use": svid.in_use,
                "not_before": crate::record::rfc3339(svid.not_before), "not_after": crate::record::rfc3339(svid.not_after),
            })
        })
        .collect();
    let bundles: Vec<_> = status
        .bundles
        .iter()
        .map(|bundle| bundle.trust_domain.as_str())
        .collect();
    let refused = |bundles: &[RefusedBundle]| -> Vec<_> {
        bundles
            .iter()
            .map(|it| json!({ "trust_domain": it.trust_domain, "why": it.why }))
            .collect()
    };
    let authorities: Vec<_> = status
        .bundles
        .iter()
        .map(|bundle| {
            json!({
                "trust_domain": bundle.trust_domain, "authorities": bundle.authorities, "valid": bundle.valid,
                "not_after": bundle.not_after.map(crate::record::rfc3339), "ignored": bundle.ignored,
            })
        })
        .collect();
    let crls: Vec<_> = status
        .crls
        .iter()
        .map(|crl| {
            json!({
                "issuer": crl.issuer, "trust_domains": crl.trust_domains, "entries": crl.revoked,
                "next_update": crate::record::rfc3339(crl.next_update), "stale": crl.stale,
            })
        })
        .collect();
    let refused_crls: Vec<_> = status
        .refused_crls
        .iter()
        .map(|it| json!({ "issuer": it.issuer, "why": it.why }))
        .collect();
    json!({
        "endpoint": status.endpoint,
        "connected": status.connected,
        "last_error": status.last_error,
        "denied_since": status.denied_since.map(crate::record::rfc3339),
        "withdrawn": status.withdrawn,
        "rotations": status.rotations,
        "overdue": status.overdue,
        "expired": status.expired,
        "revoked": status.revoked,
        "svids": svids,
        "trust_domains": bundles,
        "bundles": authorities,
        "refused_bundles": refused(&status.refused_bundles),
        "crls": crls,
        "refused_crls": refused_crls,
        "refused_jwt_bundles": refused(&status.refused_jwt_bundles),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use kith_certs::source::CrlStatus;
    use kith_certs::trust::RefusedCrl;

    use super::*;

    #[test]
    fn certs_show_what_the_authority_revoked_and_which_lists_could_not_be_used() {
        let status = Status {
            revoked: true,
            crls: vec![CrlStatus {
                issuer: "CN=root".into(),
                trust_domains: vec!["example.org".into()],
                revoked: 2,
                next_update: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
                stale: true,
            }],
            refused_crls: vec![RefusedCrl {
                issuer: "CN=other".into(),
                why: "it is a delta CRL".into(),
            }],
            ..Status::default()
        };
        let shown = describe_certs(&status);
        assert_eq!(shown["revoked"], true);
        assert_eq!(
            shown["crls"],
            json!([{
                "issuer": "CN=root", "trust_domains": ["example.org"], "entries": 2,
                "next_update": "2027-01-15T08:00:00.000Z", "stale": true,
            }])
        );
        assert_eq!(
            shown["refused_crls"],
            json!([{ "issuer": "CN=other", "why": "it is a delta CRL" }])
        );
    }
}
