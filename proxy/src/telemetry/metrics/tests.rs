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
    ("kith_detect_total", "counter"),
    ("kith_records_dropped_total", "counter"),
    ("kith_build_info", "gauge"),
];

/// So that every family has a series.
fn touch_everything() {
    requests(&RequestLabels {
        direction: "inbound",
        source: "s".into(),
        destination: "d".into(),
        decision: "allow",
        reason: "allowed-by-rule",
        code: None,
    })
    .inc();
    connections("inbound", "deny", "overload").inc();
    handshake_failed(Side::Server, "svid-expired");
    detected("http/1.1", "sniffed");
    xds_update("WorkloadConfig", "applied", SystemTime::now());
    policy_closed("policy-changed", 3);
    config_revision("1");
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
    .inc();
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
    let gauge = Gauge::default();
    let guards = [
        OpenConnection::counted_by(&gauge),
        OpenConnection::counted_by(&gauge),
    ];
    assert_eq!(gauge.get(), 2);
    drop(guards);
    assert_eq!(gauge.get(), 0);
}
