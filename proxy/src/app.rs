//! Binds, wires, owns every task and thread, and the deadline of a graceful stop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith_certs::trust::RefusedBundle;
use kith_certs::{Endpoint, IdentitySource, SourceConfig};
use kith_policy::Principal;
use kith_xds_client::{
    Backoff, Client, Config as XdsConfig, Connector, Kind, OnDemand, OnDemandSettings,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::accept::{self, Sharing};
use crate::admin::{self, AdminState, Condition, Readiness};
use crate::authenticate::control_plane;
use crate::config::Config;
use crate::control::Control;
use crate::record::Recorder;
use crate::shared::Shared;
use crate::telemetry::{logging, metrics};
use crate::worker::{self, Command, Listeners, Workers};

/// How long the last records may take to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// How often gauges that nobody pushes are read.
const OBSERVE: Duration = Duration::from_secs(1);

/// How often a state that somebody must act on is logged again.
const REMIND: Duration = Duration::from_secs(30);

/// Runs the sidecar until it is told to stop and has drained. The error is one line for a person.
pub(crate) fn run(config: Config) -> Result<(), String> {
    let log = logging::install(&config.log)?;
    metrics::install();
    limits();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(serve(config, log))
}

async fn serve(config: Config, log: logging::LogFilter) -> Result<(), String> {
    let endpoint = Endpoint::parse(&config.spiffe_endpoint_socket)
        .map_err(|error| format!("SPIFFE_ENDPOINT_SOCKET: {error}"))?;
    let expected = Principal::parse(&config.xds_spiffe_id)
        .map_err(|error| format!("KITH_XDS_SPIFFE_ID: {error}"))?;

    // Everything that can be in the way is found out before anything is started. SO_REUSEPORT would let a second
    // sidecar share the ports of a first.
    for (variable, address) in [
        ("KITH_INBOUND_LISTEN", config.inbound_listen),
        ("KITH_OUTBOUND_LISTEN", config.outbound_listen),
    ] {
        bind(variable, address, None, Sharing::Alone)?;
    }
    let mut listeners = Vec::with_capacity(config.workers);
    for _ in 0..config.workers {
        listeners.push(Listeners {
            inbound: bind(
                "KITH_INBOUND_LISTEN",
                config.inbound_listen,
                config.socket_mark,
                Sharing::Workers,
            )?,
            outbound: bind(
                "KITH_OUTBOUND_LISTEN",
                config.outbound_listen,
                config.socket_mark,
                Sharing::Workers,
            )?,
        });
    }
    let admin_listener = admin::bind_admin(&config.admin_listen)
        .await
        .map_err(|error| error.to_string())?;
    let health_listener = admin::bind_health(config.health_listen)
        .await
        .map_err(|error| error.to_string())?;
    let recorder = Recorder::start(
        &config.access_log,
        config.records_when_full,
        config.log_query,
    )
    .map_err(|error| format!("KITH_ACCESS_LOG: {error}"))?;

    let identity = IdentitySource::start(SourceConfig {
        hint: config.svid_hint.clone(),
        ..SourceConfig::new(endpoint)
    });
    let authority = config.xds_address.trim_start_matches("https://").to_owned();
    let (client, deliveries) = Client::start(XdsConfig {
        authority: authority.clone(),
        node_id: config.node_id.clone(),
        user_agent_version: env!("CARGO_PKG_VERSION").into(),
        state_dir: config.state_dir.clone(),
        connector: connector(identity.clone(), authority, expected, config.socket_mark),
        backoff: Backoff::default(),
    });
    let destinations = OnDemand::new(client.clone(), Kind::Address, OnDemandSettings::default());
    let shared = Arc::new(Shared::new(
        config,
        identity.clone(),
        destinations,
        recorder,
    ));

    let (senders, receivers): (Vec<_>, Vec<_>) =
        listeners.iter().map(|_| mpsc::unbounded_channel()).unzip();
    let workers = Workers::new(senders);
    let mut threads = Vec::new();
    // Told when a worker's thread ends, however it ends: without it the sidecar would look alive and serve nobody.
    let (worker_runs, mut worker_ended) = mpsc::channel::<()>(1);
    for (index, (listeners, commands)) in listeners.into_iter().zip(receivers).enumerate() {
        let (shared, workers, runs) = (Arc::clone(&shared), workers.clone(), worker_runs.clone());
        let thread = std::thread::Builder::new()
            .name(format!("kith-data-{index}"))
            .spawn(move || {
                let _runs = EndTold(runs);
                worker::run(shared, workers, listeners, commands)
            })
            .map_err(|error| format!("no thread for data worker {index}: {error}"))?;
        threads.push(thread);
    }

    let (missing, missing_seen) =
        watch::channel(vec!["the configuration of this workload".to_owned()]);
    let control = Control::new(
        Arc::clone(&shared),
        workers.clone(),
        client.clone(),
        missing,
    );
    tokio::spawn(control.run(deliveries, identity.subscribe()));
    let (drain, mut drain_asked) = mpsc::channel(1);
    let state = Arc::new(admin_state(
        &shared,
        &workers,
        &client,
        missing_seen,
        drain,
        log,
    ));
    tokio::spawn(admin::serve_admin(admin_listener, Arc::clone(&state)));
    tokio::spawn(admin::serve_health(health_listener, state));
    tokio::spawn(observe(Arc::clone(&shared), client));
    tracing::info!(
        node = shared.config.node_id,
        version = env!("CARGO_PKG_VERSION"),
        "kith-proxy is running"
    );

    stop_asked(&shared, &mut drain_asked, &mut worker_ended).await?;
    drain_and_stop(&shared, &workers).await;
    for thread in threads {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("a data worker failed: {error}")),
            Err(_) => return Err("a data worker panicked; please report it".into()),
        }
    }
    if !shared.recorder.flush(FLUSH) {
        tracing::error!(
            "not all records could be written before the end; is the disk full or the pipe unread?"
        );
    }
    Ok(())
}

fn bind(
    variable: &str,
    address: SocketAddr,
    mark: Option<u32>,
    sharing: Sharing,
) -> Result<std::net::TcpListener, String> {
    let bound = match accept::listen(address, mark, sharing) {
        // No IPv6 here: "any address" then means any IPv4 address.
        Err(error)
            if address.ip().is_unspecified()
                && address.is_ipv6()
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            accept::listen(
                (Ipv4Addr::UNSPECIFIED, address.port()).into(),
                mark,
                sharing,
            )
        }
        other => other,
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{variable}: {address} is in use; stop what listens there (ss -ltnp), or choose another port here and in `kith-proxy capture`")
        }
        io::ErrorKind::PermissionDenied if mark.is_some() => {
            format!("{variable}: KITH_SOCKET_MARK needs CAP_NET_ADMIN; grant it, or give the proxy a uid of its own instead ({error})")
        }
        _ => format!("{variable}: can't listen on {address}: {error}"),
    })
}

/// As many descriptors as the kernel allows, since each connection needs two; and no core dumps, which
/// would carry keys to disk.
fn limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
}

/// Opens authenticated streams to the control plane: our SVID, its SVID, its expected name.
fn connector(
    identity: IdentitySource,
    authority: String,
    expected: Principal,
    mark: Option<u32>,
) -> Connector {
    let config = kith_certs::tls::client_config(&identity, &[b"h2"]);
    Arc::new(move || {
        let (config, authority, expected) =
            (Arc::clone(&config), authority.clone(), expected.clone());
        Box::pin(async move { control_plane(config, &authority, &expected, mark).await })
    })
}

fn admin_state(
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
    AdminState {
        ready: Box::new(move || readiness(&ready, &xds.borrow(), &missing.borrow())),
        config: Box::new(move || describe_config(&config, &config_xds.borrow())),
        certs: Box::new(move || describe_certs(&certs)),
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
            .map(|(number, port)| json!({ "port": number, "protocol": port.protocol.map(|it| it.as_str()), "mtls": format!("{:?}", port.mtls).to_uppercase() }))
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

fn describe_certs(shared: &Shared) -> serde_json::Value {
    let status = shared.identity.status();
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
    json!({
        "endpoint": status.endpoint,
        "connected": status.connected,
        "last_error": status.last_error,
        "rotations": status.rotations,
        "overdue": status.overdue,
        "expired": status.expired,
        "svids": svids,
        "trust_domains": bundles,
        "refused_bundles": refused(&status.refused_bundles),
        "refused_jwt_bundles": refused(&status.refused_jwt_bundles),
    })
}

async fn observe(shared: Arc<Shared>, client: Client) {
    let status = client.status();
    let mut interval = tokio::time::interval(OBSERVE);
    let mut told: Option<Instant> = None;
    loop {
        interval.tick().await;
        metrics::xds_connected(status.borrow().connected);
        let expired = shared
            .identity
            .current()
            .is_some_and(|svid| svid.not_after() < SystemTime::now());
        if expired && told.is_none_or(|told| told.elapsed() >= REMIND) {
            tracing::error!(
                "our SVID has expired and every handshake fails; is the SPIFFE agent up? see /certs"
            );
            told = Some(Instant::now());
        }
    }
}

struct EndTold(mpsc::Sender<()>);

impl Drop for EndTold {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

/// SIGTERM, SIGINT or `/drain`. SIGHUP reopens the access log.
async fn stop_asked(
    shared: &Shared,
    drain: &mut mpsc::Receiver<()>,
    worker_ended: &mut mpsc::Receiver<()>,
) -> Result<(), String> {
    let on = |kind: SignalKind| signal(kind).map_err(|error| format!("signals: {error}"));
    let (mut terminate, mut interrupt, mut hangup) = (
        on(SignalKind::terminate())?,
        on(SignalKind::interrupt())?,
        on(SignalKind::hangup())?,
    );
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            Some(()) = drain.recv() => return Ok(()),
            Some(()) = worker_ended.recv() => return Err("a data worker ended unasked; please report it".into()),
            _ = hangup.recv() => shared.recorder.reopen(),
        }
    }
}

/// Inbound ends first; outbound stays while the application still uses it, up to the deadline.
async fn drain_and_stop(shared: &Shared, workers: &Workers) {
    tracing::info!(deadline = ?shared.config.drain, "draining");
    workers.tell(|| Command::Drain);
    let drained = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let counts = workers.ask(Command::Count).await;
            if counts
                .iter()
                .all(|(inbound, outbound)| inbound + outbound == 0)
            {
                return;
            }
        }
    };
    if tokio::time::timeout(shared.config.drain, drained)
        .await
        .is_err()
    {
        tracing::warn!("the drain deadline has come; closing what is still open");
    }
    workers.ask(Command::Stop).await;
}
