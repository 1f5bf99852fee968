//! The one table.

use std::fmt::Write;

use crate::goals::{Goal, ROWS, Row};
use crate::measure::{Kind, Measure};
use crate::results::{Median, Results};

const HEAD: [&str; COLUMNS] = [
    "measure",
    "kith ÷ envoy",
    "direct",
    "envoy",
    "kith",
    "goal",
    "",
];
const COLUMNS: usize = 7;

/// Markdown, with columns that line up for those who read it as it is.
pub(crate) fn render(results: &Results, measures: &[Measure]) -> String {
    let rows = ROWS.iter().filter(|row| measures.contains(&row.measure));
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.map(|row| cells(results, row)));
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let width = |line: &[String; COLUMNS]| line[column].chars().count();
        lines.iter().map(width).max().unwrap_or(0)
    });
    let mut text = format!("\n{}\n\n", results.machine);
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            text.extend(widths.map(|width| format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text.push('\n');
    if lines.iter().flatten().any(|cell| cell.contains('*')) {
        text.push_str("* no round was quiet: something else used the machine, so that only ratios tell anything\n");
    }
    text
}

fn cells(results: &Results, row: &Row) -> [String; COLUMNS] {
    let medians = |kind: Kind| -> Vec<Option<Median>> {
        let figures = row.figures.iter();
        figures
            .map(|(figure, _)| results.median(row.measure, kind, figure))
            .collect()
    };
    let (envoy, kith) = (medians(Kind::Envoy), medians(Kind::Kith));
    let ratios = kith
        .iter()
        .zip(&envoy)
        .map(|(kith, envoy)| match (kith, envoy) {
            (Some(kith), Some(envoy)) if envoy.value > 0.0 => Some(kith.value / envoy.value),
            _ => None,
        });
    let has_goal = row
        .figures
        .iter()
        .any(|(_, goal)| !matches!(goal, Goal::None));
    let show = |kind: Kind, medians: &[Option<Median>]| {
        if results.has_failed(row.measure, kind) {
            return "failed".to_owned();
        }
        let disturbed = medians.iter().flatten().any(|median| median.disturbed);
        let values = medians
            .iter()
            .map(|median| median.map(|median| significant(median.value)));
        joined(values) + if disturbed { " *" } else { "" }
    };
    [
        row.label.to_owned(),
        if has_goal {
            joined(ratios.map(|ratio| ratio.map(|ratio| format!("{ratio:.2}"))))
        } else {
            String::new()
        },
        show(Kind::Direct, &medians(Kind::Direct)),
        show(Kind::Envoy, &envoy),
        show(Kind::Kith, &kith),
        if has_goal {
            joined(row.figures.iter().map(|(_, goal)| goal_text(*goal)))
        } else {
            String::new()
        },
        verdict(row, &kith).to_owned(),
    ]
}

/// All or nothing: a row is reached when each of its figures is.
fn verdict(row: &Row, kith: &[Option<Median>]) -> &'static str {
    let met = row
        .figures
        .iter()
        .zip(kith)
        .filter_map(|((_, goal), median)| goal.is_met_by(median.as_ref()?.value));
    let met: Vec<bool> = met.collect();
    match (met.is_empty(), met.iter().all(|met| *met)) {
        (true, _) => "",
        (_, true) => "ok",
        (_, false) => "missed",
    }
}

fn goal_text(goal: Goal) -> Option<String> {
    match goal {
        Goal::AtMost(limit) => Some(format!("≤ {}", significant(limit))),
        Goal::AtLeast(limit) => Some(format!("≥ {}", significant(limit))),
        Goal::None => None,
    }
}

/// `1 / 2`, and nothing at all where there is no value.
fn joined(values: impl Iterator<Item = Option<String>>) -> String {
    let values: Vec<Option<String>> = values.collect();
    if values.iter().all(Option::is_none) {
        return String::new();
    }
    let values: Vec<String> = values
        .into_iter()
        .map(|value| value.unwrap_or_else(|| "–".to_owned()))
        .collect();
    values.join(" / ")
}

/// As many digits as mean anything.
fn significant(value: f64) -> String {
    match value.abs() {
        0.0..1.0 => trimmed(&format!("{value:.3}")),
        1.0..10.0 => trimmed(&format!("{value:.2}")),
        10.0..100.0 => trimmed(&format!("{value:.1}")),
        _ => {
            let digits = format!("{value:.0}");
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .filter_map(|group| std::str::from_utf8(group).ok())
                .collect();
            groups.join(",")
        }
    }
}

fn trimmed(digits: &str) -> String {
    digits
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_mean_anything() {
        for (value, expected) in [
            (0.0231, "0.023"),
            (0.1, "0.1"),
            (0.0, "0"),
            (9.876, "9.88"),
            (22.0, "22"),
            (187.4, "187"),
            (24_301.2, "24,301"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(significant(value), expected);
        }
    }

    #[test]
    fn a_row_is_reached_when_each_of_its_figures_is() {
        let row = Row {
            measure: Measure::Http1,
            label: "",
            figures: &[("one", Goal::AtMost(2.0)), ("other", Goal::AtLeast(2.0))],
        };
        let median = |value| {
            Some(Median {
                value,
                disturbed: false,
            })
        };
        assert_eq!(verdict(&row, &[median(1.0), median(3.0)]), "ok");
        assert_eq!(verdict(&row, &[median(1.0), median(1.0)]), "missed");
        assert_eq!(verdict(&row, &[None, None]), "");
    }
}
