//! One request per connection, few connections, short deadlines: a server that nobody can tie up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
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

/// Beyond it a connection is ended, the oldest of whoever has most: so whoever holds connections open can't keep a probe
/// out, and whoever opens many can't cut off one that is being answered.
const MOST_CONNECTIONS: usize = 64;
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// From accept to the last byte of the answer, beside the time that the answer itself may take.
const ALL_WITHIN: Duration = Duration::from_secs(30);
const LARGEST_HEAD: usize = 16 * 1024;

/// A connection, and where it comes from, as far as that tells clients apart.
struct Open {
    from: Option<IpAddr>,
    task: AbortHandle,
}

/// Serves until dropped, and its connections end with it. `thinking` is how long an answer may take to be there.
pub(super) async fn connections<S, Accepted, Answered>(
    mut accept: impl FnMut() -> Accepted,
    answer: impl Fn(Request<Incoming>) -> Answered + Clone + Send + Sync + 'static,
    thinking: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Accepted: Future<Output = io::Result<(S, Option<IpAddr>)>>,
    Answered: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    // The oldest first.
    let mut open: Vec<Open> = Vec::new();
    loop {
        let (stream, from) = match accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely there are no descriptors; some will come back.
                tracing::debug!("accept on admin or health failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|it| !it.task.is_finished());
        if open.len() >= MOST_CONNECTIONS {
            open.remove(one_too_many(&open)).task.abort();
        }
        let task = tasks.spawn(one(stream, answer.clone(), ALL_WITHIN + thinking));
        open.push(Open { from, task });
    }
}

/// The oldest of whoever has most. `open` must not be empty.
fn one_too_many(open: &[Open]) -> usize {
    let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
    for it in open {
        *counts.entry(it.from).or_default() += 1;
    }
    let most = counts.values().max();
    let has_most = |it: &Open| counts.get(&it.from) == most;
    open.iter().position(has_most).unwrap_or_default()
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
