use std::sync::{Arc, Once};

use ::metrics::atomics::AtomicU64;

use super::*;

/// Names as records.md has them, with the type that a scraper is told.
const DOCUMENTED: &[(&str, &str)] = &[
    ("kith_requests_total", "counter"),
    ("kith_request_duration_seconds", "histogram"),
    ("kith_connections_open", "gauge"),
    ("kith_connections_total", "counter"),
    ("kith_bytes_total", "counter"),
    ("kith_handshake_seconds", "histogram"),
    ("kith_handshake_failures_total", "counter"),
    ("kith_svid_expiry_timestamp_seconds", "gauge"),
    ("kith_svid_rotations_total", "counter"),
    ("kith_bundle_trust_domains", "gauge"),
    ("kith_xds_connected", "gauge"),
    ("kith_xds_last_update_timestamp_seconds", "gauge"),
    ("kith_xds_updates_total", "counter"),
    ("kith_config_revision_info", "gauge"),
    ("kith_policy_closed_connections_total", "counter"),
    ("kith_shadow_decisions_total", "counter"),
    ("kith_plaintext_connections_total", "counter"),
    ("kith_detect_total", "counter"),
    ("kith_records_dropped_total", "counter"),
    ("kith_build_info", "gauge"),
];

/// So that every family has a series.
fn touch_everything() {
    static TOUCHED: Once = Once::new();
    TOUCHED.call_once(|| {
        requests(&RequestLabels {
            direction: "inbound",
            source: "s".into(),
            destination: "d".into(),
            decision: "allow",
            reason: "allowed-by-rule",
            code: None,
        })
        .increment(1);
        connections("inbound", "deny", "overload").increment(1);
        handshake_failed(Side::Server, "svid-expired");
        detected("http/1.1", "sniffed");
        xds_update("WorkloadConfig", "applied", SystemTime::now());
        policy_closed("policy-changed", 3);
        config_revision("0");
        config_revision("1");
    });
}

#[test]
fn every_documented_metric_is_there_by_its_name_and_type() {
    touch_everything();
    let text = render(Format::Prometheus);
    for (name, kind) in DOCUMENTED {
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "{name}: {text}"
        );
        let series = |line: &str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{', '_']))
        };
        assert!(text.lines().any(series), "{name}: {text}");
    }
    assert!(!text.contains("# EOF"));
}

#[test]
fn what_any_code_counts_with_the_facade_is_in_the_scrape() {
    install();
    ::metrics::counter!("some_library.calls", "result" => "ok").increment(2);
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = render(format);
        assert!(
            text.contains("\nsome_library_calls_total{result=\"ok\"} 2\n"),
            "{text}"
        );
    }
}

#[test]
fn the_revision_before_is_forgotten() {
    touch_everything();
    let text = render(Format::Prometheus);
    assert!(
        text.contains("\nkith_config_revision_info{revision=\"1\"} 1\n"),
        "{text}"
    );
    assert!(!text.contains("revision=\"0\""), "{text}");
}

#[test]
fn buckets_suit_what_is_measured() {
    let text = render(Format::Prometheus);
    for bucket in [
        r#"kith_request_duration_seconds_bucket{direction="inbound",le="0.00025"}"#,
        r#"kith_request_duration_seconds_bucket{direction="outbound",le="30.0"}"#,
        r#"kith_handshake_seconds_bucket{side="server",le="2.5"}"#,
    ] {
        assert!(text.contains(bucket), "{bucket}: {text}");
    }
}

#[test]
fn open_metrics_names_families_without_total_and_ends_with_eof() {
    touch_everything();
    let text = render(Format::OpenMetrics);
    assert!(text.contains("# TYPE kith_requests counter\n"), "{text}");
    assert!(text.contains("\nkith_requests_total{"), "{text}");
    assert!(text.contains("# TYPE kith_build info\n"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_scraper_chooses_the_format() {
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5";
    assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
    assert_eq!(Format::accepted("*/*"), Format::Prometheus);
    assert_eq!(Format::accepted(""), Format::Prometheus);
}

#[test]
fn row_27_labels_are_escaped() {
    let hostile = "a\"} 1\nkith_forged 7\\";
    requests(&RequestLabels {
        direction: "inbound",
        source: hostile.into(),
        destination: "d".into(),
        decision: "allow",
        reason: "allowed-by-rule",
        code: Some(200),
    })
    .increment(1);
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = render(format);
        assert!(
            text.contains(r#"source="a\"} 1\nkith_forged 7\\""#),
            "{text}"
        );
        assert!(
            !text.lines().any(|line| line.starts_with("kith_forged")),
            "{text}"
        );
    }
}

#[test]
fn open_connections_are_counted_until_dropped() {
    let open = Arc::new(AtomicU64::default());
    let gauge = Gauge::from_arc(Arc::clone(&open));
    let value = || f64::from_bits(open.load(std::sync::atomic::Ordering::Acquire));
    let guards = [
        OpenConnection::counted_by(&gauge),
        OpenConnection::counted_by(&gauge),
    ];
    assert_eq!(value(), 2.0);
    drop(guards);
    assert_eq!(value(), 0.0);
}
