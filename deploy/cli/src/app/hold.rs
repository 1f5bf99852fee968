//! Connections that stay open, to see which of them somebody closes, when and how.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;

/// What `kith __app hold` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// host:port
    pub target: String,
    /// How many connections.
    #[arg(long, short, default_value = "1")]
    pub count: usize,
    /// Line to send on each, whose echo makes it count as open; without, it counts once it is connected.
    #[arg(long)]
    pub say: Option<String>,
    /// Say it again this often, in milliseconds.
    #[arg(long)]
    pub every_ms: Option<u64>,
    /// How long to hold what nobody closes.
    #[arg(long, default_value = "3600")]
    pub seconds: f64,
}

/// What became of a connection.
enum Event {
    Open,
    Closed {
        number: usize,
        how: String,
        received: u64,
    },
}

/// Prints `{"open":N}` once all are open or have failed, `{"closed":…}` for each that ends, and a summary.
pub(crate) async fn run(arguments: Arguments) -> io::Result<ExitCode> {
    let address = lookup_host(&arguments.target)
        .await?
        .next()
        .ok_or_else(|| io::Error::other("no such host"))?;
    let start = Instant::now();
    let (events, mut inbox) = mpsc::unbounded_channel();
    for number in 0..arguments.count {
        let (events, arguments) = (events.clone(), arguments.clone());
        tokio::spawn(async move {
            let mut received = 0;
            let how = match hold(address, &arguments, &events, &mut received).await {
                Ok(()) => "eof".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => "reset".to_owned(),
                Err(error) => error.to_string(),
            };
            let _ = events.send(Event::Closed {
                number,
                how,
                received,
            });
        });
    }
    drop(events);
    let (mut open, mut closed) = (0, 0);
    let mut announced = false;
    let deadline = tokio::time::sleep(Duration::from_secs_f64(arguments.seconds));
    tokio::pin!(deadline);
    loop {
        let event = tokio::select! {
            event = inbox.recv() => event,
            () = &mut deadline => None,
        };
        match event {
            Some(Event::Open) => open += 1,
            Some(Event::Closed {
                number,
                how,
                received,
            }) => {
                closed += 1;
                let after_ms = start.elapsed().as_millis();
                println!(
                    "{}",
                    json!({"closed": number, "how": how, "received": received, "after_ms": after_ms})
                );
            }
            None => break,
        }
        if !announced && open + closed >= arguments.count {
            announced = true;
            println!("{}", json!({"open": open}));
        }
    }
    println!(
        "{}",
        json!({"opened": open, "closed": closed, "held": arguments.count - closed})
    );
    Ok(if closed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn hold(
    address: std::net::SocketAddr,
    arguments: &Arguments,
    events: &mpsc::UnboundedSender<Event>,
    received: &mut u64,
) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let line = arguments.say.as_ref().map(|text| format!("{text}\n"));
    match &line {
        Some(line) => writer.write_all(line.as_bytes()).await?,
        None => drop(events.send(Event::Open)),
    }
    let mut buffer = [0; 4096];
    let mut every = arguments
        .every_ms
        .map(|ms| tokio::time::interval(Duration::from_millis(ms.max(1))));
    loop {
        let again = async {
            match &mut every {
                Some(every) => every.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            count = reader.read(&mut buffer) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                if *received == 0 && line.is_some() {
                    let _ = events.send(Event::Open);
                }
                *received += count as u64;
            }
            _ = again => {
                if let Some(line) = &line {
                    writer.write_all(line.as_bytes()).await?;
                }
            }
        }
    }
}
