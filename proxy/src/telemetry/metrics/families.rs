//! The metrics themselves: names, help texts, labels, buckets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::metrics::{
    Counter, Gauge, Histogram, SharedString, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

use super::Side;
use super::pairs::Pairs;
use crate::record::Direction;

/// Pairs of principals that get series of their own.
const PAIRS: usize = 500;

/// A sidecar adds tenths of a millisecond, applications answer in anything up to minutes.
const REQUEST_SECONDS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];
/// A handshake costs about a millisecond of CPU and one round trip.
const HANDSHAKE_SECONDS: [f64; 10] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
];

const HANDSHAKES: &str = "kith_handshake_seconds";
const SHADOW_DECISIONS: &str = "kith_shadow_decisions_total";
pub(super) const CONFIG_REVISION: &str = "kith_config_revision_info";

/// The buckets of a histogram. Those of requests suit whatever else is measured in seconds.
pub(super) fn bounds(histogram: &str) -> &'static [f64] {
    match histogram {
        HANDSHAKES => &HANDSHAKE_SECONDS,
        _ => &REQUEST_SECONDS,
    }
}

#[derive(Clone, Debug)]
pub(crate) struct RequestLabels {
    pub(crate) direction: &'static str,
    pub(crate) source: Arc<str>,
    pub(crate) destination: Arc<str>,
    pub(crate) decision: &'static str,
    pub(crate) reason: &'static str,
    /// HTTP status.
    pub(crate) code: Option<u16>,
}

/// The handles that are known beforehand, and the way to all others.
pub(super) struct Families {
    pub(super) pairs: Pairs,
    pub(super) pairs_capped: Counter,
    pub(super) svid_expiry: Gauge,
    pub(super) svid_rotations: Counter,
    /// There was an SVID: the next one is a rotation.
    svid_seen: AtomicBool,
    pub(super) bundle_trust_domains: Gauge,
    pub(super) xds_connected: Gauge,
    pub(super) xds_last_update: Gauge,
    pub(super) records_dropped: Counter,
    pub(super) plaintext: Counter,
    pub(super) panics: Counter,
    pub(super) accept_pauses: Counter,
    /// Inbound, outbound.
    request_duration: [Histogram; 2],
    connections_open: [Gauge; 2],
    /// In each direction: in, out.
    bytes: [[Counter; 2]; 2],
    /// In each direction: deny, allow.
    shadow_decisions: [[Counter; 2]; 2],
    /// Client, server.
    handshakes: [Histogram; 2],
}

impl Families {
    /// With the recorder that is installed.
    pub(super) fn register() -> Self {
        describe();
        gauge!("kith_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        let directions = [Direction::Inbound.as_str(), Direction::Outbound.as_str()];
        Families {
            pairs: Pairs::new(PAIRS),
            pairs_capped: counter!("kith_principal_pairs_capped_total"),
            svid_expiry: gauge!("kith_svid_expiry_timestamp_seconds"),
            svid_rotations: counter!("kith_svid_rotations_total"),
            svid_seen: AtomicBool::new(false),
            bundle_trust_domains: gauge!("kith_bundle_trust_domains"),
            xds_connected: gauge!("kith_xds_connected"),
            xds_last_update: gauge!("kith_xds_last_update_timestamp_seconds"),
            records_dropped: counter!("kith_records_dropped_total"),
            plaintext: counter!("kith_plaintext_connections_total"),
            panics: counter!("kith_panics_total"),
            accept_pauses: counter!("kith_accept_pauses_total"),
            request_duration: directions.map(
                |direction| histogram!("kith_request_duration_seconds", "direction" => direction),
            ),
            connections_open: directions
                .map(|direction| gauge!("kith_connections_open", "direction" => direction)),
            bytes: directions.map(|direction| {
                ["in", "out"]
                    .map(|dir| counter!("kith_bytes_total", "direction" => direction, "dir" => dir))
            }),
            shadow_decisions: directions.map(|direction| {
                ["deny", "allow"].map(|decision| {
                    counter!(SHADOW_DECISIONS, "direction" => direction, "decision" => decision)
                })
            }),
            handshakes: [Side::Client, Side::Server]
                .map(|side| histogram!(HANDSHAKES, "side" => side.as_str())),
        }
    }

    pub(super) fn requests(&self, labels: &RequestLabels) -> Counter {
        let code = labels
            .code
            .map_or(SharedString::const_str(""), |code| code.to_string().into());
        counter!(
            "kith_requests_total",
            "direction" => labels.direction,
            "source" => Arc::clone(&labels.source),
            "destination" => Arc::clone(&labels.destination),
            "decision" => labels.decision,
            "reason" => labels.reason,
            "code" => code
        )
    }

    pub(super) fn connections(
        &self,
        direction: &'static str,
        decision: &'static str,
        reason: &'static str,
    ) -> Counter {
        counter!("kith_connections_total", "direction" => direction, "decision" => decision, "reason" => reason)
    }

    pub(super) fn handshake_failures(&self, side: Side, reason: &'static str) -> Counter {
        counter!("kith_handshake_failures_total", "side" => side.as_str(), "reason" => reason)
    }

    pub(super) fn detect(&self, protocol: &'static str, how: &'static str) -> Counter {
        counter!("kith_detect_total", "protocol" => protocol, "how" => how)
    }

    pub(super) fn xds_updates(&self, kind: &'static str, result: &'static str) -> Counter {
        counter!("kith_xds_updates_total", "type" => kind, "result" => result)
    }

    pub(super) fn config_revision(&self, revision: String) -> Gauge {
        gauge!(CONFIG_REVISION, "revision" => revision)
    }

    pub(super) fn policy_closed(&self, reason: &'static str) -> Counter {
        counter!("kith_policy_closed_connections_total", "reason" => reason)
    }

    /// Whether there was an SVID before this one.
    pub(super) fn svid_replaced(&self) -> bool {
        self.svid_seen.swap(true, Ordering::Relaxed)
    }

    pub(super) fn request_duration(&self, direction: Direction) -> &Histogram {
        &self.request_duration[index(direction)]
    }

    pub(super) fn connections_open(&self, direction: Direction) -> &Gauge {
        &self.connections_open[index(direction)]
    }

    pub(super) fn bytes(&self, direction: Direction) -> &[Counter; 2] {
        &self.bytes[index(direction)]
    }

    pub(super) fn shadow_decisions(&self, direction: Direction, allow: bool) -> &Counter {
        &self.shadow_decisions[index(direction)][usize::from(allow)]
    }

    pub(super) fn handshakes(&self, side: Side) -> &Histogram {
        &self.handshakes[usize::from(side == Side::Server)]
    }
}

fn index(direction: Direction) -> usize {
    usize::from(direction == Direction::Outbound)
}

fn describe() {
    let seconds = Unit::Seconds;
    describe_histogram!(
        "kith_request_duration_seconds",
        seconds,
        "From the start of the request to the end of its answer"
    );
    describe_gauge!("kith_connections_open", "Connections open now");
    describe_counter!(
        "kith_bytes_total",
        Unit::Bytes,
        "Bytes of requests (in) and answers (out), before encryption"
    );
    describe_histogram!(HANDSHAKES, seconds, "TLS handshakes that succeeded");
    describe_counter!(
        "kith_principal_pairs_capped_total",
        "Connections whose principals are counted as other"
    );
    describe_counter!(
        "kith_requests_total",
        "HTTP requests by principals, decision, reason and status"
    );
    describe_counter!(
        "kith_connections_total",
        "Connections by decision and reason; those that carry requests: per-request"
    );
    describe_counter!(
        "kith_handshake_failures_total",
        "TLS handshakes that failed, by reason"
    );
    describe_counter!(
        "kith_detect_total",
        "Connections by protocol and how it was found"
    );
    describe_gauge!(
        "kith_svid_expiry_timestamp_seconds",
        seconds,
        "When the SVID in use expires"
    );
    describe_counter!(
        "kith_svid_rotations_total",
        "SVIDs that replaced an earlier one"
    );
    describe_gauge!(
        "kith_bundle_trust_domains",
        "Trust domains whose bundle is held"
    );
    describe_gauge!(
        "kith_xds_connected",
        "1 while there is a stream to the control plane"
    );
    describe_gauge!(
        "kith_xds_last_update_timestamp_seconds",
        seconds,
        "When the control plane last sent something"
    );
    describe_counter!(
        "kith_xds_updates_total",
        "Resources received, by type and result"
    );
    describe_gauge!(CONFIG_REVISION, "The revision in force");
    describe_counter!(
        "kith_policy_closed_connections_total",
        "Live connections that lost what they were allowed, by reason: a policy, trust or a revocation changed"
    );
    describe_counter!(
        SHADOW_DECISIONS,
        "Requests and opaque connections by what their decision would be if the dry-run policies were in force; none while there are no dry-run policies"
    );
    describe_counter!(
        "kith_plaintext_connections_total",
        "Inbound connections that came in the clear, to ports that do not insist on mTLS"
    );
    describe_counter!(
        "kith_records_dropped_total",
        "Records lost because the access log could not keep up"
    );
    describe_counter!(
        "kith_panics_total",
        "Connections lost to a bug of the proxy"
    );
    describe_counter!(
        "kith_accept_pauses_total",
        "Times that accepting paused for want of descriptors or connections"
    );
    describe_gauge!("kith_build_info", "The running program");
}
