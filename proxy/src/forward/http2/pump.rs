//! One direction of a body, with back-pressure from end to end.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::SendStream;
use http::HeaderMap;

use super::source::Source;
use crate::headers::{is_proxys_own, remove};
use crate::http1::is_forbidden_in_trailers;

pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// One direction of a body, trailers included.
#[derive(Default)]
pub(super) struct Pump {
    chunk: Bytes,
    pub(super) bytes: u64,
    pub(super) grpc_status: Option<u32>,
    trailers: Trailers,
}

/// What trailers must not bring, since whoever merges them into the headers takes them for those.
#[derive(Default)]
enum Trailers {
    /// What tells answers of the proxy from others is taken out, as it is from the headers.
    #[default]
    OfAnswer,
    /// RFC 9110 section 6.5.1, what Kith says to the application, and these names: refused, as HTTP/1.1's are.
    OfRequest(Option<Arc<[String]>>),
}

impl Pump {
    /// Of a request; `guarded` as [`is_forbidden_in_trailers`] has it.
    pub(super) fn of_request(guarded: Option<Arc<[String]>>) -> Self {
        Pump {
            trailers: Trailers::OfRequest(guarded),
            ..Pump::default()
        }
    }
}

pub(super) enum Broken {
    Source(h2::Error),
    Destination(Option<h2::Reason>),
    /// The source sent trailers that must not pass. None of them did.
    Trailers,
}

impl Pump {
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        source: &mut impl Source,
        destination: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        let failed = |error: h2::Error| Broken::Destination(error.reason());
        loop {
            while self.chunk.has_remaining() {
                destination.reserve_capacity(self.chunk.len());
                let mut room = destination.capacity();
                if room == 0 {
                    room = match ready!(destination.poll_capacity(context)) {
                        Some(Ok(room)) => room,
                        Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                        None => return Poll::Ready(Err(Broken::Destination(None))),
                    };
                }
                let part = self.chunk.split_to(room.min(self.chunk.len()));
                let count = part.len();
                let end = self.chunk.is_empty() && source.is_end_stream();
                destination.send_data(part, end).map_err(failed)?;
                // The source may send as much again as the destination has taken: back-pressure end to end.
                source.release(count);
                self.bytes += count as u64;
                if end {
                    return Poll::Ready(Ok(()));
                }
            }
            match source.poll_data(context) {
                Poll::Ready(Some(Ok(chunk))) => self.chunk = chunk,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Ready(None) => {
                    match ready!(source.poll_trailers(context)).map_err(Broken::Source)? {
                        Some(mut trailers) => {
                            if !self.trailers.may_pass(&mut trailers) {
                                return Poll::Ready(Err(Broken::Trailers));
                            }
                            self.grpc_status = grpc_status(&trailers);
                            destination.send_trailers(trailers).map_err(failed)?;
                        }
                        None => destination.send_data(Bytes::new(), true).map_err(failed)?,
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => {
                    return match destination.poll_reset(context) {
                        Poll::Ready(Ok(reason)) => {
                            Poll::Ready(Err(Broken::Destination(Some(reason))))
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}

impl Trailers {
    fn may_pass(&self, trailers: &mut HeaderMap) -> bool {
        match self {
            Trailers::OfAnswer => {
                remove(trailers, is_proxys_own);
                true
            }
            Trailers::OfRequest(guarded) => {
                let guarded = guarded.as_deref().unwrap_or_default();
                !trailers
                    .keys()
                    .any(|name| is_forbidden_in_trailers(name.as_str().as_bytes(), guarded))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn passes(trailers: &Trailers, names: &[&str]) -> Option<Vec<String>> {
        let pairs = names.iter().map(|name| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_static("1"))
        });
        let mut map: HeaderMap = pairs.collect();
        trailers
            .may_pass(&mut map)
            .then(|| map.keys().map(|name| name.as_str().to_owned()).collect())
    }

    #[test]
    fn row_07_trailers_of_a_request_can_not_stand_for_what_the_proxy_says() {
        let guarded = Trailers::OfRequest(Some(["x-user".to_owned()].into()));
        for name in [
            "x-kith-reason",
            "x_kith_reason",
            "x-forwarded-client-cert",
            "x-forwarded-for",
            "authorization",
            "cookie",
            "content-length",
            "transfer-encoding",
            "host",
            "te",
            "x-user",
            "x_user",
        ] {
            assert_eq!(passes(&guarded, &["x-sum", name]), None, "{name}");
        }
        let names = ["x-sum", "grpc-status", "x-users"];
        assert_eq!(passes(&guarded, &names).unwrap(), names);
        let unguarded = Trailers::OfRequest(None);
        assert_eq!(passes(&unguarded, &["x-user"]).unwrap(), ["x-user"]);
    }

    #[test]
    fn row_07_trailers_of_an_answer_can_not_speak_for_the_proxy() {
        let names = [
            "x-kith-reason",
            "x_kith-a",
            "server",
            "grpc-status",
            "x-sum",
        ];
        let mut passed = passes(&Trailers::OfAnswer, &names).unwrap();
        passed.sort();
        assert_eq!(passed, ["grpc-status", "x-sum"]);
    }
}
