//! The metric families: names, help texts, labels, buckets.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::Side;
use super::pairs::Pairs;
use crate::record::Direction;

/// A handle to one series; adding to it is one atomic instruction.
pub(crate) type Counter = counter::Counter;

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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) direction: &'static str,
    pub(crate) source: Arc<str>,
    pub(crate) destination: Arc<str>,
    pub(crate) decision: &'static str,
    pub(crate) reason: &'static str,
    /// HTTP status.
    pub(crate) code: Option<u16>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    pub(super) direction: &'static str,
    pub(super) decision: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct FailureLabels {
    pub(super) side: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct DetectLabels {
    pub(super) protocol: &'static str,
    pub(super) how: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct UpdateLabels {
    pub(super) r#type: &'static str,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct RevisionLabels {
    pub(super) revision: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SideLabels {
    side: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BytesLabels {
    direction: &'static str,
    dir: &'static str,
}

pub(super) struct Families {
    registry: Registry,
    pub(super) pairs: Pairs,
    pub(super) pairs_capped: Counter,
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) connections: Family<ConnectionLabels, Counter>,
    pub(super) handshake_failures: Family<FailureLabels, Counter>,
    pub(super) detect: Family<DetectLabels, Counter>,
    pub(super) svid_expiry: Gauge,
    pub(super) svid_rotations: Counter,
    pub(super) bundle_trust_domains: Gauge,
    pub(super) xds_connected: Gauge,
    pub(super) xds_last_update: Gauge,
    pub(super) xds_updates: Family<UpdateLabels, Counter>,
    pub(super) config_revision: Family<RevisionLabels, Gauge>,
    pub(super) policy_closed: Family<ReasonLabels, Counter>,
    pub(super) records_dropped: Counter,
    pub(super) panics: Counter,
    pub(super) accept_pauses: Counter,
    /// Resolved once, because there are only two: inbound, outbound.
    request_duration: [Histogram; 2],
    connections_open: [Gauge; 2],
    bytes: [[Counter; 2]; 2],
    /// Client, server.
    handshakes: [Histogram; 2],
}

impl Default for Families {
    /// Names as in records.md; the library puts `kith_` in front and `_total` behind counters.
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kith");
        let mut named = Named(&mut registry);
        let directions = [Direction::Inbound.as_str(), Direction::Outbound.as_str()];

        let request_duration: Family<DirectionLabels, Histogram> = named.register(
            "request_duration_seconds",
            "From the start of the request to the end of its answer",
            Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
        );
        let connections_open: Family<DirectionLabels, Gauge> =
            named.plain("connections_open", "Connections open now");
        let bytes: Family<BytesLabels, Counter> = named.plain(
            "bytes",
            "Bytes of requests (in) and answers (out), before encryption",
        );
        let handshakes: Family<SideLabels, Histogram> = named.register(
            "handshake_seconds",
            "TLS handshakes that succeeded",
            Family::new_with_constructor(|| Histogram::new(HANDSHAKE_SECONDS)),
        );

        Families {
            pairs: Pairs::new(PAIRS),
            pairs_capped: named.plain(
                "principal_pairs_capped",
                "Connections whose principals are counted as other",
            ),
            requests: named.plain(
                "requests",
                "HTTP requests by principals, decision, reason and status",
            ),
            connections: named.plain(
                "connections",
                "Connections by decision and reason; those that carry requests: per-request",
            ),
            handshake_failures: named.plain(
                "handshake_failures",
                "TLS handshakes that failed, by reason",
            ),
            detect: named.plain("detect", "Connections by protocol and how it was found"),
            svid_expiry: named.plain(
                "svid_expiry_timestamp_seconds",
                "When the SVID in use expires",
            ),
            svid_rotations: named.plain("svid_rotations", "SVIDs that replaced an earlier one"),
            bundle_trust_domains: named
                .plain("bundle_trust_domains", "Trust domains whose bundle is held"),
            xds_connected: named.plain(
                "xds_connected",
                "1 while there is a stream to the control plane",
            ),
            xds_last_update: named.plain(
                "xds_last_update_timestamp_seconds",
                "When the control plane last sent something",
            ),
            xds_updates: named.plain("xds_updates", "Resources received, by type and result"),
            config_revision: named.plain("config_revision_info", "The revision in force"),
            policy_closed: named.plain(
                "policy_closed_connections",
                "Live connections that lost what they were allowed",
            ),
            records_dropped: named.plain(
                "records_dropped",
                "Records lost because the access log could not keep up",
            ),
            panics: named.plain("panics", "Connections lost to a bug of the proxy"),
            accept_pauses: named.plain(
                "accept_pauses",
                "Times that accepting paused for want of descriptors or connections",
            ),
            request_duration: directions.map(|direction| {
                request_duration.get_or_create_owned(&DirectionLabels { direction })
            }),
            connections_open: directions.map(|direction| {
                connections_open.get_or_create_owned(&DirectionLabels { direction })
            }),
            bytes: directions.map(|direction| {
                ["in", "out"].map(|dir| bytes.get_or_create_owned(&BytesLabels { direction, dir }))
            }),
            handshakes: ["client", "server"]
                .map(|side| handshakes.get_or_create_owned(&SideLabels { side })),
            registry: {
                registry.register(
                    "build",
                    "The running program",
                    Info::new([("version", env!("CARGO_PKG_VERSION"))]),
                );
                registry
            },
        }
    }
}

struct Named<'a>(&'a mut Registry);

impl Named<'_> {
    fn plain<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.register(name, help, M::default())
    }

    fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

impl Families {
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
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

    pub(super) fn handshakes(&self, side: Side) -> &Histogram {
        &self.handshakes[usize::from(side == Side::Server)]
    }
}

fn index(direction: Direction) -> usize {
    usize::from(direction == Direction::Outbound)
}
