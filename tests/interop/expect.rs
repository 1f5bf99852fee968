//! What is expected of records and of commands, with everything shown when it isn't so.

use kith::lab::{Output, Workload};
use serde_json::Value;

/// Every field named in `expected` is in the record like that; null: it is absent.
#[track_caller]
pub fn fields(record: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&record[key], value, "{key} in {record:#}");
    }
}

/// The command ended well.
#[track_caller]
pub fn success(output: &Output) {
    assert!(output.status.success(), "{}\n{}\n{}", output.status, output.stdout, output.stderr);
}

/// The records of both ends of one hop: the client's, and the server's with the same hop id.
pub async fn hop(client: &Workload, server: &Workload, wanted: impl Fn(&Value) -> bool) -> (Value, Value) {
    let outbound = client.wait_record(|record| record["direction"] == "outbound" && wanted(record)).await.unwrap();
    assert!(outbound["hop"].is_string(), "no hop id in {outbound:#}");
    let inbound = server.wait_record(|record| record["hop"] == outbound["hop"]).await.unwrap();
    fields(
        &inbound,
        &serde_json::json!({
            "direction": "inbound",
            "source.principal": client.spiffe_id(),
            "destination.principal": server.spiffe_id(),
        }),
    );
    (outbound, inbound)
}
