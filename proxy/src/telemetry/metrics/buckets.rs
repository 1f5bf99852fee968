//! A histogram of fixed size.

use std::sync::atomic::Ordering;

use ::metrics::atomics::AtomicU64;
use ::metrics::{GaugeFn, HistogramFn};

/// How many values fell between two bounds each, and their sum. The same size after a million values as after none.
pub(super) struct Buckets {
    /// Inclusive, ascending.
    bounds: &'static [f64],
    /// One per bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    /// The bits of a float, added to as gauges are.
    sum: AtomicU64,
}

impl Buckets {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Buckets {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::default()).collect(),
            sum: AtomicU64::default(),
        }
    }

    /// Each bound, at last infinity, with the number of values up to it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count.load(Ordering::Acquire);
            Some((bound, *sum))
        })
    }

    pub(super) fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Acquire))
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        // Belongs in no bucket, and would make the sum useless for good.
        if value.is_nan() {
            return;
        }
        let index = self.bounds.partition_point(|bound| *bound < value);
        self.counts[index].fetch_add(count as u64, Ordering::Release);
        GaugeFn::increment(&self.sum, value * count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_value_up_to_and_including_its_bound() {
        let buckets = Buckets::new(&[0.5, 2.0]);
        for value in [0.5, 0.6, 2.0, 9.0, -1.0, f64::NAN] {
            buckets.record(value);
        }
        buckets.record_many(1.0, 10);
        assert_eq!(
            buckets.cumulative().collect::<Vec<_>>(),
            [(0.5, 2), (2.0, 14), (f64::INFINITY, 15)]
        );
        assert!((buckets.sum() - 21.1).abs() < 1e-9);
    }
}
