//! Two small servers for people and probes: admin, for this pod only, and health, for whoever may reach the pod.
//!
//! **Architecture invariant:** nothing here changes policy (security.md, row 21). What it shows it asks for
//! through [`AdminState`], so that it knows no other part of the proxy.

mod answer;
mod listen;
mod pages;
mod serve;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::telemetry::logging::LogFilter;
pub(crate) use listen::{AdminListener, bind_admin, bind_health};

type Show = Box<dyn Fn() -> Value + Send + Sync>;
/// What a probe of the application says: its status, and one line.
pub(crate) type Probed = Pin<Box<dyn Future<Output = (StatusCode, String)> + Send>>;
type MakeProbe = Box<dyn Fn(&str) -> Option<Probed> + Send + Sync>;
type ShowLater = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync>;

/// What the servers may ask and do.
pub(crate) struct AdminState {
    pub(crate) ready: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// The snapshot in force.
    pub(crate) config: Show,
    /// SVID and bundles; never a key.
    pub(crate) certs: Show,
    /// Live connections, asked of every data worker.
    pub(crate) connections: ShowLater,
    /// Starts a graceful stop, and returns at once.
    pub(crate) drain: Box<dyn Fn() + Send + Sync>,
    pub(crate) log: LogFilter,
    /// Makes the application's probe `<container>/<probe>`, if there is such a one.
    pub(crate) probe: MakeProbe,
    /// The longest that a probe may take.
    pub(crate) longest_probe: Duration,
}

/// Everything that must hold before traffic may come, and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// `svid`, `configuration`, …
    pub(crate) name: &'static str,
    pub(crate) met: bool,
    /// For people: since when, until when, or what is missing.
    pub(crate) why: String,
}

impl Readiness {
    pub(crate) fn is_ready(&self) -> bool {
        self.conditions.iter().all(|condition| condition.met)
    }
}

/// Serves admin until dropped.
pub(crate) async fn serve_admin(listener: AdminListener, state: Arc<AdminState>) {
    match listener {
        AdminListener::Tcp(listener) => {
            serve::connections(
                || accept(&listener),
                move |request| pages::admin(request, Arc::clone(&state), pages::Reached::OverTcp),
                Duration::ZERO,
            )
            .await;
        }
        AdminListener::Unix(listener) => {
            serve::connections(
                || async { listener.accept().await.map(|stream| (stream, None)) },
                move |request| pages::admin(request, Arc::clone(&state), pages::Reached::OverUnix),
                Duration::ZERO,
            )
            .await;
        }
    }
}

/// Serves `/ready`, `/live`, `/metrics` and the application's probes until dropped.
pub(crate) async fn serve_health(listener: TcpListener, state: Arc<AdminState>) {
    let longest = state.longest_probe;
    serve::connections(
        || accept(&listener),
        move |request| pages::health(request, Arc::clone(&state)),
        longest,
    )
    .await;
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, Option<IpAddr>)> {
    let (stream, from) = listener.accept().await?;
    Ok((stream, Some(from.ip().to_canonical())))
}

#[cfg(test)]
mod tests;
