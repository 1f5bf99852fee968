//! One request per connection, few connections, short deadlines: a server that nobody can tie up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};

/// Beyond it the oldest connection is ended, so that whoever holds connections open can't keep a probe out.
const MOST_CONNECTIONS: usize = 64;
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// From accept to the last byte of the answer, beside the time that the answer itself may take.
const ALL_WITHIN: Duration = Duration::from_secs(30);
const LARGEST_HEAD: usize = 16 * 1024;

/// Serves until dropped, and its connections end with it. `thinking` is how long an answer may take to be there.
pub(super) async fn connections<S, Accepted, Answered>(
    mut accept: impl FnMut() -> Accepted,
    answer: impl Fn(Request<Incoming>) -> Answered + Clone + Send + Sync + 'static,
    thinking: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Accepted: Future<Output = io::Result<S>>,
    Answered: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Most likely there are no descriptors; some will come back.
                tracing::debug!("accept on admin or health failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|task| !task.is_finished());
        if open.len() >= MOST_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tasks.spawn(one(stream, answer.clone(), ALL_WITHIN + thinking)));
    }
}

async fn one<S, Answered>(
    stream: S,
    answer: impl Fn(Request<Incoming>) -> Answered,
    within: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Answered: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(within, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection to admin or health failed: {error}"),
        Err(_) => tracing::debug!("a connection to admin or health took too long"),
    }
}
