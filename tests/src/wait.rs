//! Waiting for what will happen, no longer than it takes.

use std::time::{Duration, Instant};

/// Asks again every 10 ms until the answer is there.
///
/// # Panics
/// When it is not there in time; says what was waited for.
pub async fn wait_for<T, R>(what: &str, limit: Duration, mut ask: impl FnMut() -> R) -> T
where
    R: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
