//! Which path answers what.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ACCEPT, HOST, ORIGIN};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::answer::{Answer, json, text, typed, wrong_method};
use super::{AdminState, Readiness};
use crate::telemetry::metrics::{self, Format};

/// A filter is a line of text.
const LARGEST_BODY: usize = 4096;

/// Before the name of one of the application's probes.
const PROBES: &str = "/app-health/";

const NO_SUCH_PROBE: &str = "the sidecar was told of no such probe; KITH_APP_PROBES has those that the injector \
    found when the pod was made: make the pod anew, or name a probe of it as /app-health/<container>/<probe>, a hook with \
    its key behind that";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    OverTcp,
    OverUnix,
}

pub(super) async fn health(request: Request<Incoming>, state: Arc<AdminState>) -> Answer {
    let path = request.uri().path();
    let probe = path.strip_prefix(PROBES);
    if !matches!(path, "/ready" | "/live" | "/metrics") && probe.is_none() {
        let there_is = "there is /ready, /live, /metrics and /app-health/<container>/<probe>";
        return text(StatusCode::NOT_FOUND, there_is);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return wrong_method("GET, HEAD");
    }
    if let Some(name) = probe {
        return match (state.probe)(name) {
            Some(probed) => {
                let (status, why) = probed.await;
                text(status, why)
            }
            None => text(StatusCode::NOT_FOUND, NO_SUCH_PROBE),
        };
    }
    match path {
        "/ready" => ready(&(state.ready)()),
        "/live" => text(StatusCode::OK, "live"),
        _ => {
            let accept = request
                .headers()
                .get(ACCEPT)
                .and_then(|value| value.to_str().ok());
            let format = Format::accepted(accept.unwrap_or_default());
            typed(
                StatusCode::OK,
                format.content_type(),
                metrics::render(format),
            )
        }
    }
}

/// Every condition with its reason, so that one look tells what is missing.
fn ready(readiness: &Readiness) -> Answer {
    let (status, mut body) = if readiness.is_ready() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
    };
    for condition in &readiness.conditions {
        let mark = if condition.met { "ok     " } else { "waiting" };
        // Writing to a string cannot fail.
        let _ = writeln!(body, "{mark} {}: {}", condition.name, condition.why);
    }
    text(status, body)
}

pub(super) async fn admin(
    request: Request<Incoming>,
    state: Arc<AdminState>,
    reached: Reached,
) -> Answer {
    if let Err(why) = from_this_pod(request.headers(), reached) {
        return text(StatusCode::FORBIDDEN, why);
    }
    let (parts, body) = request.into_parts();
    let method = &parts.method;
    match parts.uri.path() {
        "/config" | "/certs" | "/connections" if *method != Method::GET => wrong_method("GET"),
        "/config" => json(&(state.config)()),
        "/certs" => json(&(state.certs)()),
        "/connections" => json(&(state.connections)().await),
        "/logging" if *method == Method::GET => text(StatusCode::OK, state.log.current()),
        "/logging" if *method == Method::PUT => set_filter(body, &state).await,
        "/logging" => wrong_method("GET, PUT"),
        "/drain" if *method == Method::POST => {
            tracing::info!("drain asked for through admin");
            (state.drain)();
            text(StatusCode::ACCEPTED, "draining")
        }
        "/drain" => wrong_method("POST"),
        _ => text(
            StatusCode::NOT_FOUND,
            "there is /config, /certs, /connections, /logging (GET, PUT) and /drain (POST)",
        ),
    }
}

/// A web page can make a browser send requests to loopback. It can't hide that: such a request names the page's own
/// host (DNS rebinding), or has an `Origin`.
fn from_this_pod(headers: &HeaderMap, reached: Reached) -> Result<(), &'static str> {
    if headers.contains_key(ORIGIN) {
        return Err("admin is not for web pages");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let loopback = host.is_some_and(is_loopback_name) && hosts.next().is_none();
    if reached == Reached::OverTcp && !loopback {
        return Err("admin answers to localhost and loopback addresses only");
    }
    Ok(())
}

fn is_loopback_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

async fn set_filter(body: Incoming, state: &AdminState) -> Answer {
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return text(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a filter has at most {LARGEST_BODY} bytes"),
        );
    };
    let body = body.to_bytes();
    let Ok(filter) = std::str::from_utf8(&body).map(str::trim) else {
        return text(
            StatusCode::BAD_REQUEST,
            "the body is to be the filter, as text",
        );
    };
    match state.log.set(filter) {
        Ok(()) => {
            tracing::info!("log filter set through admin: {filter:?}");
            text(StatusCode::OK, filter)
        }
        Err(error) => text(StatusCode::BAD_REQUEST, error),
    }
}
