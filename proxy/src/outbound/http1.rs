//! HTTP/1.1 requests from the application.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use kith_policy::Reason;

use super::{ATTEMPTS, Outbound, Route, establish, route};
use crate::authorize::Permit;
use crate::correlation;
use crate::forward::again::{Again, is_idempotent};
use crate::forward::balance::Load;
use crate::forward::client::{Client, Next, Remains};
use crate::forward::http1::{Answer, Broken, Downstream, Outcome, Terms, exchange};
use crate::forward::pool::Upstream;
use crate::forward::unreachable::Unreachable;
use crate::headers::{AGAIN, FROM_APPLICATION, INTERNAL};
use crate::http1::{Body, ConnectionHeader, ForwardTarget, Rewrite, Version, write_request_head};
use crate::record::{self, Direction, Kind, Record};
use crate::resolve::{Dialled, Resolved};
use crate::signal::still_fine;
use crate::snapshot::Protocol;
use crate::worker::Worker;

pub(super) async fn serve(outbound: Outbound) {
    let Outbound {
        worker,
        stream,
        live,
        facts,
        dialled,
        first,
    } = outbound;
    let mut client = Client::new(stream, live, facts, first);
    loop {
        let head = match client.next_request().await {
            Next::Request(head) => head,
            Next::End => return client.end().await,
            Next::Malformed(error) => {
                let mut record = Record::open(Kind::Request, &client.facts);
                record.revision = worker
                    .shared
                    .snapshot()
                    .as_ref()
                    .map(|snapshot| snapshot.revision_shared());
                client.malformed(&mut record, error).await;
                return;
            }
            Next::Failed(_) => return client.stream.reset_on_close(),
            Next::Asked(_) => return client.end().await,
        };
        client.requests += 1;
        let mut record = Record::open(Kind::Request, &client.facts);
        if !one_request(&worker, &mut client, &dialled, &mut record, &head).await {
            return;
        }
    }
}

/// Returns whether another request may follow.
async fn one_request(
    worker: &Rc<Worker>,
    client: &mut Client,
    dialled: &Dialled,
    record: &mut Record,
    bytes: &BytesMut,
) -> bool {
    let head = &client.head;
    let (request_id, new_id) = correlation::request_id(head.x_request_id(bytes));
    let (trace, traceparent) = correlation::trace(head.traceparent(bytes));
    record.request_id(request_id.as_str().as_bytes());
    record.trace = Some(trace);
    record.request(&record::RequestHead {
        method: head.method(bytes).as_bytes(),
        authority: head.host(bytes).unwrap_or_default().as_bytes(),
        path: head.path(bytes).as_bytes(),
        query: head.query(bytes),
        secret: &|_| false,
        version: match head.version() {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        },
    });
    let Route { resolved, revision } = route(worker, dialled).await;
    record.revision = Some(Arc::clone(&revision)).filter(|revision| !revision.is_empty());
    let resolved = match resolved {
        Ok(resolved) => resolved,
        Err(nowhere) => {
            nowhere.record(record);
            return refuse(client, record, nowhere.reason, request_id.as_str()).await;
        }
    };
    record.service = resolved.service.clone();
    let (mut failed, mut fresh) = (Vec::new(), false);
    loop {
        let connecting = server(worker, &resolved, &mut failed, fresh, record);
        let (mut server, load) = match client
            .live
            .signal
            .unless_closed(&still_fine, connecting)
            .await
        {
            Ok(Ok(server)) => server,
            Err(closing) => {
                closing.record(record);
                client.stream.reset_on_close();
                return false;
            }
            Ok(Err(problem)) => {
                tracing::debug!(destination = %client.live.destination, message = problem.message, "no server could be reached");
                problem.record(record);
                return refuse(client, record, problem.reason, request_id.as_str()).await;
            }
        };
        let permit = Permit::outbound(&revision);
        record.decide(permit.decision());
        server.requests += 1;
        let kith = match &server.mesh {
            Some(mesh) => {
                record.travels(&mesh.rendered, server.requests);
                mesh.kith
            }
            None => {
                record.destination = server.address;
                false
            }
        };

        let mut set: Vec<(&str, &[u8])> = Vec::with_capacity(2);
        if new_id {
            set.push(("x-request-id", request_id.as_str().as_bytes()));
        }
        set.push(("traceparent", &traceparent));
        let rewrite = Rewrite {
            remove: INTERNAL,
            set: &set,
            connection: ConnectionHeader::Upgrade,
        };
        let forward = ForwardTarget {
            path: head.path(bytes),
            query: head.query(bytes),
        };
        let mut out = BytesMut::with_capacity(bytes.len() + 256);
        write_request_head(&mut out, head, bytes, forward, &rewrite);

        if let Some(live) = &server.live {
            live.set_in_flight(1);
        }
        // This one is among those that failed if it is to be given up.
        failed.extend(server.address);
        let (more, kept) = (record.attempts < ATTEMPTS, server.requests > 1);
        let terms = Terms {
            asked: head.asked(),
            // A Kith server vouches for these; any other server's word would be taken for the proxy's.
            remove: if kith { &[AGAIN] } else { FROM_APPLICATION },
            close: client.draining || client.live.signal.is_draining() || !head.persistent(),
            limits: &client.limits,
            again: Again {
                refused: kith && more && resolved.has_other_than(&failed),
                closed: kith && more && kept,
                lost: more && kept && is_idempotent(head.method(bytes)),
            },
            recheck: &still_fine,
        };
        let mut answer = Answer::default();
        let body = Body::new(head.framing());
        let downstream = Downstream {
            stream: &mut client.stream,
            buffer: &mut client.buffer,
            live: &client.live,
        };
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
        drop(load);
        if let Some(live) = &server.live {
            live.set_in_flight(0);
            record.renewed = live.renewed();
        }
        let ours_to_end = server
            .live
            .as_ref()
            .is_some_and(|live| live.cut_off().is_some());
        if let Outcome::Unsent(broken) = &outcome
            && !ours_to_end
        {
            tracing::debug!(endpoint = ?server.address, %broken, "a request is sent once more");
            match (broken, server.address) {
                (Broken::Refused, Some(address)) => worker.loads.failed(address, Instant::now()),
                // Only the connection was no good; others that were kept as long may be no better.
                _ => (fresh, _) = (true, failed.pop()),
            }
            continue;
        }
        if let (Outcome::Answered { .. }, Some(address)) = (&outcome, server.address) {
            let reason = answer.reason.filter(|_| kith);
            worker.loads.answered(address, reason, Instant::now());
        }
        answer.record(record);
        if let (true, Some(reason)) = (kith, answer.reason) {
            record.answered_by_proxy(reason);
        }
        let remains = client
            .conclude(record, outcome, &server, request_id.as_str())
            .await;
        return match remains {
            Remains::Client { server: false } => true,
            Remains::Client { server: true } | Remains::Server => {
                if let Some(address) = server.address {
                    worker.pool.put(address, server);
                }
                matches!(remains, Remains::Client { .. })
            }
            Remains::Tunnel => {
                // The lease is the server connection's, so its registration is the one to listen to.
                let live = Rc::clone(server.live.as_deref().unwrap_or(&client.live));
                client.live.protocol.set(Some(Protocol::Tcp));
                live.protocol.set(Some(Protocol::Tcp));
                client
                    .tunnel(&permit, record, &mut server, &live, &still_fine)
                    .await;
                false
            }
            Remains::Nothing => false,
        };
    }
}

/// A connection for one request: a kept one, else a new one.
async fn server(
    worker: &Rc<Worker>,
    resolved: &Resolved,
    failed: &mut Vec<SocketAddr>,
    fresh: bool,
    record: &mut Record,
) -> Result<(Upstream, Load), Unreachable> {
    if !fresh
        && let Some(target) = worker.loads.pick(&resolved.targets, failed)
        && let Some(kept) = worker.pool.take(target.address, &target.principals)
    {
        record.attempts += 1;
        return Ok((kept, worker.loads.begin(target.address)));
    }
    // Boxed: the common case above needs no room for a handshake.
    let established =
        Box::pin(establish(worker, resolved, Protocol::Http1, failed, record)).await?;
    let address = established.target.address;
    let source = established.stream.local_addr().unwrap_or(address);
    let live = worker.registry.open(Direction::Outbound, source, address);
    live.protocol.set(Some(Protocol::Http1));
    let (mesh, upstream) = established.mesh.unzip();
    *live.mesh.borrow_mut() = mesh;
    let upstream = Upstream {
        stream: established.stream,
        address: Some(address),
        live: Some(live),
        mesh: upstream,
        itself: established.itself,
        requests: 0,
        buffer: BytesMut::new(),
    };
    Ok((upstream, established.load))
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
