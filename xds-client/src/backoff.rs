//! How long to wait before the next attempt to reach the control plane.

use std::time::Duration;

/// Exponential backoff with full jitter: sidecars that lost the same control plane at the same moment
/// must not come back at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// No wait is shorter.
    pub min: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(15),
        }
    }
}

impl Backoff {
    /// The wait after `failures` attempts in a row failed: between `min` and a ceiling that starts at
    /// twice `min` and doubles with each failure up to `max`. `random` is in 0..1.
    pub(crate) fn delay(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.clamp(1, 31);
        let ceiling = self.min.saturating_mul(1 << doublings).min(self.max);
        let room = ceiling.saturating_sub(self.min);
        self.min.min(self.max) + room.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_from_min_to_max() {
        let backoff = Backoff::default();
        for (failures, least, most) in [
            (1, 100, 200),
            (2, 100, 400),
            (5, 100, 3_200),
            (8, 100, 15_000),
            (1_000, 100, 15_000),
        ] {
            assert_eq!(backoff.delay(failures, 0.0), Duration::from_millis(least));
            assert_eq!(backoff.delay(failures, 1.0), Duration::from_millis(most));
        }
    }

    #[test]
    fn delay_never_exceeds_max_even_when_min_does() {
        let backoff = Backoff {
            min: Duration::from_secs(9),
            max: Duration::from_secs(3),
        };
        assert_eq!(backoff.delay(1, 1.0), Duration::from_secs(3));
    }
}
