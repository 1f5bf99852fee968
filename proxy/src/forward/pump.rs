//! One direction of an opaque relay.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::{Stream, with_scratch};

/// Copies until the source ends, then ends the destination: FIN for FIN, close_notify for close_notify.
/// Bytes go through the thread's scratch buffer; only what the destination would not take is kept.
#[derive(Default)]
pub(crate) struct Pump {
    kept: BytesMut,
    source_ended: bool,
    ended: bool,
    bytes: u64,
}

/// Which end failed.
#[derive(Debug)]
pub(crate) enum Broken {
    Source(io::Error),
    Destination(io::Error),
}

impl Pump {
    /// `first` goes out before anything that is read.
    pub(crate) fn new(first: BytesMut) -> Self {
        Pump {
            bytes: first.len() as u64,
            kept: first,
            ..Pump::default()
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Ready once the destination was ended in good order.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        source: &mut Stream,
        destination: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        while !self.ended {
            if !self.kept.is_empty() {
                ready!(destination.poll_drain(context, &mut self.kept))
                    .map_err(Broken::Destination)?;
                self.kept = BytesMut::new();
            }
            if self.source_ended {
                ready!(Pin::new(&mut *destination).poll_shutdown(context))
                    .map_err(Broken::Destination)?;
                self.ended = true;
                break;
            }
            match self.poll_copy(context, source, destination) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // What TLS holds back must not wait for more input.
                    if let Poll::Ready(Err(error)) = Pin::new(&mut *destination).poll_flush(context)
                    {
                        return Poll::Ready(Err(Broken::Destination(error)));
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_copy(
        &mut self,
        context: &mut Context<'_>,
        source: &mut Stream,
        destination: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        with_scratch(|scratch| {
            let mut out = ReadBuf::new(scratch);
            ready!(Pin::new(source).poll_read(context, &mut out)).map_err(Broken::Source)?;
            let data = out.filled();
            if data.is_empty() {
                self.source_ended = true;
                return Poll::Ready(Ok(()));
            }
            self.bytes += data.len() as u64;
            let mut written = 0;
            while written < data.len() {
                match Pin::new(&mut *destination).poll_write(context, &data[written..]) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(Broken::Destination(
                            io::ErrorKind::WriteZero.into(),
                        )));
                    }
                    Poll::Ready(Ok(n)) => written += n,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Destination(error))),
                    Poll::Pending => break,
                }
            }
            self.kept.extend_from_slice(&data[written..]);
            Poll::Ready(Ok(()))
        })
    }
}
