//! What is measured, between whom.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;

use crate::mesh::{Bench, Pair};
use crate::{Arguments, Failure, load, machine, many_policies, memory, mesh_size, policy};

/// What stands between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Nothing: what the machine and nginx can do.
    Direct,
    Envoy,
    Kith,
}

impl Kind {
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }
}

/// One way of putting load on it; gives several figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Measure {
    /// Idle sidecars, then 1,000 idle connections
    Memory,
    /// HTTP/1.1, 32 connections, keep-alive
    Http1,
    /// HTTP/1.1, one connection
    Latency,
    /// HTTP/2, 4 connections of 16 streams each
    Http2,
    /// HTTP/1.1, a new connection for each request, 8 at a time
    NewConnections,
    /// Opaque TCP, one stream
    Tcp,
    /// From an edit of a policy to the end of the last connection that it forbids
    Policy,
    /// Memory of a sidecar whose mesh has 100, 10,000 and 100,000 services
    MeshSize,
    /// Memory and start of a sidecar that 10,000 policies of 10 rules each select
    ManyPolicies,
}

/// Name of a figure to its value.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

impl Measure {
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Whether there is something to measure.
    pub(crate) fn concerns(self, kind: Kind) -> bool {
        match self {
            Measure::Memory => kind != Kind::Direct,
            // Envoy doesn't look at open connections again.
            Measure::Policy | Measure::MeshSize | Measure::ManyPolicies => kind == Kind::Kith,
            _ => true,
        }
    }

    /// Whether it matters what else the machine does meanwhile.
    pub(crate) fn can_be_disturbed(self) -> bool {
        !matches!(self, Measure::Memory | Measure::MeshSize)
    }

    pub(crate) async fn warm_up(self, bench: &Bench, pair: &Pair) -> Result<(), Failure> {
        match self {
            Measure::Memory | Measure::Policy | Measure::MeshSize | Measure::ManyPolicies => Ok(()),
            _ => load::run(self, bench, pair, 1).await.map(drop),
        }
    }

    pub(crate) async fn take(
        self,
        bench: &Bench,
        pair: &Pair,
        arguments: &Arguments,
    ) -> Result<Figures, Failure> {
        match self {
            Measure::Memory => memory::take(pair).await,
            Measure::MeshSize => mesh_size::take(bench, pair, arguments.quick).await,
            Measure::ManyPolicies => many_policies::take(bench, pair).await,
            Measure::Policy => {
                let count = machine::connections(if arguments.quick { 1_000 } else { 10_000 });
                policy::take(bench, pair, count).await
            }
            _ => load::run(self, bench, pair, if arguments.quick { 2 } else { 4 }).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        name(self, f)
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        name(self, f)
    }
}

/// As on the command line.
fn name(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let value = value.to_possible_value();
    f.pad(value.as_ref().map_or("", |value| value.get_name()))
}
