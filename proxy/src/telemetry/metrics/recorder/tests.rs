use ::metrics::{
    counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
};
use expect_test::{Expect, expect};

use super::*;

/// What a scraper reads after `code` has counted.
fn check(code: impl FnOnce(&Recorder), prometheus: &Expect, open_metrics: &Expect) {
    let recorder = Recorder::new(|_| &[0.5, 1.0]);
    with_local_recorder(&recorder, || code(&recorder));
    prometheus.assert_eq(&recorder.render(Format::Prometheus));
    open_metrics.assert_eq(&recorder.render(Format::OpenMetrics));
}

#[test]
fn counters_gauges_and_infos_are_written_in_both_formats() {
    check(
        |_| {
            describe_counter!("requests_total", "Asked \"for\"\nor \\ not");
            counter!("requests_total", "code" => "503").increment(2);
            counter!("requests_total", "code" => "200").increment(1);
            describe_gauge!("expiry_seconds", Unit::Seconds, "When");
            gauge!("expiry_seconds").set(1_800_000_000);
            gauge!("load").set(0.25);
            gauge!("endless").set(f64::INFINITY);
            gauge!("build_info", "version" => "1.2").set(1);
            describe_counter!("never_total", "Never counted");
        },
        &expect![[r#"
            # TYPE build_info gauge
            build_info{version="1.2"} 1
            # TYPE endless gauge
            endless +Inf
            # HELP expiry_seconds When
            # TYPE expiry_seconds gauge
            expiry_seconds 1800000000
            # TYPE load gauge
            load 0.25
            # HELP requests_total Asked "for"\nor \\ not
            # TYPE requests_total counter
            requests_total{code="200"} 1
            requests_total{code="503"} 2
        "#]],
        &expect![[r##"
            # TYPE build info
            build_info{version="1.2"} 1
            # TYPE endless gauge
            endless +Inf
            # HELP expiry_seconds When
            # TYPE expiry_seconds gauge
            # UNIT expiry_seconds seconds
            expiry_seconds 1800000000
            # TYPE load gauge
            load 0.25
            # HELP requests Asked \"for\"\nor \\ not
            # TYPE requests counter
            requests_total{code="200"} 1
            requests_total{code="503"} 2
            # EOF
        "##]],
    );
}

#[test]
fn a_histogram_is_its_buckets_whatever_was_recorded() {
    check(
        |_| {
            describe_histogram!("took_seconds", Unit::Seconds, "How long");
            let took = histogram!("took_seconds", "side" => "client");
            for value in [0.25, 0.5, 0.75, 4.0] {
                took.record(value);
            }
            histogram!("bare").record_many(0.5, 1_000_000);
        },
        &expect![[r#"
            # TYPE bare histogram
            bare_bucket{le="0.5"} 1000000
            bare_bucket{le="1.0"} 1000000
            bare_bucket{le="+Inf"} 1000000
            bare_sum 500000
            bare_count 1000000
            # HELP took_seconds How long
            # TYPE took_seconds histogram
            took_seconds_bucket{side="client",le="0.5"} 2
            took_seconds_bucket{side="client",le="1.0"} 3
            took_seconds_bucket{side="client",le="+Inf"} 4
            took_seconds_sum{side="client"} 5.5
            took_seconds_count{side="client"} 4
        "#]],
        &expect![[r##"
            # TYPE bare histogram
            bare_bucket{le="0.5"} 1000000
            bare_bucket{le="1.0"} 1000000
            bare_bucket{le="+Inf"} 1000000
            bare_sum 500000
            bare_count 1000000
            # HELP took_seconds How long
            # TYPE took_seconds histogram
            # UNIT took_seconds seconds
            took_seconds_bucket{side="client",le="0.5"} 2
            took_seconds_bucket{side="client",le="1.0"} 3
            took_seconds_bucket{side="client",le="+Inf"} 4
            took_seconds_sum{side="client"} 5.5
            took_seconds_count{side="client"} 4
            # EOF
        "##]],
    );
}

#[test]
fn what_others_call_their_metrics_cannot_spoil_the_scrape() {
    check(
        |_| {
            counter!("pool.opens", "peer-name" => "a").increment(1);
            counter!("pool.opens", "peer-name" => "a").increment(1);
            // One family in OpenMetrics, of two kinds: the second counts nowhere.
            gauge!("pool.opens").set(7);
            histogram!("pool_opens").record(7);
            gauge!("9lives").set(9);
        },
        &expect![[r#"
            # TYPE _9lives gauge
            _9lives 9
            # TYPE pool_opens_total counter
            pool_opens_total{peer_name="a"} 2
        "#]],
        &expect![[r##"
            # TYPE _9lives gauge
            _9lives 9
            # TYPE pool_opens counter
            pool_opens_total{peer_name="a"} 2
            # EOF
        "##]],
    );
}

#[test]
fn handles_of_the_same_labels_in_any_order_are_one_series() {
    let recorder = Recorder::new(|_| &[]);
    with_local_recorder(&recorder, || {
        counter!("c_total", "a" => "1", "b" => "2").increment(1);
        counter!("c_total", "b" => "2", "a" => "1").increment(1);
    });
    let text = recorder.render(Format::Prometheus);
    assert!(text.ends_with("c_total{a=\"1\",b=\"2\"} 2\n"), "{text}");
}

#[test]
fn forgotten_series_are_gone_and_the_others_stay() {
    check(
        |recorder| {
            gauge!("revision_info", "revision" => "1").set(1);
            gauge!("revision_info", "revision" => "2").set(1);
            recorder.retain_gauges("revision_info", |key| {
                key.labels().any(|label| label.value() == "2")
            });
        },
        &expect![[r#"
            # TYPE revision_info gauge
            revision_info{revision="2"} 1
        "#]],
        &expect![[r##"
            # TYPE revision info
            revision_info{revision="2"} 1
            # EOF
        "##]],
    );
}
