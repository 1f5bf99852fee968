//! The task that owns the connection: connects, sends what the ledger has to say, hands on what comes,
//! and starts over when the stream ends. It ends when the consumer drops its receiver.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::{debug, info, warn};

use crate::api::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::api::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::client::{BoxFuture, Config, Shared};
use crate::delivery::Delivery;
use crate::last_good::{self, LastGood};
use crate::ledger::Received;

/// For one attempt: TCP, TLS and HTTP/2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A control plane that froze, or a network that drops everything, is noticed after the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest response that is read. A larger one ends the stream.
const MAX_RESPONSE: usize = 16 << 20;
/// How long the first stream waits for the consumer to answer what came from disk.
const DISK_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// A stream that stood for this long is a connection, whether or not the server has sent anything: some
/// servers send the response headers only with the first response.
const STANDING: Duration = Duration::from_secs(1);
/// How long the server may take to end a stream of which this side has said that it is over.
const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) async fn run(config: Config, shared: Arc<Shared>, deliveries: mpsc::Sender<Delivery>) {
    let store = config
        .state_dir
        .as_ref()
        .map(|dir| LastGood::new(dir, &config.node_id, &config.authority));
    let store = store.map(Arc::new);
    if let Some(store) = &store {
        restore(store.clone(), &shared, &deliveries).await;
    }
    tokio::select! {
        () = reconnect_forever(&config, &shared, &deliveries) => {}
        () = last_good::keep(store.clone(), &shared) => {}
        () = deliveries.closed() => {}
    }
    shared.ledger().stream_ended();
    if let Some(store) = store {
        last_good::save_now(store, &shared).await;
    }
}

/// Delivers what the disk remembers.
async fn restore(store: Arc<LastGood>, shared: &Arc<Shared>, deliveries: &mpsc::Sender<Delivery>) {
    for remembered in last_good::load(store).await {
        let received = shared.ledger().restore(remembered);
        if let Some(delivery) = received.and_then(|received| to_deliver(received, shared)) {
            // An error means that the consumer is gone, and so will this task be.
            let _ = deliveries.send(delivery).await;
        }
    }
}

async fn reconnect_forever(
    config: &Config,
    shared: &Arc<Shared>,
    deliveries: &mpsc::Sender<Delivery>,
) {
    let mut failures = 0;
    let mut identity = Identity(config.identity.clone());
    loop {
        identity.present().await;
        let started = Instant::now();
        let mut waiting = None;
        let mut connected = false;
        let end = one_stream(
            config,
            shared,
            deliveries,
            &mut waiting,
            &mut connected,
            &mut identity,
        )
        .await;
        shared.ledger().stream_ended();
        let End::Failed(error) = end else {
            debug!(
                control_plane = config.authority,
                "connects anew, with the identity of now"
            );
            failures = 0;
            if let Some(delivery) = waiting {
                let _ = deliveries.send(delivery).await;
            }
            continue;
        };
        let stood = connected && started.elapsed() >= STANDING;
        failures = if stood { 1 } else { failures + 1 };
        let delay = config.backoff.delay(failures, fastrand::f64());
        warn!(
            control_plane = config.authority,
            error,
            retry_in_ms = delay.as_millis(),
            "no stream to the control plane; the last known resources stay in force"
        );
        shared
            .status
            .send_modify(|status| status.disconnected(error));
        if let Some(delivery) = waiting {
            let _ = deliveries.send(delivery).await;
        }
        tokio::select! {
            () = sleep(delay) => {}
            // It may have been for want of it.
            () = identity.changed() => {}
        }
    }
}

/// What the server is shown.
struct Identity(Option<watch::Receiver<Option<String>>>);

impl Identity {
    /// Waits until there is one, and takes it for the one that is used from now on.
    async fn present(&mut self) {
        if let Some(identity) = &mut self.0
            && identity.wait_for(Option::is_some).await.is_err()
        {
            // Nobody will tell of another any more.
            self.0 = None;
        }
    }

    /// Waits for another than the one that is used. Cancel safe.
    async fn changed(&mut self) {
        let told = match &mut self.0 {
            Some(identity) => identity.changed().await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending().await
        }
    }

    fn is_there(&self) -> bool {
        (self.0.as_ref()).is_none_or(|identity| identity.borrow().is_some())
    }
}

/// Why a stream ended.
enum End {
    Failed(String),
    /// This side ended it, to open another with a newer identity.
    Outdated,
}

/// Runs one stream to its end; returns why it ended.
///
/// `waiting` is a delivery for which the consumer has no room yet. As long as there is one nothing more is
/// read, which is what bounds memory, but answers and subscriptions still go out.
async fn one_stream(
    config: &Config,
    shared: &Arc<Shared>,
    deliveries: &mpsc::Sender<Delivery>,
    waiting: &mut Option<Delivery>,
    connected: &mut bool,
    identity: &mut Identity,
) -> End {
    let channel = match timeout(CONNECT_TIMEOUT, connect(config)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return End::Failed(with_causes(&error)),
        Err(_) => {
            let seconds = CONNECT_TIMEOUT.as_secs();
            return End::Failed(format!("no connection within {seconds} s"));
        }
    };
    let _ = timeout(DISK_ANSWER_TIMEOUT, disk_answered(shared)).await;
    shared.ledger().stream_started();

    // One slot: what can't be sent yet stays in the ledger, where it is merged and bounded.
    let (requests, outgoing) = mpsc::channel(1);
    let mut responses = Responses::open(channel, outgoing);
    let mut outdated_at: Option<Instant> = None;
    let standing = sleep(STANDING);
    tokio::pin!(standing);
    loop {
        let now = Instant::now();
        let (has_request, facts_due, backlogged, settled) = {
            let ledger = shared.ledger();
            (
                ledger.has_request(),
                ledger.facts_due(now),
                ledger.is_backlogged(),
                ledger.is_settled(),
            )
        };
        // What the server waits for is answered first: an answer to a stream that is over is never heard.
        if outdated_at.is_some_and(|at| at <= now) && settled && waiting.is_none() {
            drop(requests);
            let over = async { while responses.next().await.is_ok() {} };
            let _ = timeout(GOODBYE, over).await;
            return End::Outdated;
        }
        let outdated_wait = outdated_at.filter(|at| *at > now);
        let facts_wait = facts_due.filter(|due| *due > now);
        let sendable = has_request || (facts_due.is_some() && facts_wait.is_none());
        tokio::select! {
            Ok(slot) = requests.reserve(), if sendable && !requests.is_closed() => {
                let request = shared.ledger().request(now);
                if let Some(request) = request {
                    slot.send(request);
                }
            }
            () = sleep_until(facts_wait.unwrap_or(now).into()), if facts_wait.is_some() => {}
            Ok(room) = deliveries.reserve(), if waiting.is_some() => {
                if let Some(delivery) = waiting.take() {
                    room.send(delivery);
                }
            }
            () = shared.news.notified() => {}
            () = identity.changed(), if outdated_at.is_none() => if identity.is_there() {
                // Whoever else has got a new one at this moment shall not come back at the same moment.
                outdated_at = Some(now + config.backoff.delay(1, fastrand::f64()));
            },
            () = sleep_until(outdated_wait.unwrap_or(now).into()), if outdated_wait.is_some() => {}
            response = responses.next(), if waiting.is_none() && !backlogged => match response {
                Ok(Some(response)) => {
                    set_connected(connected, config, shared);
                    let received = shared.ledger().receive(response);
                    *waiting = to_deliver(received, shared);
                }
                // The headers have come.
                Ok(None) => set_connected(connected, config, shared),
                // The server was first to end what was about to be ended.
                Err(_) if outdated_at.is_some() => return End::Outdated,
                Err(error) => return End::Failed(error),
            },
            () = &mut standing, if !*connected => set_connected(connected, config, shared),
        }
    }
}

fn set_connected(connected: &mut bool, config: &Config, shared: &Shared) {
    if !std::mem::replace(connected, true) {
        info!(
            control_plane = config.authority,
            "connected to the control plane"
        );
        shared.status.send_modify(crate::status::Status::connected);
    }
}

/// What the consumer has to answer, if anything.
fn to_deliver(received: Received, shared: &Arc<Shared>) -> Option<Delivery> {
    match received {
        Received::Deliver(parcel) => Some(Delivery::new(parcel, shared.clone())),
        Received::Answered(answered) => {
            shared.answered(answered);
            None
        }
    }
}

async fn disk_answered(shared: &Shared) {
    while shared.ledger().has_unanswered_from_disk() {
        shared.news.notified().await;
    }
}

async fn connect(config: &Config) -> Result<Channel, tonic::transport::Error> {
    let connector = config.connector.clone();
    let dial = service_fn(move |_| {
        let connecting = connector();
        async move { Ok::<_, io::Error>(TokioIo::new(connecting.await?)) }
    });
    // `http`, because to tonic the connector's stream is the bare transport; what the server sees is the origin.
    let endpoint = Endpoint::from_shared(format!("http://{}", config.authority))?;
    let origin = format!("https://{}", config.authority).parse();
    origin
        .map_or(endpoint.clone(), |origin| endpoint.origin(origin))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(dial)
        .await
}

/// The receiving half of a stream, from before the response headers have come: a server may wait with
/// them for the first response, and until then the sending half must already work.
enum Responses {
    Opening(BoxFuture<Result<Streaming<DeltaDiscoveryResponse>, tonic::Status>>),
    Open(Pin<Box<Streaming<DeltaDiscoveryResponse>>>),
}

impl Responses {
    fn open(channel: Channel, outgoing: mpsc::Receiver<DeltaDiscoveryRequest>) -> Responses {
        let mut grpc =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        Responses::Opening(Box::pin(async move {
            let opened = grpc
                .delta_aggregated_resources(ReceiverStream::new(outgoing))
                .await;
            opened.map(tonic::Response::into_inner)
        }))
    }

    /// The next response; none when it was the headers that came. Cancel safe.
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, String> {
        match self {
            Responses::Opening(opening) => {
                let streaming = opening.await.map_err(|status| describe(&status))?;
                *self = Responses::Open(Box::pin(streaming));
                Ok(None)
            }
            Responses::Open(streaming) => match streaming.message().await {
                Ok(Some(response)) => Ok(Some(response)),
                Ok(None) => Err("the control plane closed the stream".to_owned()),
                Err(status) => Err(describe(&status)),
            },
        }
    }
}

fn describe(status: &tonic::Status) -> String {
    let causes = status
        .source()
        .map(|cause| format!(": {}", with_causes(cause)))
        .unwrap_or_default();
    format!("{:?}: {}{causes}", status.code(), status.message())
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some say their cause's words as their own.
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
