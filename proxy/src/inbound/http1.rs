//! HTTP/1.1 requests to the application: each one normalised, decided, forwarded and recorded.

use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use kith_policy::{Reason, Request, normalise_host, normalise_target};

use super::Inbound;
use crate::authenticate::Peer;
use crate::authorize::{self, Denial};
use crate::connections::Live;
use crate::correlation;
use crate::forward::client::{Client, Next, Remains};
use crate::forward::connect::connect;
use crate::forward::http1::{Answer, Downstream, Terms, exchange};
use crate::forward::pool::Upstream;
use crate::headers::{FROM_APPLICATION, INTERNAL, Received, forwarded_client_cert};
use crate::http1::{
    Body, ConnectionHeader, ForwardTarget, RequestHead, Rewrite, Version, write_request_head,
};
use crate::record::{self, ClosedBy, Kind, Record};
use crate::signal::Closing;
use crate::stream::{Socket, Stream};
use crate::worker::Worker;

/// The application's own connection, kept as long as the client's.
struct Application {
    upstream: Option<Upstream>,
}

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
    let mut application = Application { upstream: None };
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
                tracing::info!(source = %client.live.source, reason = closing.reason.as_str(), "closed an idle connection");
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
            describe(record, head, bytes, host, head.path(bytes), None);
            record.revision = Some(snapshot.revision_shared());
            record.refuse(reason);
            return refuse(client, record, reason, request_id.as_str()).await;
        }
    };
    describe(record, head, bytes, host, &target.path, target.query);

    let headers = Received { head, bytes };
    let request = Request {
        method: head.method(bytes),
        host,
        path: &target.path,
        headers: &headers,
    };
    let permit = match authorize::inbound(snapshot, &client.live, peer, Some(&request)) {
        Ok(permit) => permit,
        Err(denial) => {
            record.revision = Some(snapshot.revision_shared());
            denial.record(record);
            return refuse(client, record, denial.reason(), request_id.as_str()).await;
        }
    };
    record.decide(permit.decision());

    let recheck = || still_allowed(worker, &client.live, peer, &request);
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
            return refuse(
                client,
                record,
                Reason::ServerUnreachable,
                request_id.as_str(),
            )
            .await;
        }
    };

    // Identity and correlation are set last, so that nothing the caller sent can stand in their place.
    let mut set: Vec<(&str, &[u8])> = Vec::with_capacity(3);
    if new_id {
        set.push(("x-request-id", request_id.as_str().as_bytes()));
    }
    set.push(("traceparent", &traceparent));
    if let Some(client_cert) = client_cert {
        set.push(("x-forwarded-client-cert", client_cert));
    }
    let mut out = BytesMut::with_capacity(bytes.len() + 512);
    let rewrite = Rewrite {
        remove: INTERNAL,
        set: &set,
        connection: ConnectionHeader::Upgrade,
    };
    let forward = ForwardTarget {
        path: &target.path,
        query: target.query,
    };
    write_request_head(&mut out, head, bytes, forward, &rewrite);

    let terms = Terms {
        asked: head.asked(),
        remove: FROM_APPLICATION,
        close: client.draining || client.live.signal.is_draining() || !head.persistent(),
        limits: &client.limits,
        recheck: &recheck,
    };
    let mut answer = Answer::default();
    let downstream = Downstream {
        stream: &mut client.stream,
        buffer: &mut client.buffer,
        live: &client.live,
    };
    let body = Body::new(head.framing());
    let outcome = exchange(
        &permit,
        downstream,
        &mut server,
        out,
        body,
        &terms,
        &mut answer,
    )
    .await;
    answer.record(record);
    match client
        .conclude(record, outcome, &server, request_id.as_str())
        .await
    {
        Remains::Client { server: reusable } => {
            application.upstream = reusable.then_some(server);
            true
        }
        Remains::Tunnel => {
            let (head, live) = (std::mem::take(&mut client.head), Rc::clone(&client.live));
            let headers = Received { head: &head, bytes };
            let request = Request {
                method: head.method(bytes),
                host,
                path: &target.path,
                headers: &headers,
            };
            let recheck = || still_allowed(worker, &live, peer, &request);
            client
                .tunnel(&permit, record, &mut server, &live, &recheck)
                .await;
            false
        }
        Remains::Server | Remains::Nothing => false,
    }
}

/// Asked when the policy changes while the request, or what it was upgraded to, is in flight.
fn still_allowed(
    worker: &Worker,
    live: &Live,
    peer: Option<&Rc<Peer>>,
    request: &Request<'_>,
) -> Result<(), Closing> {
    match &*worker.shared.snapshot() {
        Some(snapshot) => authorize::inbound(snapshot, live, peer, Some(request))
            .map(drop)
            .map_err(Denial::closing),
        None => Ok(()),
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

fn describe(
    record: &mut Record,
    head: &RequestHead,
    bytes: &[u8],
    host: &str,
    path: &str,
    query: Option<&str>,
) {
    record.request(&record::RequestHead {
        method: head.method(bytes).as_bytes(),
        authority: host.as_bytes(),
        path: path.as_bytes(),
        query: query.map(str::as_bytes),
        version: match head.version() {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        },
    });
}

impl Application {
    /// The connection that served the last request, when it still stands, else a new one.
    async fn connection(&mut self, worker: &Worker, client: &Client) -> std::io::Result<Upstream> {
        if let Some(mut kept) = self.upstream.take()
            && kept.is_reusable()
        {
            return Ok(kept);
        }
        let address = client.live.destination;
        let started = Instant::now();
        let tcp = connect(address, worker.mark()).await?;
        tracing::trace!(%address, took = ?started.elapsed(), "connected to the application");
        Ok(Upstream {
            stream: Stream::Plain(Socket::new(tcp)),
            address: None,
            live: None,
            mesh: None,
            itself: false,
            requests: 0,
            buffer: BytesMut::new(),
        })
    }
}
