//! HTTP/2 and gRPC requests from the application.

use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Request};
use kith_policy::{Decision, Reason};

use super::{ATTEMPTS, Outbound, Unreachable, establish, permitted};
use crate::connections::{Live, StreamHold};
use crate::correlation;
use crate::forward::balance::Load;
use crate::forward::http2::{Answer, Borrowed, Http2Upstream, Terms, exchange, send};
use crate::forward::http2_server::{failed, is_grpc, refuse, requests};
use crate::headers::{remove_internal, remove_kith};
use crate::inbound::http2::{describe, host_of, single};
use crate::record::{ConnectionFacts, Direction, Kind, Record};
use crate::resolve::Resolved;
use crate::snapshot::Protocol;
use crate::worker::{Worker, contain_panic};

/// What the requests of one connection have in common.
struct Common {
    worker: Rc<Worker>,
    live: Rc<Live>,
    facts: Rc<ConnectionFacts>,
    route: Result<Resolved, Reason>,
    decision: Decision,
}

pub(super) async fn serve(outbound: Outbound) {
    let Outbound { worker, stream, live, facts, route, revision, first } = outbound;
    let common = Rc::new(Common { worker, live: Rc::clone(&live), facts, route, decision: permitted(&revision) });
    let source = live.source;
    let result = requests(stream.with_first(first), &live, |request, respond| {
        let hold = common.live.open_stream();
        let common = Rc::clone(&common);
        tokio::task::spawn_local(contain_panic(one_request(common, request, respond, hold), move || {
            tracing::error!(%source, "a request was ended by a panic; please report it");
        }));
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(%source, %error, "an HTTP/2 connection of the application failed");
    }
}

async fn one_request(
    common: Rc<Common>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    hold: StreamHold,
) {
    let mut record = Record::open(Kind::Request, &common.facts);
    let (mut parts, body) = request.into_parts();
    let grpc = is_grpc(&parts.headers);
    let head_only = parts.method == http::Method::HEAD;
    let given = parts.headers.get("x-request-id").cloned();
    let (request_id, new_id) = correlation::request_id(given.as_ref().map(HeaderValue::as_bytes));
    let (trace, traceparent) = correlation::trace(single(&parts.headers, "traceparent"));
    record.request_id(request_id.as_str().as_bytes());
    record.trace = Some(trace);
    record.revision = Some(common.decision.revision.clone());
    let host = host_of(&parts);
    describe(&mut record, &parts, host.as_deref().unwrap_or_default(), parts.uri.path(), parts.uri.query());
    let refusal = match (&host, &common.route) {
        (Err(reason), _) | (_, Err(reason)) => Some(*reason),
        _ => None,
    };
    let resolved = match (refusal, &common.route) {
        (None, Ok(resolved)) => resolved,
        (reason, _) => {
            let reason = reason.unwrap_or(Reason::NoRoute);
            record.refuse(reason);
            return refuse(&mut respond, &mut record, grpc, head_only, reason, request_id.as_str());
        }
    };
    record.service = resolved.service.clone();

    remove_internal(&mut parts.headers);
    if new_id {
        if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
            parts.headers.insert("x-request-id", value);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&traceparent) {
        parts.headers.insert("traceparent", value);
    }
    let mut forward = Request::new(());
    *forward.method_mut() = parts.method;
    *forward.uri_mut() = parts.uri;
    *forward.headers_mut() = parts.headers;

    let sent = match sent(&common, resolved, &forward, body.is_end_stream(), &mut record).await {
        Ok(sent) => sent,
        Err(problem) => {
            tracing::debug!(destination = %common.live.destination, message = problem.message, "no server could be reached");
            record.refuse(problem.reason);
            record.tls_error(&problem.message);
            return refuse(&mut respond, &mut record, grpc, head_only, problem.reason, request_id.as_str());
        }
    };
    record.decide(&common.decision);
    let Sent { upstream, response, to_server, load } = sent;
    let kith = upstream.mesh.as_ref().is_some_and(|mesh| mesh.kith);
    let terms = Terms {
        signal: &hold.signal,
        lives: [&common.live, &upstream.live],
        recheck: &|| Ok(()),
        // A Kith server vouches for these; any other server's word would be taken for the proxy's.
        edit_answer: &|headers| {
            if !kith {
                remove_kith(headers);
            }
        },
    };
    let mut answer = Answer::default();
    let outcome = exchange(body, &mut respond, response, to_server, &terms, &mut answer).await;
    drop(load);
    answer.record(&mut record);
    record.renewed = upstream.live.renewed();
    if let (true, Some(reason)) = (kith, answer.reason) {
        record.answered_by_proxy(reason);
    }
    if let Some(reason) = failed(&mut record, &outcome) {
        refuse(&mut respond, &mut record, grpc, head_only, reason, request_id.as_str());
    }
}

/// A request that is on its way.
struct Sent {
    upstream: Borrowed,
    response: h2::client::ResponseFuture,
    to_server: h2::SendStream<Bytes>,
    load: Load,
}

/// Sends the head on a shared connection. One that turns out to be ended is left for another: nothing was sent on it.
async fn sent(
    common: &Common,
    resolved: &Resolved,
    request: &Request<()>,
    end: bool,
    record: &mut Record,
) -> Result<Sent, Unreachable> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (upstream, load) = upstream(common, resolved, record).await?;
        let upstream = upstream.borrow();
        match send(&upstream, request.clone(), end).await {
            Ok((response, to_server)) => {
                match &upstream.mesh {
                    Some(mesh) => record.travels(&mesh.rendered, u64::from(to_server.stream_id().as_u32())),
                    None => record.destination = Some(upstream.address),
                }
                return Ok(Sent { upstream, response, to_server, load });
            }
            Err(error) if attempts < ATTEMPTS => {
                tracing::debug!(%error, endpoint = %upstream.address, "a shared connection had ended; trying another");
                common.worker.pool.forget_http2(upstream.address);
            }
            Err(error) => return Err(Unreachable { reason: Reason::ServerUnreachable, message: error.to_string() }),
        }
    }
}

async fn upstream(
    common: &Common,
    resolved: &Resolved,
    record: &mut Record,
) -> Result<(Rc<Http2Upstream>, Load), Unreachable> {
    let worker = &common.worker;
    let Some(target) = worker.loads.pick(&resolved.targets, &[]) else {
        return Err(Unreachable { reason: Reason::ServerUnreachable, message: "the service has no endpoint".into() });
    };
    // Requests that come while the connection is being made wait for it instead of making their own.
    let cell = worker.pool.http2(target.address, &target.principals);
    if let Some(upstream) = cell.get() {
        record.attempts = record.attempts.max(1);
        return Ok((Rc::clone(upstream), worker.loads.begin(target.address)));
    }
    let only = Resolved { targets: vec![std::sync::Arc::clone(target)], ..resolved.clone() };
    let made = cell.get_or_try_init(|| connect(common, &only, record)).await.map(Rc::clone);
    match made {
        Ok(upstream) => Ok((upstream, worker.loads.begin(target.address))),
        // Others may still answer.
        Err(_) if resolved.targets.len() > 1 => {
            let established = connect(common, resolved, record).await?;
            let load = worker.loads.begin(established.address);
            Ok((established, load))
        }
        Err(problem) => Err(problem),
    }
}

async fn connect(common: &Common, resolved: &Resolved, record: &mut Record) -> Result<Rc<Http2Upstream>, Unreachable> {
    let worker = &common.worker;
    let established = establish(worker, resolved, Protocol::Http2, record).await?;
    let address = established.target.address;
    let source = established.stream.local_addr().unwrap_or(address);
    let live = worker.registry.open(Direction::Outbound, source, address);
    live.protocol.set(Some(Protocol::Http2));
    let (mesh, upstream) = established.mesh.unzip();
    *live.mesh.borrow_mut() = mesh;
    Http2Upstream::start(established.stream, live, upstream, address)
        .await
        .map_err(|error| Unreachable { reason: Reason::ServerUnreachable, message: error.to_string() })
}
