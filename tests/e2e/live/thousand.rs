//! A thousand connections of three kinds, half of them to be forbidden, each of which says when it is open and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith::lab::Workload;
use kith_tests::caller::Caller;
use kith_tests::wire::until;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// What one connection went through.
#[derive(Debug)]
pub(super) enum Event {
    Open,
    /// Rounds before the end, and how it ended: 0 bytes or an error.
    Closed {
        kind: &'static str,
        goes: bool,
        how: std::io::Result<()>,
        at: SystemTime,
    },
}

/// How many of each kind, for those that stay and those that go alike: 500 and 500.
pub(super) const OPAQUE: usize = 380;
pub(super) const REQUESTS: usize = 80;
pub(super) const IDLE: usize = 40;

/// A round over an opaque connection, whenever the test says so.
async fn opaque(
    to: SocketAddr,
    number: u64,
    opened: impl FnOnce(),
    mut rounds: watch::Receiver<u64>,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let mut opened = Some(opened);
    loop {
        let round = *rounds.borrow_and_update();
        let said = [number.to_be_bytes(), round.to_be_bytes()].concat();
        stream.write_all(&said).await?;
        let mut back = [0; 16];
        stream.read_exact(&mut back).await?;
        assert_eq!(back[..], said, "a byte was lost");
        if let Some(opened) = opened.take() {
            opened();
        }
        tokio::select! {
            end = stream.read_u8() => return end.map(|byte| panic!("{byte} came unasked")),
            changed = rounds.changed() => if changed.is_err() { return stream.shutdown().await },
        }
    }
}

/// A request whose answer takes forever: its ticks come without a gap.
async fn request(
    to: SocketAddr,
    opened: impl FnOnce(),
    mut rounds: watch::Receiver<u64>,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(b"GET /stream?ticks=0&ms=200 HTTP/1.1\r\nhost: orders.shop\r\n\r\n")
        .await?;
    let mut opened = Some(opened);
    let mut heard = String::new();
    let mut next = 0;
    let mut piece = [0; 4096];
    loop {
        tokio::select! {
            count = stream.read(&mut piece) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                heard.push_str(std::str::from_utf8(&piece[..count]).unwrap());
                while let Some(end) = heard.find(&format!("tick {next}\n")) {
                    heard.drain(..end);
                    next += 1;
                    if let Some(opened) = opened.take() {
                        opened();
                    }
                }
                assert!(heard.len() < 4096, "tick {next} is missing in {heard}");
            }
            changed = rounds.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// A keep-alive connection with one answered request, then silence; another request in each round.
async fn keep_alive<S>(
    mut stream: S,
    opened: impl FnOnce(),
    mut rounds: watch::Receiver<u64>,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut opened = Some(opened);
    loop {
        rounds.mark_unchanged();
        stream
            .write_all(b"GET /bytes?n=5 HTTP/1.1\r\nhost: orders.shop\r\n\r\n")
            .await?;
        stream.flush().await?;
        until(&mut stream, "\r\n\r\nkkkkk").await?;
        if let Some(opened) = opened.take() {
            opened();
        }
        tokio::select! {
            end = stream.read_u8() => return end.map(|byte| panic!("{byte} came unasked")),
            changed = rounds.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// Opens all connections of one client, tells of each when it is open and when it ends, and keeps them until the sender of
/// rounds is gone.
pub(super) async fn hold(
    from: Arc<Workload>,
    callers: Option<[Caller; 2]>,
    orders: SocketAddr,
    rounds: watch::Receiver<u64>,
    events: mpsc::UnboundedSender<Event>,
) {
    let work = move || async move {
        let mut tasks = Vec::new();
        let at = move |port: u16| SocketAddr::new(orders.ip(), port);
        let open = || {
            let events = events.clone();
            move || events.send(Event::Open).unwrap()
        };
        let mut watch =
            |kind: &'static str,
             goes: bool,
             talk: std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>>>>| {
                let events = events.clone();
                tasks.push(tokio::task::spawn_local(async move {
                    let how = talk.await;
                    let _ = events.send(Event::Closed {
                        kind,
                        goes,
                        how,
                        at: SystemTime::now(),
                    });
                }));
            };
        match callers {
            None => {
                for (number, goes) in (0..).zip([false, true].repeat(OPAQUE)) {
                    watch(
                        "opaque",
                        goes,
                        Box::pin(opaque(
                            at(7000 + u16::from(goes)),
                            number,
                            open(),
                            rounds.clone(),
                        )),
                    );
                    // A backlog holds less than a thousand at once.
                    if number % 16 == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                for goes in [false, true].repeat(REQUESTS) {
                    watch(
                        "request",
                        goes,
                        Box::pin(request(at(8080 + u16::from(goes)), open(), rounds.clone())),
                    );
                }
            }
            Some(callers) => {
                for (caller, goes) in callers
                    .into_iter()
                    .zip([false, true])
                    .cycle()
                    .take(IDLE * 2)
                {
                    let (opened, rounds) = (open(), rounds.clone());
                    let talk = async move {
                        let stream = caller.connect(at(8080), &[b"http/1.1"]).await?;
                        keep_alive(stream, opened, rounds).await
                    };
                    watch("idle", goes, Box::pin(talk));
                }
            }
        }
        drop(events);
        for task in tasks {
            task.await.unwrap();
        }
    };
    from.enter(work).await.unwrap();
}
