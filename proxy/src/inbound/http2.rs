//! HTTP/2 and gRPC requests to the application.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use kith_policy::{Reason, normalise_host, normalise_target};
use tokio::sync::OnceCell;

use super::Inbound;
use crate::authenticate::Peer;
use crate::authorize::{self, Denial};
use crate::connections::{Live, StreamHold};
use crate::correlation;
use crate::forward::connect::connect;
use crate::forward::http2::{Answer, Http2Upstream, Outcome, Terms, exchange, send};
use crate::forward::http2_server::{failed, is_grpc, refuse, requests};
use crate::headers::{ReceivedMap, forwarded_client_cert, remove_internal, remove_kith};
use crate::record::{self, ConnectionFacts, Direction, Hop, Kind, Record};
use crate::signal::Closing;
use crate::snapshot::Protocol;
use crate::stream::{Socket, Stream};
use crate::worker::{Worker, contain_panic};

/// What the requests of one connection have in common.
struct Common {
    worker: Rc<Worker>,
    live: Rc<Live>,
    facts: Rc<ConnectionFacts>,
    peer: Option<Rc<Peer>>,
    hop: Option<Rc<Hop>>,
    client_cert: Option<HeaderValue>,
    /// The connection to the application, made with the first request and made again when it ends.
    application: std::cell::RefCell<Rc<OnceCell<Rc<Http2Upstream>>>>,
}

pub(super) async fn serve(inbound: Inbound) {
    let Inbound { worker, stream, live, facts, peer, hop, first } = inbound;
    let stream = stream.with_first(first);
    let client_cert = peer.as_ref().and_then(|peer| HeaderValue::from_bytes(&forwarded_client_cert(&worker, peer)).ok());
    let common = Rc::new(Common {
        worker,
        live: Rc::clone(&live),
        facts,
        peer,
        hop,
        client_cert,
        application: std::cell::RefCell::default(),
    });
    let source = live.source;
    let result = requests(stream, &live, |request, respond| {
        let hold = common.live.open_stream();
        let common = Rc::clone(&common);
        tokio::task::spawn_local(contain_panic(one_request(common, request, respond, hold), move || {
            tracing::error!(%source, "a request was ended by a panic; please report it");
        }));
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(%source, %error, "an HTTP/2 connection failed");
        if error.is_go_away() || error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
            let mut record = Record::open(Kind::Connection, &common.facts);
            record.refuse(Reason::Overload);
        }
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
    let (mut parts, body) = request.into_parts();
    let grpc = is_grpc(&parts.headers);
    let head_only = parts.method == http::Method::HEAD;
    let given = parts.headers.get("x-request-id").cloned();
    let (request_id, new_id) = correlation::request_id(given.as_ref().map(HeaderValue::as_bytes));
    let (trace, traceparent) = correlation::trace(single(&parts.headers, "traceparent"));
    record.request_id(request_id.as_str().as_bytes());
    record.trace = Some(trace);

    let snapshot = common.worker.shared.snapshot.load_full();
    let Some(snapshot) = snapshot else {
        record.refuse(Reason::NoConfiguration);
        return refuse(&mut respond, &mut record, grpc, head_only, Reason::NoConfiguration, request_id.as_str());
    };
    record.revision = Some(snapshot.revision_shared());
    let host = host_of(&parts);
    let raw = parts.uri.path_and_query().map_or("", PathAndQuery::as_str).to_owned();
    let slash = snapshot.port(common.live.destination.port()).encoded_slash;
    let normalised = normalise_target(parts.method.as_str(), raw.as_bytes(), slash);
    let (host, target) = match (host, normalised) {
        (Ok(host), Ok(target)) => (host, target),
        (host, target) => {
            let reason = if target.is_err() { Reason::PathRefused } else { Reason::RequestMalformed };
            describe(&mut record, &parts, host.as_deref().unwrap_or_default(), parts.uri.path(), None);
            record.refuse(reason);
            return refuse(&mut respond, &mut record, grpc, head_only, reason, request_id.as_str());
        }
    };
    describe(&mut record, &parts, &host, &target.path, target.query);

    // Decided on, and again whenever the policy changes while the request is in flight.
    let method = parts.method.clone();
    // A re-check needs the headers as they were received; the originals are forwarded.
    let received = parts.headers.clone();
    let decide = |snapshot: &crate::snapshot::Snapshot, headers: &HeaderMap| {
        let headers = ReceivedMap(headers);
        let request = kith_policy::Request { method: method.as_str(), host: &host, path: &target.path, headers: &headers };
        authorize::inbound(snapshot, &common.live, common.peer.as_ref(), Some(&request))
    };
    match decide(&snapshot, &parts.headers) {
        Ok(permit) => record.decide(permit.decision()),
        Err(denial) => {
            denial.record(&mut record);
            return refuse(&mut respond, &mut record, grpc, head_only, denial.reason(), request_id.as_str());
        }
    }

    let Some(uri) = forwarded_uri(&parts.uri, &host, &target.path, target.query) else {
        record.refuse(Reason::RequestMalformed);
        return refuse(&mut respond, &mut record, grpc, head_only, Reason::RequestMalformed, request_id.as_str());
    };
    remove_internal(&mut parts.headers);
    if new_id {
        if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
            parts.headers.insert("x-request-id", value);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&traceparent) {
        parts.headers.insert("traceparent", value);
    }
    if let Some(client_cert) = &common.client_cert {
        parts.headers.insert("x-forwarded-client-cert", client_cert.clone());
    }
    let mut forward = Request::new(());
    *forward.method_mut() = parts.method;
    *forward.uri_mut() = uri;
    *forward.headers_mut() = parts.headers;

    let sent = match common.application().await {
        Ok(upstream) => {
            let borrowed = upstream.borrow();
            send(&borrowed, forward, body.is_end_stream()).await.map(|sent| (borrowed, sent)).map_err(|error| error.to_string())
        }
        Err(error) => Err(error),
    };
    let (upstream, (response, to_server)) = match sent {
        Ok(sent) => sent,
        Err(message) => {
            tracing::debug!(message, destination = %common.live.destination, "the application does not take HTTP/2");
            record.fail(Reason::ServerUnreachable);
            record.closed_by = Some(record::ClosedBy::Server);
            return refuse(&mut respond, &mut record, grpc, head_only, Reason::ServerUnreachable, request_id.as_str());
        }
    };
    let recheck = || -> Result<(), Closing> {
        match &*common.worker.shared.snapshot() {
            Some(snapshot) => decide(snapshot, &received).map(drop).map_err(Denial::closing),
            None => Ok(()),
        }
    };
    let terms = Terms {
        signal: &hold.signal,
        lives: [&common.live, &upstream.live],
        recheck: &recheck,
        edit_answer: &remove_kith,
    };
    let mut answer = Answer::default();
    let outcome = exchange(body, &mut respond, response, to_server, &terms, &mut answer).await;
    answer.record(&mut record);
    record.renewed = common.live.renewed();
    if let Some(reason) = failed(&mut record, &outcome) {
        refuse(&mut respond, &mut record, grpc, head_only, reason, request_id.as_str());
    }
    if let Outcome::Asked(_) = outcome {
        // The reset goes out before whoever asked is told that it is done.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
}

impl Common {
    async fn application(&self) -> Result<Rc<Http2Upstream>, String> {
        let cell = {
            let mut application = self.application.borrow_mut();
            if application.get().is_some_and(|upstream| !upstream.takes_requests()) {
                *application = Rc::default();
            }
            Rc::clone(&application)
        };
        let upstream = cell.get_or_try_init(|| self.connect()).await?;
        Ok(Rc::clone(upstream))
    }

    async fn connect(&self) -> Result<Rc<Http2Upstream>, String> {
        let address: SocketAddr = self.live.destination;
        let tcp = connect(address, self.worker.mark()).await.map_err(|error| error.to_string())?;
        let live = self.worker.registry.open(Direction::Outbound, self.live.source, address);
        live.protocol.set(Some(Protocol::Http2));
        Http2Upstream::start(Stream::Plain(Socket::new(tcp)), live, None, address).await.map_err(|error| error.to_string())
    }
}

/// `:authority`, or Host where that is absent; both must agree (RFC 9113 section 8.3.1).
pub(crate) fn host_of(parts: &http::request::Parts) -> Result<Cow<'static, str>, Reason> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().map(|host| host.to_str().map_err(|_| Reason::RequestMalformed)).transpose()?;
    if hosts.next().is_some() {
        return Err(Reason::RequestMalformed);
    }
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let chosen = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => return Err(Reason::RequestMalformed),
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) => return Ok(Cow::Borrowed("")),
    };
    normalise_host(chosen).map_err(|_| Reason::RequestMalformed)?;
    Ok(Cow::Owned(chosen.to_owned()))
}

fn forwarded_uri(received: &Uri, host: &str, path: &str, query: Option<&str>) -> Option<Uri> {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(received.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = Some(host.parse().ok()?);
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// None when absent or repeated.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

pub(crate) fn describe(record: &mut Record, parts: &http::request::Parts, host: &str, path: &str, query: Option<&str>) {
    record.request(&record::RequestHead {
        method: parts.method.as_str().as_bytes(),
        authority: host.as_bytes(),
        path: path.as_bytes(),
        query: query.map(str::as_bytes),
        version: "2",
    });
}
