//! HTTP/1.1 requests to the application: each one normalised, decided, forwarded and recorded.

mod application;

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::BytesMut;
use kith_policy::{Reason, Target, normalise_host, normalise_target};

use application::Application;

use super::Inbound;
use super::decide::Question;
use crate::authenticate::Peer;
use crate::authorize::Permit;
use crate::connections::Live;
use crate::correlation;
use crate::forward::again::{Again, is_idempotent};
use crate::forward::client::{Client, Next, Remains};
use crate::forward::http1::{Answer, Downstream, Outcome, Terms, exchange};
use crate::headers::{FROM_APPLICATION, INTERNAL, Received, forwarded_client_cert};
use crate::http1::{
    Body, ConnectionHeader, ForwardTarget, RequestHead, Rewrite, Version, write_request_head,
};
use crate::record::{self, ClosedBy, Kind, Record};
use crate::snapshot::Snapshot;
use crate::token::{Examined, while_valid};
use crate::worker::Worker;

pub(super) async fn serve(inbound: Inbound) {
    let Inbound {
        worker,
        stream,
        live,
        facts,
        peer,
        hop,
        first,
        strict,
        ..
    } = inbound;
    let client_cert = peer
        .as_ref()
        .map(|peer| forwarded_client_cert(&worker, peer));
    let mut client = Client::new(stream, live, facts, first);
    if strict && peer.is_none() {
        client.hurry();
    }
    let mut application = Application::default();
    loop {
        let head = match client.next_request().await {
            Next::Request(head) => head,
            Next::End => return client.end().await,
            Next::Malformed(error) => {
                let mut record = Record::open(Kind::Request, &client.facts);
                client.requests += 1;
                if let Some(hop) = &hop {
                    record.travels(hop, client.requests);
                }
                record.revision = worker
                    .shared
                    .snapshot()
                    .as_ref()
                    .map(|snapshot| snapshot.revision_shared());
                client.malformed(&mut record, error).await;
                return;
            }
            Next::Failed(error) => {
                tracing::debug!(source = %client.live.source, %error, "the client's connection failed between requests");
                return client.stream.reset_on_close();
            }
            Next::Asked(closing) => {
                if closing.by.is_none() {
                    if !client.buffer.is_empty() {
                        // Not idle: it began a request and did not finish its head.
                        let mut record = Record::open(Kind::Connection, &client.facts);
                        record.refuse(closing.reason);
                    }
                    return client.end().await;
                }
                if closing.by == Some(ClosedBy::Policy) {
                    // Its requests have records of their own, and this is the only trace of its end.
                    let mut record = Record::open(Kind::Connection, &client.facts);
                    if let Some(hop) = &hop {
                        record.travels(hop, 0);
                    }
                    closing.record(&mut record);
                }
                tracing::debug!(source = %client.live.source, reason = closing.reason.as_str(), "closed an idle connection");
                return client.stream.reset_on_close();
            }
        };
        client.requests += 1;
        let mut record = Record::open(Kind::Request, &client.facts);
        if let Some(hop) = &hop {
            record.travels(hop, client.requests);
        }
        record.renewed = client.live.renewed();
        let served = one_request(
            &worker,
            &mut client,
            &mut application,
            &mut record,
            &head,
            client_cert.as_deref(),
            peer.as_ref(),
        );
        if !served.await {
            return;
        }
    }
}

/// Returns whether another request may follow.
async fn one_request(
    worker: &Worker,
    client: &mut Client,
    application: &mut Application,
    record: &mut Record,
    bytes: &BytesMut,
    client_cert: Option<&[u8]>,
    peer: Option<&Rc<Peer>>,
) -> bool {
    let head = &client.head;
    let (request_id, new_id) = correlation::request_id(head.x_request_id(bytes));
    let (trace, traceparent) = correlation::trace(head.traceparent(bytes));
    record.request_id(request_id.as_str().as_bytes());
    record.trace = Some(trace);
    let host = head.host(bytes).unwrap_or_default();

    // One snapshot for everything that is decided about this request.
    let snapshot = worker.shared.snapshot.load_full();
    let Some(snapshot) = &snapshot else {
        record.refuse(Reason::NoConfiguration);
        return refuse(client, record, Reason::NoConfiguration, request_id.as_str()).await;
    };
    let slash = snapshot.port(client.live.destination.port()).encoded_slash;
    let target = match normalise_target(head.method(bytes), head.target(bytes).as_bytes(), slash) {
        Ok(target) if normalise_host(host).is_ok() || host.is_empty() => target,
        other => {
            let reason = if other.is_err() {
                Reason::PathRefused
            } else {
                Reason::RequestMalformed
            };
            let path = head.path(bytes);
            describe(record, head, bytes, (host, path, None), snapshot);
            record.revision = Some(snapshot.revision_shared());
            record.refuse(reason);
            return refuse(client, record, reason, request_id.as_str()).await;
        }
    };
    let described = (host, &*target.path, target.query);
    describe(record, head, bytes, described, snapshot);

    let live = Rc::clone(&client.live);
    let question = Question {
        worker,
        live: &live,
        peer,
        method: head.method(bytes),
        host,
        path: &target.path,
        query: target.query,
        headers: &Received { head, bytes },
    };
    let (permit, examined) = match question.ask(snapshot) {
        Ok(allowed) => allowed,
        Err(refusal) => {
            let reason = refusal.reason();
            record.revision = Some(snapshot.revision_shared());
            refusal.record(record);
            return refuse(client, record, reason, request_id.as_str()).await;
        }
    };
    record.decide(permit.decision());
    record.end_user = examined.end_user();

    let ends = Cell::new(examined.ends());
    let allowed = Allowed {
        permit,
        examined,
        ends: &ends,
        peer,
        host,
        target,
        request_id: request_id.as_str(),
        new_id,
        traceparent: &traceparent,
        client_cert,
    };
    let forwarding = std::pin::pin!(forward(
        worker,
        client,
        application,
        record,
        bytes,
        &allowed
    ));
    while_valid(&ends, &live.signal, forwarding).await
}

/// A request that was allowed, and what the application is to be told.
struct Allowed<'a> {
    permit: Permit,
    examined: Examined,
    /// When its token does.
    ends: &'a Cell<Option<SystemTime>>,
    peer: Option<&'a Rc<Peer>>,
    host: &'a str,
    target: Target<'a>,
    request_id: &'a str,
    /// The id is not the caller's.
    new_id: bool,
    traceparent: &'a [u8],
    client_cert: Option<&'a [u8]>,
}

/// Returns whether another request may follow.
async fn forward(
    worker: &Worker,
    client: &mut Client,
    application: &mut Application,
    record: &mut Record,
    bytes: &BytesMut,
    allowed: &Allowed<'_>,
) -> bool {
    let Allowed {
        permit,
        examined,
        target,
        request_id,
        ..
    } = allowed;
    let head = &client.head;
    let headers = Received { head, bytes };
    let question = allowed.question(worker, &client.live, &headers);
    let recheck = || question.ask_again(allowed.ends);
    // Of a connection that the application lets go of, one more is tried.
    let mut first = true;
    loop {
        let connecting = application.connection(worker, client);
        let mut server = match client.live.signal.unless_closed(&recheck, connecting).await {
            Ok(Ok(server)) => server,
            Err(closing) => {
                closing.record(record);
                client.stream.reset_on_close();
                return false;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, destination = %client.live.destination, "the application does not accept");
                record.fail(Reason::ServerUnreachable);
                record.closed_by = Some(ClosedBy::Server);
                // It got nothing of it, or nothing that it may not get twice.
                let refused = client.refuse_again(Reason::ServerUnreachable, request_id);
                let refused = refused.await;
                refused.record(record);
                return refused.keep;
            }
        };
        server.requests += 1;

        let mut out = BytesMut::with_capacity(bytes.len() + 512);
        let query = examined.query(target.query);
        let origin = ForwardTarget {
            path: &target.path,
            query: query.as_deref(),
        };
        allowed.write_head(&mut out, &headers, origin);

        let lost = first && server.requests > 1 && is_idempotent(head.method(bytes));
        let terms = Terms {
            asked: head.asked(),
            remove: FROM_APPLICATION,
            close: client.draining || client.live.signal.is_draining() || !head.persistent(),
            limits: &client.limits,
            again: Again {
                lost,
                ..Again::default()
            },
            recheck: &recheck,
        };
        let mut answer = Answer::default();
        let downstream = Downstream {
            stream: &mut client.stream,
            buffer: &mut client.buffer,
            live: &client.live,
        };
        let body = Body::new(head.framing()).guarding(examined.own_headers());
        let outcome = exchange(
            permit,
            downstream,
            &mut server,
            out,
            body,
            &terms,
            &mut answer,
        )
        .await;
        if let Outcome::Unsent(_) = outcome {
            first = false;
            continue;
        }
        answer.record(record);
        return match client.conclude(record, outcome, &server, request_id).await {
            Remains::Client { server: reusable } => {
                application.upstream = reusable.then_some(server);
                true
            }
            Remains::Tunnel => {
                let (head, live) = (std::mem::take(&mut client.head), Rc::clone(&client.live));
                let headers = Received { head: &head, bytes };
                let question = allowed.question(worker, &live, &headers);
                let recheck = || question.ask_again(allowed.ends);
                client
                    .tunnel(permit, record, &mut server, &live, &recheck)
                    .await;
                false
            }
            Remains::Server | Remains::Nothing => false,
        };
    }
}

impl Allowed<'_> {
    /// Asked when the world changes while the request, or what it was upgraded to, is in flight.
    fn question<'a>(
        &'a self,
        worker: &'a Worker,
        live: &'a Live,
        headers: &'a Received<'a>,
    ) -> Question<'a, Received<'a>> {
        Question {
            worker,
            live,
            peer: self.peer,
            method: headers.head.method(headers.bytes),
            host: self.host,
            path: &self.target.path,
            query: self.target.query,
            headers,
        }
    }

    fn write_head(&self, out: &mut BytesMut, received: &Received<'_>, target: ForwardTarget<'_>) {
        let mut remove = Cow::Borrowed(INTERNAL);
        for name in self.examined.removed() {
            remove.to_mut().push(name);
        }
        // Identity and correlation are set last, so that nothing the caller sent can stand in their place.
        let mut set: Vec<(&str, &[u8])> = Vec::with_capacity(4);
        let cookies = self.examined.cookies(received);
        match &cookies {
            Some(left) if left.is_empty() => remove.to_mut().push("cookie"),
            Some(left) => set.push(("cookie", left)),
            None => {}
        }
        for (name, value) in self.examined.set() {
            set.push((name, value));
        }
        if self.new_id {
            set.push(("x-request-id", self.request_id.as_bytes()));
        }
        set.push(("traceparent", self.traceparent));
        if let Some(client_cert) = self.client_cert {
            set.push(("x-forwarded-client-cert", client_cert));
        }
        let rewrite = Rewrite {
            remove: &remove,
            set: &set,
            connection: ConnectionHeader::Upgrade,
        };
        write_request_head(out, received.head, received.bytes, target, &rewrite);
    }
}

async fn refuse(
    client: &mut Client,
    record: &mut Record,
    reason: Reason,
    request_id: &str,
) -> bool {
    let refused = client.refuse(reason, request_id).await;
    refused.record(record);
    refused.keep
}

/// `target`: host, path and query.
fn describe(
    record: &mut Record,
    head: &RequestHead,
    bytes: &[u8],
    target: (&str, &str, Option<&str>),
    snapshot: &Snapshot,
) {
    let (host, path, query) = target;
    record.request(&record::RequestHead {
        method: head.method(bytes).as_bytes(),
        authority: host.as_bytes(),
        path: path.as_bytes(),
        query,
        secret: &|name| snapshot.is_token_param(name),
        version: match head.version() {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        },
    });
}
