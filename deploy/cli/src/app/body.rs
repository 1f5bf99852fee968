//! Bodies that are made piece by piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

/// Any body of an application here.
pub type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is known as a whole.
pub fn full(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body whose frames are sent one by one. An error cuts it off; dropping the sender ends it.
#[must_use]
pub fn channel() -> (Frames, AnyBody) {
    let (sender, receiver) = mpsc::channel(16);
    (Frames(sender), Receiver(receiver).boxed_unsync())
}

/// The sending end.
#[derive(Clone, Debug)]
pub struct Frames(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Frames {
    /// Sends data. `false` when nobody reads it any more.
    pub async fn data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(bytes.into()))).await.is_ok()
    }

    /// Sends the trailers.
    pub async fn trailers(&self, trailers: http::HeaderMap) -> bool {
        self.0.send(Ok(Frame::trailers(trailers))).await.is_ok()
    }

    /// Cuts the body off.
    pub async fn abort(&self) {
        let _ = self
            .0
            .send(Err(io::Error::other("cut off on purpose")))
            .await;
    }

    /// Waits until nobody reads the body any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

struct Receiver(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl Body for Receiver {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context)
    }
}
