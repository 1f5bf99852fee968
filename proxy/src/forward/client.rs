//! The client's end of an HTTP/1.1 connection: reading requests off it, refusing them, ending it.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use kith_policy::Reason;
use tokio::io::AsyncWriteExt;

use crate::authorize::Permit;
use crate::connections::{DRAINED, IDLE, Live, Registered};
use crate::correlation;
use crate::error::{challenge_of, status_of};
use crate::forward::http1::Outcome;
use crate::forward::pool::Upstream;
use crate::forward::tcp;
use crate::headers::AGAIN;
use crate::http1::{Framing, Limits, Parse, ParseError, RequestHead, write_problem};
use crate::record::{ClosedBy, ConnectionFacts, Record};
use crate::signal::{Ask, Closing, still_fine};
use crate::stream::Stream;

/// How long the head of a request may take from its first byte (security.md, row 28).
const HEAD: Duration = Duration::from_secs(15);

/// How long and how much of an unread request is taken in, so that the refusal before it is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) live: Registered,
    pub(crate) facts: Rc<ConnectionFacts>,
    pub(crate) limits: Limits,
    /// Read and not yet used.
    pub(crate) buffer: BytesMut,
    pub(crate) head: RequestHead,
    /// No request after this one.
    pub(crate) draining: bool,
    pub(crate) requests: u64,
    /// How long the next request may let itself be waited for.
    idle: Duration,
}

/// What came instead of a request, or a request.
pub(crate) enum Next {
    /// The bytes that `Client::head` is about.
    Request(BytesMut),
    Malformed(ParseError),
    End,
    Failed(io::Error),
    Asked(Closing),
}

impl Client {
    pub(crate) fn new(
        stream: Stream,
        live: Registered,
        facts: Rc<ConnectionFacts>,
        first: BytesMut,
    ) -> Self {
        Client {
            stream,
            live,
            facts,
            limits: Limits::default(),
            buffer: first,
            head: RequestHead::default(),
            draining: false,
            requests: 0,
            idle: IDLE,
        }
    }

    /// Nobody knows who this is, and nothing will be allowed: it gets no time to think.
    pub(crate) fn hurry(&mut self) {
        self.idle = HEAD;
    }

    pub(crate) async fn next_request(&mut self) -> Next {
        let Client {
            stream,
            live,
            limits,
            buffer,
            head,
            draining,
            idle,
            ..
        } = self;
        head.clear();
        live.set_in_flight(0);
        // Whoever awaited something else may have heard it first.
        *draining |= live.signal.is_draining();
        if buffer.is_empty() {
            // Gives its memory back while there is nothing to hold.
            *buffer = BytesMut::new();
            live.wait_for(if *draining { DRAINED } else { *idle }, Reason::Timeout);
            // From its first request on a client has shown what it is.
            *idle = IDLE;
        } else {
            live.wait_for(HEAD, Reason::Timeout);
        }
        poll_fn(|context| {
            loop {
                if !buffer.is_empty() {
                    match head.parse(buffer, limits) {
                        Ok(Parse::Complete(length)) => {
                            live.wait_forever();
                            live.set_in_flight(1);
                            return Poll::Ready(Next::Request(buffer.split_to(length)));
                        }
                        Ok(Parse::Partial) => {}
                        Err(error) => return Poll::Ready(Next::Malformed(error)),
                    }
                }
                while let Poll::Ready(ask) = live.signal.poll(context) {
                    match ask {
                        Ask::Close(closing) => return Poll::Ready(Next::Asked(closing)),
                        // Nothing is in flight that could be decided again.
                        Ask::Recheck(_) => {}
                        Ask::Drain => {
                            *draining = true;
                            live.wait_for(DRAINED, Reason::Draining);
                        }
                    }
                }
                let fresh = buffer.is_empty();
                match stream.poll_read_onto(context, buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0)) if fresh => return Poll::Ready(Next::End),
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Next::Failed(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Poll::Ready(Ok(_)) if fresh => live.wait_for(HEAD, Reason::Timeout),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Next::Failed(error)),
                }
            }
        })
        .await
    }

    /// Answers in the proxy's own name. Returns whether another request may follow.
    pub(crate) async fn refuse(&mut self, reason: Reason, request_id: &str) -> Refused {
        self.refuse_with(reason, request_id, &[]).await
    }

    /// As [`refuse`](Self::refuse), for a request that may be sent to another server. Only a Kith is told so.
    pub(crate) async fn refuse_again(&mut self, reason: Reason, request_id: &str) -> Refused {
        let again = [(AGAIN, "1")];
        let fields = if self.live.is_kith() { &again[..] } else { &[] };
        self.refuse_with(reason, request_id, fields).await
    }

    async fn refuse_with(
        &mut self,
        reason: Reason,
        request_id: &str,
        fields: &[(&str, &str)],
    ) -> Refused {
        let status = status_of(self.live.direction, reason);
        let keep = self.head.persistent()
            && self.head.framing() == Framing::None
            && !self.draining
            && !self.live.signal.is_draining();
        let mut out = BytesMut::with_capacity(256);
        let challenge = challenge_of(reason).map(|challenge| ("www-authenticate", challenge));
        let fields: Vec<_> = challenge
            .into_iter()
            .chain(fields.iter().copied())
            .collect();
        let head_only = self.head.is_head();
        let reason = reason.as_str();
        let content = write_problem(
            &mut out, status, reason, request_id, &fields, !keep, head_only,
        );
        self.answer(status, out, content, keep).await
    }

    /// The same for what isn't HTTP: the connection ends, since where the next message starts is unknown.
    pub(crate) async fn refuse_malformed(
        &mut self,
        error: ParseError,
        request_id: &str,
    ) -> Refused {
        let mut out = BytesMut::with_capacity(256);
        let (status, reason) = (error.status(), reason_of(error).as_str());
        let content = write_problem(&mut out, status, reason, request_id, &[], true, false);
        self.answer(status, out, content, false).await
    }

    async fn answer(
        &mut self,
        status: u16,
        mut out: BytesMut,
        content: usize,
        keep: bool,
    ) -> Refused {
        // Decided and done with: there is nothing a change of policy could ask again.
        self.live.set_in_flight(0);
        self.live.wait_for(HEAD, Reason::Timeout);
        let answer = self.stream.write_all(&mut out);
        let sent = matches!(
            self.live.signal.unless_closed(&still_fine, answer).await,
            Ok(Ok(()))
        );
        if sent && !keep {
            self.linger().await;
        }
        Refused {
            status,
            bytes: content as u64,
            keep: keep && sent,
        }
    }

    /// Ends the connection in good order: the peer can tell it from a cut.
    pub(crate) async fn end(&mut self) {
        let _ = tokio::time::timeout(LINGER, self.stream.shutdown()).await;
    }

    /// Ends the connection after an answer that was sent before the request was read: a reset now would
    /// take the answer with it (RFC 9112 section 9.6).
    pub(crate) async fn linger(&mut self) {
        let _ = tokio::time::timeout(LINGER, async {
            if self.stream.shutdown().await.is_err() {
                return;
            }
            let mut taken = 0;
            while taken < LINGER_BYTES {
                self.buffer.clear();
                match self.stream.read_onto(&mut self.buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => taken += n,
                }
            }
        })
        .await;
    }
}

/// What an exchange leaves of the two connections.
pub(crate) enum Remains {
    /// The client's connection takes another request; so does the server's, if it says so.
    Client {
        server: bool,
    },
    /// The server's alone.
    Server,
    /// Both are opaque from here on.
    Tunnel,
    Nothing,
}

impl Client {
    /// Completes the record and tells the client what it still can be told.
    pub(crate) async fn conclude(
        &mut self,
        record: &mut Record,
        outcome: Outcome,
        server: &Upstream,
        request_id: &str,
    ) -> Remains {
        let destination = self.live.destination;
        let outcome = match (outcome, self.live.cut_off()) {
            (Outcome::ClientGone(_), Some(closing)) => Outcome::Asked(closing),
            (outcome, _) => outcome,
        };
        match outcome {
            Outcome::Answered {
                client_reusable: true,
                server_reusable,
            } => {
                return Remains::Client {
                    server: server_reusable,
                };
            }
            Outcome::Answered {
                server_reusable, ..
            } => {
                self.linger().await;
                return if server_reusable {
                    Remains::Server
                } else {
                    Remains::Nothing
                };
            }
            Outcome::Switched => return Remains::Tunnel,
            Outcome::Unsent(broken) | Outcome::NoAnswer(broken) => {
                tracing::debug!(%destination, %broken, "the server gave no answer");
                record.fail(Reason::ServerClosed);
                record.closed_by = Some(ClosedBy::Server);
                self.draining = true;
                let refused = self.refuse(Reason::ServerClosed, request_id).await;
                refused.record(record);
                return Remains::Nothing;
            }
            Outcome::Cut(broken) => {
                tracing::debug!(%destination, %broken, "the server cut its answer short");
                record.fail(Reason::ServerClosed);
                record.closed_by = Some(ClosedBy::Server);
            }
            Outcome::BadRequest { error, answered } => {
                tracing::debug!(source = %self.live.source, %error, "the client broke its own request");
                server.stream.reset_on_close();
                // Its head was allowed and is with the server by now: the record must not look as if nothing had happened.
                record.fail(Reason::RequestMalformed);
                if !answered {
                    self.refuse_malformed(error, request_id)
                        .await
                        .record(record);
                    return Remains::Nothing;
                }
            }
            Outcome::ClientGone(error) => {
                tracing::debug!(source = %self.live.source, %error, "the client left before its answer was over");
                record.fail(Reason::ClientClosed);
                record.closed_by = Some(ClosedBy::Client);
                server.stream.reset_on_close();
            }
            Outcome::Asked(closing) => {
                closing.record(record);
                server.stream.reset_on_close();
            }
        }
        self.stream.reset_on_close();
        Remains::Nothing
    }

    /// The protocol that both agreed on takes over. `live` is what the registry watches for it.
    pub(crate) async fn tunnel(
        &mut self,
        permit: &Permit,
        record: &mut Record,
        server: &mut Upstream,
        live: &Live,
        recheck: &dyn Fn() -> Result<(), Closing>,
    ) {
        let from_client = (&mut self.stream, std::mem::take(&mut self.buffer));
        let from_server = (&mut server.stream, std::mem::take(&mut server.buffer));
        let relayed = tcp::relay(permit, live, from_client, from_server, recheck).await;
        record.renewed = live.renewed();
        relayed.record(record);
    }

    /// Records and refuses what isn't HTTP/1.1.
    pub(crate) async fn malformed(&mut self, record: &mut Record, error: ParseError) {
        let (id, _) = correlation::request_id(None);
        record.request_id(id.as_str().as_bytes());
        record.refuse(reason_of(error));
        tracing::debug!(source = %self.live.source, %error, "refused a malformed request");
        self.refuse_malformed(error, id.as_str())
            .await
            .record(record);
    }
}

fn reason_of(error: ParseError) -> Reason {
    match error {
        _ if error.is_cap() => Reason::Overload,
        ParseError::TargetFragment => Reason::PathRefused,
        _ => Reason::RequestMalformed,
    }
}

pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// Another request may follow.
    pub(crate) keep: bool,
}

impl Refused {
    pub(crate) fn record(&self, record: &mut Record) {
        record.status = Some(self.status);
        record.bytes_out = self.bytes;
    }
}
