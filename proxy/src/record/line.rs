//! A finished record as one line, in the order in which people read it: who, whether, why, then the rest.

use std::cell::RefCell;
use std::time::Duration;

use kith_policy::Decision;

use super::json::{Json, timestamp};
use super::{Kind, Record, Verdict};

/// A mesh in transition may have many policies that don't decide; `shadow.decision` is about all of them.
const MOST_SHADOWS: usize = 32;

thread_local! {
    static LINE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(1024));
}

pub(super) fn emit(record: &Record, took: Duration) {
    let sink = record.connection.sink();
    if sink.is_off() {
        return;
    }
    let (allowed, _) = record.outcome();
    let hand_over = |line: &mut Vec<u8>| {
        line.clear();
        write(record, took, line);
        sink.append(line, allowed);
    };
    // A thread that is being torn down has no buffer any more, and its records count all the same.
    if LINE
        .try_with(|line| hand_over(&mut line.borrow_mut()))
        .is_err()
    {
        hand_over(&mut Vec::new());
    }
}

fn write(record: &Record, took: Duration, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    timestamp(record.time, out);
    out.push(b'"');

    let (allowed, reason) = record.outcome();
    let decision = match &record.verdict {
        Verdict::Decided(decision) => Some(decision),
        Verdict::Open | Verdict::Refused(_) => None,
    };
    let mut json = Json::fragment(out);
    json.literal(
        "record",
        if record.kind == Kind::Request {
            "request"
        } else {
            "connection"
        },
    );
    json.literal("direction", record.connection.direction().as_str());
    json.literal("decision", if allowed { "allow" } else { "deny" });
    json.literal("reason", reason.as_str());
    parties(record, out);
    end_user(record, out);
    decided(record, decision, out);
    correlation(record, out);
    http(record, out);
    transport(record, took, out);
    out.extend_from_slice(b"}\n");
}

/// `source.*`, `destination.*`, `tls.*`
fn parties(record: &Record, out: &mut Vec<u8>) {
    let hop = record.hop.as_ref().map(|(hop, _)| hop);
    if let Some(hop) = hop {
        out.extend_from_slice(hop.fragment());
    }
    out.extend_from_slice(record.connection.fragment());
    match &record.destination {
        _ if hop.is_some_and(|hop| hop.has_address()) => {}
        Some(address) => Json::fragment(out).display("destination.address", address),
        None => out.extend_from_slice(record.connection.address()),
    }
    if let Some(service) = &record.service {
        Json::fragment(out).text("destination.service", service.as_bytes());
    }
}

/// `end_user.*`
fn end_user(record: &Record, out: &mut Vec<u8>) {
    let Some(user) = &record.end_user else {
        return;
    };
    let mut json = Json::fragment(out);
    json.text("end_user.issuer", user.issuer.as_bytes());
    json.text("end_user.subject", user.subject.as_bytes());
    json.hex("end_user.token", &user.token);
    if let Some(expires) = user.expires {
        json.time("end_user.expires", expires);
    }
}

fn decided(record: &Record, decision: Option<&Decision>, out: &mut Vec<u8>) {
    let mut json = Json::fragment(out);
    if let Some(decision) = decision {
        if let Some(policy) = &decision.policy {
            json.text("policy", policy.as_bytes());
        }
        if let Some(rule) = decision.rule {
            json.number("rule", u64::from(rule));
        }
        if let Some(nearest) = &decision.nearest {
            json.text("nearest.policy", nearest.policy.as_bytes());
            json.display("nearest.clause", &nearest.clause);
        }
        if !decision.shadow.is_empty() {
            let said = decision.shadow.iter().take(MOST_SHADOWS);
            json.shadow(said.map(|shadow| (&*shadow.policy, shadow.verdict.as_str())));
        }
        if let Some(would_allow) = decision.would_allow {
            json.literal(
                "shadow.decision",
                if would_allow { "allow" } else { "deny" },
            );
        }
    }
    if let Some(revision) = decision
        .map(|decision| &decision.revision)
        .or(record.revision.as_ref())
    {
        json.text("revision", revision.as_bytes());
    }
}

/// What joins this record to others: hop, request id, trace.
fn correlation(record: &Record, out: &mut Vec<u8>) {
    let mut json = Json::fragment(out);
    if let Some((hop, ordinal)) = &record.hop {
        json.hop("hop", hop.id(), *ordinal);
        if !record.earlier_hops.is_empty() {
            let all = record.earlier_hops.iter().chain(&record.hop);
            json.hops("hops", all.map(|(hop, ordinal)| (hop.id(), *ordinal)));
        }
    }
    if record.attempts > 1 {
        json.number("attempts", record.attempts.into());
    }
    json.text("request.id", record.texts.request_id());
    if let Some(trace) = &record.trace {
        json.hex("trace.id", &trace.trace_id);
        json.hex("span.id", &trace.span_id);
        if let Some(parent) = &trace.parent_id {
            json.hex("parent.id", parent);
        }
    }
}

fn http(record: &Record, out: &mut Vec<u8>) {
    let mut json = Json::fragment(out);
    json.text("http.method", record.texts.method());
    json.text("http.authority", record.texts.authority());
    json.text("http.path", record.texts.path());
    if let Some(version) = record.version {
        json.literal("http.version", version);
    }
    if let Some(status) = record.status {
        json.number("http.status", status.into());
    }
    if let Some(status) = record.grpc_status {
        json.number("grpc.status", status.into());
    }
}

fn transport(record: &Record, took: Duration, out: &mut Vec<u8>) {
    let mut json = Json::fragment(out);
    json.number("bytes.in", record.bytes_in);
    json.number("bytes.out", record.bytes_out);
    json.milliseconds("duration_ms", took);
    if let Some(upstream) = record.upstream {
        json.milliseconds("upstream_ms", upstream);
    }
    json.text("tls.error", record.texts.tls_error());
    if record.renewed > 0 {
        json.number("lease.renewed", record.renewed.into());
    }
    if let Some(closed_by) = record.closed_by {
        json.literal("closed_by", closed_by.as_str());
    }
}
