//! Orders from an operator on the same machine: revoke, lift, and see what came of it.
//!
//! A Unix socket that only this program's own user (and root) can open is all the authentication there is;
//! an order leaves its trace in the folder, as a document like any other, and in the log.
//!
//! | request | does | answers |
//! |---|---|---|
//! | `GET /status`, `GET /ready` | | as the status listener |
//! | `GET /revocations` | | what is revoked now |
//! | `POST /revoke` | writes a `Revocation` document, waits until sidecars enforce it | who confirmed, who did not |
//! | `POST /lift` | removes such a document, waits likewise | likewise |

mod confirm;
mod orders;
mod socket;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::orders::{ORDERS, Orders};
pub(crate) use self::socket::Socket;
use crate::http::{self, Answer, Listener, json};
use crate::status;

/// An order is a few lines.
const MAX_BODY: usize = 64 * 1024;

/// Why an order was not carried out.
#[derive(Debug, Serialize)]
struct Refusal {
    error: String,
}

/// Serves until dropped, then removes the socket.
pub(crate) async fn serve<I>(socket: Socket, orders: Orders<I>)
where
    I: Fn() -> Option<String> + Clone + Send + Sync + 'static,
{
    let (listener, _removed_at_the_end) = socket.into_parts();
    http::serve(Listener::Unix(listener), move |request| {
        let orders = orders.clone();
        async move { answer(&orders, request).await }
    })
    .await;
}

async fn answer<I>(orders: &Orders<I>, request: Request<Incoming>) -> Answer
where
    I: Fn() -> Option<String>,
{
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/revoke") => match order(request).await {
            Ok(order) => done(orders.revoke(order).await),
            Err(refused) => refused,
        },
        (&Method::POST, "/lift") => match order(request).await {
            Ok(order) => done(orders.lift(order).await),
            Err(refused) => refused,
        },
        (&Method::GET, "/revocations") => json(StatusCode::OK, &orders.revocations()),
        (_, "/revoke" | "/lift") => refuse(StatusCode::METHOD_NOT_ALLOWED, "only POST"),
        _ => status::answer(orders.state(), orders.no_identity(), &request),
    }
}

async fn order<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Answer> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string()))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, &format!("not an order: {error}")))
}

fn done<T: Serialize>(outcome: Result<T, (StatusCode, String)>) -> Answer {
    match outcome {
        Ok(done) => json(StatusCode::OK, &done),
        Err((status, error)) => refuse(status, &error),
    }
}

fn refuse(status: StatusCode, error: &str) -> Answer {
    let error = error.to_owned();
    json(status, &Refusal { error })
}
