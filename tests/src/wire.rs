//! Conversations in bytes: what a client says, and what it hears until the connection ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kith::lab::Workload;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In good order: FIN, after close_notify where there is TLS.
    Closed,
    /// RST, or any other failure.
    Reset,
    /// Not at all: nothing more came within the time given.
    Open,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Everything.
    pub bytes: Vec<u8>,
    /// What came after it.
    pub end: End,
}

impl Heard {
    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The statuses of all HTTP/1.1 responses in it, told by their status lines.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        let lines = text
            .match_indices("HTTP/1.1 ")
            .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
        lines.collect()
    }
}

/// Says everything at once, then listens until the connection ends or is silent for `patience`.
pub async fn say(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
    patience: Duration,
) -> Heard {
    // A server that has heard enough may end the connection before all was said; what it answers counts.
    if stream.write_all(bytes).await.is_ok() {
        let _ = stream.flush().await;
    }
    listen(stream, patience).await
}

/// Listens until the connection ends or is silent for `patience`.
pub async fn listen(stream: &mut (impl AsyncRead + Unpin), patience: Duration) -> Heard {
    let mut heard = Vec::new();
    let end = loop {
        match timeout(patience, stream.read_buf(&mut heard)).await {
            Ok(Ok(0)) => break End::Closed,
            Ok(Ok(_)) => {}
            Ok(Err(_)) => break End::Reset,
            Err(_) => break End::Open,
        }
    };
    Heard { bytes: heard, end }
}

/// Longer than anything takes that comes at all, a thousand handshakes at the same time on a busy machine included.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads until `text` has come, and gives back everything up to its end.
///
/// # Errors
/// When the connection ends, or 20 seconds pass, before it has.
pub async fn until(stream: &mut (impl AsyncRead + Unpin), text: &str) -> io::Result<String> {
    let mut heard = Vec::new();
    let read = async {
        while !heard.ends_with(text.as_bytes()) {
            heard.push(stream.read_u8().await?);
        }
        io::Result::Ok(())
    };
    let ended = timeout(PATIENCE, read).await;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    match ended {
        Ok(Ok(())) => Ok(heard),
        Ok(Err(error)) => Err(io::Error::other(format!("{error} after {heard:?}"))),
        Err(_) => Err(io::Error::other(format!(
            "{text:?} did not come in {PATIENCE:?}, but {heard:?}"
        ))),
    }
}

/// A connection of its own from a workload, for one conversation in which the client says all it has at once.
///
/// # Errors
/// When the connection cannot be made.
pub async fn raw(from: &Workload, to: SocketAddr, bytes: impl Into<Vec<u8>>) -> io::Result<Heard> {
    let bytes = bytes.into();
    let talk = move || async move {
        let mut stream = match timeout(PATIENCE, TcpStream::connect(to)).await? {
            // Accepted, and ended before this end knew that it was open.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Heard {
                    bytes: Vec::new(),
                    end: End::Reset,
                });
            }
            connected => connected?,
        };
        stream.set_nodelay(true)?;
        io::Result::Ok(say(&mut stream, &bytes, Duration::from_millis(1500)).await)
    };
    from.enter(talk).await?
}

/// The next `close` of this socket sends RST.
pub fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// The most memory that a process has ever had resident, KiB.
#[must_use]
pub fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
