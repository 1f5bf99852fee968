//! One task per stream of the Workload API: calls, passes messages on, and calls again after
//! a backoff. What the messages mean is the keeper's.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::workload_api::proto::{JwtBundlesResponse, X509svidResponse};
use crate::workload_api::{WorkloadApiClient, describe};

/// Everything that can happen on the streams.
pub(super) enum Event {
    X509(X509svidResponse),
    X509Failed(Failure),
    Jwt(JwtBundlesResponse),
    JwtFailed(Failure),
}

/// Why a stream ended, by what it means for us (SPIFFE_Workload_Endpoint, appendix A).
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// InvalidArgument, Unimplemented: asking again would be wrong again.
    Final(String),
    /// PermissionDenied: no identity for us, perhaps not yet.
    Denied(String),
    /// Everything else: unreachable, frozen, restarted, a message too long.
    Unavailable(String),
}

impl Failure {
    fn of(status: &Status) -> Failure {
        let text = describe(status);
        match status.code() {
            Code::InvalidArgument | Code::Unimplemented => Failure::Final(text),
            Code::PermissionDenied => Failure::Denied(text),
            _ => Failure::Unavailable(text),
        }
    }
}

pub(super) async fn watch_x509(
    mut client: WorkloadApiClient,
    answer_within: Duration,
    events: Sender<Event>,
) {
    let mut backoff = Backoff::default();
    loop {
        let failure = follow(
            client.watch_x509_svids(),
            answer_within,
            Event::X509,
            &events,
            &mut backoff,
        )
        .await;
        let last = matches!(failure, Failure::Final(_));
        if events.send(Event::X509Failed(failure)).await.is_err() || last {
            return;
        }
        backoff.wait().await;
    }
}

pub(super) async fn watch_jwt(
    mut client: WorkloadApiClient,
    answer_within: Duration,
    events: Sender<Event>,
) {
    let mut backoff = Backoff::default();
    loop {
        let failure = follow(
            client.watch_jwt_bundles(),
            answer_within,
            Event::Jwt,
            &events,
            &mut backoff,
        )
        .await;
        let last = matches!(failure, Failure::Final(_));
        if events.send(Event::JwtFailed(failure)).await.is_err() || last {
            return;
        }
        backoff.wait().await;
    }
}

/// Passes the messages of one call on until it ends.
async fn follow<M>(
    call: impl Future<Output = Result<Streaming<M>, Status>>,
    answer_within: Duration,
    event: impl Fn(M) -> Event,
    events: &Sender<Event>,
    backoff: &mut Backoff,
) -> Failure {
    // SPIFFE_Workload_API 4.3: the first message comes without delay, so silence is failure.
    let first = timeout(answer_within, async {
        let mut stream = call.await?;
        let message = stream.message().await?;
        Ok::<_, Status>((stream, message))
    });
    let (mut stream, mut message) = match first.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => return Failure::of(&status),
        Err(_) => {
            return Failure::Unavailable(format!(
                "the Workload API took the call but gave no answer within {} s; is the agent frozen?",
                answer_within.as_secs_f32()
            ));
        }
    };
    loop {
        match message {
            None => return Failure::Unavailable("the Workload API ended the stream".to_owned()),
            Some(message) => {
                backoff.reset();
                if events.send(event(message)).await.is_err() {
                    return Failure::Final("nobody listens any more".to_owned());
                }
            }
        }
        message = match stream.message().await {
            Ok(message) => message,
            Err(status) => return Failure::of(&status),
        };
    }
}

/// Exponential, with jitter, so that the sidecars of a host don't return in step.
struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    /// Short enough that a restarted agent is found well within the shortest SVID's life.
    const LONGEST: Duration = Duration::from_secs(5);

    fn reset(&mut self) {
        self.next = Backoff::FIRST;
    }

    async fn wait(&mut self) {
        sleep(self.next.mul_f32(0.5 + fastrand::f32() * 0.5)).await;
        self.next = (self.next * 2).min(Backoff::LONGEST);
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            next: Backoff::FIRST,
        }
    }
}
