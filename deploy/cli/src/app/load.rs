//! A load of HTTP requests. Closed loop: each connection asks again as soon as it was answered. Open loop (`--rate`):
//! requests start on time whatever the answers do, and latency counts from when a request should have started,
//! so that a stall is seen by every request it delays.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::body::full;
use super::client::{Connection, Reply, Url, root_cause};

/// What `kith __app load` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// http://host:port/path
    pub url: Url,
    /// Connections, each with one request at a time.
    #[arg(long, short, default_value = "8")]
    pub connections: usize,
    /// Requests a second, all connections together; as many as possible when absent.
    #[arg(long, short)]
    pub rate: Option<f64>,
    /// How long; ends early, with its report, on SIGTERM.
    #[arg(long, short, default_value = "10")]
    pub seconds: f64,
    /// Speak HTTP/2 with prior knowledge.
    #[arg(long)]
    pub http2: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests answered with a status below 400.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// Status, or what the network did, to how often.
    pub outcomes: BTreeMap<String, u64>,
    /// Connections that were opened: more than asked for when the server closed some between requests.
    pub connections: u64,
    /// Of each request, in microseconds, sorted.
    pub latencies: Vec<u32>,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// The latency that a share (0 to 1) of the requests did not exceed, in milliseconds.
    #[must_use]
    pub fn percentile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        let index = ((self.latencies.len() as f64 * share) as usize)
            .min(self.latencies.len().saturating_sub(1));
        f64::from(self.latencies.get(index).copied().unwrap_or(0)) / 1000.0
    }

    /// All but the single latencies.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "requests": self.ok + self.failed, "ok": self.ok, "failed": self.failed, "outcomes": self.outcomes,
            "connections": self.connections, "seconds": self.seconds,
            "rate": (self.ok + self.failed) as f64 / self.seconds.max(f64::MIN_POSITIVE),
            "p50_ms": self.percentile(0.5), "p90_ms": self.percentile(0.9), "p99_ms": self.percentile(0.99),
            "max_ms": self.percentile(1.0),
        })
    }
}

/// Runs a load until its time is over or `stop` is ready.
///
/// # Errors
/// When the name in the URL is unknown.
pub async fn load(arguments: &Arguments, stop: impl Future<Output = ()>) -> io::Result<Report> {
    let address = arguments.url.address().await?;
    let report = Rc::new(RefCell::new(Report::default()));
    let start = Instant::now();
    let clock = Clock {
        end: start + Duration::from_secs_f64(arguments.seconds),
        gap: arguments
            .rate
            .map(|rate| Duration::from_secs_f64(arguments.connections as f64 / rate)),
    };
    let stopped = Rc::new(tokio::sync::Notify::new());
    let local = tokio::task::LocalSet::new();
    let workers: Vec<_> = (0..arguments.connections)
        .map(|number| {
            let offset = clock
                .gap
                .unwrap_or_default()
                .mul_f64(number as f64 / arguments.connections as f64);
            let worker = worker(
                arguments.clone(),
                address,
                clock,
                start + offset,
                report.clone(),
            );
            let stopped = stopped.clone();
            local.spawn_local(async move {
                tokio::select! {
                    () = worker => {}
                    () = stopped.notified() => {}
                }
            })
        })
        .collect();
    local
        .run_until(async {
            tokio::select! {
                () = async { for worker in workers { let _ = worker.await; } } => {}
                () = stop => stopped.notify_waiters(),
            }
        })
        .await;
    local.await;
    let mut report = report.take();
    report.latencies.sort_unstable();
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

#[derive(Clone, Copy)]
struct Clock {
    end: Instant,
    gap: Option<Duration>,
}

async fn worker(
    arguments: Arguments,
    address: SocketAddr,
    clock: Clock,
    first: Instant,
    report: Rc<RefCell<Report>>,
) {
    let mut due = first;
    let mut connection = None;
    loop {
        match clock.gap {
            Some(_) => tokio::time::sleep_until(due).await,
            None => due = Instant::now(),
        }
        if due >= clock.end {
            return;
        }
        let outcome = one(&arguments, address, &mut connection, &report).await;
        let micros = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut report = report.borrow_mut();
        report.latencies.push(micros);
        let (name, ok) = match outcome {
            Ok(reply) => (reply.status.to_string(), reply.status < 400),
            Err(error) => {
                connection = None;
                (root_cause(&error), false)
            }
        };
        if ok {
            report.ok += 1;
        } else {
            report.failed += 1;
        }
        *report.outcomes.entry(name).or_default() += 1;
        due += clock.gap.unwrap_or_default();
    }
}

async fn one(
    arguments: &Arguments,
    address: SocketAddr,
    held: &mut Option<Connection>,
    report: &RefCell<Report>,
) -> io::Result<Reply> {
    // A connection that the server closed while idle is replaced, as any client does; that is no failure.
    let mut idle = held.take();
    if let Some(connection) = &mut idle
        && !connection.ready().await
    {
        idle = None;
    }
    let mut connection = match idle {
        Some(connection) => connection,
        None => {
            report.borrow_mut().connections += 1;
            Connection::open(address, arguments.http2).await?
        }
    };
    let request = connection.request(Method::GET, &arguments.url, &HeaderMap::new(), full(""))?;
    let reply = connection.call(request).await?;
    *held = Some(connection);
    Ok(reply)
}

pub(crate) async fn run(arguments: Arguments) -> io::Result<ExitCode> {
    let mut term = signal(SignalKind::terminate())?;
    let report = load(&arguments, async { term.recv().await.unwrap_or_default() }).await?;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        println!(
            "{} requests in {:.1} s ({:.0}/s), {} failed, p50 {:.2} ms, p99 {:.2} ms",
            report.ok + report.failed,
            report.seconds,
            (report.ok + report.failed) as f64 / report.seconds,
            report.failed,
            report.percentile(0.5),
            report.percentile(0.99)
        );
        for (outcome, count) in &report.outcomes {
            println!("  {count:>8}  {outcome}");
        }
    }
    Ok(if report.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
