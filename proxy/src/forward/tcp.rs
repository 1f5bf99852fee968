//! Opaque bytes, both ways, until one side ends it, fails, or the registry says so.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use kith_policy::Reason;

use crate::authorize::Permit;
use crate::connections::Live;
use crate::forward::pump::{Broken, Pump};
use crate::record::{ClosedBy, Record};
use crate::signal::{Ask, Closing};
use crate::stream::Stream;

/// How long one direction may stay silent after the other has ended.
const HALF_CLOSED: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) from_client: u64,
    pub(crate) from_server: u64,
    pub(crate) end: End,
}

#[derive(Debug)]
pub(crate) enum End {
    /// Both directions ended in good order; the client ended first, or the server.
    ClientFirst,
    ServerFirst,
    ClientFailed(io::Error),
    ServerFailed(io::Error),
    Asked(Closing),
}

impl Relayed {
    pub(crate) fn record(&self, record: &mut Record) {
        record.bytes_in = self.from_client;
        record.bytes_out = self.from_server;
        match &self.end {
            End::ClientFirst => record.closed_by = Some(ClosedBy::Client),
            End::ServerFirst => record.closed_by = Some(ClosedBy::Server),
            End::ClientFailed(error) => {
                tracing::debug!(%error, "the client's side of opaque bytes failed");
                record.closed_by = Some(ClosedBy::Client);
            }
            End::ServerFailed(error) => {
                tracing::debug!(%error, "the server's side of opaque bytes failed");
                record.closed_by = Some(ClosedBy::Server);
            }
            End::Asked(closing) => closing.record(record),
        }
    }
}

/// Each side comes with what it already said. A reset at one end is a reset at the other, an end is an end.
/// `recheck` says whether a change of policy ends it.
pub(crate) async fn relay(
    _permit: &Permit,
    live: &Live,
    client: (&mut Stream, BytesMut),
    server: (&mut Stream, BytesMut),
    recheck: &dyn Fn() -> Result<(), Closing>,
) -> Relayed {
    let ((client, from_client), (server, from_server)) = (client, server);
    let mut up = Pump::new(from_client);
    let mut down = Pump::new(from_server);
    let mut client_first = None;
    let end = poll_fn(|context| {
        loop {
            match live.signal.poll(context) {
                Poll::Ready(Ask::Close(closing)) => return Poll::Ready(End::Asked(closing)),
                Poll::Ready(Ask::Recheck(barrier)) => {
                    if let Err(closing) = recheck() {
                        live.signal.hold(barrier);
                        return Poll::Ready(End::Asked(closing));
                    }
                }
                // Opaque bytes have no boundary at which they could be drained: they go on until the deadline.
                Poll::Ready(Ask::Drain) => {}
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(broken)) = up.poll(context, client, server) {
            return Poll::Ready(match broken {
                Broken::Source(error) => End::ClientFailed(error),
                Broken::Destination(error) => End::ServerFailed(error),
            });
        }
        if let Poll::Ready(Err(broken)) = down.poll(context, server, client) {
            return Poll::Ready(match broken {
                Broken::Source(error) => End::ServerFailed(error),
                Broken::Destination(error) => End::ClientFailed(error),
            });
        }
        match (up.ended(), down.ended()) {
            (true, true) if client_first == Some(false) => return Poll::Ready(End::ServerFirst),
            (true, true) => return Poll::Ready(End::ClientFirst),
            (false, false) => {}
            (client_ended, _) => {
                client_first.get_or_insert(client_ended);
                live.wait_for(HALF_CLOSED, Reason::Timeout);
            }
        }
        Poll::Pending
    })
    .await;
    let end = match (end, live.cut_off()) {
        (End::ClientFailed(_) | End::ServerFailed(_), Some(closing)) => End::Asked(closing),
        (end, _) => end,
    };
    if !matches!(end, End::ClientFirst | End::ServerFirst) {
        client.reset_on_close();
        server.reset_on_close();
    }
    Relayed {
        from_client: up.bytes(),
        from_server: down.bytes(),
        end,
    }
}
