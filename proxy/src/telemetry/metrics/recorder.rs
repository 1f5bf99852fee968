//! Where the `metrics` macros of the whole process end: counters, gauges and histograms by name and labels.
//!
//! Not metrics-exporter-prometheus: it buffers every sample of a histogram until a scrape or its upkeep task comes
//! by, so its memory follows the traffic; it writes no OpenMetrics, and can't forget one series. Here a series is
//! a fixed number of atomics, and adding to its handle takes no lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::metrics::atomics::AtomicU64;
use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};

use super::buckets::Buckets;
use super::text::{self, Format};

pub(super) struct Recorder {
    /// The upper bounds of a histogram's buckets, by its name.
    bounds: fn(&str) -> &'static [f64],
    families: Mutex<Families>,
}

/// By name as OpenMetrics has it, without `_total` and `_info`.
pub(super) type Families = BTreeMap<String, Family>;

/// All series of one name.
#[derive(Clone)]
pub(super) struct Family {
    pub(super) kind: Kind,
    pub(super) help: SharedString,
    pub(super) unit: Option<Unit>,
    /// Shared with a scrape while it is written out, so that nobody waits for a scraper.
    pub(super) series: Arc<HashMap<Key, Cell>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    /// A gauge that is always 1 and has something to say in its labels. The facade has no such type: the name tells.
    Info,
    Histogram,
}

/// What a handle writes to.
#[derive(Clone)]
pub(super) enum Cell {
    /// A counter's value, or the bits of a gauge's.
    Number(Arc<AtomicU64>),
    Buckets(Arc<Buckets>),
}

impl Kind {
    fn of_gauge(name: &str) -> Self {
        if name.ends_with(Kind::Info.suffix()) {
            Kind::Info
        } else {
            Kind::Gauge
        }
    }

    /// What the names of its samples have behind the family's (OpenMetrics 1.0, section 5).
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }
}

impl Recorder {
    pub(super) const fn new(bounds: fn(&str) -> &'static [f64]) -> Self {
        Recorder {
            bounds,
            families: Mutex::new(BTreeMap::new()),
        }
    }

    pub(super) fn render(&self, format: Format) -> String {
        let families = self.families().clone();
        text::encode(&families, format)
    }

    /// Forgets the gauges of this name that `keep` doesn't want: the facade can't take a series back.
    pub(super) fn retain_gauges(&self, name: &str, keep: impl Fn(&Key) -> bool) {
        if let Some(family) = family(&mut self.families(), name, Kind::of_gauge(name)) {
            Arc::make_mut(&mut family.series).retain(|key, _| keep(key));
        }
    }

    fn cell(&self, key: &Key, kind: Kind) -> Option<Cell> {
        let mut families = self.families();
        let family = family(&mut families, key.name(), kind)?;
        if let Some(cell) = family.series.get(key) {
            return Some(cell.clone());
        }
        let cell = match kind {
            Kind::Histogram => Cell::Buckets(Arc::new(Buckets::new((self.bounds)(key.name())))),
            Kind::Counter | Kind::Gauge | Kind::Info => Cell::Number(Arc::default()),
        };
        Arc::make_mut(&mut family.series).insert(key.to_retained(), cell.clone());
        Some(cell)
    }

    fn describe(&self, name: &KeyName, kind: Kind, unit: Option<Unit>, help: SharedString) {
        if let Some(family) = family(&mut self.families(), name.as_str(), kind) {
            family.help = help;
            family.unit = unit;
        }
    }

    /// Held for a look or an entry, never while anything is written out.
    fn families(&self) -> MutexGuard<'_, Families> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None where the name is taken by another kind: a scraper would refuse the whole page.
fn family<'a>(families: &'a mut Families, name: &str, kind: Kind) -> Option<&'a mut Family> {
    let name = text::family_name(name, kind);
    if !families.contains_key(&*name) {
        let new = Family {
            kind,
            help: SharedString::const_str(""),
            unit: None,
            series: Arc::default(),
        };
        families.insert(name.clone().into_owned(), new);
    }
    let family = families.get_mut(&*name)?;
    if family.kind != kind {
        tracing::warn!(%name, wanted = ?kind, taken_by = ?family.kind, "a metric is left out: its name is taken by another kind");
        return None;
    }
    Some(family)
}

impl ::metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, Kind::Counter, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, Kind::of_gauge(name.as_str()), unit, help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, Kind::Histogram, unit, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.cell(key, Kind::Counter) {
            Some(Cell::Number(number)) => Counter::from_arc(number),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.cell(key, Kind::of_gauge(key.name())) {
            Some(Cell::Number(number)) => Gauge::from_arc(number),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.cell(key, Kind::Histogram) {
            Some(Cell::Buckets(buckets)) => Histogram::from_arc(buckets),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests;
