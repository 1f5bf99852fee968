//! Opening a connection to an application or to another proxy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// How long a TCP connection may take to be there.
const CONNECT: Duration = Duration::from_secs(5);

pub(crate) async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    crate::accept::set_mark(&SockRef::from(&socket), mark)?;
    let tcp = tokio::time::timeout(CONNECT, socket.connect(address))
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} s", CONNECT.as_secs()),
            )
        })??;
    tcp.set_nodelay(true)?;
    crate::accept::keep_alive(&SockRef::from(&tcp));
    Ok(tcp)
}
