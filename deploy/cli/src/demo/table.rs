//! What the records tell at the end: who called whom, and one hop seen from both ends.

use std::collections::BTreeMap;

use serde_json::Value;

/// Calls that have all of this in common are one row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    caller: String,
    callee: String,
    what: String,
    decision: String,
    policy: String,
    reason: String,
}

const HEADINGS: [&str; 8] = [
    "CALLER", "CALLEE", "WHAT", "DECISION", "POLICY", "REASON", "CALLS", "P50 MS",
];

/// A record, and `namespace/account` of the workload whose sidecar wrote it.
pub(crate) type Written = (String, Value);

/// The table of who called whom. Of a call that both ends wrote down, the server's side counts; a call that never left
/// its own sidecar is only in that one's records.
pub(crate) fn who_called_whom(records: &[Written]) -> Vec<String> {
    let mut rows: BTreeMap<Row, Vec<f64>> = BTreeMap::new();
    for (owner, record) in records {
        let inbound = text(record, "direction") == "inbound";
        if inbound || (text(record, "decision") == "deny" && record.get("hop").is_none()) {
            rows.entry(row(owner, record))
                .or_default()
                .push(record["duration_ms"].as_f64().unwrap_or(0.0));
        }
    }
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    for (row, mut durations) in rows {
        durations.sort_by(f64::total_cmp);
        let p50 = durations.get(durations.len() / 2).copied().unwrap_or(0.0);
        let Row {
            caller,
            callee,
            what,
            decision,
            policy,
            reason,
        } = row;
        lines.push([
            caller,
            callee,
            what,
            decision,
            policy,
            reason,
            durations.len().to_string(),
            format!("{p50:.1}"),
        ]);
    }
    align(&lines)
}

/// Both ends' records of one hop, key by key.
pub(crate) fn side_by_side(client: &Value, server: &Value) -> Vec<String> {
    let keys = |record: &Value| -> Vec<String> {
        record
            .as_object()
            .map(|map| map.keys().cloned().collect())
            .unwrap_or_default()
    };
    let mut all = keys(client);
    all.extend(
        keys(server)
            .into_iter()
            .filter(|key| client.get(key).is_none()),
    );
    // What joins them comes first.
    let rank = |key: &String| {
        [
            "hop",
            "direction",
            "source.principal",
            "destination.principal",
        ]
        .iter()
        .position(|first| first == key)
    };
    all.sort_by_key(|key| rank(key).unwrap_or(usize::MAX));
    let show = |record: &Value, key: &str| match record.get(key) {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let mut lines = vec![[
        "".to_owned(),
        "CLIENT'S SIDECAR".to_owned(),
        "SERVER'S SIDECAR".to_owned(),
    ]];
    lines.extend(
        all.iter()
            .map(|key| [key.clone(), show(client, key), show(server, key)]),
    );
    align(&lines)
}

fn row(owner: &str, record: &Value) -> Row {
    // Whoever wrote the record is one of the two, proved or not.
    let inbound = text(record, "direction") == "inbound";
    let policy = match (record.get("policy"), record.get("rule")) {
        (Some(policy), Some(rule)) => format!("{}#{}", plain(policy), plain(rule)),
        (Some(policy), None) => plain(policy),
        // On a miss: the policy that came nearest, and what of it did not hold.
        (None, _) => match (
            text(record, "nearest.policy"),
            text(record, "nearest.clause"),
        ) {
            ("", _) => "-".to_owned(),
            (policy, "") => format!("near {policy}"),
            (policy, clause) => format!("near {policy} ({clause})"),
        },
    };
    Row {
        caller: match short(record, "source.principal") {
            Some(name) => name,
            None if inbound => "no identity".to_owned(),
            None => owner.to_owned(),
        },
        callee: callee(record, inbound.then_some(owner)),
        what: what(record),
        decision: text(record, "decision").to_owned(),
        policy,
        reason: text(record, "reason").to_owned(),
    }
}

fn callee(record: &Value, owner: Option<&str>) -> String {
    let service = record.get("destination.service").map(plain);
    let name = owner
        .map(str::to_owned)
        .or(short(record, "destination.principal"))
        .or(service);
    match (name, record.get("destination.port")) {
        (Some(name), Some(port)) => format!("{name}:{}", plain(port)),
        (Some(name), None) => name,
        (None, _) => text(record, "destination.address").to_owned(),
    }
}

/// Method and path; ids in the last segment are left out, or every call would be a row.
fn what(record: &Value) -> String {
    let (method, path) = (text(record, "http.method"), text(record, "http.path"));
    if method.is_empty() {
        return "connection".to_owned();
    }
    let path = match path.rsplit_once('/') {
        Some((folder, id)) if id.parse::<u64>().is_ok() => format!("{folder}/*"),
        _ => path.to_owned(),
    };
    format!("{method} {path}")
}

/// `ns/sa` of a principal that has both.
fn short(record: &Value, key: &str) -> Option<String> {
    let principal = record.get(key)?.as_str()?;
    let path = principal
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or(principal, |(_, path)| path);
    Some(match path.split('/').collect::<Vec<_>>()[..] {
        ["ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => principal.to_owned(),
    })
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn align<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> Vec<String> {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let pad = |(cell, width): (&String, &usize)| format!("{cell:<width$}");
    lines
        .iter()
        .map(|line| {
            line.iter()
                .zip(&widths)
                .map(pad)
                .collect::<Vec<_>>()
                .join("  ")
                .trim_end()
                .to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_counted_once_and_denials_without_a_hop_too() {
        let call = |direction: &str, ms: f64| {
            json!({
                "direction": direction, "decision": "allow", "reason": "allowed-by-rule", "policy": "shop/orders", "rule": 0,
                "source.principal": "spiffe://example.org/ns/shop/sa/web", "hop": "ab-1",
                "destination.principal": "spiffe://example.org/ns/shop/sa/orders", "destination.port": 8080,
                "http.method": "GET", "http.path": "/orders/7", "duration_ms": ms,
            })
        };
        let stranger = json!({
            "direction": "inbound", "decision": "deny", "reason": "peer-unauthenticated", "destination.port": 8080,
            "destination.address": "10.75.0.4:8080", "duration_ms": 0.1,
        });
        let missed = json!({
            "direction": "inbound", "decision": "deny", "reason": "no-allow-policy-matches", "nearest.policy": "shop/payments",
            "nearest.clause": "from.principals", "source.principal": "spiffe://example.org/ns/shop/sa/web",
            "destination.principal": "spiffe://example.org/ns/shop/sa/payments", "destination.port": 8080,
            "http.method": "GET", "http.path": "/charges/1", "hop": "cd-1", "duration_ms": 0.2,
        });
        let orders = |record| ("shop/orders".to_owned(), record);
        let records = [
            ("shop/web".to_owned(), call("outbound", 2.0)),
            orders(call("inbound", 1.0)),
            orders(call("inbound", 3.0)),
            orders(stranger),
            ("shop/payments".to_owned(), missed),
        ];
        let table = who_called_whom(&records);
        assert_eq!(
            table.join("\n"),
            "CALLER       CALLEE              WHAT            DECISION  POLICY                                REASON                   CALLS  P50 MS\n\
             no identity  shop/orders:8080    connection      deny      -                                     peer-unauthenticated     1      0.1\n\
             shop/web     shop/orders:8080    GET /orders/*   allow     shop/orders#0                         allowed-by-rule          2      3.0\n\
             shop/web     shop/payments:8080  GET /charges/*  deny      near shop/payments (from.principals)  no-allow-policy-matches  1      0.2"
        );
    }
}
