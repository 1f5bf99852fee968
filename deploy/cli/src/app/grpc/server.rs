//! The server side of `kith.demo.Orders`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{Decoder, GetOrder, Note, Order, WatchOrders, encode};
use crate::app::body::{AnyBody, Frames, channel};

/// Status codes of gRPC that this server answers with.
const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;

type Status = (u32, &'static str);

/// Answers one call; messages flow while it runs, the status is in the trailers.
pub(crate) fn answer(request: Request<Incoming>, name: &str) -> Response<AnyBody> {
    let (frames, body) = channel();
    let name = name.to_owned();
    tokio::task::spawn_local(async move {
        let method = request.uri().path().to_owned();
        let mut body = request.into_body();
        let (status, message) = match method.as_str() {
            "/kith.demo.Orders/Get" => get(&mut body, &frames, name).await,
            "/kith.demo.Orders/Watch" => watch(&mut body, &frames, name).await,
            "/kith.demo.Orders/Chat" => chat(&mut body, &frames).await,
            _ => (UNIMPLEMENTED, "no such method"),
        };
        let mut trailers = HeaderMap::new();
        trailers.insert(HeaderName::from_static("grpc-status"), status.into());
        trailers.insert(
            HeaderName::from_static("grpc-message"),
            HeaderValue::from_static(message),
        );
        frames.trailers(trailers).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

async fn get(body: &mut Incoming, frames: &Frames, name: String) -> Status {
    match only::<GetOrder>(body).await {
        Some(GetOrder { id }) if id == "missing" => (NOT_FOUND, "no such order"),
        Some(GetOrder { id }) => {
            frames
                .data(encode(&Order {
                    id,
                    state: "paid".to_owned(),
                    served_by: name,
                    sequence: 0,
                }))
                .await;
            (OK, "")
        }
        None => (INVALID_ARGUMENT, "expected one GetOrder"),
    }
}

async fn watch(body: &mut Incoming, frames: &Frames, name: String) -> Status {
    let Some(WatchOrders { count, interval_ms }) = only::<WatchOrders>(body).await else {
        return (INVALID_ARGUMENT, "expected one WatchOrders");
    };
    let mut sequence = 0;
    while count == 0 || sequence < u64::from(count) {
        let order = Order {
            id: sequence.to_string(),
            state: "new".to_owned(),
            served_by: name.clone(),
            sequence,
        };
        if !frames.data(encode(&order)).await {
            break;
        }
        sequence += 1;
        tokio::time::sleep(Duration::from_millis(interval_ms.into())).await;
    }
    (OK, "")
}

async fn chat(body: &mut Incoming, frames: &Frames) -> Status {
    let mut decoder = Decoder::default();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(bytes) = frame.data_ref() {
            decoder.push(bytes);
        }
        while let Some(note) = decoder.next::<Note>() {
            let Ok(note) = note else {
                return (INVALID_ARGUMENT, "expected Note messages");
            };
            if !frames.data(encode(&note)).await {
                return (OK, "");
            }
        }
    }
    (OK, "")
}

async fn only<M: prost::Message + Default>(body: &mut Incoming) -> Option<M> {
    let mut decoder = Decoder::default();
    decoder.push(&body.collect().await.ok()?.to_bytes());
    decoder.next().and_then(Result::ok)
}
