//! The applications of the lab: servers and clients that speak plain HTTP/1.1, HTTP/2, gRPC and TCP, as any
//! application does. In the lab they run as `kith __app …`; tests also use the clients as a library, inside a
//! workload's namespace.
//!
//! Architecture invariant: nothing here knows of the mesh. What a sidecar adds must show in what these programs see.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

pub mod body;
pub mod client;
pub mod grpc;
pub mod hold;
pub mod http;
pub mod load;
pub mod tcp;

#[derive(Parser)]
#[command(
    name = "kith __app",
    about = "An application of the lab",
    no_binary_name = true
)]
struct Arguments {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// HTTP/1.1, HTTP/2 with prior knowledge, and gRPC, on one port.
    Http {
        /// Address and port to listen on.
        #[arg(long, default_value = "[::]:8080")]
        listen: SocketAddr,
        /// What to answer when asked who it is.
        #[arg(long, default_value = "app")]
        name: String,
    },
    /// TCP: sends back what it gets, until the other end has no more.
    Tcp {
        /// Address and port to listen on.
        #[arg(long, default_value = "[::]:9000")]
        listen: SocketAddr,
        /// Text to send before anything is received, as SMTP and MySQL servers do.
        #[arg(long)]
        greeting: Option<String>,
    },
    /// One HTTP request; prints what came back as JSON.
    Get {
        /// http://host:port/path
        url: client::Url,
        /// Speak HTTP/2 with prior knowledge.
        #[arg(long)]
        http2: bool,
        /// `name: value`, repeatable.
        #[arg(long = "header", short = 'H')]
        headers: Vec<String>,
        /// Method; POST when there is a body.
        #[arg(long, short = 'X')]
        method: Option<String>,
        /// Body.
        #[arg(long, short = 'd')]
        data: Option<String>,
        /// Longest wait.
        #[arg(long, default_value = "10")]
        seconds: f64,
    },
    /// A gRPC call of kith.demo.Orders; prints each message and the status as a line of JSON.
    Grpc(grpc::client::Arguments),
    /// A steady load of HTTP requests; prints counts and latencies.
    Load(load::Arguments),
    /// Opens TCP connections, holds them, and prints which of them were closed, when and how.
    Hold(hold::Arguments),
}

/// Entry point of `kith __app`.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let kind = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.kind,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    match runtime.block_on(run(kind)) {
        Ok(code) => code,
        Err(error) => fail(&error.to_string()),
    }
}

async fn run(kind: Kind) -> io::Result<ExitCode> {
    match kind {
        Kind::Http { listen, name } => until_told(http::serve(listen, name)).await,
        Kind::Tcp { listen, greeting } => until_told(tcp::serve(listen, greeting)).await,
        Kind::Get {
            url,
            http2,
            headers,
            method,
            data,
            seconds,
        } => {
            let call = client::Call {
                url,
                http2,
                headers,
                method,
                data,
                limit: Duration::from_secs_f64(seconds),
            };
            let (line, ok) = match call.run().await {
                Ok(reply) => (reply.to_json(), reply.status < 400),
                Err(error) => (json!({"error": error.to_string()}), false),
            };
            println!("{line}");
            Ok(if ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Kind::Grpc(arguments) => grpc::client::run(arguments).await,
        Kind::Load(arguments) => load::run(arguments).await,
        Kind::Hold(arguments) => hold::run(arguments).await,
    }
}

/// Serves until SIGTERM. A container's first process has no default for signals: it would have to be killed.
async fn until_told(serving: impl Future<Output = io::Result<()>>) -> io::Result<ExitCode> {
    let mut told = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = serving => ended?,
        _ = told.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn fail(why: &str) -> ExitCode {
    eprintln!("kith: {why}");
    ExitCode::FAILURE
}
