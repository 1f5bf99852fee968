//! What stays open while policies change and SVIDs are replaced.

use std::time::Duration;

use rustix::process::Signal;

use super::{Failure, expect};
use crate::demo::mesh::EVENTS;
use crate::lab::{Process, Workload};

/// A gRPC stream and an opaque connection from `web` to `orders`.
#[derive(Debug)]
pub(crate) struct Lasting {
    stream: Process,
    feed: Process,
}

impl Lasting {
    pub(super) async fn open(web: &Workload) -> Result<Self, Failure> {
        let stream = web
            .app(&[
                "grpc",
                "http://orders.shop:9090",
                "watch",
                "--count",
                "0",
                "--interval-ms",
                "200",
            ])
            .await?;
        let target = format!("orders.shop:{EVENTS}");
        let feed = web
            .app(&["hold", &target, "--say", "hello", "--every-ms", "200"])
            .await?;
        stream.says("order").await?;
        feed.says("\"open\":1").await?;
        Ok(Self { stream, feed })
    }

    /// Neither has ended.
    pub(super) fn check_alive(&self) -> Result<(), Failure> {
        for (name, process) in [("gRPC stream", &self.stream), ("event feed", &self.feed)] {
            expect(process.ended().is_none(), || {
                format!("the {name} ended: {}{}", process.stdout(), process.stderr())
            })?;
        }
        Ok(())
    }

    pub(super) async fn close(self) -> Result<(), Failure> {
        for process in [&self.stream, &self.feed] {
            process.signal(Signal::TERM)?;
            process.wait(Duration::from_secs(5)).await?;
        }
        Ok(())
    }
}
