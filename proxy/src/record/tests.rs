use std::fs;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use expect_test::{Expect, expect};
use kith_policy::{Clause, Nearest, Shadow, Verdict as Says};
use serde_json::Value;

use super::*;

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";

struct Log {
    recorder: Recorder,
    sink: Sink,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(log_query: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let recorder =
            Recorder::start(&Destination::File(path.clone()), WhenFull::Drop, log_query).unwrap();
        let sink = recorder.sink();
        Log {
            recorder,
            sink,
            path,
            _folder: folder,
        }
    }

    fn inbound(&self) -> Rc<ConnectionFacts> {
        let (source, destination) = (
            "10.1.2.3:4000".parse().unwrap(),
            "10.9.9.9:8080".parse().unwrap(),
        );
        ConnectionFacts::new(&self.sink, Direction::Inbound, source, destination)
    }

    fn outbound(&self) -> Rc<ConnectionFacts> {
        let (source, destination) = (
            "10.1.2.3:4000".parse().unwrap(),
            "[fd00::7]:80".parse().unwrap(),
        );
        ConnectionFacts::new(&self.sink, Direction::Outbound, source, destination)
    }

    fn lines(&self) -> Vec<String> {
        assert!(self.recorder.flush(Duration::from_secs(5)));
        fs::read_to_string(&self.path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// The only line, one member a line, with what differs from run to run put aside.
    fn check(&self, expected: &Expect) {
        let lines = self.lines();
        let [line] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        let parsed: Value = serde_json::from_str(line).unwrap();
        assert!(
            parsed
                .as_object()
                .unwrap()
                .values()
                .all(|value| value != "" && !value.is_null()),
            "{line}"
        );
        let line = blank(line, r#""time":""#, '"');
        let line = blank(&line, r#""duration_ms":"#, ',');
        expected.assert_eq(&line.replace(",\"", "\n\"").replace("}", "\n}\n"));
    }
}

fn blank(line: &str, before: &str, after: char) -> String {
    let start = line.find(before).unwrap() + before.len();
    let length = line[start..].find([after, '}']).unwrap();
    format!("{}…{}", &line[..start], &line[start + length..])
}

fn hop(id: u8, address: Option<&str>) -> Rc<Hop> {
    Hop::new(&HopFacts {
        id: &[id; 16],
        source_principal: WEB,
        source_serial: "0a1b",
        source_expires: Some(UNIX_EPOCH + Duration::from_secs(1_795_317_255)),
        destination_principal: ORDERS,
        destination_address: address.map(|address| address.parse().unwrap()),
        tls: TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS13_AES_256_GCM_SHA384",
            group: "X25519MLKEM768",
        },
    })
}

fn decision(allow: bool, reason: Reason) -> Decision {
    Decision {
        allow,
        reason,
        policy: Some("shop/orders".into()),
        rule: Some(1),
        nearest: None,
        shadow: Vec::new(),
        would_allow: None,
        revision: "42".into(),
    }
}

fn get<'a>(path: &'a str, query: Option<&'a str>) -> RequestHead<'a> {
    RequestHead {
        method: b"GET",
        authority: b"orders.shop",
        path: path.as_bytes(),
        query,
        secret: &|name| name == "jwt",
        version: "1.1",
    }
}

#[test]
fn an_allowed_inbound_request_says_everything_that_is_known() {
    let log = Log::new();
    let mut record = Record::open(Kind::Request, &log.inbound());
    record.travels(&hop(0x9f, None), 3);
    record.request(&get("/orders/7", Some("token=secret")));
    record.request_id(b"0190163d-8694-739b-aea5-966c26f8ad91");
    record.trace = Some(Trace {
        trace_id: [1; 16],
        span_id: [2; 8],
        parent_id: Some([3; 8]),
    });
    record.decide(&decision(true, Reason::AllowedByRule));
    record.status = Some(200);
    record.grpc_status = Some(0);
    record.bytes_in = 12;
    record.bytes_out = 3456;
    record.upstream = Some(Duration::from_micros(1250));
    record.renewed = 4;
    drop(record);
    log.check(&expect![[r#"
        {"time":"…"
        "record":"request"
        "direction":"inbound"
        "decision":"allow"
        "reason":"allowed-by-rule"
        "source.principal":"spiffe://example.org/ns/shop/sa/web"
        "source.serial":"0a1b"
        "source.expires":"2026-11-22T03:14:15.000Z"
        "destination.principal":"spiffe://example.org/ns/shop/sa/orders"
        "tls.version":"TLSv1.3"
        "tls.cipher":"TLS13_AES_256_GCM_SHA384"
        "tls.group":"X25519MLKEM768"
        "source.address":"10.1.2.3:4000"
        "destination.port":8080
        "destination.address":"10.9.9.9:8080"
        "policy":"shop/orders"
        "rule":1
        "revision":"42"
        "hop":"9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f-3"
        "request.id":"0190163d-8694-739b-aea5-966c26f8ad91"
        "trace.id":"01010101010101010101010101010101"
        "span.id":"0202020202020202"
        "parent.id":"0303030303030303"
        "http.method":"GET"
        "http.authority":"orders.shop"
        "http.path":"/orders/7"
        "http.version":"1.1"
        "http.status":200
        "grpc.status":0
        "bytes.in":12
        "bytes.out":3456
        "duration_ms":…
        "upstream_ms":1.250
        "lease.renewed":4
        }
    "#]]);
}

#[test]
fn a_miss_names_the_nearest_policy_and_clause() {
    let log = Log::new();
    let mut record = Record::open(Kind::Connection, &log.inbound());
    let nearest = Nearest {
        policy: "shop/orders".into(),
        clause: Clause::To("ports"),
    };
    record.decide(&Decision {
        policy: None,
        rule: None,
        nearest: Some(nearest),
        ..decision(false, Reason::NoAllowPolicyMatches)
    });
    record.closed_by = Some(ClosedBy::Policy);
    drop(record);
    log.check(&expect![[r#"
        {"time":"…"
        "record":"connection"
        "direction":"inbound"
        "decision":"deny"
        "reason":"no-allow-policy-matches"
        "source.address":"10.1.2.3:4000"
        "destination.port":8080
        "destination.address":"10.9.9.9:8080"
        "nearest.policy":"shop/orders"
        "nearest.clause":"to.ports"
        "revision":"42"
        "bytes.in":0
        "bytes.out":0
        "duration_ms":…
        "closed_by":"policy"
        }
    "#]]);
}

#[test]
fn a_failed_handshake_says_what_failed() {
    let log = Log::new();
    let mut record = Record::open(Kind::Connection, &log.inbound());
    record.refuse(Reason::SvidUntrusted);
    record.tls_error("peer sent \"garbage\"\n");
    record.revision = Some("41".into());
    drop(record);
    log.check(&expect![[r#"
        {"time":"…"
        "record":"connection"
        "direction":"inbound"
        "decision":"deny"
        "reason":"svid-untrusted"
        "source.address":"10.1.2.3:4000"
        "destination.port":8080
        "destination.address":"10.9.9.9:8080"
        "revision":"41"
        "bytes.in":0
        "bytes.out":0
        "duration_ms":…
        "tls.error":"peer sent \"garbage\"\n"
        }
    "#]]);
}

#[test]
fn an_outbound_retry_keeps_the_hop_of_every_attempt() {
    let log = Log::new();
    let mut record = Record::open(Kind::Request, &log.outbound());
    record.service = Some("shop/orders".into());
    record.attempts = 2;
    record.travels(&hop(1, Some("10.0.0.1:8080")), 7);
    record.travels(&hop(2, Some("10.0.0.2:8080")), 1);
    record.decide(&Decision {
        policy: None,
        rule: None,
        ..decision(true, Reason::AllowedByDefault)
    });
    drop(record);
    log.check(&expect![[r#"
        {"time":"…"
        "record":"request"
        "direction":"outbound"
        "decision":"allow"
        "reason":"allowed-by-default"
        "source.principal":"spiffe://example.org/ns/shop/sa/web"
        "source.serial":"0a1b"
        "source.expires":"2026-11-22T03:14:15.000Z"
        "destination.principal":"spiffe://example.org/ns/shop/sa/orders"
        "destination.address":"10.0.0.2:8080"
        "tls.version":"TLSv1.3"
        "tls.cipher":"TLS13_AES_256_GCM_SHA384"
        "tls.group":"X25519MLKEM768"
        "source.address":"10.1.2.3:4000"
        "destination.port":80
        "destination.service":"shop/orders"
        "revision":"42"
        "hop":"02020202020202020202020202020202-1"
        "hops":["01010101010101010101010101010101-7"
        "02020202020202020202020202020202-1"]
        "attempts":2
        "bytes.in":0
        "bytes.out":0
        "duration_ms":…
        }
    "#]]);
}

/// The verdict after these steps.
fn verdict(steps: impl FnOnce(&mut Record)) -> (bool, Reason) {
    let log = Log::new();
    let mut record = Record::open(Kind::Request, &log.inbound());
    steps(&mut record);
    let outcome = record.outcome();
    drop(record);
    let line: Value = serde_json::from_str(&log.lines()[0]).unwrap();
    assert_eq!(line["decision"], if outcome.0 { "allow" } else { "deny" });
    assert_eq!(line["reason"], outcome.1.as_str());
    outcome
}

#[test]
fn what_nobody_decided_is_a_denial() {
    assert_eq!(verdict(|_| {}), (false, Reason::ClientClosed));
    assert_eq!(
        verdict(|record| record.fail(Reason::Overload)),
        (false, Reason::Overload)
    );
}

#[test]
fn a_failure_after_the_decision_keeps_it_and_says_what_failed() {
    let allowed = |record: &mut Record| record.decide(&decision(true, Reason::AllowedByRule));
    assert_eq!(verdict(allowed), (true, Reason::AllowedByRule));
    let failed = verdict(|record| {
        allowed(record);
        record.fail(Reason::ServerUnreachable);
    });
    assert_eq!(failed, (true, Reason::ServerUnreachable));
    let denied = verdict(|record| {
        record.decide(&decision(false, Reason::DeniedByRule));
        record.fail(Reason::ClientClosed);
    });
    assert_eq!(denied, (false, Reason::DeniedByRule));
}

#[test]
fn refused_and_revoked_win_over_what_was_allowed() {
    let refused = verdict(|record| {
        record.decide(&decision(true, Reason::AllowedByRule));
        record.fail(Reason::ServerClosed);
        record.refuse(Reason::ServerIdentityMismatch);
    });
    assert_eq!(refused, (false, Reason::ServerIdentityMismatch));

    let log = Log::new();
    let mut record = Record::open(Kind::Connection, &log.inbound());
    record.decide(&decision(true, Reason::AllowedByRule));
    let forbids = Decision {
        policy: Some("shop/lockdown".into()),
        ..decision(false, Reason::DeniedByRule)
    };
    record.revoke(Reason::PolicyChanged, Some(&forbids));
    drop(record);
    let line: Value = serde_json::from_str(&log.lines()[0]).unwrap();
    assert_eq!(line["decision"], "deny");
    assert_eq!(line["reason"], "policy-changed");
    assert_eq!(line["policy"], "shop/lockdown");
}

#[test]
fn row_30_a_panic_is_recorded_once() {
    let log = Log::new();
    let facts = log.inbound();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut record = Record::open(Kind::Request, &facts);
        record.request(&get("/boom", None));
        panic!("on purpose");
    }));
    assert!(outcome.is_err());
    let lines = log.lines();
    assert_eq!(lines.len(), 1);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["decision"], "deny");
    assert_eq!(line["closed_by"], "panic");
    assert_eq!(line["http.path"], "/boom");
}

#[test]
fn a_connection_that_carries_requests_has_no_record_of_its_own() {
    let log = Log::new();
    Record::open(Kind::Connection, &log.inbound()).carries_requests();
    assert!(log.lines().is_empty());
}

#[test]
fn queries_are_kept_only_where_configured() {
    for (log_query, path) in [(false, "/a"), (true, "/a?b=c")] {
        let log = Log::with(log_query);
        Record::open(Kind::Request, &log.inbound()).request(&get("/a", Some("b=c")));
        let line: Value = serde_json::from_str(&log.lines()[0]).unwrap();
        assert_eq!(line["http.path"], path);
    }
}

#[test]
fn tokens_in_queries_are_never_kept() {
    let log = Log::with(true);
    let query = "b=c&access_token=x&jwt=y&d=eyJh.eyJi.c";
    Record::open(Kind::Request, &log.inbound()).request(&get("/a", Some(query)));
    let line: Value = serde_json::from_str(&log.lines()[0]).unwrap();
    assert_eq!(
        line["http.path"],
        "/a?b=c&access_token=redacted&jwt=redacted&d=redacted"
    );
}

#[test]
fn whom_a_token_is_about_is_written_down_as_far_as_it_is_proved() {
    for (proved, expected) in [
        (
            true,
            r#""end_user.issuer":"https://idp","end_user.subject":"ann","end_user.token":"0707070707070707","end_user.expires":"1970-01-01T00:00:09.000Z""#,
        ),
        (false, r#""end_user.token":"0707070707070707""#),
    ] {
        let log = Log::new();
        let mut record = Record::open(Kind::Request, &log.inbound());
        let mut user = EndUser::of_digest([7; 32]);
        if proved {
            user.issuer = "https://idp".into();
            user.subject = "ann".into();
            user.expires = Some(UNIX_EPOCH + Duration::from_secs(9));
        }
        record.end_user = Some(Rc::new(user));
        drop(record);
        let line = &log.lines()[0];
        assert!(line.contains(expected), "{line}");
        assert_eq!(
            line.matches("end_user").count(),
            expected.matches("end_user").count()
        );
    }
}

#[test]
fn row_27_hostile_bytes_make_one_line_and_no_new_member() {
    let log = Log::new();
    let mut record = Record::open(Kind::Request, &log.inbound());
    let hostile: &[u8] = b"/\",\"decision\":\"allow\"}\n{\"x\":\"\xff\xfe\0";
    record.request(&RequestHead {
        method: hostile,
        authority: hostile,
        path: hostile,
        query: None,
        secret: &|_| false,
        version: "1.1",
    });
    record.request_id(hostile);
    record.tls_error(&String::from_utf8_lossy(hostile));
    drop(record);
    let lines = log.lines();
    assert_eq!(lines.len(), 1);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["decision"], "deny");
    assert_eq!(
        line["http.path"],
        String::from_utf8_lossy(hostile).into_owned()
    );
}

#[test]
fn off_writes_nothing() {
    let recorder = Recorder::start(&Destination::Off, WhenFull::Block, false).unwrap();
    let (source, destination) = (
        "10.1.2.3:4000".parse().unwrap(),
        "10.9.9.9:8080".parse().unwrap(),
    );
    let facts = ConnectionFacts::new(&recorder.sink(), Direction::Inbound, source, destination);
    for _ in 0..100_000 {
        drop(Record::open(Kind::Request, &facts));
    }
    assert!(recorder.flush(Duration::ZERO));
}

#[test]
fn a_record_counts_its_request_by_principals_and_outcome() {
    let log = Log::new();
    let facts = log.inbound();
    let hop = Hop::new(&HopFacts {
        source_principal: "spiffe://example.org/counted",
        ..HopFacts {
            id: &[0; 16],
            source_principal: WEB,
            source_serial: "01",
            source_expires: None,
            destination_principal: ORDERS,
            destination_address: None,
            tls: TlsFacts {
                version: "TLSv1.3",
                cipher: "c",
                group: "g",
            },
        }
    });
    for status in [200, 200, 503] {
        let mut record = Record::open(Kind::Request, &facts);
        record.travels(&hop, 1);
        record.decide(&decision(true, Reason::AllowedByRule));
        record.status = Some(status);
    }
    let text = crate::telemetry::metrics::render(crate::telemetry::metrics::Format::Prometheus);
    let mut counted: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("example.org/counted"))
        .collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            r#"kith_requests_total{direction="inbound",source="spiffe://example.org/counted",destination="spiffe://example.org/ns/shop/sa/orders",decision="allow",reason="allowed-by-rule",code="200"} 2"#,
            r#"kith_requests_total{direction="inbound",source="spiffe://example.org/counted",destination="spiffe://example.org/ns/shop/sa/orders",decision="allow",reason="allowed-by-rule",code="503"} 1"#,
        ]
    );
}

#[test]
fn what_policies_that_do_not_decide_say_is_written_beside_the_decision() {
    let says = |policy: &str, verdict| Shadow {
        policy: policy.into(),
        rule: None,
        verdict,
    };
    let next = says("shop/next", Says::Deny);
    let audit = says("shop/\"au\ndit\"", Says::Audit);
    let cases = [
        (true, vec![next.clone(), audit], Some(false)),
        (false, vec![says("shop/wider", Says::Allow)], Some(true)),
        (true, vec![says("shop/same", Says::Audit)], None),
        (true, vec![next; 1000], Some(false)),
    ];
    let log = Log::new();
    for (allow, shadow, would_allow) in cases {
        let reason = if allow {
            Reason::AllowedByRule
        } else {
            Reason::DeniedByRule
        };
        let mut record = Record::open(Kind::Request, &log.inbound());
        record.decide(&Decision {
            shadow,
            would_allow,
            ..decision(allow, reason)
        });
    }
    // In the name of what forbids it now, and with what would forbid it next.
    let mut record = Record::open(Kind::Connection, &log.outbound());
    record.revoke(
        Reason::PolicyChanged,
        Some(&Decision {
            would_allow: Some(true),
            ..decision(false, Reason::DeniedByRule)
        }),
    );
    drop(record);
    let mut seen = Vec::new();
    for line in log.lines() {
        let record: Value = serde_json::from_str(&line).unwrap();
        let said = record["shadow"].as_array().cloned().unwrap_or_default();
        let first = said.first().map(ToString::to_string).unwrap_or_default();
        let whole = record.get("shadow.decision").map(ToString::to_string);
        seen.push(format!(
            "{} {} {first} {}",
            record["decision"],
            said.len(),
            whole.unwrap_or_default()
        ));
        if let Some(second) = said.get(1).filter(|second| **second != said[0]) {
            assert_eq!(second["policy"], "shop/\"au\ndit\"", "{line}");
        }
    }
    expect![[r#"
        "allow" 2 {"decision":"deny","policy":"shop/next"} "deny"
        "deny" 1 {"decision":"allow","policy":"shop/wider"} "allow"
        "allow" 1 {"decision":"audit","policy":"shop/same"} 
        "allow" 32 {"decision":"deny","policy":"shop/next"} "deny"
        "deny" 0  "allow""#]]
    .assert_eq(&seen.join("\n"));
    let text = crate::telemetry::metrics::render(crate::telemetry::metrics::Format::Prometheus);
    for series in [
        r#"kith_shadow_decisions_total{direction="inbound",decision="deny"} 2"#,
        r#"kith_shadow_decisions_total{direction="inbound",decision="allow"} 1"#,
        r#"kith_shadow_decisions_total{direction="outbound",decision="allow"} 1"#,
        r#"kith_shadow_decisions_total{direction="outbound",decision="deny"} 0"#,
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
}
