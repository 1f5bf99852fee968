//! Memory of a sidecar in meshes of different sizes: its application talks to five services, however many there are.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;
use crate::measure::Figures;
use crate::mesh::{Bench, HTTP1, NAMESPACE, Pair, Side};
use crate::proc;

/// Services in the mesh, and the name of the figure.
const SIZES: [(u32, &str); 3] = [
    (100, "mesh_100_mib"),
    (10_000, "mesh_10000_mib"),
    (100_000, "mesh_100000_mib"),
];

/// How many of them the application calls.
const CALLED: u32 = 5;

/// How long the control plane may take with a folder of that size, and how long after the last call memory is read.
const TAKEN_IN: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_millis(1_500);

pub(crate) async fn take(bench: &Bench, pair: &Pair, quick: bool) -> Result<Figures, Failure> {
    let mut figures = Figures::new();
    for (size, name) in SIZES.into_iter().take(if quick { 2 } else { SIZES.len() }) {
        bench
            .lab
            .control()
            .write("many-services", &services(size))?;
        served(bench, u64::from(size)).await?;
        pair.restart_sidecars().await?;
        for number in 0..CALLED {
            let address = SocketAddr::from((address(number * (size / CALLED)), 80));
            let answer = pair.client.enter(move || call(address)).await??;
            if !answer.starts_with("HTTP/1.1 200") {
                return Err(format!("service {number} of {size} answered {answer:?}").into());
            }
        }
        tokio::time::sleep(SETTLED).await;
        let sidecar = pair.sidecar(Side::Client).ok_or("there is no sidecar")?;
        let memory = proc::memory(sidecar.pid())?;
        figures.insert(name, memory.resident / 1024.0);
    }
    bench.lab.control().remove("many-services")?;
    Ok(figures)
}

/// All of them stand for the one server that there is.
fn services(count: u32) -> String {
    let mut yaml = String::new();
    for number in 0..count {
        let _ = write!(
            yaml,
            "---\n\
             apiVersion: kith.dev/v1alpha1\n\
             kind: Service\n\
             metadata: {{namespace: {NAMESPACE}, name: many-{number}}}\n\
             spec: {{addresses: [{}], selector: {{app: server}}, ports: [{{port: 80, targetPort: {HTTP1}, protocol: HTTP}}]}}\n",
            address(number)
        );
    }
    yaml
}

fn address(number: u32) -> Ipv4Addr {
    let [_, high, middle, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 200 + high, middle, low)
}

/// Waits until the control plane serves at least so many services.
async fn served(bench: &Bench, size: u64) -> Result<(), Failure> {
    let started = std::time::Instant::now();
    loop {
        let status = bench.lab.control().status().await?;
        let services = status["serving"]["services"].as_u64().unwrap_or_default();
        if services >= size {
            return Ok(());
        }
        if started.elapsed() > TAKEN_IN {
            return Err(format!(
                "the control plane serves {services} of {size} services: {}",
                status["load"]
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn call(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: many\r\n\r\n")
        .await?;
    let mut answer = vec![0; 512];
    let length = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
