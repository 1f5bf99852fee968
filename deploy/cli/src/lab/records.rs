//! Reading what sidecars write down.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::Error;

/// The records in an access log. A last line that is still being written is left for the next time.
#[must_use]
pub fn read(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// How long a record may take to be written.
const LIMIT: Duration = Duration::from_secs(5);

/// Waits for `count` records that satisfy `wanted`.
pub(crate) async fn wait(
    file: &Path,
    what: &str,
    count: usize,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>, Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let records = read(file);
        let found: Vec<Value> = records
            .iter()
            .filter(|record| wanted(record))
            .cloned()
            .collect();
        if found.len() >= count {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            let last: Vec<String> = records
                .iter()
                .rev()
                .take(5)
                .rev()
                .map(|record| format!("\n  {record}"))
                .collect();
            let seen = format!(
                "; {} records in {}, the last ones:{}",
                records.len(),
                file.display(),
                last.concat()
            );
            return Err(Error::Timeout {
                what: what.to_owned(),
                seconds: LIMIT.as_secs_f64(),
                seen,
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
