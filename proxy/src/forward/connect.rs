//! Opening a connection to an application or to another proxy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// How long a TCP connection may take to be there.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// The same where another server may be connected to instead: long enough for one lost packet (RFC 6298 section 2.1).
pub(crate) const CONNECT_ONE_OF_MANY: Duration = Duration::from_secs(2);

pub(crate) async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    connect_within(CONNECT, address, mark).await
}

pub(crate) async fn connect_within(
    limit: Duration,
    address: SocketAddr,
    mark: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    crate::accept::set_mark(&SockRef::from(&socket), mark)?;
    let tcp = tokio::time::timeout(limit, socket.connect(address))
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} s", limit.as_secs()),
            )
        })??;
    tcp.set_nodelay(true)?;
    crate::accept::keep_alive(&SockRef::from(&tcp));
    Ok(tcp)
}
