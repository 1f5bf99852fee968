//! A sidecar that 10,000 policies of 10 rules each select: what it takes in memory, and how long after its start it
//! enforces them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::measure::Figures;
use crate::mesh::{Bench, NAMESPACE, Pair, Side};
use crate::proc;

const POLICIES: usize = 10_000;
const RULES: usize = 10;

/// How long the control plane may take with them, and how long after its start a sidecar's memory is read.
const TAKEN_IN: Duration = Duration::from_secs(180);
const SETTLED: Duration = Duration::from_millis(1_500);

pub(crate) async fn take(bench: &Bench, pair: &Pair) -> Result<Figures, Failure> {
    let without = restarted(bench, pair).await?;
    bench.lab.control().write("many-policies", &policies())?;
    in_force(bench, POLICIES).await?;
    // Written to disk within a second, so that the sidecar begins with them.
    tokio::time::sleep(SETTLED).await;
    let with = restarted(bench, pair).await?;
    tokio::time::sleep(SETTLED).await;
    let sidecar = pair.sidecar(Side::Server).ok_or("there is no sidecar")?;
    let memory = proc::memory(sidecar.pid())?;
    bench.lab.control().remove("many-policies")?;
    Ok(Figures::from([
        ("many_policies_mib", memory.resident / 1024.0),
        ("many_policies_ready_ms", with),
        ("no_policies_ready_ms", without),
    ]))
}

/// The server's sidecar alone, from its start until it says that every policy is in force.
async fn restarted(bench: &Bench, pair: &Pair) -> Result<f64, Failure> {
    let sidecar = pair.sidecar(Side::Server).ok_or("there is no sidecar")?;
    let begun = Instant::now();
    sidecar.restart()?;
    pair.server.ready(Duration::from_secs(60)).await?;
    let ready = begun.elapsed().as_secs_f64() * 1000.0;
    in_force(bench, 0).await?;
    Ok(ready)
}

/// Waits until so many policies are served, and every sidecar has acknowledged what it should have.
async fn in_force(bench: &Bench, policies: usize) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let status = bench.lab.control().status().await?;
        let served = status["serving"]["authorization_policies"].as_u64();
        let sidecars = status["sidecars"].as_array().cloned().unwrap_or_default();
        let current = |sidecar: &serde_json::Value| {
            sidecar["revision_wanted"] == sidecar["revision_acknowledged"]
        };
        if served >= Some(policies as u64) && sidecars.len() == 2 && sidecars.iter().all(current) {
            return Ok(());
        }
        if begun.elapsed() > TAKEN_IN {
            return Err(format!("they are not in force: {status:#}").into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// None of their peers is the client, which another policy allows.
fn policies() -> String {
    let mut yaml = String::new();
    for policy in 0..POLICIES {
        let _ = write!(
            yaml,
            "---\napiVersion: kith.dev/v1alpha1\nkind: AuthorizationPolicy\n\
             metadata: {{namespace: {NAMESPACE}, name: many-{policy}}}\n\
             spec:\n  selector: {{matchLabels: {{app: server}}}}\n  rules:\n"
        );
        for rule in 0..RULES {
            let _ = writeln!(
                yaml,
                "  - from: [{{source: {{principals: [example.org/ns/team-{policy}/sa/app-{rule}]}}}}]\n    \
                 to: [{{operation: {{methods: [GET], paths: [/items/{rule}/*]}}}}]"
            );
        }
    }
    yaml
}
