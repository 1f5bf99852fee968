//! How long a policy takes from the editor to the last connection that it forbids.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::connections::{self, Talk};
use crate::measure::Figures;
use crate::mesh::{Bench, ECHO, Pair};

/// A quarter of the connections is forbidden at a time, by a DENY of their port. Measured at the client's application:
/// control plane, server's sidecar, the wire and the client's sidecar are all in it.
pub(crate) async fn take(bench: &Bench, pair: &Pair, count: usize) -> Result<Figures, Failure> {
    let mut addresses = Vec::new();
    for port in ECHO {
        addresses.extend(vec![pair.address(port)?; count / ECHO.len()]);
    }
    let mut open = connections::open(&pair.client, addresses, Talk::Echo).await?;
    let forbidden = count / ECHO.len();
    let edited = Instant::now();
    bench.lab.control().write("forbid", &deny(ECHO[0]))?;
    let mut last = edited;
    for number in 0..forbidden {
        let closed = open.next_closed(Duration::from_secs(10)).await;
        let (port, when) =
            closed.ok_or_else(|| format!("only {number} of {forbidden} were closed"))?;
        if port != ECHO[0] {
            return Err(
                format!("a connection to port {port} was closed, which nothing forbids").into(),
            );
        }
        last = last.max(when);
    }
    if let Some((port, _)) = open.next_closed(Duration::from_millis(300)).await {
        return Err(format!("one connection too many was closed, to port {port}").into());
    }
    drop(open);
    bench.lab.withdraw("forbid").await?;
    let milliseconds = last.duration_since(edited).as_secs_f64() * 1000.0;
    Ok(Figures::from([
        ("enforced_ms", milliseconds),
        ("connections", count as f64),
    ]))
}

fn deny(port: u16) -> String {
    format!(
        "apiVersion: kith.dev/v1alpha1\n\
         kind: AuthorizationPolicy\n\
         metadata: {{namespace: bench, name: forbid}}\n\
         spec:\n\
         \x20 selector: {{matchLabels: {{app: server}}}}\n\
         \x20 action: DENY\n\
         \x20 rules:\n\
         \x20 - to: [{{operation: {{ports: [\"{port}\"]}}}}]\n"
    )
}
