//! The numbers, for machines and for people.

use std::path::Path;

use serde_json::json;

use crate::Failure;
use crate::changes::Percentiles;
use crate::cluster::Memory;

/// MiB, resident.
const MEMORY_GOAL: f64 = 256.0;
/// Milliseconds.
const LATENCY_GOAL: f64 = 100.0;

pub(crate) struct Report {
    pub(crate) pods: usize,
    pub(crate) services: usize,
    pub(crate) policies: usize,
    pub(crate) sidecars: usize,
    pub(crate) first_sync_s: f64,
    pub(crate) alone: Memory,
    pub(crate) connected: Memory,
    pub(crate) after: Memory,
    pub(crate) cpu_ms_per_change: f64,
    pub(crate) latency: Percentiles,
    pub(crate) deliveries: usize,
    pub(crate) strays: usize,
    pub(crate) missing: usize,
}

impl Report {
    pub(crate) fn meets_goals(&self) -> bool {
        let memory =
            self.alone.resident_mib <= MEMORY_GOAL && self.after.resident_mib <= MEMORY_GOAL;
        memory && self.latency.p99 <= LATENCY_GOAL && self.strays == 0 && self.missing == 0
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), Failure> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let numbers = json!({
            "pods": self.pods, "services": self.services, "policies": self.policies, "sidecars": self.sidecars,
            "first_sync_s": self.first_sync_s,
            "memory": {"no_sidecars": self.alone, "all_connected": self.connected, "after_changes": self.after},
            "cpu_ms_per_change": self.cpu_ms_per_change,
            "change_to_sidecar_ms": {"p50": self.latency.p50, "p99": self.latency.p99, "max": self.latency.most},
            "deliveries": self.deliveries, "strays": self.strays, "missing": self.missing,
        });
        std::fs::write(file, format!("{numbers:#}\n"))?;
        Ok(())
    }

    pub(crate) fn table(&self) -> String {
        let Percentiles { p50, p99, most } = self.latency;
        let memory = |memory: Memory| {
            format!(
                "{:.0} MiB ({:.0} anonymous)",
                memory.resident_mib, memory.anonymous_mib
            )
        };
        let met = |is: bool| if is { "met" } else { "missed" };
        let rows = [
            ("measure".to_owned(), "value".to_owned(), "goal".to_owned()),
            ("---".into(), "---".into(), "---".into()),
            (
                format!(
                    "start to ready, {} pods, {} services, {} policies",
                    self.pods, self.services, self.policies
                ),
                format!("{:.1} s", self.first_sync_s),
                String::new(),
            ),
            (
                "memory, no sidecar connected".into(),
                memory(self.alone),
                format!("≤ 256 MiB: {}", met(self.alone.resident_mib <= MEMORY_GOAL)),
            ),
            (
                format!("memory, {} sidecars connected", self.sidecars),
                memory(self.connected),
                format!(
                    "≤ 256 MiB: {}",
                    met(self.connected.resident_mib <= MEMORY_GOAL)
                ),
            ),
            (
                "the same, after the changes".into(),
                memory(self.after),
                format!("≤ 256 MiB: {}", met(self.after.resident_mib <= MEMORY_GOAL)),
            ),
            (
                "one change, from before the API request to a sidecar that asked: p50 / p99 / max"
                    .into(),
                format!("{p50:.1} / {p99:.1} / {most:.1} ms"),
                format!("p99 ≤ 100 ms: {}", met(p99 <= LATENCY_GOAL)),
            ),
            (
                "sidecars that had to be told, and were".into(),
                format!("{} of {}", self.deliveries, self.deliveries + self.missing),
                format!("all: {}", met(self.missing == 0)),
            ),
            (
                "responses to sidecars that had not asked".into(),
                self.strays.to_string(),
                format!("0: {}", met(self.strays == 0)),
            ),
            (
                "CPU of the control plane for a change".into(),
                format!("{:.1} ms", self.cpu_ms_per_change),
                String::new(),
            ),
        ];
        let line = |(a, b, c): &(String, String, String)| format!("| {a} | {b} | {c} |\n");
        rows.iter().map(line).collect()
    }
}
