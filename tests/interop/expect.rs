//! What is expected of records and of commands, with everything shown when it isn't so.

use kith::lab::Output;
use serde_json::Value;

/// Every field named in `expected` is in the record like that; null: it is absent.
#[track_caller]
pub(crate) fn fields(record: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&record[key], value, "{key} in {record:#}");
    }
}

/// The command ended well.
#[track_caller]
pub(crate) fn success(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        output.stdout,
        output.stderr
    );
}
