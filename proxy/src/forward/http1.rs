//! One request and its answer between two HTTP/1.1 connections.
//!
//! No task of its own and no lock: both directions are driven by one poll, so that an answer may begin
//! before the request has ended. Bytes are validated by `http1::Body` and forwarded as they came.

mod answer_head;
mod kept;
mod outcome;
mod terms;

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kith_policy::Reason;

use crate::authorize::Permit;
use crate::connections::Live;
use crate::forward::pool::Upstream;
use crate::http1::{Body, Parse, ResponseHead};
use crate::signal::{Ask, Closing};
use crate::stream::Stream;
pub(crate) use outcome::{Answer, Broken, Outcome};
pub(crate) use terms::{Downstream, Terms};

/// What the client may send ahead while its answer is on the way; the rest waits in its socket.
const READ_AHEAD: usize = 16 * 1024;

/// How long a client may make no progress with the body it sends or the answer it is sent.
const STALLED: Duration = Duration::from_secs(300);

enum Phase {
    Head,
    Body(Body),
    /// The head of the new protocol's first byte is on its way.
    Switching,
    Done,
}

/// `head` is the request's head, rewritten; `body` what follows it.
pub(crate) async fn exchange(
    _permit: &Permit,
    client: Downstream<'_>,
    server: &mut Upstream,
    head: BytesMut,
    body: Body,
    terms: &Terms<'_>,
    answer: &mut Answer,
) -> Outcome {
    let mut exchange = Exchange {
        to_server: head,
        server_unflushed: true,
        uploaded: body.is_done(),
        request_body: body,
        upload_broken: false,
        client_ended: false,
        to_client: BytesMut::new(),
        client_unflushed: false,
        response: ResponseHead::default(),
        phase: Phase::Head,
        started: Instant::now(),
        persistent: false,
        close: terms.close,
        waited: false,
        heard: false,
        kept: terms.again.is_possible().then(BytesMut::new),
    };
    let Downstream {
        stream,
        buffer,
        live,
    } = client;
    let outcome = std::future::poll_fn(|context| {
        if let Poll::Ready(closing) = exchange.poll_asks(context, live, server, terms) {
            return Poll::Ready(Outcome::Asked(closing));
        }
        if let Poll::Ready(outcome) = exchange.poll_upload(context, stream, buffer, server) {
            return Poll::Ready(outcome);
        }
        if let Poll::Ready(outcome) = exchange.poll_download(context, stream, server, terms, answer)
        {
            return Poll::Ready(outcome);
        }
        let poll = exchange.poll_client(context, stream, buffer);
        if poll.is_pending() {
            exchange.watch_for_stalls(live);
        }
        poll
    })
    .await;
    if let (Outcome::Unsent(_), Some(mut kept)) = (&outcome, exchange.kept.take()) {
        kept.unsplit(std::mem::take(buffer));
        *buffer = kept;
    }
    answer.bytes_in = exchange.request_body.payload_bytes();
    if let Phase::Body(body) = &exchange.phase {
        answer.bytes_out = body.payload_bytes();
    }
    outcome
}

struct Exchange {
    to_server: BytesMut,
    /// TLS may hold back what was written; only a finished flush says that it went out.
    server_unflushed: bool,
    request_body: Body,
    uploaded: bool,
    /// The server takes no more; it may still have answered.
    upload_broken: bool,
    client_ended: bool,
    to_client: BytesMut,
    client_unflushed: bool,
    response: ResponseHead,
    phase: Phase,
    started: Instant,
    persistent: bool,
    close: bool,
    /// A deadline for the client is set.
    waited: bool,
    /// The server has said something.
    heard: bool,
    /// What of the request's body was taken, as long as it may have to be sent once more.
    kept: Option<BytesMut>,
}

impl Exchange {
    fn poll_asks(
        &mut self,
        context: &mut Context<'_>,
        live: &Live,
        server: &Upstream,
        terms: &Terms<'_>,
    ) -> Poll<Closing> {
        for signal in
            std::iter::once(&live.signal).chain(server.live.as_ref().map(|live| &live.signal))
        {
            while let Poll::Ready(ask) = signal.poll(context) {
                match ask {
                    Ask::Close(closing) => return Poll::Ready(closing),
                    Ask::Drain => self.close |= std::ptr::eq(signal, &live.signal),
                    Ask::Recheck(barrier) => {
                        if let Err(closing) = (terms.recheck)() {
                            live.signal.hold(barrier);
                            return Poll::Ready(closing);
                        }
                    }
                }
            }
        }
        Poll::Pending
    }

    /// Ready only when the exchange is over because of it.
    fn poll_upload(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
        buffer: &mut BytesMut,
        server: &mut Upstream,
    ) -> Poll<Outcome> {
        loop {
            if self.upload_broken {
                return Poll::Pending;
            }
            if self.server_unflushed {
                match server.stream.poll_drain(context, &mut self.to_server) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => self.server_unflushed = false,
                    Poll::Ready(Err(_)) => {
                        // The answer may be there already; reading will tell.
                        self.upload_broken = true;
                        return Poll::Pending;
                    }
                }
            }
            if self.uploaded {
                return Poll::Pending;
            }
            if buffer.is_empty() {
                match client.poll_read_onto(context, buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Outcome::ClientGone(
                            io::ErrorKind::UnexpectedEof.into(),
                        ));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Outcome::ClientGone(error)),
                }
            }
            match self.request_body.advance(buffer) {
                Ok(progress) => {
                    let part = buffer.split_to(progress.consumed);
                    self.keep(&part);
                    self.to_server.unsplit(part);
                    self.uploaded = progress.done;
                    self.server_unflushed = true;
                }
                Err(error) => {
                    return Poll::Ready(Outcome::BadRequest {
                        error,
                        answered: self.answer_began(),
                    });
                }
            }
        }
    }

    fn poll_download(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
        server: &mut Upstream,
        terms: &Terms<'_>,
        answer: &mut Answer,
    ) -> Poll<Outcome> {
        loop {
            if self.client_unflushed {
                match client.poll_drain(context, &mut self.to_client) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => self.client_unflushed = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Outcome::ClientGone(error)),
                }
            }
            match &mut self.phase {
                Phase::Done => {
                    let complete = self.uploaded && !self.server_unflushed && !self.upload_broken;
                    // Answered before it ended, by a server that keeps the connection and so takes the rest: closing now
                    // would cut off a client that reads its answer only when it has sent everything.
                    if self.persistent
                        && !complete
                        && !self.upload_broken
                        && server.buffer.is_empty()
                    {
                        let Poll::Ready(_) =
                            server.stream.poll_read_onto(context, &mut server.buffer)
                        else {
                            return Poll::Pending;
                        };
                    }
                    return Poll::Ready(Outcome::Answered {
                        client_reusable: complete && !self.close && !self.client_ended,
                        server_reusable: complete && self.persistent && server.buffer.is_empty(),
                    });
                }
                Phase::Switching => return Poll::Ready(Outcome::Switched),
                Phase::Head => {
                    if !server.buffer.is_empty() {
                        match self
                            .response
                            .parse(&server.buffer, terms.limits, terms.asked)
                        {
                            Ok(Parse::Complete(length)) => {
                                match self.answer_head(server, length, terms, answer) {
                                    Ok(()) => continue,
                                    Err(Broken::Refused) => {
                                        return Poll::Ready(Outcome::Unsent(Broken::Refused));
                                    }
                                    Err(broken) => return Poll::Ready(Outcome::NoAnswer(broken)),
                                }
                            }
                            Ok(Parse::Partial) => {}
                            Err(error) => {
                                return Poll::Ready(Outcome::NoAnswer(Broken::Malformed(error)));
                            }
                        }
                    }
                    match server.stream.poll_read_onto(context, &mut server.buffer) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(0)) => {
                            let again = terms.again.closed || terms.again.lost;
                            let error = io::ErrorKind::UnexpectedEof.into();
                            return Poll::Ready(self.silent(again, error));
                        }
                        Poll::Ready(Ok(_)) => self.heard = true,
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(self.silent(terms.again.lost, error));
                        }
                    }
                }
                Phase::Body(body) => {
                    if body.is_done() {
                        answer.bytes_out = body.payload_bytes();
                        self.phase = Phase::Done;
                        continue;
                    }
                    if server.buffer.is_empty() {
                        match server.stream.poll_read_onto(context, &mut server.buffer) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(Ok(0)) => match body.on_eof() {
                                Ok(()) => {
                                    answer.bytes_out = body.payload_bytes();
                                    self.phase = Phase::Done;
                                    continue;
                                }
                                Err(error) => {
                                    return Poll::Ready(Outcome::Cut(Broken::Malformed(error)));
                                }
                            },
                            Poll::Ready(Ok(_)) => {}
                            Poll::Ready(Err(error)) => {
                                return Poll::Ready(Outcome::Cut(Broken::Io(error)));
                            }
                        }
                    }
                    match body.advance(&server.buffer) {
                        Ok(progress) => {
                            self.to_client
                                .unsplit(server.buffer.split_to(progress.consumed));
                            self.client_unflushed = true;
                        }
                        Err(error) => return Poll::Ready(Outcome::Cut(Broken::Malformed(error))),
                    }
                }
            }
        }
    }

    /// While the answer is awaited, notices a client that went away, and takes what it sends ahead.
    fn poll_client(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
        buffer: &mut BytesMut,
    ) -> Poll<Outcome> {
        while self.uploaded && !self.client_ended && buffer.len() < READ_AHEAD {
            match client.poll_read_onto(context, buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => self.client_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Outcome::ClientGone(error)),
            }
        }
        Poll::Pending
    }

    /// Whoever waits for the client waits this long and no longer (security.md, row 28). Each poll is progress.
    fn watch_for_stalls(&mut self, live: &Live) {
        let waits = !self.uploaded || self.client_unflushed;
        if waits {
            live.wait_for(STALLED, Reason::Timeout);
        } else if self.waited {
            live.wait_forever();
        }
        self.waited = waits;
    }

    fn answer_began(&self) -> bool {
        !matches!(self.phase, Phase::Head)
    }
}
