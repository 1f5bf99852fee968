//! gRPC's framing for the streams of sidecars, with nothing kept between two messages. tonic's codec keeps two buffers
//! for each stream, each with the room of the largest message so far; there are as many streams as the mesh has pods,
//! and most of them have nothing to say for hours.
//!
//! A message is a flag, its length in four bytes, and itself (gRPC over HTTP/2, "Length-Prefixed-Message").

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Bytes, Frame};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Status};

/// Flag and length.
const PREFIX: usize = 5;
/// A request names what a sidecar subscribes to, in bytes.
const LONGEST_REQUEST: usize = 4 * 1024 * 1024;

/// What a client says.
pub(super) struct Requests {
    body: tonic::body::Body,
    /// Of a message that has not come in full.
    received: Vec<u8>,
}

impl Requests {
    pub(super) fn new(body: tonic::body::Body) -> Self {
        Self {
            body,
            received: Vec::new(),
        }
    }

    /// The next message; none when the client has said everything, or is gone. May be dropped and called again.
    ///
    /// # Errors
    /// What is wrong with what came.
    pub(super) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(length) = complete(&self.received)? {
                let rest = self.received.split_off(PREFIX + length);
                let message = std::mem::replace(&mut self.received, rest);
                let message = M::decode(&message[PREFIX..]);
                return message.map(Some).map_err(|error| {
                    Status::internal(format!("a message that cannot be read: {error}"))
                });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
                // The connection is gone, or the client has given the stream up.
                Some(Err(status)) if status.code() == Code::Cancelled => return Ok(None),
                Some(Err(status)) => return Err(status),
                None if self.received.is_empty() => return Ok(None),
                None => return Err(Status::internal("ended in the middle of a message")),
            }
        }
    }
}

/// The length of the message that is first, if all of it is there.
fn complete(received: &[u8]) -> Result<Option<usize>, Status> {
    let Some((prefix, rest)) = received.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [flag, length @ ..] = prefix;
    if *flag != 0 {
        return Err(Status::internal(
            "a compressed message, and no compression was agreed on",
        ));
    }
    let length = u32::from_be_bytes(*length) as usize;
    if length > LONGEST_REQUEST {
        return Err(Status::resource_exhausted(format!(
            "a message of {length} bytes: at most {LONGEST_REQUEST}"
        )));
    }
    Ok((rest.len() >= length).then_some(length))
}

/// What is answered, as the body of an HTTP response: messages, and a status when it is over.
pub(super) struct Answers<M> {
    messages: mpsc::Receiver<Box<Result<M, Status>>>,
    ended: bool,
}

impl<M> Answers<M> {
    pub(super) fn new(messages: mpsc::Receiver<Box<Result<M, Status>>>) -> Self {
        Self {
            messages,
            ended: false,
        }
    }
}

impl<M: Message> Body for Answers<M> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match ready!(self.messages.poll_recv(cx)).map(|message| *message) {
            Some(Ok(message)) => return Poll::Ready(Some(framed(&message).map(Frame::data))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        let mut trailers = HeaderMap::with_capacity(2);
        let added = status.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// In as much room as it takes: once it is sent, none of it stays.
fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length)
        .map_err(|_| Status::internal(format!("a response of {length} bytes")))?;
    let mut bytes = Vec::with_capacity(PREFIX + length);
    bytes.push(0);
    bytes.extend_from_slice(&prefix.to_be_bytes());
    message.encode_raw(&mut bytes);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;
    use kith_xds_client::api::envoy::service::discovery::v3::DeltaDiscoveryRequest;

    use super::*;

    fn request(nonce: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            response_nonce: nonce.into(),
            ..Default::default()
        }
    }

    /// As they come when each of these is a DATA frame.
    fn requests(frames: Vec<Vec<u8>>) -> Requests {
        let frames = frames
            .into_iter()
            .map(|frame| Ok::<_, Status>(Frame::data(Bytes::from(frame))));
        Requests::new(tonic::body::Body::new(StreamBody::new(stream::iter(
            frames,
        ))))
    }

    async fn nonces(mut requests: Requests) -> Result<Vec<String>, Status> {
        let mut found = Vec::new();
        while let Some(next) = requests.message::<DeltaDiscoveryRequest>().await? {
            found.push(next.response_nonce);
            if requests.received.is_empty() {
                assert_eq!(requests.received.capacity(), 0, "nothing is kept");
            }
        }
        Ok(found)
    }

    #[tokio::test]
    async fn messages_are_found_however_they_are_cut() {
        let all: Vec<u8> = ["one", "", "three"]
            .map(|nonce| framed(&request(nonce)).unwrap())
            .concat();
        for size in 1..=all.len() {
            let frames = all.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(
                nonces(requests(frames)).await.unwrap(),
                ["one", "", "three"],
                "{size}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_stream_with_the_reason() {
        let whole = framed(&request("one")).unwrap();
        let long = u32::try_from(LONGEST_REQUEST + 1).unwrap().to_be_bytes();
        for (bytes, code, why) in [
            (
                whole[..whole.len() - 1].to_vec(),
                Code::Internal,
                "ended in the middle",
            ),
            (vec![0, 0], Code::Internal, "ended in the middle"),
            (
                [&[1], &whole[1..]].concat(),
                Code::Internal,
                "a compressed message",
            ),
            (
                [&[0][..], &long].concat(),
                Code::ResourceExhausted,
                "4194305 bytes",
            ),
            (vec![0, 0, 0, 0, 1, 0xff], Code::Internal, "cannot be read"),
        ] {
            let status = nonces(requests(vec![bytes])).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(why), "{status}");
        }
    }

    #[tokio::test]
    async fn answers_end_with_a_status() {
        let (sender, receiver) = mpsc::channel(4);
        let mut answers = Answers::<DeltaDiscoveryRequest>::new(receiver);
        sender.send(Box::new(Ok(request("one")))).await.unwrap();
        let frame = answers.frame().await.unwrap().unwrap();
        let data = frame.into_data().unwrap();
        assert_eq!(
            nonces(requests(vec![data.to_vec()])).await.unwrap(),
            ["one"]
        );
        let over = Status::unavailable("stopping");
        sender.send(Box::new(Err(over))).await.unwrap();
        assert!(!answers.is_end_stream());
        let trailers = answers.frame().await.unwrap().unwrap();
        let status = Status::from_header_map(&trailers.into_trailers().unwrap()).unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "stopping")
        );
        assert!(answers.is_end_stream() && answers.frame().await.is_none());
    }
}
