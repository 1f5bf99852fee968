//! Applications that a test plays itself, inside a workload's namespace: they say any bytes, and the test knows
//! exactly which ones they got.

use std::net::{Ipv6Addr, Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use kith::lab::Workload;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A server played by the test. Stops when dropped.
#[derive(Debug)]
pub struct App {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Option<oneshot::Sender<()>>,
    stopped: mpsc::Receiver<()>,
}

impl Drop for App {
    /// The port is free again on return.
    fn drop(&mut self) {
        self.stop = None;
        // Ends with the thread inside the workload, at the latest.
        let _ = self.stopped.recv();
    }
}

impl App {
    /// Listens on a port; every connection goes to `serve`, with its number from 0.
    pub async fn listen<F, R>(workload: &Arc<Workload>, port: u16, serve: F) -> Self
    where
        F: Fn(TcpStream, usize) -> R + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        Self::with(workload, port, Arc::default(), serve).await
    }

    async fn with<F, R>(
        workload: &Arc<Workload>,
        port: u16,
        heard: Arc<Mutex<Vec<Vec<u8>>>>,
        serve: F,
    ) -> Self
    where
        F: Fn(TcpStream, usize) -> R + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        let (stop, asked) = oneshot::channel::<()>();
        let (gone, stopped) = mpsc::channel();
        let (ready, listening) = oneshot::channel();
        let workload = Arc::clone(workload);
        let work = move || async move {
            let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
                .await
                .unwrap();
            let _ = ready.send(());
            let mut number = 0;
            let accept = async {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    tokio::task::spawn_local(serve(stream, number));
                    number += 1;
                }
            };
            tokio::select! {
                () = accept => {}
                _ = asked => {}
            }
            // Not only closed: a program that another test starts at this moment has a copy of the descriptor until it
            // is executed.
            let _ = socket2::SockRef::from(&listener).shutdown(Shutdown::Both);
            drop(listener);
            drop(gone);
        };
        tokio::spawn(async move { workload.enter(work).await });
        listening.await.expect("the application listens");
        Self {
            heard,
            stop: Some(stop),
            stopped,
        }
    }

    /// Reads what comes on each connection until the client has no more, and says `answer` at each blank line, the end of a head.
    pub async fn answering(
        workload: &Arc<Workload>,
        port: u16,
        answer: impl Into<Vec<u8>>,
    ) -> Self {
        let answer: Vec<u8> = answer.into();
        Self::hearing(workload, port, move |stream, log| {
            let answer = answer.clone();
            async move { converse(stream, &answer, &log).await }
        })
        .await
    }

    /// As [`App::listen`], with a place to note down what each connection said.
    pub async fn hearing<F, R>(workload: &Arc<Workload>, port: u16, serve: F) -> Self
    where
        F: Fn(TcpStream, Log) -> R + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let all = Arc::clone(&heard);
        Self::with(workload, port, heard, move |stream, number| {
            let mut list = all.lock().unwrap();
            let length = list.len().max(number + 1);
            list.resize(length, Vec::new());
            drop(list);
            serve(
                stream,
                Log {
                    all: Arc::clone(&all),
                    number,
                },
            )
        })
        .await
    }

    /// What each connection has said so far.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        self.heard
            .lock()
            .unwrap()
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }

    /// Waits until all that was heard, together, satisfies `wanted`.
    ///
    /// # Panics
    /// After five seconds.
    pub async fn wait_heard(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        for _ in 0..500 {
            let heard = self.heard();
            if wanted(&heard) {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the application heard {:?}", self.heard());
    }
}

/// Where one connection's bytes are noted down.
#[derive(Clone, Debug)]
pub struct Log {
    all: Arc<Mutex<Vec<Vec<u8>>>>,
    number: usize,
}

impl Log {
    /// Notes down.
    pub fn push(&self, bytes: &[u8]) {
        self.all.lock().unwrap()[self.number].extend_from_slice(bytes);
    }
}

async fn converse(mut stream: TcpStream, answer: &[u8], log: &Log) {
    let mut heard = Vec::new();
    let mut answered = 0;
    loop {
        let before = heard.len();
        match stream.read_buf(&mut heard).await {
            Ok(0) => {
                log.push(b"<end>");
                return;
            }
            Ok(_) => log.push(&heard[before..]),
            Err(_) => {
                log.push(b"<reset>");
                return;
            }
        }
        let heads = heard
            .windows(4)
            .filter(|bytes| *bytes == b"\r\n\r\n")
            .count();
        while answered < heads {
            answered += 1;
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}
