//! The rows of the table, and the goals set for them before anything was built.

use crate::measure::Measure;

/// What Kith is to reach on the machine that the goals were set for: two cores of 2.5 GHz, quiet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Goal {
    /// None: there is no goal.
    pub(crate) fn is_met_by(self, value: f64) -> Option<bool> {
        match self {
            Goal::AtMost(limit) => Some(value <= limit),
            Goal::AtLeast(limit) => Some(value >= limit),
            Goal::None => None,
        }
    }
}

/// A row: one to three figures that belong together.
pub(crate) struct Row {
    pub(crate) measure: Measure,
    pub(crate) label: &'static str,
    pub(crate) figures: &'static [(&'static str, Goal)],
}

const fn row(
    measure: Measure,
    label: &'static str,
    figures: &'static [(&'static str, Goal)],
) -> Row {
    Row {
        measure,
        label,
        figures,
    }
}

pub(crate) const ROWS: &[Row] = &[
    row(
        Measure::Http1,
        "HTTP/1.1, 32 connections: CPU µs per request, server / client",
        &[
            ("cpu_server_us", Goal::AtMost(22.0)),
            ("cpu_client_us", Goal::AtMost(22.0)),
        ],
    ),
    row(
        Measure::Http1,
        "  requests per second",
        &[("per_second", Goal::AtLeast(24_000.0))],
    ),
    row(
        Measure::Latency,
        "latency, 1 connection: ms, p50 / p99",
        &[
            ("p50_ms", Goal::AtMost(0.10)),
            ("p99_ms", Goal::AtMost(0.20)),
        ],
    ),
    row(
        Measure::Http2,
        "HTTP/2, 4 × 16 streams: CPU µs per request, server / client",
        &[
            ("cpu_server_us", Goal::AtMost(20.0)),
            ("cpu_client_us", Goal::AtMost(20.0)),
        ],
    ),
    row(
        Measure::Http2,
        "  requests per second",
        &[("per_second", Goal::AtLeast(27_000.0))],
    ),
    row(
        Measure::NewConnections,
        "new connection per request: CPU µs, server / client",
        &[
            ("cpu_server_us", Goal::AtMost(60.0)),
            ("cpu_client_us", Goal::AtMost(70.0)),
        ],
    ),
    row(
        Measure::NewConnections,
        "  connections per second",
        &[("per_second", Goal::AtLeast(7_000.0))],
    ),
    row(
        Measure::Tcp,
        "opaque TCP, one stream: CPU s per GB, server / client",
        &[
            ("cpu_server_s_per_gb", Goal::AtMost(0.7)),
            ("cpu_client_s_per_gb", Goal::AtMost(0.7)),
        ],
    ),
    row(
        Measure::Tcp,
        "  Gbit/s",
        &[("gbit_per_second", Goal::AtLeast(7.0))],
    ),
    row(
        Measure::Memory,
        "idle sidecar: MiB, resident / anonymous",
        &[
            ("idle_resident_mib", Goal::AtMost(10.0)),
            ("idle_anonymous_mib", Goal::AtMost(2.0)),
        ],
    ),
    row(
        Measure::Memory,
        "idle TCP connection, of 1,000: KiB, server / client",
        &[
            ("tcp_server_kib", Goal::AtMost(12.0)),
            ("tcp_client_kib", Goal::AtMost(12.0)),
        ],
    ),
    row(
        Measure::Memory,
        "idle HTTP/1.1 connection, of 1,000: KiB, server / client",
        &[
            ("http_server_kib", Goal::AtMost(12.0)),
            ("http_client_kib", Goal::AtMost(12.0)),
        ],
    ),
    row(
        Measure::Memory,
        "  connections between the sidecars, TCP / HTTP/1.1",
        &[("tcp_wire", Goal::None), ("http_wire", Goal::None)],
    ),
    row(
        Measure::Policy,
        "policy edited to last connection closed: ms, 1 % / 25 % forbidden",
        &[
            ("few_ms", Goal::AtMost(50.0)),
            ("many_ms", Goal::AtMost(50.0)),
        ],
    ),
    row(
        Measure::Policy,
        "  connections open",
        &[("connections", Goal::None)],
    ),
    row(
        Measure::MeshSize,
        "sidecar, application calls 5 of 100 / 10,000 / 100,000 services: MiB",
        &[
            ("mesh_100_mib", Goal::None),
            ("mesh_10000_mib", Goal::None),
            ("mesh_100000_mib", Goal::None),
        ],
    ),
    row(
        Measure::ManyPolicies,
        "sidecar with 10,000 policies of 10 rules: MiB resident; ms from its start to ready, ms of that without them",
        &[
            ("many_policies_mib", Goal::AtMost(64.0)),
            ("many_policies_ready_ms", Goal::AtMost(1000.0)),
            ("no_policies_ready_ms", Goal::None),
        ],
    ),
];
