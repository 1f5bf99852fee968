//! Accepting connections: TLS 1.3 with an SVID on both sides, before a byte of HTTP/2 is read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kith_certs::{PeerSvid, Usage};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

/// A handshake is a few round trips; who takes longer only holds memory.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time. When a whole mesh reconnects at once the rest waits in the backlog.
const MAX_HANDSHAKES: usize = 256;

/// The authenticated other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) svid: PeerSvid,
    pub(super) address: SocketAddr,
}

/// A connection whose peer is known.
pub(super) struct Connection {
    /// Boxed: what is moved from one place to the next on its way to HTTP/2 takes room in each.
    stream: Box<TlsStream<TcpStream>>,
    peer: Peer,
}

/// Accepts until the receiver is gone. Owns every handshake under way.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        // Never closed, so always Ok.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let (stream, address) = tokio::select! {
            connection = listener.accept() => match connection {
                Ok(connection) => connection,
                Err(error) => {
                    // Out of descriptors, most likely: accepting again at once would spin.
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = accepted.closed() => return,
        };
        while handshakes.try_join_next().is_some() {}
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        handshakes.spawn(async move {
            match handshake(acceptor, stream, address).await {
                Ok(connection) => {
                    debug!(principal = connection.peer.svid.as_str(), %address, "connection accepted");
                    _ = accepted.send(Ok(connection)).await;
                }
                Err(error) => info!(%address, %error, "connection refused"),
            }
            drop(permit);
        });
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<Connection> {
    // Pushes are small and urgent.
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let (_, connection) = stream.get_ref();
    let svid = kith_certs::tls::peer_svid(connection, Usage::Client).map_err(io::Error::other)?;
    Ok(Connection {
        stream: Box::new(stream),
        peer: Peer { svid, address },
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
