//! Opaque TCP: echoes, after a greeting if it has one.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// Listens, says so on stdout, serves until killed.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(listen: SocketAddr, greeting: Option<String>) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream, greeting.clone()));
    }
}

async fn echo(mut stream: TcpStream, greeting: Option<String>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(greeting) = greeting {
        stream.write_all(greeting.as_bytes()).await?;
        stream.write_all(b"\r\n").await?;
    }
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    // The client has said that it has no more; what it sent is on its way back, so the other half ends too.
    writer.shutdown().await
}
