//! All metrics of the proxy, by name. Few, and bounded: no label that a caller controls is without a cap.
//!
//! Handles are counters to keep; looking one up takes a lock, so the data path does it once per connection.

mod families;
mod pairs;
mod text;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::gauge::Gauge;

use families::{
    ConnectionLabels, DetectLabels, FailureLabels, Families, ReasonLabels, RevisionLabels,
    UpdateLabels,
};
pub(crate) use families::{Counter, RequestLabels};
pub(crate) use pairs::Pair;

use crate::record::Direction;

static FAMILIES: LazyLock<Families> = LazyLock::new(Families::default);

/// Which end of a handshake this proxy was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }
}

/// The text format that the scraper asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// By the `Accept` header; Prometheus asks for OpenMetrics first.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything, as `/metrics` shows it.
pub(crate) fn render(format: Format) -> String {
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, FAMILIES.registry());
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => text::to_prometheus(&text),
    }
}

/// The labels for two principals, `other` once there are too many pairs.
pub(crate) fn pair(source: &str, destination: &str) -> Pair {
    let pair = FAMILIES.pairs.of(source, destination);
    if pair.capped {
        FAMILIES.pairs_capped.inc();
    }
    pair
}

/// Keep it: looked up once per connection and outcome.
pub(crate) fn requests(labels: &RequestLabels) -> Counter {
    FAMILIES.requests.get_or_create_owned(labels)
}

pub(crate) fn request_duration(direction: Direction, took: Duration) {
    FAMILIES
        .request_duration(direction)
        .observe(took.as_secs_f64());
}

pub(crate) fn connections(
    direction: &'static str,
    decision: &'static str,
    reason: &'static str,
) -> Counter {
    FAMILIES.connections.get_or_create_owned(&ConnectionLabels {
        direction,
        decision,
        reason,
    })
}

/// From the client to the server, and back.
pub(crate) fn bytes(direction: Direction, received: u64, sent: u64) {
    let [in_, out] = FAMILIES.bytes(direction);
    in_.inc_by(received);
    out.inc_by(sent);
}

/// Counts a connection as open until dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl OpenConnection {
    pub(crate) fn new(direction: Direction) -> Self {
        Self::counted_by(FAMILIES.connections_open(direction))
    }

    fn counted_by(gauge: &Gauge) -> Self {
        gauge.inc();
        OpenConnection(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(crate) fn handshake(side: Side, took: Duration) {
    FAMILIES.handshakes(side).observe(took.as_secs_f64());
}

pub(crate) fn handshake_failed(side: Side, reason: &'static str) {
    FAMILIES
        .handshake_failures
        .get_or_create(&FailureLabels {
            side: side.as_str(),
            reason,
        })
        .inc();
}

/// `how`: `declared`, `alpn`, `sniffed`, `timeout`.
pub(crate) fn detected(protocol: &'static str, how: &'static str) {
    FAMILIES
        .detect
        .get_or_create(&DetectLabels { protocol, how })
        .inc();
}

/// A new SVID is in use. The first one is no rotation.
pub(crate) fn svid(expires: SystemTime) {
    let rotated = FAMILIES.svid_expiry.set(seconds(expires)) != 0;
    FAMILIES.svid_rotations.inc_by(rotated.into());
}

/// Number of trust domains whose bundle we hold.
pub(crate) fn bundles(trust_domains: usize) {
    FAMILIES
        .bundle_trust_domains
        .set(i64::try_from(trust_domains).unwrap_or(i64::MAX));
}

pub(crate) fn xds_connected(connected: bool) {
    FAMILIES.xds_connected.set(connected.into());
}

/// `kind` is the message's name, `result` one of `applied`, `rejected`, `removed`.
pub(crate) fn xds_update(kind: &'static str, result: &'static str, now: SystemTime) {
    FAMILIES.xds_last_update.set(seconds(now));
    FAMILIES
        .xds_updates
        .get_or_create(&UpdateLabels {
            r#type: kind,
            result,
        })
        .inc();
}

/// The revision in force; the one before is forgotten.
pub(crate) fn config_revision(revision: &str) {
    FAMILIES.config_revision.clear();
    FAMILIES
        .config_revision
        .get_or_create(&RevisionLabels {
            revision: revision.to_owned(),
        })
        .set(1);
}

/// Live connections and requests ended because they lost what they were allowed.
pub(crate) fn policy_closed(reason: &'static str, connections: u64) {
    FAMILIES
        .policy_closed
        .get_or_create(&ReasonLabels { reason })
        .inc_by(connections);
}

pub(crate) fn records_dropped(records: u64) {
    FAMILIES.records_dropped.inc_by(records);
}

/// A task of the data path panicked: one connection is gone, the rest goes on (security.md, row 30).
pub(crate) fn panicked() {
    FAMILIES.panics.inc();
}

/// Accepting paused because there were too many connections or descriptors (security.md, row 29).
pub(crate) fn accept_paused() {
    FAMILIES.accept_pauses.inc();
}

fn seconds(time: SystemTime) -> i64 {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
