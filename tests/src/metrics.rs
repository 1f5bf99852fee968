//! What a sidecar counts.

use kith::lab::Workload;

/// Its metrics at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Asks for them.
    pub async fn of(workload: &Workload) -> Self {
        Self(workload.health("/metrics").await.unwrap().text())
    }

    /// The sum of all series of a name that have these labels, each written as `name="value"`; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let series = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let values = self
            .0
            .lines()
            .filter(series)
            .filter(|line| labels.iter().all(|label| line.contains(label)));
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}
