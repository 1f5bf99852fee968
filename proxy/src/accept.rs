//! Listeners, and where each captured connection was really going.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::addr::canonical;

const BACKLOG: i32 = 4096;

/// How long accepting rests when the process is out of descriptors: busy retries would starve the
/// connections that could free some.
const REST: Duration = Duration::from_millis(100);

/// A captured connection.
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    pub(crate) source: SocketAddr,
    /// The address that the client dialled.
    pub(crate) destination: SocketAddr,
}

/// Why a connection that was accepted is not served.
#[derive(Debug)]
pub(crate) enum NotCaptured {
    /// It came straight to the listener; only redirected connections are served (security.md, row 20).
    Direct(SocketAddr),
    Gone(io::Error),
}

/// Who else may listen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    Alone,
    /// The other workers of this process.
    Workers,
}

/// One listener per data worker; the kernel spreads connections over them (SO_REUSEPORT).
pub(crate) fn listen(
    address: SocketAddr,
    mark: Option<u32>,
    sharing: Sharing,
) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Workers)?;
    // Accepted connections inherit these (tcp(7)), which saves setting them on each.
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket));
    set_mark(&SockRef::from(&socket), mark)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Answers carry the mark too, so that capture rules can tell the proxy's packets by it.
pub(crate) fn set_mark(socket: &SockRef<'_>, mark: Option<u32>) -> io::Result<()> {
    match mark {
        Some(mark) => socket.set_mark(mark),
        None => Ok(()),
    }
}

/// Accepts the next connection, however many attempts fail before.
pub(crate) async fn accept(
    listener: &TcpListener,
    mut failed: impl FnMut(&io::Error),
) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((tcp, source)) => return (tcp, canonical(source)),
            Err(error) => {
                failed(&error);
                // A connection that its client gave up is nobody's problem; anything else is a shortage.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }
}

impl std::fmt::Display for NotCaptured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotCaptured::Direct(local) => {
                write!(f, "it was not redirected but came straight to {local}")
            }
            NotCaptured::Gone(error) => error.fmt(f),
        }
    }
}

/// Finds the address that the client dialled, which the redirect replaced with the listener's own.
pub(crate) fn captured(tcp: TcpStream, source: SocketAddr) -> Result<Accepted, NotCaptured> {
    let local = canonical(tcp.local_addr().map_err(NotCaptured::Gone)?);
    let socket = SockRef::from(&tcp);
    let original = match local.ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let destination = match original
        .ok()
        .and_then(|address| address.as_socket())
        .map(canonical)
    {
        Some(destination) if destination != local => destination,
        _ => return Err(NotCaptured::Direct(local)),
    };
    Ok(Accepted {
        tcp,
        source,
        destination,
    })
}

/// A peer that vanished without a word is noticed within a minute and a half.
pub(crate) fn keep_alive(socket: &SockRef<'_>) {
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let _ = socket.set_tcp_keepalive(&probes);
}
