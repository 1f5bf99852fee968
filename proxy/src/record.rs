//! The access log: who called whom, and why it was allowed or denied (one JSON object per line).
//!
//! A [`Record`] is opened when a connection is accepted or a request starts, completed by every stage, and
//! emitted exactly once when it is dropped, so that no path, early exit or panic goes unlogged. What is fixed per
//! connection is rendered once ([`ConnectionFacts`], [`Hop`]); what a request adds is formatted into a reused
//! buffer and handed to the writer thread ([`Recorder`]).
//!
//! **Architecture invariant:** nothing here waits for IO, and nothing here decides.

mod end_user;
mod facts;
mod json;
mod line;
mod meters;
mod recorder;
mod texts;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use kith_policy::{Decision, Reason};

pub(crate) use end_user::EndUser;
pub(crate) use facts::{ConnectionFacts, Direction, Hop, HopFacts, TlsFacts};
pub use recorder::{Destination, WhenFull};
pub(crate) use recorder::{Recorder, Sink};
use texts::Texts;

use crate::token::query;

/// What one line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An opaque connection, or one that ended before it carried a request.
    Connection,
    /// One HTTP request.
    Request,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    Client,
    Server,
    Policy,
    Drain,
    Expiry,
    /// A bug of the proxy ended it (security.md, row 30).
    Panic,
}

impl ClosedBy {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ClosedBy::Client => "client",
            ClosedBy::Server => "server",
            ClosedBy::Policy => "policy",
            ClosedBy::Drain => "drain",
            ClosedBy::Expiry => "expiry",
            ClosedBy::Panic => "panic",
        }
    }
}

/// The ids of W3C Trace Context. Each proxy is a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    /// The caller's span; absent where this proxy started the trace.
    pub(crate) parent_id: Option<[u8; 8]>,
}

/// The head of a request, as it was decided on: path after normalisation.
#[derive(Clone, Copy)]
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) authority: &'a [u8],
    pub(crate) path: &'a [u8],
    /// Without the `?`; written down only where `KITH_LOG_QUERY` says so, and never with an access token in it.
    pub(crate) query: Option<&'a str>,
    /// Names of parameters that tokens come in, besides `access_token`.
    pub(crate) secret: &'a dyn Fn(&str) -> bool,
    /// `1.0`, `1.1` or `2`.
    pub(crate) version: &'static str,
}

/// The verdict so far.
#[derive(Debug)]
enum Verdict {
    /// Nobody has decided yet. At emission this is a denial: the client left before it could be decided.
    Open,
    Decided(Decision),
    /// Refused by the proxy itself, no policy involved.
    Refused(Reason),
}

/// One line of the access log, under way. Dropping it writes it.
pub(crate) struct Record {
    connection: Rc<ConnectionFacts>,
    kind: Kind,
    started: Instant,
    time: SystemTime,
    verdict: Verdict,
    /// Why an allowed request failed all the same.
    failure: Option<Reason>,
    hop: Option<(Rc<Hop>, u64)>,
    earlier_hops: Vec<(Rc<Hop>, u64)>,
    texts: Texts,
    version: Option<&'static str>,
    discarded: bool,

    /// Revision of the snapshot in force, for what no policy decided; a decision brings its own.
    pub(crate) revision: Option<Arc<str>>,
    /// Name of the service that the client dialled.
    pub(crate) service: Option<Arc<str>>,
    /// The endpoint really connected to, where no hop says it.
    pub(crate) destination: Option<SocketAddr>,
    /// Whom the request's token is about.
    pub(crate) end_user: Option<Rc<EndUser>>,
    pub(crate) trace: Option<Trace>,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u32>,
    /// Outbound attempts, the first included. Written from two on.
    pub(crate) attempts: u32,
    /// From the client to the server.
    pub(crate) bytes_in: u64,
    /// From the server to the client.
    pub(crate) bytes_out: u64,
    /// From the request handed to the server until its response head, or the connection to it.
    pub(crate) upstream: Option<Duration>,
    /// How often the connection's identity was proved anew.
    pub(crate) renewed: u32,
    pub(crate) closed_by: Option<ClosedBy>,
}

impl Record {
    pub(crate) fn open(kind: Kind, connection: &Rc<ConnectionFacts>) -> Self {
        Record {
            connection: Rc::clone(connection),
            kind,
            started: Instant::now(),
            time: SystemTime::now(),
            verdict: Verdict::Open,
            failure: None,
            hop: None,
            earlier_hops: Vec::new(),
            texts: Texts::default(),
            version: None,
            discarded: false,
            revision: None,
            service: None,
            destination: None,
            end_user: None,
            trace: None,
            status: None,
            grpc_status: None,
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            upstream: None,
            renewed: 0,
            closed_by: None,
        }
    }

    pub(crate) fn direction(&self) -> Direction {
        self.connection.direction()
    }

    /// The policy engine's word, allow or deny. A later decision replaces an earlier one.
    pub(crate) fn decide(&mut self, decision: &Decision) {
        self.verdict = Verdict::Decided(decision.clone());
        self.failure = None;
    }

    /// The proxy refuses this itself: a denial, whatever was decided before.
    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.verdict = Verdict::Refused(reason);
        self.failure = None;
    }

    /// A live connection or request loses what it was allowed: a denial for `reason`, in the name of the
    /// policy that forbids it now.
    pub(crate) fn revoke(&mut self, reason: Reason, decision: Option<&Decision>) {
        match decision {
            Some(decision) => {
                self.verdict = Verdict::Decided(Decision {
                    allow: false,
                    reason,
                    ..decision.clone()
                });
            }
            None => self.verdict = Verdict::Refused(reason),
        }
        self.failure = None;
    }

    /// The server's proxy answered in place of its application: the same verdict and reason on both ends.
    pub(crate) fn answered_by_proxy(&mut self, reason: Reason) {
        match reason {
            // It had allowed what then went wrong behind it.
            Reason::ServerUnreachable | Reason::ServerClosed => self.fail(reason),
            _ => self.refuse(reason),
        }
    }

    /// Something went wrong on the way. What was allowed stays allowed and keeps its policy, with this
    /// reason; what was not decided yet becomes a denial for it; a denial keeps its own reason.
    pub(crate) fn fail(&mut self, reason: Reason) {
        match &self.verdict {
            Verdict::Open => self.verdict = Verdict::Refused(reason),
            Verdict::Decided(decision) if decision.allow => self.failure = Some(reason),
            Verdict::Decided(_) | Verdict::Refused(_) => {}
        }
    }

    /// The mTLS connection that this request or connection travels on, and its place on it: the HTTP/2 stream id, the ordinal of
    /// the HTTP/1.1 request, 0 for opaque bytes. A second hop is another attempt, and the first is kept.
    pub(crate) fn travels(&mut self, hop: &Rc<Hop>, ordinal: u64) {
        if let Some(earlier) = self.hop.replace((Rc::clone(hop), ordinal)) {
            self.earlier_hops.push(earlier);
        }
    }

    pub(crate) fn request(&mut self, head: &RequestHead<'_>) {
        self.texts.set_method(head.method);
        self.texts.set_authority(head.authority);
        let query = head
            .query
            .filter(|_| self.connection.sink().log_query())
            .map(|query| query::redacted(query, head.secret));
        self.texts
            .set_path(head.path, query.as_deref().map(str::as_bytes));
        self.version = Some(head.version);
    }

    pub(crate) fn request_id(&mut self, id: &[u8]) {
        self.texts.set_request_id(id);
    }

    /// What the handshake, ours or the peer's, failed of.
    pub(crate) fn tls_error(&mut self, message: &str) {
        self.texts.set_tls_error(message.as_bytes());
    }

    /// The connection turned out to carry HTTP: its requests have records of their own, and it needs none.
    pub(crate) fn carries_requests(mut self) {
        self.discarded = true;
        meters::connection_of_requests(self.connection.direction());
    }

    /// What will be written, if nothing changes: allowed or not, and why.
    pub(crate) fn outcome(&self) -> (bool, Reason) {
        match &self.verdict {
            Verdict::Open => (false, Reason::ClientClosed),
            Verdict::Decided(decision) => (decision.allow, self.failure.unwrap_or(decision.reason)),
            Verdict::Refused(reason) => (false, *reason),
        }
    }
}

/// A time as records write it, for logs and the admin listener.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let mut out = Vec::with_capacity(24);
    json::timestamp(time, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.discarded {
            return;
        }
        if thread::panicking() {
            // To the client, the other side went away.
            self.fail(Reason::ServerClosed);
            self.closed_by = Some(ClosedBy::Panic);
        }
        let took = self.started.elapsed();
        meters::count(self, took);
        line::emit(self, took);
    }
}

#[cfg(test)]
mod tests;
