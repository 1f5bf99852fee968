//! HTTP/2 and gRPC requests to the application.

mod head;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request};
use kith_policy::{Reason, normalise_target};

pub(crate) use head::{describe, host_of, set_correlation, single};
use head::{forwarded_uri, is_well_formed, tell};

use super::Inbound;
use super::decide::Question;
use crate::authenticate::Peer;
use crate::connections::{Live, StreamHold};
use crate::correlation;
use crate::forward::again::{Again, is_idempotent};
use crate::forward::connect::connect;
use crate::forward::http2::{
    Answer, Borrowed, Http2Upstream, Outcome, RequestBody, Terms, exchange_guarding, send,
};
use crate::forward::http2_server::{failed, is_grpc, refuse, refuse_with, requests};
use crate::forward::pool::SharedConnections;
use crate::headers::{AGAIN, ReceivedMap, forwarded_client_cert, remove_internal, remove_kith};
use crate::record::{self, ConnectionFacts, Direction, Hop, Kind, Record};
use crate::snapshot::Protocol;
use crate::stream::{Socket, Stream};
use crate::token::while_valid;
use crate::worker::{Worker, contain_panic};

/// Connections tried for one request; another only when the application surely did nothing with it.
const ATTEMPTS: u32 = 3;

/// What the requests of one connection have in common.
struct Common {
    worker: Rc<Worker>,
    live: Rc<Live>,
    facts: Rc<ConnectionFacts>,
    peer: Option<Rc<Peer>>,
    hop: Option<Rc<Hop>>,
    client_cert: Option<HeaderValue>,
    /// To the application: made with the first request, and made again when they end.
    application: RefCell<SharedConnections>,
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
        ..
    } = inbound;
    let stream = stream.with_first(first);
    let client_cert = peer
        .as_ref()
        .and_then(|peer| HeaderValue::from_bytes(&forwarded_client_cert(&worker, peer)).ok());
    let common = Rc::new(Common {
        worker,
        live: Rc::clone(&live),
        facts,
        peer,
        hop,
        client_cert,
        application: RefCell::default(),
    });
    let source = live.source;
    let result = requests(stream, &live, |request, respond| {
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
    match result {
        Err(error) => {
            tracing::debug!(%source, %error, "an HTTP/2 connection failed");
            if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && !error.is_remote() {
                let mut record = Record::open(Kind::Connection, &common.facts);
                record.refuse(Reason::Overload);
            }
        }
        // Its requests have records of their own; without any, this is the only trace of it.
        Ok(Some(closing)) if closing.by == Some(record::ClosedBy::Policy) => {
            let mut record = Record::open(Kind::Connection, &common.facts);
            if let Some(hop) = &common.hop {
                record.travels(hop, 0);
            }
            closing.record(&mut record);
        }
        Ok(_) => {}
    }
}

async fn one_request(
    common: Rc<Common>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    hold: StreamHold,
) {
    let mut record = Record::open(Kind::Request, &common.facts);
    if let Some(hop) = &common.hop {
        record.travels(hop, u64::from(respond.stream_id().as_u32()));
    }
    record.renewed = common.live.renewed();
    let (parts, body) = request.into_parts();
    let mut body = RequestBody::new(body);
    let grpc = is_grpc(&parts.headers);
    let head_only = parts.method == http::Method::HEAD;
    let (request_id, new_id) = correlation::request_id(single(&parts.headers, "x-request-id"));
    let (trace, traceparent) = correlation::trace(single(&parts.headers, "traceparent"));
    record.request_id(request_id.as_str().as_bytes());
    record.trace = Some(trace);

    let snapshot = common.worker.shared.snapshot.load_full();
    let Some(snapshot) = snapshot else {
        record.refuse(Reason::NoConfiguration);
        return refuse(
            &mut respond,
            &mut record,
            grpc,
            head_only,
            Reason::NoConfiguration,
            request_id.as_str(),
        );
    };
    record.revision = Some(snapshot.revision_shared());
    let host = host_of(&parts);
    let raw = parts
        .uri
        .path_and_query()
        .map_or("", PathAndQuery::as_str)
        .to_owned();
    let slash = snapshot.port(common.live.destination.port()).encoded_slash;
    let normalised = normalise_target(parts.method.as_str(), raw.as_bytes(), slash);
    let (host, target) = match (host, normalised) {
        (Ok(host), Ok(target)) if is_well_formed(&parts.headers) => (host, target),
        (host, target) => {
            let reason = if target.is_err() {
                Reason::PathRefused
            } else {
                Reason::RequestMalformed
            };
            describe(
                &mut record,
                &parts,
                host.as_deref().unwrap_or_default(),
                parts.uri.path(),
                None,
                &|_| false,
            );
            record.refuse(reason);
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
    describe(
        &mut record,
        &parts,
        &host,
        &target.path,
        target.query,
        &|name| snapshot.is_token_param(name),
    );

    // Decided on, and again whenever the policy changes while the request is in flight.
    let received = ReceivedMap(&parts.headers);
    let question = Question {
        worker: &common.worker,
        live: &common.live,
        peer: common.peer.as_ref(),
        method: parts.method.as_str(),
        host: &host,
        path: &target.path,
        query: target.query,
        headers: &received,
    };
    let (permit, examined) = match question.ask(&snapshot) {
        Ok(allowed) => allowed,
        Err(refusal) => {
            let reason = refusal.reason();
            refusal.record(&mut record);
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
    record.decide(permit.decision());
    drop(snapshot);
    record.end_user = examined.end_user();
    let ends = Cell::new(examined.ends());
    let recheck = || question.ask_again(&ends);
    let query = examined.query(target.query);
    let Some(uri) = forwarded_uri(&parts.uri, &host, &target.path, query.as_deref()) else {
        record.refuse(Reason::RequestMalformed);
        return refuse(
            &mut respond,
            &mut record,
            grpc,
            head_only,
            Reason::RequestMalformed,
            request_id.as_str(),
        );
    };
    // Identity and correlation are set last, so that nothing the caller sent can stand in their place.
    let forwarded = || {
        let mut headers = parts.headers.clone();
        remove_internal(&mut headers);
        tell(&examined, &received, &mut headers);
        set_correlation(
            &mut headers,
            new_id.then_some(request_id.as_str()),
            &traceparent,
        );
        if let Some(client_cert) = &common.client_cert {
            headers.insert("x-forwarded-client-cert", client_cert.clone());
        }
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        request
    };

    let forwarding = std::pin::pin!(async {
        for attempt in 1..=ATTEMPTS {
            let connected = hold
                .signal
                .unless_closed(&recheck, common.application())
                .await;
            let problem = match connected {
                Err(closing) => {
                    closing.record(&mut record);
                    return respond.send_reset(h2::Reason::CANCEL);
                }
                Ok(Ok(upstream)) => {
                    let kept = upstream.is_kept();
                    match send(&permit, &upstream, forwarded, body.is_end_stream()).await {
                        Ok((response, to_server)) => {
                            let terms = Terms {
                                signal: &hold.signal,
                                lives: [&common.live, &upstream.live],
                                recheck: &recheck,
                                edit_answer: &remove_kith,
                                again: Again {
                                    lost: kept
                                        && attempt < ATTEMPTS
                                        && is_idempotent(parts.method.as_str()),
                                    ..Again::default()
                                },
                            };
                            let mut answer = Answer::default();
                            let outcome = exchange_guarding(
                                &mut body,
                                &mut respond,
                                response,
                                to_server,
                                &terms,
                                &mut answer,
                                examined.own_headers(),
                            )
                            .await;
                            if let (Outcome::Unsent(_), true) = (&outcome, attempt < ATTEMPTS) {
                                upstream.give_up();
                                continue;
                            }
                            answer.record(&mut record);
                            record.renewed = common.live.renewed();
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
                            if let Outcome::Asked(_) = outcome {
                                // The reset goes out before whoever asked is told that it is done.
                                tokio::task::yield_now().await;
                                tokio::task::yield_now().await;
                            }
                            return;
                        }
                        Err(_) if attempt < ATTEMPTS => continue,
                        Err(error) => error.to_string(),
                    }
                }
                Ok(Err(problem)) => problem,
            };
            tracing::debug!(problem, destination = %common.live.destination, "the application does not take HTTP/2");
            record.fail(Reason::ServerUnreachable);
            record.closed_by = Some(record::ClosedBy::Server);
            // It got nothing of it, or nothing that it may not get twice.
            let mut headers = HeaderMap::with_capacity(6);
            if common.live.is_kith() {
                headers.insert(AGAIN, HeaderValue::from_static("1"));
            }
            return refuse_with(
                &mut respond,
                &mut record,
                grpc,
                head_only,
                Reason::ServerUnreachable,
                request_id.as_str(),
                headers,
            );
        }
    });
    while_valid(&ends, &hold.signal, forwarding).await;
}

impl Common {
    /// A connection to the application with room for a request.
    async fn application(&self) -> Result<Borrowed, String> {
        loop {
            let cell = self.application.borrow_mut().one(&[]);
            let mut problem = String::new();
            let made = cell
                .get_or_init(|| async {
                    let made = self.connect().await;
                    made.map_err(|error| problem = error).ok()
                })
                .await;
            match made {
                Some(upstream) if upstream.serves(&[]) => return Ok(upstream.borrow()),
                // Others were faster.
                Some(_) => {}
                None if problem.is_empty() => {
                    return Err("the connection that others waited for could not be made".into());
                }
                None => return Err(problem),
            }
        }
    }

    async fn connect(&self) -> Result<Rc<Http2Upstream>, String> {
        let address: SocketAddr = self.live.destination;
        let tcp = connect(address, self.worker.mark())
            .await
            .map_err(|error| error.to_string())?;
        let live = self
            .worker
            .registry
            .open(Direction::Outbound, self.live.source, address);
        live.protocol.set(Some(Protocol::Http2));
        Http2Upstream::start(Stream::Plain(Socket::new(tcp)), live, None, address, false)
            .await
            .map_err(|error| error.to_string())
    }
}
