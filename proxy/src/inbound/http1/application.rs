//! The application's end of HTTP/1.1 requests.

use std::time::Instant;

use bytes::BytesMut;

use crate::forward::client::Client;
use crate::forward::connect::connect;
use crate::forward::pool::Upstream;
use crate::stream::{Socket, Stream};
use crate::worker::Worker;

/// The application's own connection, kept as long as the client's.
#[derive(Default)]
pub(super) struct Application {
    pub(super) upstream: Option<Upstream>,
}

impl Application {
    /// The connection that served the last request, when it still stands, else a new one.
    pub(super) async fn connection(
        &mut self,
        worker: &Worker,
        client: &Client,
    ) -> std::io::Result<Upstream> {
        if let Some(mut kept) = self.upstream.take()
            && kept.is_reusable()
        {
            return Ok(kept);
        }
        let address = client.live.destination;
        let started = Instant::now();
        let tcp = connect(address, worker.mark()).await?;
        tracing::trace!(%address, took = ?started.elapsed(), "connected to the application");
        Ok(Upstream {
            stream: Stream::Plain(Socket::new(tcp)),
            address: None,
            live: None,
            mesh: None,
            itself: false,
            requests: 0,
            buffer: BytesMut::new(),
        })
    }
}
