//! How long a policy takes from the editor to the last connection that it forbids. Measured at the client's
//! application: control plane, server's sidecar, the wire and the client's sidecar are all in it.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::connections::{self, Open, Talk};
use crate::measure::Figures;
use crate::mesh::{Bench, ECHO, Pair};

/// Of all connections, how many percent go to each of the ports. The first two are forbidden, one after the other:
/// finding the few among the many costs something, and so does closing many.
const SHARES: [usize; ECHO.len()] = [1, 25, 74];

pub(crate) async fn take(bench: &Bench, pair: &Pair, count: usize) -> Result<Figures, Failure> {
    let mut addresses = Vec::new();
    for (port, share) in ECHO.into_iter().zip(SHARES) {
        addresses.extend(vec![pair.address(port)?; count * share / 100]);
    }
    let mut open = connections::open(&pair.client, addresses, Talk::Echo).await?;
    let mut figures = Figures::from([("connections", count as f64)]);
    for ((port, share), name) in ECHO.into_iter().zip(SHARES).zip(["few_ms", "many_ms"]) {
        let took = forbid(bench, &mut open, port, count * share / 100).await?;
        figures.insert(name, took.as_secs_f64() * 1000.0);
    }
    drop(open);
    bench.lab.withdraw("forbid").await?;
    Ok(figures)
}

/// From the edit until the last connection to `port` is closed. It is a mistake when another one is closed as well.
async fn forbid(
    bench: &Bench,
    open: &mut Open,
    port: u16,
    count: usize,
) -> Result<Duration, Failure> {
    let edited = Instant::now();
    bench.lab.control().write("forbid", &deny(port))?;
    let mut last = edited;
    for number in 0..count {
        let closed = open.next_closed(Duration::from_secs(10)).await;
        let (its_port, when) =
            closed.ok_or_else(|| format!("only {number} of {count} were closed"))?;
        if its_port != port {
            return Err(format!(
                "a connection to port {its_port} was closed, which nothing forbids"
            )
            .into());
        }
        last = last.max(when);
    }
    match open.next_closed(Duration::from_millis(500)).await {
        Some((port, _)) => {
            Err(format!("one connection too many was closed, to port {port}").into())
        }
        None => Ok(last - edited),
    }
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
