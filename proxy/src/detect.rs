//! What does a connection carry? Declared protocols win; otherwise a bounded look at the first bytes.
//!
//! What isn't surely HTTP is opaque (security.md, row 14). A slow client is never closed for being slow.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::http1::{Sniff, sniff};
use crate::snapshot::Protocol;
use crate::stream::{Socket, Stream};

/// How long the first bytes may take before the connection counts as one whose server speaks first.
pub(crate) const PATIENCE: Duration = Duration::from_millis(250);

const MOST: usize = 16 * 1024;

/// Server-first protocols by their registered ports: nothing to wait for.
const SERVER_FIRST: [u16; 9] = [21, 22, 25, 110, 143, 587, 3306, 5900, 6667];

pub(crate) struct Detected {
    pub(crate) protocol: Protocol,
    pub(crate) how: How,
    /// The bytes that were read to find out; they are the application's.
    pub(crate) first: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Declared,
    WellKnown,
    Sniffed,
    TimedOut,
}

impl How {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            How::Declared => "declared",
            How::WellKnown => "well-known",
            How::Sniffed => "sniffed",
            How::TimedOut => "timed-out",
        }
    }
}

/// An error is the client's: it reset before it said anything.
pub(crate) async fn detect(
    stream: &mut Stream,
    port: u16,
    declared: Option<Protocol>,
) -> io::Result<Detected> {
    if let Some(protocol) = declared {
        return Ok(Detected {
            protocol,
            how: How::Declared,
            first: BytesMut::new(),
        });
    }
    if SERVER_FIRST.contains(&port) {
        return Ok(Detected {
            protocol: Protocol::Tcp,
            how: How::WellKnown,
            first: BytesMut::new(),
        });
    }
    let mut first = BytesMut::new();
    let (protocol, how) = match tokio::time::timeout(PATIENCE, look(stream, &mut first)).await {
        Ok(protocol) => (protocol?, How::Sniffed),
        Err(_) => (Protocol::Tcp, How::TimedOut),
    };
    Ok(Detected {
        protocol,
        how,
        first,
    })
}

/// Looks on without hurry at what `first` began. Silence to the end is opaque.
pub(crate) async fn look_on(
    stream: &mut Stream,
    most: Duration,
    mut first: BytesMut,
) -> io::Result<Detected> {
    let looked = tokio::time::timeout(most, look(stream, &mut first)).await;
    let protocol = looked.unwrap_or(Ok(Protocol::Tcp))?;
    Ok(Detected {
        protocol,
        how: How::Sniffed,
        first,
    })
}

async fn look(stream: &mut Stream, first: &mut BytesMut) -> io::Result<Protocol> {
    loop {
        if stream.read_onto(first).await? == 0 {
            return Ok(Protocol::Tcp);
        }
        match sniff(first) {
            Sniff::Http1 => return Ok(Protocol::Http1),
            Sniff::Http2Preface => return Ok(Protocol::Http2),
            Sniff::Tls => return Ok(Protocol::Tls),
            Sniff::Other => return Ok(Protocol::Tcp),
            Sniff::NeedMore if first.len() >= MOST => return Ok(Protocol::Tcp),
            Sniff::NeedMore => {}
        }
    }
}

/// The first byte of an inbound connection on a port that takes mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A TLS handshake record (RFC 8446 section 5.1).
    Tls,
    Plain,
    /// Nothing came in time.
    Silent,
}

pub(crate) async fn opening(socket: &Socket, patience: Duration) -> io::Result<Opening> {
    let mut byte = [0];
    match tokio::time::timeout(patience, socket.tcp().peek(&mut byte)).await {
        Err(_) => Ok(Opening::Silent),
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(_)) if byte[0] == 0x16 => Ok(Opening::Tls),
        Ok(Ok(_)) => Ok(Opening::Plain),
        Ok(Err(error)) => Err(error),
    }
}

/// What a ClientHello says, on ports that carry the application's own TLS.
#[derive(Debug, Default)]
pub(crate) struct Hello {
    pub(crate) server_name: Option<String>,
    /// The client offers `kith-tcp`: this is the mesh's TLS, and the application's is inside.
    pub(crate) mesh: bool,
}

/// The application's own ClientHello, inside the mesh's TLS. The bytes are the application's.
pub(crate) async fn inner_hello(
    stream: &mut Stream,
    patience: Duration,
) -> io::Result<(Option<Hello>, BytesMut)> {
    let mut first = BytesMut::new();
    let hello = tokio::time::timeout(patience, read_hello(stream, &mut first)).await;
    Ok((hello.unwrap_or(Ok(None))?, first))
}

/// Reads the ClientHello and puts its bytes back. `None`: not a ClientHello.
pub(crate) async fn client_hello(
    socket: &mut Socket,
    patience: Duration,
) -> io::Result<Option<Hello>> {
    let mut first = BytesMut::new();
    let hello = tokio::time::timeout(patience, read_hello(socket, &mut first)).await;
    socket.put_back(first);
    match hello {
        Ok(hello) => hello,
        Err(_) => Ok(None),
    }
}

async fn read_hello(
    socket: &mut (impl AsyncRead + Unpin),
    first: &mut BytesMut,
) -> io::Result<Option<Hello>> {
    let mut acceptor = Acceptor::default();
    loop {
        let from = first.len();
        if from >= MOST || socket.read_buf(first).await? == 0 {
            return Ok(None);
        }
        let mut fresh = &first[from..];
        while !fresh.is_empty() {
            if acceptor.read_tls(&mut fresh).is_err() {
                return Ok(None);
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let mesh = hello.alpn().is_some_and(|mut names| {
                        names.any(|name| name == b"kith-tcp" || name == b"kith-renew")
                    });
                    return Ok(Some(Hello {
                        server_name: hello.server_name().map(str::to_owned),
                        mesh,
                    }));
                }
                Err(_) => return Ok(None),
            }
        }
    }
}
