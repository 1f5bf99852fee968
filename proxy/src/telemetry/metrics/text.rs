//! The two text formats of a scrape: Prometheus text 0.0.4 and OpenMetrics 1.0.
//!
//! They differ in how counters and infos are named in the lines about them (with their suffix in Prometheus, without
//! in OpenMetrics), in the type `info`, in units, in what is escaped in help texts, and in the closing line.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;

use ::metrics::Key;

use super::recorder::{Cell, Families, Family, Kind};

/// The text format that the scraper asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// By the `Accept` header; Prometheus asks for OpenMetrics first.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub(super) fn encode(families: &Families, format: Format) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for (name, family) in families {
        if !family.series.is_empty() {
            // Writing to a string cannot fail.
            let _ = write_family(&mut out, name, family, format);
        }
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn write_family(out: &mut String, name: &str, family: &Family, format: Format) -> fmt::Result {
    let suffix = family.kind.suffix();
    let described = if format == Format::OpenMetrics {
        ""
    } else {
        suffix
    };
    let kind = match (family.kind, format) {
        (Kind::Counter, _) => "counter",
        (Kind::Histogram, _) => "histogram",
        (Kind::Info, Format::OpenMetrics) => "info",
        (Kind::Gauge | Kind::Info, _) => "gauge",
    };
    if !family.help.is_empty() {
        write!(out, "# HELP {name}{described} ")?;
        escape(out, &family.help, format == Format::OpenMetrics);
        out.push('\n');
    }
    writeln!(out, "# TYPE {name}{described} {kind}")?;
    // OpenMetrics 1.0, section 4.4: only where the name ends in it.
    let unit = family
        .unit
        .filter(|unit| format == Format::OpenMetrics && name.ends_with(unit.as_str()));
    if let Some(unit) = unit {
        writeln!(out, "# UNIT {name} {}", unit.as_str())?;
    }
    let mut series: Vec<_> = family
        .series
        .iter()
        .map(|(key, cell)| (labels(key), cell))
        .collect();
    series.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (labels, cell) in series {
        match cell {
            Cell::Number(bits) => {
                write!(out, "{name}{suffix}")?;
                write_labels(out, &labels, None)?;
                let bits = bits.load(Ordering::Acquire);
                match family.kind {
                    Kind::Counter => writeln!(out, " {bits}")?,
                    _ => writeln!(out, " {}", number(f64::from_bits(bits)))?,
                }
            }
            Cell::Buckets(buckets) => {
                let mut count = 0;
                for (bound, up_to_it) in buckets.cumulative() {
                    write!(out, "{name}_bucket")?;
                    write_labels(out, &labels, Some(bound))?;
                    writeln!(out, " {up_to_it}")?;
                    count = up_to_it;
                }
                write!(out, "{name}_sum")?;
                write_labels(out, &labels, None)?;
                write!(out, " {}\n{name}_count", number(buckets.sum()))?;
                write_labels(out, &labels, None)?;
                writeln!(out, " {count}")?;
            }
        }
    }
    Ok(())
}

/// As between the braces, in the order in which they were given.
fn labels(key: &Key) -> String {
    let mut out = String::new();
    for label in key.labels() {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&valid(label.key(), |byte| {
            byte == b'_' || byte.is_ascii_alphanumeric()
        }));
        out.push_str("=\"");
        escape(&mut out, label.value(), true);
        out.push('"');
    }
    out
}

fn write_labels(out: &mut String, labels: &str, bound: Option<f64>) -> fmt::Result {
    match (labels, bound) {
        ("", None) => Ok(()),
        (labels, None) => write!(out, "{{{labels}}}"),
        ("", Some(bound)) => write!(out, "{{le=\"{}\"}}", canonical(bound)),
        (labels, Some(bound)) => write!(out, "{{{labels},le=\"{}\"}}", canonical(bound)),
    }
}

/// OpenMetrics 1.0, section 5.3.1: bounds are written so that `1` and `1.0` aren't two.
fn canonical(bound: f64) -> Cow<'static, str> {
    if bound.is_finite() {
        format!("{bound:?}").into()
    } else {
        number(bound)
    }
}

fn number(value: f64) -> Cow<'static, str> {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        value => value.to_string().into(),
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

/// The name of the family that a metric of this name belongs to.
pub(super) fn family_name(name: &str, kind: Kind) -> Cow<'_, str> {
    let name = name.strip_suffix(kind.suffix()).unwrap_or(name);
    valid(name, |byte| {
        matches!(byte, b'_' | b':') || byte.is_ascii_alphanumeric()
    })
}

/// Other code may call its metrics what it likes, with dots above all; one bad name would cost the whole scrape.
fn valid(name: &str, allowed: fn(u8) -> bool) -> Cow<'_, str> {
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|first| !first.is_ascii_digit());
    if starts_well && name.bytes().all(allowed) {
        return name.into();
    }
    let mut out = String::from(if starts_well { "" } else { "_" });
    out.extend(
        name.bytes()
            .map(|byte| if allowed(byte) { char::from(byte) } else { '_' }),
    );
    out.into()
}
