//! Load from other people's programs, and what a side's processor time is divided by.

use serde_json::Value;

use crate::Failure;
use crate::measure::{Figures, Measure};
use crate::mesh::{Bench, HTTP1, HTTP2, Pair, Side, TCP};

/// What a load program says that it did.
struct Done {
    /// Requests, or gigabytes.
    units: f64,
    figures: Figures,
}

pub(crate) async fn run(
    measure: Measure,
    bench: &Bench,
    pair: &Pair,
    seconds: u32,
) -> Result<Figures, Failure> {
    let duration = format!("{seconds}s");
    let script = bench.wrk_script.to_string_lossy();
    let http1 = pair.url(HTTP1);
    let wrk = ["wrk", "-t1", "-d", &duration, "-s", &script];
    let dropped = pair.records_dropped().await?;
    let before = Side::BOTH.map(|side| pair.cpu_seconds(side));
    let done = match measure {
        Measure::Http1 => requests(wrk_run(pair, &[&wrk[..], &["-c32", &http1]].concat()).await?)?,
        Measure::NewConnections => {
            let more = ["-c8", "-H", "Connection: close", &http1];
            requests(wrk_run(pair, &[&wrk[..], &more].concat()).await?)?
        }
        Measure::Latency => latency(&wrk_run(pair, &[&wrk[..], &["-c1", &http1]].concat()).await?)?,
        Measure::Http2 => h2load(pair, seconds).await?,
        Measure::Tcp => iperf3(pair, seconds).await?,
        Measure::Memory | Measure::Policy | Measure::MeshSize | Measure::ManyPolicies => {
            return Err(format!("{measure} is no load").into());
        }
    };
    let mut figures = done.figures;
    for (side, before) in Side::BOTH.into_iter().zip(before) {
        // One connection leaves the machine idle in between, and waking up is not what is measured here.
        if let (Some(before), Some(after), false) =
            (before, pair.cpu_seconds(side), measure == Measure::Latency)
        {
            let (name, unit) = match (measure, side) {
                (Measure::Tcp, Side::Server) => ("cpu_server_s_per_gb", 1.0),
                (Measure::Tcp, Side::Client) => ("cpu_client_s_per_gb", 1.0),
                (_, Side::Server) => ("cpu_server_us", 1e6),
                (_, Side::Client) => ("cpu_client_us", 1e6),
            };
            figures.insert(name, (after - before) * unit / done.units);
        }
    }
    match pair.records_dropped().await? - dropped {
        0 => Ok(figures),
        lost => Err(format!(
            "{lost} records were dropped, so that this is not the price of the whole job"
        )
        .into()),
    }
}

async fn wrk_run(pair: &Pair, command: &[&str]) -> Result<Value, Failure> {
    let output = pair.client.exec(command).await?;
    let line = output.stdout.lines().rfind(|line| line.starts_with('{'));
    let report: Value = serde_json::from_str(line.ok_or_else(|| format!("wrk: {output:?}"))?)?;
    // The requests that are cut off when the time is over are no errors to wrk.
    if report["refused"] != 0 || report["broken"] != 0 || report["requests"] == 0 {
        return Err(format!("not every request was answered with 200: {report}").into());
    }
    Ok(report)
}

#[expect(clippy::needless_pass_by_value, reason = "made for this")]
fn requests(report: Value) -> Result<Done, Failure> {
    let units = number(&report, "/requests")?;
    let rate = units / number(&report, "/seconds")?;
    Ok(Done {
        units,
        figures: Figures::from([("per_second", rate)]),
    })
}

fn latency(report: &Value) -> Result<Done, Failure> {
    let figures = Figures::from([
        ("p50_ms", number(report, "/p50_us")? / 1000.0),
        ("p99_ms", number(report, "/p99_us")? / 1000.0),
    ]);
    Ok(Done {
        units: number(report, "/requests")?,
        figures,
    })
}

async fn h2load(pair: &Pair, seconds: u32) -> Result<Done, Failure> {
    let (duration, url) = (seconds.to_string(), pair.url(HTTP2));
    let command = ["h2load", "-t1", "-c4", "-m16", "-D", &duration, &url];
    let output = pair.client.exec(&command).await?;
    let unexpected = || format!("h2load: {output:?}");
    // requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout
    let line = output
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("requests: "));
    let count = |what: &str| -> Option<f64> {
        let field = line?
            .split(", ")
            .find_map(|field| field.strip_suffix(what))?;
        field.trim().parse().ok()
    };
    // status codes: 9 2xx, 0 3xx, 0 4xx, 0 5xx
    let refused = output
        .stdout
        .lines()
        .any(|line| line.starts_with("status codes: ") && !line.ends_with(" 0 3xx, 0 4xx, 0 5xx"));
    let succeeded = count("succeeded").ok_or_else(unexpected)?;
    if refused || succeeded == 0.0 || count("failed") != Some(0.0) || count("errored") != Some(0.0)
    {
        return Err(unexpected().into());
    }
    let rate = succeeded / f64::from(seconds);
    Ok(Done {
        units: succeeded,
        figures: Figures::from([("per_second", rate)]),
    })
}

async fn iperf3(pair: &Pair, seconds: u32) -> Result<Done, Failure> {
    let (host, port, duration) = (pair.host.as_str(), TCP.to_string(), seconds.to_string());
    let command = [
        "iperf3", "-4", "-J", "-c", host, "-p", &port, "-t", &duration,
    ];
    let output = pair.client.exec(&command).await?;
    let report = output.json();
    if !report["error"].is_null() {
        return Err(format!("iperf3: {}", report["error"]).into());
    }
    let gigabytes = number(&report, "/end/sum_received/bytes")? / 1e9;
    let rate = number(&report, "/end/sum_received/bits_per_second")? / 1e9;
    Ok(Done {
        units: gigabytes,
        figures: Figures::from([("gbit_per_second", rate)]),
    })
}

fn number(report: &Value, pointer: &str) -> Result<f64, Failure> {
    let found = report.pointer(pointer).and_then(Value::as_f64);
    Ok(found.ok_or_else(|| format!("no {pointer} in {report}"))?)
}
