//! Many connections that stay open, from a thread inside the client's namespace.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith::lab::Workload;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Failure;

/// Handshakes that are under way at the same time; more would only wait for each other.
const AT_A_TIME: usize = 64;

/// How long opening all of them may take.
const OPENING: Duration = Duration::from_secs(120);

/// What is said on a connection before it counts as open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// A line, which comes back.
    Echo,
    /// A request, answered after so many milliseconds: long enough that all are under way together, so that no two
    /// of them can share a connection between the sidecars.
    LateRequest(u32),
}

/// Connections that are open. Dropping it closes them.
pub(crate) struct Open {
    closed: mpsc::UnboundedReceiver<(u16, Instant)>,
    _until: oneshot::Sender<()>,
}

impl Open {
    /// The port and the time of the next connection that somebody else closes.
    pub(crate) async fn next_closed(&mut self, limit: Duration) -> Option<(u16, Instant)> {
        tokio::time::timeout(limit, self.closed.recv())
            .await
            .ok()
            .flatten()
    }
}

/// Opens a connection to each address.
pub(crate) async fn open(
    client: &Arc<Workload>,
    addresses: Vec<SocketAddr>,
    talk: Talk,
) -> Result<Open, Failure> {
    let (until, end) = oneshot::channel();
    let (closed_sender, closed) = mpsc::unbounded_channel();
    let (opened_sender, opened) = oneshot::channel();
    let client = Arc::clone(client);
    // Ends with `until`; there is nothing to be learnt from how.
    tokio::spawn(async move {
        let hold = move || hold(addresses, talk, opened_sender, closed_sender, end);
        client.enter(hold).await
    });
    let opened = tokio::time::timeout(OPENING, opened).await;
    opened
        .map_err(|_| {
            format!(
                "not all connections were open after {} s",
                OPENING.as_secs()
            )
        })??
        .map_err(Failure::from)?;
    Ok(Open {
        closed,
        _until: until,
    })
}

async fn hold(
    addresses: Vec<SocketAddr>,
    talk: Talk,
    opened: oneshot::Sender<Result<(), String>>,
    closed: mpsc::UnboundedSender<(u16, Instant)>,
    end: oneshot::Receiver<()>,
) {
    let turn = Rc::new(Semaphore::new(AT_A_TIME));
    let opening = addresses.into_iter().map(|address| {
        let turn = Rc::clone(&turn);
        tokio::task::spawn_local(async move {
            one(address, talk, &turn)
                .await
                .map(|stream| (address, stream))
        })
    });
    let opening: Vec<_> = opening.collect();
    let mut streams = Vec::new();
    for one in opening {
        match one.await {
            Ok(Ok(stream)) => streams.push(stream),
            Ok(Err(error)) => {
                let _ = opened.send(Err(format!("connection {} failed: {error}", streams.len())));
                return;
            }
            Err(_) => return,
        }
    }
    for (address, mut stream) in streams {
        let closed = closed.clone();
        tokio::task::spawn_local(async move {
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
            let _ = closed.send((address.port(), Instant::now()));
        });
    }
    let _ = opened.send(Ok(()));
    // The tasks end with the runtime, which ends with this.
    let _ = end.await;
}

async fn one(address: SocketAddr, talk: Talk, turn: &Semaphore) -> std::io::Result<TcpStream> {
    let permit = turn.acquire().await.map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match talk {
        Talk::Echo => {
            stream.write_all(b"hello\n").await?;
            let mut answer = [0; 6];
            stream.read_exact(&mut answer).await?;
        }
        Talk::LateRequest(milliseconds) => {
            let request = format!(
                "GET /stream?ticks=1&ms={milliseconds} HTTP/1.1\r\nhost: {address}\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            // The head comes early.
            let mut answer = Vec::new();
            while !answer.ends_with(b"\n") {
                more(&mut stream, &mut answer).await?;
            }
            drop(permit);
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                return Err(std::io::Error::other(
                    String::from_utf8_lossy(&answer).into_owned(),
                ));
            }
            // RFC 9112, section 7.1: a chunk of length zero, perhaps trailers, an empty line.
            while !(contains(&answer, b"\r\n0\r\n") && answer.ends_with(b"\r\n\r\n")) {
                more(&mut stream, &mut answer).await?;
            }
        }
    }
    Ok(stream)
}

async fn more(stream: &mut TcpStream, answer: &mut Vec<u8>) -> std::io::Result<()> {
    match stream.read_buf(answer).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
