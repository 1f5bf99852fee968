//! HTTP/2 and gRPC requests from the application.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use kith_policy::Reason;

use super::{ATTEMPTS, NO_ENDPOINT, Nowhere, Outbound, Route, establish_one, route};
use crate::authorize::Permit;
use crate::connections::{Live, StreamHold};
use crate::correlation;
use crate::forward::again::{Again, is_idempotent};
use crate::forward::balance::Load;
use crate::forward::http2::{
    Answer, Borrowed, Http2Upstream, Outcome, RequestBody, Terms, Unsent, exchange, send,
};
use crate::forward::http2_server::{failed, is_grpc, refuse, requests};
use crate::forward::unreachable::Unreachable;
use crate::headers::{AGAIN, remove_internal, remove_kith};
use crate::inbound::http2::{describe, host_of, set_correlation, single};
use crate::record::{ConnectionFacts, Direction, Kind, Record};
use crate::resolve::{Dialled, Resolved, Target};
use crate::signal::still_fine;
use crate::snapshot::Protocol;
use crate::worker::{Worker, contain_panic};

/// How often a shared connection may turn out to be taken before a request gives up.
const MOST_LOOKS: u32 = 20;

/// What the requests of one connection have in common.
struct Common {
    worker: Rc<Worker>,
    live: Rc<Live>,
    facts: Rc<ConnectionFacts>,
    dialled: Dialled,
}

pub(super) async fn serve(outbound: Outbound) {
    let Outbound {
        worker,
        stream,
        live,
        facts,
        dialled,
        first,
    } = outbound;
    let common = Rc::new(Common {
        worker,
        live: Rc::clone(&live),
        facts,
        dialled,
    });
    let source = live.source;
    let result = requests(stream.with_first(first), &live, |request, respond| {
        let hold = common.live.open_stream();
        let common = Rc::clone(&common);
        // Boxed: a task is moved several times before it runs, and this one is large.
        tokio::task::spawn_local(contain_panic(
            Box::pin(one_request(common, request, respond, hold)),
            move || {
                tracing::error!(%source, "a request was ended by a panic; please report it");
            },
        ));
    })
    .await;
    if let Err(error) = result {
        if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && !error.is_remote() {
            let mut record = Record::open(Kind::Connection, &common.facts);
            record.refuse(Reason::Overload);
        }
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
    let (parts, body) = request.into_parts();
    let mut body = RequestBody::new(body);
    let grpc = is_grpc(&parts.headers);
    let head_only = parts.method == http::Method::HEAD;
    let given = single(&parts.headers, "x-request-id").map(<[u8]>::to_vec);
    let (request_id, new_id) = correlation::request_id(given.as_deref());
    let (trace, traceparent) = correlation::trace(single(&parts.headers, "traceparent"));
    record.request_id(request_id.as_str().as_bytes());
    record.trace = Some(trace);
    let host = host_of(&parts);
    describe(
        &mut record,
        &parts,
        host.as_deref().unwrap_or_default(),
        parts.uri.path(),
        parts.uri.query(),
        &|_| false,
    );
    let Route { resolved, revision } = route(&common.worker, &common.dialled).await;
    record.revision = Some(Arc::clone(&revision)).filter(|revision| !revision.is_empty());
    let resolved = match host.map_err(Nowhere::from).and(resolved) {
        Ok(resolved) => resolved,
        Err(nowhere) => {
            let reason = nowhere.reason;
            nowhere.record(&mut record);
            return refuse(
                &mut respond,
                &mut record,
                grpc,
                head_only,
                reason,
                request_id.as_str(),
            );
        }
    };
    record.service = resolved.service.clone();
    let permit = Permit::outbound(&revision);
    let forwarded = || {
        let mut headers = parts.headers.clone();
        remove_internal(&mut headers);
        set_correlation(
            &mut headers,
            new_id.then_some(request_id.as_str()),
            &traceparent,
        );
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.headers_mut() = headers;
        request
    };

    let mut failed_addresses = Vec::new();
    loop {
        let connecting = upstream(
            &common.worker,
            &resolved,
            &mut failed_addresses,
            &mut record,
        );
        let problem = match hold.signal.unless_closed(&still_fine, connecting).await {
            Err(closing) => {
                closing.record(&mut record);
                return respond.send_reset(h2::Reason::CANCEL);
            }
            Ok(Err(problem)) => problem,
            Ok(Ok((upstream, load))) => {
                let (last, kept) = (record.attempts >= ATTEMPTS, upstream.is_kept());
                match send(&permit, &upstream, forwarded, body.is_end_stream()).await {
                    Ok((response, to_server)) => {
                        record.decide(permit.decision());
                        match &upstream.mesh {
                            Some(mesh) => record
                                .travels(&mesh.rendered, u64::from(to_server.stream_id().as_u32())),
                            None => record.destination = Some(upstream.address),
                        }
                        let kith = upstream.mesh.as_ref().is_some_and(|mesh| mesh.kith);
                        // This one is among those that failed if it is to be given up.
                        failed_addresses.push(upstream.address);
                        let terms = Terms {
                            signal: &hold.signal,
                            lives: [&common.live, &upstream.live],
                            recheck: &still_fine,
                            // A Kith server vouches for these; any other server's word would be taken for the proxy's.
                            edit_answer: &|headers| {
                                if kith {
                                    headers.remove(AGAIN);
                                } else {
                                    remove_kith(headers);
                                }
                            },
                            again: Again {
                                refused: kith
                                    && !last
                                    && resolved.has_other_than(&failed_addresses),
                                closed: false,
                                lost: !last && kept && is_idempotent(parts.method.as_str()),
                            },
                        };
                        let mut answer = Answer::default();
                        let outcome = exchange(
                            &mut body,
                            &mut respond,
                            response,
                            to_server,
                            &terms,
                            &mut answer,
                        )
                        .await;
                        drop(load);
                        if let (Outcome::Unsent(why), false) = (&outcome, last) {
                            tracing::debug!(endpoint = %upstream.address, %why, "a request is sent once more");
                            match why {
                                Unsent::Refused => {
                                    common.worker.loads.failed(upstream.address, Instant::now());
                                }
                                // Only the connection was no good.
                                Unsent::Failed(_) => {
                                    upstream.give_up();
                                    failed_addresses.pop();
                                }
                            }
                            continue;
                        }
                        if let Outcome::Answered = outcome {
                            let reason = answer.reason.filter(|_| kith);
                            let loads = &common.worker.loads;
                            loads.answered(upstream.address, reason, Instant::now());
                        }
                        answer.record(&mut record);
                        record.renewed = upstream.live.renewed();
                        if let (true, Some(reason)) = (kith, answer.reason) {
                            // The server's proxy refused: the same reason on both ends.
                            record.refuse(reason);
                        }
                        if let Some(reason) = failed(&mut record, &outcome) {
                            refuse(
                                &mut respond,
                                &mut record,
                                grpc,
                                head_only,
                                reason,
                                request_id.as_str(),
                            );
                        }
                        return;
                    }
                    Err(_) if !last => continue,
                    Err(error) => Unreachable::new(Reason::ServerUnreachable, error.to_string()),
                }
            }
        };
        tracing::debug!(destination = %common.live.destination, message = problem.message, "no server could be reached");
        problem.record(&mut record);
        return refuse(
            &mut respond,
            &mut record,
            grpc,
            head_only,
            problem.reason,
            request_id.as_str(),
        );
    }
}

/// A shared connection with room for a request. Requests that come while one is being made wait for it instead of
/// making their own; an endpoint that could not be reached is left for another.
async fn upstream(
    worker: &Rc<Worker>,
    resolved: &Resolved,
    failed: &mut Vec<SocketAddr>,
    record: &mut Record,
) -> Result<(Borrowed, Load), Unreachable> {
    let (mut looks, mut earlier) = (0, None);
    record.attempts += 1;
    loop {
        let Some(target) = worker.loads.pick(&resolved.targets, failed) else {
            return Err(Unreachable::new(Reason::ServerUnreachable, NO_ENDPOINT));
        };
        let place = worker.pool.http2(target.address, &target.principals);
        let patience = resolved.patience(record.attempts);
        let made = place.get_or_try_init(|| Box::pin(connect(worker, target, patience)));
        match made.await {
            Ok(upstream) if upstream.serves(&target.principals) => {
                return Ok((upstream.borrow(), worker.loads.begin(target.address)));
            }
            // Others were faster, or it was made for somebody who expects another server there.
            Ok(_) if looks < MOST_LOOKS => looks += 1,
            Ok(_) => {
                let message = "the server's connections are all taken";
                return Err(Unreachable::new(Reason::ServerUnreachable, message));
            }
            Err(problem) => {
                failed.push(target.address);
                worker.loads.failed(target.address, Instant::now());
                let problem = problem.or_graver(earlier.take());
                if record.attempts >= ATTEMPTS || !resolved.has_other_than(failed) {
                    return Err(problem);
                }
                earlier = Some(problem);
                record.attempts += 1;
            }
        }
    }
}

async fn connect(
    worker: &Rc<Worker>,
    target: &Arc<Target>,
    patience: Duration,
) -> Result<Rc<Http2Upstream>, Unreachable> {
    let established = establish_one(worker, target, Protocol::Http2, patience).await?;
    let address = established.target.address;
    let source = established.stream.local_addr().unwrap_or(address);
    let live = worker.registry.open(Direction::Outbound, source, address);
    live.protocol.set(Some(Protocol::Http2));
    let (mesh, upstream) = established.mesh.unzip();
    *live.mesh.borrow_mut() = mesh;
    Http2Upstream::start(
        established.stream,
        live,
        upstream,
        address,
        established.itself,
    )
    .await
    .map_err(|error| Unreachable::new(Reason::ServerUnreachable, error.to_string()))
}
