//! Connections that stay open and go on talking, every answer checked, until the test stops them or something else
//! does; then they say when and how.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith::app::grpc::Note;
use kith::app::grpc::client::Stream;
use kith::lab::Workload;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The rest between two rounds.
const REST: Duration = Duration::from_millis(50);

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// By the test's wish, and in good order.
    Stopped,
    /// By somebody else, with FIN, or the end of the stream.
    Ended,
    /// By somebody else, with RST, or a reset of the stream.
    Reset,
    /// In another way, or what came back was not what was sent.
    Failed(String),
}

/// What became of a connection.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Questions that were answered rightly.
    pub rounds: u64,
    /// When it ended.
    pub at: SystemTime,
    /// In which way.
    pub how: How,
}

/// A connection that goes on talking.
#[derive(Debug)]
pub struct Lasting {
    stop: watch::Sender<bool>,
    outcome: JoinHandle<Outcome>,
}

impl Lasting {
    /// An opaque connection to an application that echoes; open on return.
    pub async fn opaque(from: &Arc<Workload>, to: SocketAddr) -> Self {
        Self::try_opaque(from, to)
            .await
            .unwrap_or_else(|outcome| panic!("it was never open: {outcome:?}"))
    }

    /// A gRPC stream to the lab's application; open on return.
    pub async fn grpc(from: &Arc<Workload>, to: SocketAddr) -> Self {
        Self::start(from, move |opened, stopped| talk_grpc(to, opened, stopped)).await
    }

    /// As [`Lasting::opaque`], where it may be refused.
    ///
    /// # Errors
    /// How it was refused.
    pub async fn try_opaque(from: &Arc<Workload>, to: SocketAddr) -> Result<Self, Outcome> {
        Self::attempt(from, move |opened, stopped| async move {
            let mut stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            talk_bytes(&mut stream, opened, stopped).await
        })
        .await
    }

    /// A conversation of the test's own making; it says when it is open.
    pub async fn start<F, R>(from: &Arc<Workload>, talk: F) -> Self
    where
        F: FnOnce(Opened, watch::Receiver<bool>) -> R + Send + 'static,
        R: Future<Output = io::Result<(u64, How)>>,
    {
        Self::attempt(from, talk)
            .await
            .unwrap_or_else(|outcome| panic!("it was never open: {outcome:?}"))
    }

    async fn attempt<F, R>(from: &Arc<Workload>, talk: F) -> Result<Self, Outcome>
    where
        F: FnOnce(Opened, watch::Receiver<bool>) -> R + Send + 'static,
        R: Future<Output = io::Result<(u64, How)>>,
    {
        let (stop, stopped) = watch::channel(false);
        let (opened, open) = oneshot::channel();
        let from = Arc::clone(from);
        let outcome = tokio::spawn(async move {
            let talk = from.enter(move || talk(opened, stopped)).await.flatten();
            let (rounds, how) = talk.unwrap_or_else(|error| (0, How::Failed(error.to_string())));
            Outcome {
                rounds,
                at: SystemTime::now(),
                how,
            }
        });
        let lasting = Self { stop, outcome };
        match open.await {
            Ok(()) => Ok(lasting),
            Err(_) => Err(lasting.ended().await),
        }
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.outcome.is_finished()
    }

    /// Ends it in good order.
    pub async fn stop(self) -> Outcome {
        let _ = self.stop.send(true);
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(self) -> Outcome {
        // The sender is kept until then: without it the conversation would be asked to stop.
        let Self { stop, outcome } = self;
        let outcome = outcome.await.unwrap();
        drop(stop);
        outcome
    }
}

/// Says that the conversation is open.
pub type Opened = oneshot::Sender<()>;

/// Sends numbers over any kind of connection and checks that they come back.
///
/// # Errors
/// Never after it was open: that is an outcome.
pub async fn talk_bytes(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    opened: Opened,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<(u64, How)> {
    let mut rounds = 0_u64;
    let mut opened = Some(opened);
    let talk = async {
        loop {
            stream.write_all(&rounds.to_be_bytes()).await?;
            stream.flush().await?;
            let back = stream.read_u64().await?;
            if back != rounds {
                return Err(io::Error::other(format!("sent {rounds}, got {back}")));
            }
            rounds += 1;
            if let Some(opened) = opened.take() {
                let _ = opened.send(());
            }
            tokio::select! {
                _ = stopped.changed() => return Ok(()),
                () = sleep(REST) => {}
                // Noticed at once when the other end closes between two rounds.
                unasked = stream.read_u8() => {
                    unasked?;
                    return Err(io::Error::other("bytes that nobody asked for"));
                }
            }
        }
    };
    let how = match talk.await {
        Ok(()) => match finish(stream).await {
            Ok(()) => How::Stopped,
            Err(error) => of(&error),
        },
        Err(error) => of(&error),
    };
    Ok((rounds, how))
}

async fn finish(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    match stream.read(&mut [0; 8]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("bytes that nobody asked for")),
    }
}

fn of(error: &io::Error) -> How {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => How::Ended,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => How::Reset,
        _ => How::Failed(error.to_string()),
    }
}

async fn talk_grpc(
    to: SocketAddr,
    opened: Opened,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<(u64, How)> {
    let note = |number: u64| Note {
        text: number.to_string(),
    };
    let mut stream = Stream::open(to, "orders.shop:9090", "Chat", &note(0)).await?;
    let mut rounds = 0;
    let mut opened = Some(opened);
    let how = loop {
        match stream.next::<Note>().await {
            Ok(Some(back)) if back == note(rounds) => rounds += 1,
            Ok(Some(back)) => break How::Failed(format!("sent {rounds}, got {back:?}")),
            Ok(None) if *stopped.borrow() && stream.status().code == 0 => break How::Stopped,
            Ok(None) => break How::Failed(format!("{:?}", stream.status())),
            Err(_) => break How::Reset,
        }
        if let Some(opened) = opened.take() {
            let _ = opened.send(());
        }
        tokio::select! {
            _ = stopped.changed() => {
                stream.finish();
                continue;
            }
            () = sleep(REST) => {}
        }
        stream.send(&note(rounds)).await;
    };
    Ok((rounds, how))
}
