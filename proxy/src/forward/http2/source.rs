//! Where the bytes of a body come from: a stream, or a request's, of which the beginning can be had once more.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

use crate::forward::again::MOST_KEPT;

pub(super) trait Source {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>>;
    fn poll_trailers(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>>;
    /// Nothing more will come, no trailers either.
    fn is_end_stream(&self) -> bool;
    /// The sender may send as much again.
    fn release(&mut self, bytes: usize);
}

impl Source for RecvStream {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        RecvStream::poll_data(self, context)
    }

    fn poll_trailers(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        RecvStream::poll_trailers(self, context)
    }

    fn is_end_stream(&self) -> bool {
        RecvStream::is_end_stream(self)
    }

    fn release(&mut self, bytes: usize) {
        let _ = self.flow_control().release_capacity(bytes);
    }
}

/// A request's body. What was taken of it is kept until it is known that it won't be needed again, or is too much.
pub(crate) struct RequestBody {
    stream: RecvStream,
    keeps: bool,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// The next of the kept ones.
    next: usize,
    /// Taken, and not yet given back to the sender's window.
    owed: usize,
}

impl RequestBody {
    pub(crate) fn new(stream: RecvStream) -> Self {
        RequestBody {
            stream,
            keeps: true,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            next: 0,
            owed: 0,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        Source::is_end_stream(self)
    }

    /// All of it is still there.
    pub(super) fn is_whole(&self) -> bool {
        self.keeps
    }

    /// From the beginning, if it [is whole](Self::is_whole).
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// It won't be needed again.
    pub(super) fn forget(&mut self) {
        self.keeps = false;
        self.kept.drain(..self.next);
        self.next = 0;
    }
}

impl Source for RequestBody {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(kept) = self.kept.get(self.next) {
            let kept = kept.clone();
            self.next += 1;
            return Poll::Ready(Some(Ok(kept)));
        }
        let chunk = ready!(self.stream.poll_data(context));
        if let Some(Ok(chunk)) = &chunk {
            self.owed += chunk.len();
            self.kept_bytes += chunk.len();
            if self.keeps && self.kept_bytes <= MOST_KEPT {
                self.kept.push(chunk.clone());
                self.next += 1;
            } else {
                self.forget();
            }
        }
        Poll::Ready(chunk)
    }

    fn poll_trailers(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        if let Some(trailers) = &self.trailers {
            return Poll::Ready(Ok(Some(trailers.clone())));
        }
        let trailers = ready!(self.stream.poll_trailers(context))?;
        self.trailers.clone_from(&trailers);
        Poll::Ready(Ok(trailers))
    }

    fn is_end_stream(&self) -> bool {
        self.next == self.kept.len() && self.trailers.is_none() && self.stream.is_end_stream()
    }

    fn release(&mut self, bytes: usize) {
        // What is sent once more was given back the first time.
        let bytes = bytes.min(self.owed);
        self.owed -= bytes;
        self.stream.release(bytes);
    }
}
