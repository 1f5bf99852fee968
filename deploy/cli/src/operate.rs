//! What an operator asks of a running control plane, over its local socket: `kith revoke` and `kith status`.

mod ask;
pub mod revoke;
pub mod status;

use std::io;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::Value;

use self::ask::Failure;

/// Where the control plane is asked.
#[derive(Debug, Clone, clap::Args)]
struct Socket {
    /// The control plane's admin socket, as given to `kith-control serve --admin-socket`.
    #[arg(long, value_name = "PATH", env = kith_control::cli::ADMIN_SOCKET)]
    socket: Option<PathBuf>,
}

impl Socket {
    /// `in_a_cluster` is what to do where there is no socket to ask.
    fn path(&self, in_a_cluster: impl FnOnce() -> String) -> Result<&Path, Failure> {
        let none = || {
            Failure::Unreachable(format!(
                "which control plane? Name its admin socket by --socket PATH or {}. One that serves a Kubernetes cluster \
                 has none; there it is kubectl that does this:\n\n{}",
                kith_control::cli::ADMIN_SOCKET,
                in_a_cluster(),
            ))
        };
        self.socket.as_deref().ok_or_else(none)
    }
}

/// An order over a control plane's admin socket.
///
/// # Errors
/// When it cannot be asked, or refuses.
pub async fn order(socket: &Path, path: &str, order: &Value) -> io::Result<Value> {
    let (status, answer) = ask::exchange(socket, Method::POST, path, Some(order)).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    match answer["error"].as_str() {
        _ if status.is_success() => Ok(answer),
        Some(error) => Err(io::Error::other(error.to_owned())),
        None => Err(io::Error::other(answer.to_string())),
    }
}

/// Columns, each as wide as its widest cell; the last one is not padded.
fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(widths);
            let padded: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            padded.join("  ").trim_end().to_owned()
        })
        .collect()
}
