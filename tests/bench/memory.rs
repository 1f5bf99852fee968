//! Memory of sidecars that were just started, and what each idle connection adds.

use std::time::Duration;

use crate::Failure;
use crate::connections::{self, Talk};
use crate::measure::Figures;
use crate::mesh::{ECHO, LATE, Pair, Side};
use crate::proc::{self, Memory};

const CONNECTIONS: usize = 1_000;

/// How long after the last event memory is read.
const SETTLED: Duration = Duration::from_millis(1_500);

/// Longer than it takes to open all connections.
const LATE_MS: u32 = 6_000;

pub(crate) async fn take(pair: &Pair) -> Result<Figures, Failure> {
    let mut figures = Figures::new();
    for talk in [Talk::Echo, Talk::LateRequest(LATE_MS)] {
        pair.restart_sidecars().await?;
        tokio::time::sleep(SETTLED).await;
        let before = both(pair)?;
        if talk == Talk::Echo {
            let mean =
                |part: fn(&Memory) -> f64| before.iter().map(part).sum::<f64>() / 2.0 / 1024.0;
            figures.insert("idle_resident_mib", mean(|memory| memory.resident));
            figures.insert("idle_anonymous_mib", mean(|memory| memory.anonymous));
        }
        let (port, names) = match talk {
            Talk::Echo => (ECHO[0], ["tcp_server_kib", "tcp_client_kib", "tcp_wire"]),
            Talk::LateRequest(_) => (LATE, ["http_server_kib", "http_client_kib", "http_wire"]),
        };
        let addresses = vec![pair.address(port)?; CONNECTIONS];
        let open = connections::open(&pair.client, addresses, talk).await?;
        tokio::time::sleep(SETTLED).await;
        let after = both(pair)?;
        for ((name, before), after) in names.iter().zip(before).zip(after) {
            figures.insert(
                name,
                (after.resident - before.resident) / CONNECTIONS as f64,
            );
        }
        figures.insert(names[2], wire_connections(pair)?);
        drop(open);
    }
    Ok(figures)
}

fn both(pair: &Pair) -> Result<[Memory; 2], Failure> {
    let read = |side: Side| -> Result<Memory, Failure> {
        let sidecar = pair.sidecar(side).ok_or("there is no sidecar")?;
        Ok(proc::memory(sidecar.pid())?)
    };
    Ok([read(Side::Server)?, read(Side::Client)?])
}

/// How many connections from the client's sidecar the server's sidecar has open, on its inbound listener.
fn wire_connections(pair: &Pair) -> Result<f64, Failure> {
    let count = pair.server.network().run(|| {
        let files = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
        let tables = files.map(|file| std::fs::read_to_string(file).unwrap_or_default());
        // Local address and port in hex, remote, state: 01 is ESTABLISHED (proc_net_tcp).
        let established = |line: &&str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(":3A9E"))
                && fields.nth(1) == Some("01")
        };
        tables
            .iter()
            .flat_map(|table| table.lines())
            .filter(established)
            .count()
    })?;
    Ok(count as f64)
}
