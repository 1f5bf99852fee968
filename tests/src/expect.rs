//! Records and messages as text to compare whole: what changes from run to run is checked for its form and
//! replaced by a name.

use std::collections::BTreeSet;

use kith::app::client::Reply;
use kith::lab::Workload;
use serde_json::Value;

/// What a record says twice about one hop, and what therefore must be the same on both ends.
const SHARED: [&str; 12] = [
    "record",
    "source.principal",
    "source.serial",
    "source.expires",
    "destination.principal",
    "destination.port",
    "hop",
    "request.id",
    "trace.id",
    "tls.version",
    "tls.cipher",
    "tls.group",
];

/// Both records of one hop, the client's and the server's, after checking that each belongs to the other.
/// `wanted` chooses the server's.
pub async fn hop(client: &Workload, server: &Workload, wanted: impl Fn(&Value) -> bool) -> String {
    let (outbound, inbound) = ends(client, server, wanted).await;
    side_by_side(&outbound, &inbound)
}

/// As [`hop`], not yet text: the client's and the server's.
pub async fn ends(
    client: &Workload,
    server: &Workload,
    wanted: impl Fn(&Value) -> bool,
) -> (Value, Value) {
    let inbound = server
        .wait_record(|record| record["direction"] == "inbound" && wanted(record))
        .await
        .unwrap();
    assert!(inbound["hop"].is_string(), "no hop: {inbound}");
    let same_hop =
        |record: &Value| record["direction"] == "outbound" && record["hop"] == inbound["hop"];
    let outbound = client.wait_record(same_hop).await.unwrap();
    for key in SHARED {
        assert_eq!(
            outbound[key], inbound[key],
            "{key} of\n{outbound}\n{inbound}"
        );
    }
    assert_eq!(
        outbound["span.id"], inbound["parent.id"],
        "the span of the client's sidecar is the parent of the server's"
    );
    (outbound, inbound)
}

/// Two records as one text: `both`, or what each end says.
#[must_use]
pub fn side_by_side(outbound: &Value, inbound: &Value) -> String {
    let keys = |record: &Value| {
        record
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    let mut text = String::new();
    for key in keys(outbound).union(&keys(inbound)) {
        match (normal(outbound, key), normal(inbound, key)) {
            (Some(one), Some(other)) if one == other => text += &format!("both    {key} {one}\n"),
            (one, other) => {
                text.extend(one.map(|value| format!("client  {key} {value}\n")));
                text.extend(other.map(|value| format!("server  {key} {value}\n")));
            }
        }
    }
    text
}

/// One record as text.
#[must_use]
pub fn record(record: &Value) -> String {
    let keys = record.as_object().unwrap().keys();
    keys.filter_map(|key| Some(format!("{key} {}\n", normal(record, key)?)))
        .collect()
}

/// A field as text; volatile ones by their form.
fn normal(record: &Value, key: &str) -> Option<String> {
    let value = record.get(key)?;
    let text = value.as_str().unwrap_or_default();
    Some(match key {
        "time" | "source.expires" => {
            assert!(
                text.len() == 24 && text.ends_with('Z'),
                "{key} is no time: {value}"
            );
            "<time>".to_owned()
        }
        "duration_ms" | "upstream_ms" => {
            assert!(
                value
                    .as_f64()
                    .is_some_and(|ms| (0.0..60_000.0).contains(&ms)),
                "{key} is no duration: {value}"
            );
            "<ms>".to_owned()
        }
        "source.serial" => {
            assert!(
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{key} is no serial: {value}"
            );
            "<serial>".to_owned()
        }
        "revision" => {
            assert!(!text.is_empty(), "{key} is empty: {value}");
            "<revision>".to_owned()
        }
        // An ephemeral port.
        "source.address" => format!("{}:*", text.rsplit_once(':')?.0),
        _ => scrub(
            &value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned),
        ),
    })
}

/// A reply as text: status, headers, body, trailers.
#[must_use]
pub fn reply(reply: &Reply) -> String {
    let mut text = format!("{}\n", reply.status);
    let mut body = reply.text();
    // The port that the application's peer happened to get.
    if let (Some(peer), true) = (reply.json()["peer"].as_str(), body.contains("\"peer\"")) {
        body = body.replace(peer, "<peer>");
    }
    let headers = |headers: &http::HeaderMap| -> String {
        let mut lines: Vec<_> = headers
            .iter()
            .filter(|(name, _)| *name != "date")
            .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        lines.sort();
        lines.concat()
    };
    text += &headers(&reply.headers);
    text += &format!("\n{}\n", body.trim_end());
    if !reply.trailers.is_empty() {
        text += &format!("\n{}", headers(&reply.trailers));
    }
    scrub(&text)
}

/// Replaces ids and digests by their form. A hop keeps its ordinal.
#[must_use]
pub fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let in_run =
            |byte: u8| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let run = rest.bytes().take_while(|byte| in_run(*byte)).count();
        out += &form_of(&rest[..run]).unwrap_or_else(|| rest[..run].to_owned());
        let next = rest[run..].chars().next().map_or(0, char::len_utf8);
        out += &rest[run..run + next];
        rest = &rest[run + next..];
    }
    out
}

fn form_of(run: &str) -> Option<String> {
    let parts: Vec<&str> = run.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    Some(match (lengths.as_slice(), parts.as_slice()) {
        ([8, 4, 4, 4, 12], _) => "<uuid>".to_owned(),
        ([2, 32, 16, 2], ["00", _, _, flags]) => format!("00-<trace>-<span>-{flags}"),
        ([32, 1..=9], [_, ordinal]) => format!("<hop>-{ordinal}"),
        ([64], _) => "<sha256>".to_owned(),
        ([32], _) => "<trace>".to_owned(),
        ([16], _) => "<span>".to_owned(),
        _ => return None,
    })
}
