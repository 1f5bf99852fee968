//! The client side of `kith.demo.Orders`, and `kith __app grpc`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use serde_json::json;

use super::{Decoder, GetOrder, Note, Order, WatchOrders, encode};
use crate::app::body::{Frames, channel};
use crate::app::client::{Connection, Url};

/// What `kith __app grpc` is told.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// http://host:port
    url: Url,
    #[command(subcommand)]
    method: Rpc,
}

#[derive(clap::Subcommand, Debug)]
enum Rpc {
    /// One order.
    Get {
        /// Its id.
        id: String,
    },
    /// A stream of orders.
    Watch {
        /// How many; 0 = no end.
        #[arg(long, default_value = "3")]
        count: u32,
        /// Milliseconds between two.
        #[arg(long, default_value = "100")]
        interval_ms: u32,
    },
    /// Notes there and back, one after the other.
    Chat {
        /// How many; 0 = no end.
        #[arg(long, default_value = "3")]
        count: u64,
        /// Milliseconds between two.
        #[arg(long, default_value = "100")]
        interval_ms: u64,
    },
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `grpc-status`; 0 = OK, 7 = PERMISSION_DENIED, 14 = UNAVAILABLE, …
    pub code: u32,
    /// `grpc-message`, percent-encoding left as it is.
    pub message: String,
    /// Headers, and trailers where there were any.
    pub metadata: BTreeMap<String, String>,
}

/// A call in progress.
#[derive(Debug)]
pub struct Stream {
    requests: Option<Frames>,
    responses: Incoming,
    decoder: Decoder,
    headers: HeaderMap,
    trailers: HeaderMap,
    // The connection ends with its last sender.
    _connection: Connection,
}

impl Stream {
    /// Starts a call of `/kith.demo.Orders/METHOD` on a connection of its own and sends `first`.
    ///
    /// # Errors
    /// When the server cannot be reached or answers something that is no gRPC.
    pub async fn open(
        address: SocketAddr,
        authority: &str,
        method: &str,
        first: &impl Message,
    ) -> io::Result<Self> {
        let mut connection = Connection::open(address, true).await?;
        let (requests, body) = channel();
        requests.data(encode(first)).await;
        let headers = HeaderMap::from_iter([
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            ),
            (header::TE, HeaderValue::from_static("trailers")),
        ]);
        let url = Url {
            authority: authority.to_owned(),
            path: format!("/kith.demo.Orders/{method}"),
        };
        let request = connection.request(Method::POST, &url, &headers, body)?;
        let requests = if method == "Chat" {
            Some(requests)
        } else {
            None
        };
        let response = connection.send(request).await.map_err(io::Error::other)?;
        let (head, responses) = response.into_parts();
        if head
            .headers
            .get(header::CONTENT_TYPE)
            .is_none_or(|kind| !kind.as_bytes().starts_with(b"application/grpc"))
        {
            return Err(io::Error::other(format!(
                "the answer is no gRPC but HTTP {}",
                head.status
            )));
        }
        let (decoder, trailers) = (Decoder::default(), HeaderMap::new());
        Ok(Self {
            requests,
            responses,
            decoder,
            headers: head.headers,
            trailers,
            _connection: connection,
        })
    }

    /// Sends another message of a `Chat`. `false` when the call has ended.
    pub async fn send(&self, message: &impl Message) -> bool {
        match &self.requests {
            Some(requests) => requests.data(encode(message)).await,
            None => false,
        }
    }

    /// Says that there are no more messages from this side.
    pub fn finish(&mut self) {
        self.requests = None;
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// When the stream is reset or a message is none.
    pub async fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        loop {
            if let Some(message) = self.decoder.next() {
                return message.map(Some).map_err(io::Error::other);
            }
            match self.responses.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.decoder.push(&bytes),
                    Err(frame) => self
                        .trailers
                        .extend(frame.into_trailers().unwrap_or_default()),
                },
            }
        }
    }

    /// How the call ended; to be asked after the last message.
    #[must_use]
    pub fn status(&self) -> Status {
        let all = || self.headers.iter().chain(self.trailers.iter());
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let find = |name: &'static str| {
            let name = HeaderName::from_static(name);
            all()
                .filter(|(key, _)| **key == name)
                .map(|(_, value)| text(value))
                .last()
        };
        Status {
            // No status at all is UNKNOWN.
            code: find("grpc-status")
                .and_then(|code| code.parse().ok())
                .unwrap_or(2),
            message: find("grpc-message").unwrap_or_default(),
            metadata: all()
                .map(|(name, value)| (name.as_str().to_owned(), text(value)))
                .collect(),
        }
    }
}

/// One unary call.
///
/// # Errors
/// As [`Stream::open`] and [`Stream::next`].
pub async fn get(
    address: SocketAddr,
    authority: &str,
    id: &str,
) -> io::Result<(Option<Order>, Status)> {
    let mut stream =
        Stream::open(address, authority, "Get", &GetOrder { id: id.to_owned() }).await?;
    let order = stream.next().await?;
    while stream.next::<Order>().await?.is_some() {}
    Ok((order, stream.status()))
}

/// `kith __app grpc`: a line of JSON for each message, then one for the status or the error.
///
/// # Errors
/// Only when stdout is gone.
pub(crate) async fn run(arguments: Arguments) -> io::Result<ExitCode> {
    let (line, code) = match call(&arguments).await {
        Ok(status) => (
            json!({"status": status.code, "message": status.message, "metadata": status.metadata}),
            if status.code == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            },
        ),
        Err(error) => (
            json!({"error": crate::app::client::root_cause(&error)}),
            ExitCode::FAILURE,
        ),
    };
    println!("{line}");
    Ok(code)
}

async fn call(arguments: &Arguments) -> io::Result<Status> {
    let address = arguments.url.address().await?;
    let authority = &arguments.url.authority;
    match &arguments.method {
        Rpc::Get { id } => {
            let stream =
                Stream::open(address, authority, "Get", &GetOrder { id: id.clone() }).await?;
            print_orders(stream).await
        }
        Rpc::Watch { count, interval_ms } => {
            let first = WatchOrders {
                count: *count,
                interval_ms: *interval_ms,
            };
            print_orders(Stream::open(address, authority, "Watch", &first).await?).await
        }
        Rpc::Chat { count, interval_ms } => {
            let note = |number: u64| Note {
                text: format!("note {number}"),
            };
            let mut stream = Stream::open(address, authority, "Chat", &note(0)).await?;
            let mut number = 1;
            while let Some(Note { text }) = stream.next().await? {
                println!("{}", json!({"note": text}));
                if *count != 0 && number >= *count {
                    stream.finish();
                    continue;
                }
                tokio::time::sleep(Duration::from_millis(*interval_ms)).await;
                stream.send(&note(number)).await;
                number += 1;
            }
            Ok(stream.status())
        }
    }
}

async fn print_orders(mut stream: Stream) -> io::Result<Status> {
    while let Some(order) = stream.next::<Order>().await? {
        println!(
            "{}",
            json!({"order": order.id, "state": order.state, "served_by": order.served_by, "sequence": order.sequence})
        );
    }
    Ok(stream.status())
}
