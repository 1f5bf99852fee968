//! Everything that was measured, and what of it counts.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use crate::Failure;
use crate::machine::Machine;
use crate::measure::{Figures, Kind, Measure};
use crate::noise::Noise;

pub(crate) enum Outcome {
    Measured(Figures),
    Failed(String),
}

/// One contestant in one round.
pub(crate) struct Sample {
    pub(crate) measure: Measure,
    pub(crate) kind: Kind,
    pub(crate) round: u32,
    pub(crate) noise: Noise,
    pub(crate) outcome: Outcome,
}

pub(crate) struct Results {
    pub(crate) machine: Machine,
    samples: Vec<Sample>,
}

/// The middle one of the rounds that count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Median {
    pub(crate) value: f64,
    /// No round was quiet: it is the median of disturbed ones.
    pub(crate) disturbed: bool,
}

impl Results {
    pub(crate) fn new(machine: Machine) -> Self {
        Results {
            machine,
            samples: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// A disturbed round counts only where there is no other.
    pub(crate) fn median(&self, measure: Measure, kind: Kind, figure: &str) -> Option<Median> {
        let values = |quiet: bool| -> Vec<f64> {
            let samples = self
                .of(measure, kind)
                .filter(|sample| sample.is_quiet() || !quiet);
            let mut values: Vec<f64> = samples.filter_map(|sample| sample.figure(figure)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let quiet = values(true);
        let disturbed = quiet.is_empty();
        let values = if disturbed { values(false) } else { quiet };
        let middle = values.len() / 2;
        let value = match values.len() {
            0 => return None,
            even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Median { value, disturbed })
    }

    /// Whether a contestant could not be measured, not even once.
    pub(crate) fn has_failed(&self, measure: Measure, kind: Kind) -> bool {
        let mut samples = self.of(measure, kind).peekable();
        samples.peek().is_some()
            && samples.all(|sample| matches!(sample.outcome, Outcome::Failed(_)))
    }

    pub(crate) fn any_failed(&self) -> bool {
        self.samples
            .iter()
            .any(|sample| matches!(sample.outcome, Outcome::Failed(_)))
    }

    fn of(&self, measure: Measure, kind: Kind) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.measure == measure && sample.kind == kind)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let samples: Vec<Value> = self.samples.iter().map(Sample::to_json).collect();
        let text = format!(
            "{:#}\n",
            json!({"machine": self.machine.to_json(), "samples": samples})
        );
        Ok(std::fs::write(path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?)
    }
}

impl Sample {
    pub(crate) fn is_quiet(&self) -> bool {
        self.noise.is_quiet() || !self.measure.can_be_disturbed()
    }

    fn figure(&self, name: &str) -> Option<f64> {
        match &self.outcome {
            Outcome::Measured(figures) => figures.get(name).copied(),
            Outcome::Failed(_) => None,
        }
    }

    fn to_json(&self) -> Value {
        let mut object = json!({
            "measure": self.measure.to_string(), "of": self.kind.to_string(), "round": self.round,
            "stolen": self.noise.stolen, "foreign": self.noise.foreign, "quiet": self.is_quiet(),
        });
        match &self.outcome {
            Outcome::Measured(figures) => object["figures"] = json!(figures),
            Outcome::Failed(why) => object["failed"] = why.as_str().into(),
        }
        object
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<16} {:<7} round {}: ",
            self.measure, self.kind, self.round
        )?;
        match &self.outcome {
            Outcome::Measured(figures) => {
                let figures: Vec<String> = figures
                    .iter()
                    .map(|(name, value)| format!("{name} {value:.3}"))
                    .collect();
                write!(f, "{}", figures.join(", "))?;
            }
            Outcome::Failed(why) => write!(f, "failed: {why}")?,
        }
        let Noise { stolen, foreign } = self.noise;
        if !self.is_quiet() {
            write!(
                f,
                "  (stolen {:.0} %, foreign {:.0} %)",
                stolen * 100.0,
                foreign * 100.0
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: Option<f64>, foreign: f64) -> Sample {
        let outcome = match value {
            Some(value) => Outcome::Measured(Figures::from([("per_second", value)])),
            None => Outcome::Failed("it rained".to_owned()),
        };
        let noise = Noise {
            stolen: 0.0,
            foreign,
        };
        Sample {
            measure: Measure::Http1,
            kind: Kind::Kith,
            round: 1,
            noise,
            outcome,
        }
    }

    #[track_caller]
    fn check(samples: Vec<Sample>, expected: Option<(f64, bool)>) {
        let results = Results {
            machine: Machine::default(),
            samples,
        };
        let median = results.median(Measure::Http1, Kind::Kith, "per_second");
        assert_eq!(
            median.map(|median| (median.value, median.disturbed)),
            expected
        );
    }

    #[test]
    fn the_median_is_of_quiet_rounds() {
        check(
            vec![
                sample(Some(3.0), 0.0),
                sample(Some(1.0), 0.0),
                sample(Some(2.0), 0.0),
            ],
            Some((2.0, false)),
        );
        check(
            vec![
                sample(Some(3.0), 0.0),
                sample(Some(1.0), 0.5),
                sample(Some(4.0), 0.0),
            ],
            Some((3.5, false)),
        );
    }

    #[test]
    fn disturbed_rounds_count_where_there_is_no_other() {
        check(
            vec![sample(Some(3.0), 0.4), sample(None, 0.0)],
            Some((3.0, true)),
        );
        check(vec![sample(None, 0.0)], None);
    }
}
