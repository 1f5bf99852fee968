//! `/status` and `/ready`. Nothing here changes anything.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::State;
use crate::http::{Answer, json};

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    not_ready: Vec<String>,
}

/// `identity` says why there is no identity to serve with, if so.
pub(crate) fn answer(
    state: &State,
    identity: &impl Fn() -> Option<String>,
    request: &Request<Incoming>,
) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return json(StatusCode::METHOD_NOT_ALLOWED, &"only GET");
    }
    let mut not_ready = state.not_ready();
    not_ready.extend(identity());
    match request.uri().path() {
        "/status" => json(StatusCode::OK, &state.report(not_ready)),
        "/ready" => {
            let status = if not_ready.is_empty() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            json(
                status,
                &Readiness {
                    ready: not_ready.is_empty(),
                    not_ready,
                },
            )
        }
        _ => json(StatusCode::NOT_FOUND, &"there are /status and /ready"),
    }
}
