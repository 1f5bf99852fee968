//! The byte streams of the data path: a socket with what was already read of it, plain or under TLS.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection, with the bytes that detection read from it and did not consume.
#[derive(Debug)]
pub(crate) struct Socket {
    first: BytesMut,
    tcp: TcpStream,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Socket {
            first: BytesMut::new(),
            tcp,
        }
    }

    /// The bytes are read again before anything else is.
    pub(crate) fn put_back(&mut self, first: BytesMut) {
        debug_assert!(self.first.is_empty());
        self.first = first;
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The next `close` sends RST instead of FIN, so that the peer can't mistake a cut for an end.
    pub(crate) fn reset_on_close(&self) {
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            take_first(&mut self.first, out);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(context, out)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

/// One end of a relay.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    TlsServer(Box<tokio_rustls::server::TlsStream<Socket>>),
    TlsClient(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Stream {
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::TlsServer(tls) => tls.get_ref().0,
            Stream::TlsClient(tls) => tls.get_ref().0,
        }
    }

    pub(crate) fn reset_on_close(&self) {
        self.socket().reset_on_close();
    }

    /// Puts `first` before everything that is still to be read, under TLS or not.
    pub(crate) fn with_first(self, first: BytesMut) -> Prefixed {
        Prefixed {
            first,
            stream: self,
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket()
            .tcp
            .local_addr()
            .ok()
            .map(crate::addr::canonical)
    }

    /// Reads what is there onto the end of `buffer`, through a scratch buffer of the thread, so that a
    /// connection with nothing to read holds no memory for reading. 0 bytes: the peer sent its end.
    pub(crate) fn poll_read_onto(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let mut out = ReadBuf::new(scratch);
            ready!(Pin::new(self).poll_read(context, &mut out))?;
            buffer.extend_from_slice(out.filled());
            Poll::Ready(Ok(out.filled().len()))
        })
    }

    pub(crate) async fn read_onto(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_read_onto(context, buffer)).await
    }

    /// Writes all of `data`, taking it off the front, and flushes.
    pub(crate) fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        data: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        while !data.is_empty() {
            let n = ready!(Pin::new(&mut *self).poll_write(context, data))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            data.advance(n);
        }
        Pin::new(self).poll_flush(context)
    }

    pub(crate) async fn write_all_bytes(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_all(&mut BytesMut::from(data)).await
    }

    pub(crate) async fn write_all(&mut self, data: &mut BytesMut) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_drain(context, data)).await
    }
}

/// A stream of which detection has read a little.
pub(crate) struct Prefixed {
    first: BytesMut,
    stream: Stream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, out);
        }
        take_first(&mut self.first, out);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn take_first(first: &mut BytesMut, out: &mut ReadBuf<'_>) {
    let n = first.len().min(out.remaining());
    out.put_slice(&first[..n]);
    first.advance(n);
    if first.is_empty() {
        // Gives its memory back.
        *first = BytesMut::new();
    }
}

const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Lends the thread's scratch buffer for the length of one poll.
pub(crate) fn with_scratch<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| use_it(scratch))
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::TlsServer(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Stream::TlsClient(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(context, out))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(context, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write_vectored(context, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(context))
    }
}
