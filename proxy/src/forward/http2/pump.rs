//! One direction of a body, with back-pressure from end to end.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::HeaderMap;

pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// One direction of a body, trailers included.
#[derive(Default)]
pub(super) struct Pump {
    chunk: Bytes,
    pub(super) bytes: u64,
    pub(super) grpc_status: Option<u32>,
}

impl Pump {
    /// Nothing was taken from the source.
    pub(super) fn is_fresh(&self) -> bool {
        self.bytes == 0 && self.chunk.is_empty()
    }
}

pub(super) enum Broken {
    Source(h2::Error),
    Destination(Option<h2::Reason>),
}

impl Pump {
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        source: &mut RecvStream,
        destination: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        let failed = |error: h2::Error| Broken::Destination(error.reason());
        loop {
            while self.chunk.has_remaining() {
                destination.reserve_capacity(self.chunk.len());
                let mut room = destination.capacity();
                if room == 0 {
                    room = match ready!(destination.poll_capacity(context)) {
                        Some(Ok(room)) => room,
                        Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                        None => return Poll::Ready(Err(Broken::Destination(None))),
                    };
                }
                let part = self.chunk.split_to(room.min(self.chunk.len()));
                let count = part.len();
                let end = self.chunk.is_empty() && source.is_end_stream();
                destination.send_data(part, end).map_err(failed)?;
                // The source may send as much again as the destination has taken: back-pressure end to end.
                let _ = source.flow_control().release_capacity(count);
                self.bytes += count as u64;
                if end {
                    return Poll::Ready(Ok(()));
                }
            }
            match source.poll_data(context) {
                Poll::Ready(Some(Ok(chunk))) => self.chunk = chunk,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Ready(None) => {
                    match ready!(source.poll_trailers(context)).map_err(Broken::Source)? {
                        Some(trailers) => {
                            self.grpc_status = grpc_status(&trailers);
                            destination.send_trailers(trailers).map_err(failed)?;
                        }
                        None => destination.send_data(Bytes::new(), true).map_err(failed)?,
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => {
                    return match destination.poll_reset(context) {
                        Poll::Ready(Ok(reason)) => {
                            Poll::Ready(Err(Broken::Destination(Some(reason))))
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}
