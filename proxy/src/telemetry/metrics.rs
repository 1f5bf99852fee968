//! All metrics of the proxy, through the `metrics` facade. Few, and bounded: no label that a caller controls is
//! without a cap.
//!
//! Handles are to keep: adding to one is an atomic instruction, looking one up takes a lock, so the data path does
//! that once per connection. What any other code counts with the facade's macros shows up beside our own.

mod buckets;
mod families;
mod pairs;
mod recorder;
mod text;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use ::metrics::Counter;
use ::metrics::Gauge;

use families::Families;
pub(crate) use families::RequestLabels;
pub(crate) use pairs::Pair;
use recorder::Recorder;
pub(crate) use text::Format;

use crate::record::Direction;

static RECORDER: Recorder = Recorder::new(families::bounds);

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    if ::metrics::set_global_recorder(&RECORDER).is_err() {
        tracing::error!(
            "another recorder of metrics is installed in this process; /metrics stays empty"
        );
    }
    Families::register()
});

/// Makes `/metrics` the place where the macros of the `metrics` crate end, for the whole process. Once is enough.
pub(crate) fn install() {
    LazyLock::force(&FAMILIES);
}

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

/// Everything, as `/metrics` shows it.
pub(crate) fn render(format: Format) -> String {
    install();
    RECORDER.render(format)
}

/// The labels for two principals, `other` once there are too many pairs.
pub(crate) fn pair(source: &str, destination: &str) -> Pair {
    let pair = FAMILIES.pairs.of(source, destination);
    if pair.capped {
        FAMILIES.pairs_capped.increment(1);
    }
    pair
}

/// Keep it: looked up once per connection and outcome.
pub(crate) fn requests(labels: &RequestLabels) -> Counter {
    FAMILIES.requests(labels)
}

pub(crate) fn request_duration(direction: Direction, took: Duration) {
    FAMILIES.request_duration(direction).record(took);
}

pub(crate) fn connections(
    direction: &'static str,
    decision: &'static str,
    reason: &'static str,
) -> Counter {
    FAMILIES.connections(direction, decision, reason)
}

/// From the client to the server, and back.
pub(crate) fn bytes(direction: Direction, received: u64, sent: u64) {
    let [in_, out] = FAMILIES.bytes(direction);
    in_.increment(received);
    out.increment(sent);
}

/// Counts a connection as open until dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl OpenConnection {
    pub(crate) fn new(direction: Direction) -> Self {
        Self::counted_by(FAMILIES.connections_open(direction))
    }

    fn counted_by(gauge: &Gauge) -> Self {
        gauge.increment(1);
        OpenConnection(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

pub(crate) fn handshake(side: Side, took: Duration) {
    FAMILIES.handshakes(side).record(took);
}

pub(crate) fn handshake_failed(side: Side, reason: &'static str) {
    FAMILIES.handshake_failures(side, reason).increment(1);
}

/// `how`: `declared`, `alpn`, `sniffed`, `timeout`.
pub(crate) fn detected(protocol: &'static str, how: &'static str) {
    FAMILIES.detect(protocol, how).increment(1);
}

/// A new SVID is in use. The first one is no rotation.
pub(crate) fn svid(expires: SystemTime) {
    FAMILIES.svid_expiry.set(seconds(expires));
    FAMILIES
        .svid_rotations
        .increment(FAMILIES.svid_replaced().into());
}

/// There is no SVID any more.
pub(crate) fn svid_withdrawn() {
    FAMILIES.svid_expiry.set(0.0);
}

/// Number of trust domains whose bundle we hold.
pub(crate) fn bundles(trust_domains: usize) {
    FAMILIES.bundle_trust_domains.set(trust_domains as f64);
}

pub(crate) fn xds_connected(connected: bool) {
    FAMILIES.xds_connected.set(u8::from(connected));
}

/// `kind` is the message's name, `result` one of `applied`, `rejected`, `removed`.
pub(crate) fn xds_update(kind: &'static str, result: &'static str, now: SystemTime) {
    FAMILIES.xds_last_update.set(seconds(now));
    FAMILIES.xds_updates(kind, result).increment(1);
}

/// The revision in force; the one before is forgotten.
pub(crate) fn config_revision(revision: &str) {
    FAMILIES.config_revision(revision.to_owned()).set(1);
    RECORDER.retain_gauges(families::CONFIG_REVISION, |key| {
        key.labels().any(|label| label.value() == revision)
    });
}

/// Live connections and requests ended because they lost what they were allowed.
pub(crate) fn policy_closed(reason: &'static str, connections: u64) {
    FAMILIES.policy_closed(reason).increment(connections);
}

/// What the decision would be with the dry-run policies in force.
pub(crate) fn shadow_decision(direction: Direction, allow: bool) {
    FAMILIES.shadow_decisions(direction, allow).increment(1);
}

/// An inbound connection came in the clear.
pub(crate) fn plaintext() {
    FAMILIES.plaintext.increment(1);
}

pub(crate) fn records_dropped(records: u64) {
    FAMILIES.records_dropped.increment(records);
}

/// A task of the data path panicked: one connection is gone, the rest goes on (security.md, row 30).
pub(crate) fn panicked() {
    FAMILIES.panics.increment(1);
}

/// Accepting paused because there were too many connections or descriptors (security.md, row 29).
pub(crate) fn accept_paused() {
    FAMILIES.accept_pauses.increment(1);
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as f64
}

#[cfg(test)]
mod tests;
