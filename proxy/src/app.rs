//! Binds, wires, owns every task and thread, and the deadline of a graceful stop.

mod shown;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith_certs::{Endpoint, IdentitySource, SourceConfig};
use kith_policy::Principal;
use kith_xds_client::{
    Backoff, Client, Config as XdsConfig, Connector, Kind, OnDemand, OnDemandSettings,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::accept::{self, Sharing};
use crate::admin;
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
    let ended = runtime.block_on(serve(config, log));
    // A name that is being looked up is waited for by its thread, and must not be by the end of the pod.
    runtime.shutdown_background();
    ended
}

async fn serve(config: Config, log: logging::LogFilter) -> Result<(), String> {
    let endpoint = Endpoint::parse(&config.spiffe_endpoint_socket)
        .map_err(|error| format!("SPIFFE_ENDPOINT_SOCKET: {error}"))?;
    let expected = Principal::parse(&config.xds_spiffe_id)
        .map_err(|error| format!("KITH_XDS_SPIFFE_ID: {error}"))?;

    // First of all: as a container's first process, a signal that nobody handles yet would be lost.
    let mut signals = Signals::handle().map_err(|error| format!("signals: {error}"))?;

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
        connector: connector(&identity, authority, expected, config.socket_mark),
        identity: Some(serials(&identity)),
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
    let state = Arc::new(shown::admin_state(
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

    stop_asked(&shared, &mut signals, &mut drain_asked, &mut worker_ended).await?;
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
    identity: &IdentitySource,
    authority: String,
    expected: Principal,
    mark: Option<u32>,
) -> Connector {
    let config = kith_certs::tls::client_config(identity, &[b"h2"]);
    Arc::new(move || {
        let (config, authority, expected) =
            (Arc::clone(&config), authority.clone(), expected.clone());
        Box::pin(async move { control_plane(config, &authority, &expected, mark).await })
    })
}

/// Which SVID is ours, for who is to connect anew with each.
fn serials(identity: &IdentitySource) -> watch::Receiver<Option<String>> {
    let mut updates = identity.subscribe();
    let (serials, seen) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let current = updates.borrow_and_update().clone();
            let serial = current.map(|svid| svid.serial().to_owned());
            // New bundles are no new SVID.
            serials.send_if_modified(|known| {
                let differs = *known != serial;
                *known = serial;
                differs
            });
            tokio::select! {
                changed = updates.changed() => if changed.is_err() { return },
                () = serials.closed() => return,
            }
        }
    });
    seen
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

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn handle() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// SIGTERM, SIGINT or `/drain`. SIGHUP reopens the access log.
async fn stop_asked(
    shared: &Shared,
    signals: &mut Signals,
    drain: &mut mpsc::Receiver<()>,
    worker_ended: &mut mpsc::Receiver<()>,
) -> Result<(), String> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            Some(()) = drain.recv() => return Ok(()),
            Some(()) = worker_ended.recv() => return Err("a data worker ended unasked; please report it".into()),
            _ = signals.hangup.recv() => shared.recorder.reopen(),
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
