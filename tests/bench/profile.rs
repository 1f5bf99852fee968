//! Where the sidecars spend their time under load: one file of symbols for each side and load.

use std::path::Path;
use std::process::{Command, Stdio};

use kith::lab::privileges;

use crate::measure::{Kind, Measure};
use crate::mesh::{Bench, Side};
use crate::{Failure, load};

const SECONDS: u32 = 8;

pub(crate) async fn record(bench: &Bench, folder: &Path) -> Result<(), Failure> {
    let perf = privileges::tool("perf", "linux-perf")?;
    let pair = bench
        .pairs
        .iter()
        .find(|pair| pair.kind == Kind::Kith)
        .ok_or("kith is not among the contestants")?;
    for measure in [
        Measure::Http1,
        Measure::Http2,
        Measure::NewConnections,
        Measure::Tcp,
    ] {
        let mut recorders = Vec::new();
        for side in Side::BOTH {
            let sidecar = pair.sidecar(side).ok_or("there is no sidecar")?;
            let name = format!("profile-{measure}-{}", format!("{side:?}").to_lowercase());
            let data = folder.join(format!("{name}.data"));
            let mut command = Command::new(&perf);
            command
                .args([
                    "record",
                    "--quiet",
                    "-F",
                    "1999",
                    "-p",
                    &sidecar.pid().to_string(),
                    "-o",
                ])
                .arg(&data);
            command
                .args(["--", "sleep", &SECONDS.to_string()])
                .stdin(Stdio::null());
            recorders.push((command.spawn()?, name, data));
        }
        load::run(measure, bench, pair, SECONDS).await?;
        for (mut recorder, name, data) in recorders {
            recorder.wait()?;
            // Threads and libraries first, then what each function takes by itself.
            let mut reports = Vec::new();
            for sort in ["comm,dso", "symbol"] {
                let mut report = Command::new(&perf);
                report.args([
                    "report",
                    "--stdio",
                    "--no-children",
                    "--percent-limit",
                    "0.2",
                ]);
                report
                    .args(["--sort", sort, "-i"])
                    .arg(&data)
                    .stdin(Stdio::null());
                reports.extend(report.output()?.stdout);
            }
            let text = folder.join(format!("{name}.txt"));
            std::fs::write(&text, reports)?;
            eprintln!("{}", text.display());
        }
        bench.empty_logs();
    }
    Ok(())
}
