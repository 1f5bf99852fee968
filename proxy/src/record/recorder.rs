//! The one writer of the access log, and the bounded queues that lead to it.
//!
//! Each data worker has a [`Sink`]: a buffer that it alone fills. The writer takes whole buffers away by swapping them with
//! an empty one, at most [`COLLECT_EVERY`] after the first line went in, and writes each with one
//! write(2). A worker thus never waits for the log, unless the operator asked for [`WhenFull::Block`].

mod queue;
mod target;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use queue::Queue;
use target::Target;
use writer::Shared;

/// A record is in the log about this long after it was emitted, at the latest.
const COLLECT_EVERY: Duration = Duration::from_millis(20);

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    /// Appended to; opened anew on [`Recorder::reopen`], so that the file can be rotated.
    File(PathBuf),
    Off,
}

/// What happens to a record when the log can't keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is dropped and counted; the last quarter of the queue is kept for denials.
    #[default]
    Drop,
    /// The worker waits: no record is lost, and traffic is as slow as the log.
    Block,
}

/// The access log. Clones are handles to the same writer.
#[derive(Clone)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    when_full: WhenFull,
    log_query: bool,
    off: bool,
}

/// One worker's way into the access log.
#[derive(Clone)]
pub(crate) struct Sink {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    log_query: bool,
    off: bool,
}

impl Recorder {
    /// Opens the destination and starts the writer.
    pub(crate) fn start(
        destination: &Destination,
        when_full: WhenFull,
        log_query: bool,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let recorder = Recorder {
            shared: Arc::clone(&shared),
            when_full,
            log_query,
            off: *destination == Destination::Off,
        };
        if let Some(target) = Target::open(destination)? {
            let writer = thread::Builder::new()
                .name("kith-records".into())
                .spawn(move || writer::run(&shared, target))?;
            recorder.shared.writer_is(writer.thread().clone());
        }
        Ok(recorder)
    }

    /// A queue of its own for the calling worker.
    pub(crate) fn sink(&self) -> Sink {
        let queue = Arc::new(Queue::new(self.when_full));
        if !self.off {
            self.shared.add(&queue);
        }
        Sink {
            queue,
            shared: Arc::clone(&self.shared),
            log_query: self.log_query,
            off: self.off,
        }
    }

    /// Opens the file again under its name: call it on SIGHUP, after the old file was moved away.
    pub(crate) fn reopen(&self) {
        self.shared.ask_to_reopen();
    }

    /// Waits until everything emitted so far is written; false if that took longer than `within`. Blocks the thread.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        self.off || self.shared.flush(Instant::now() + within)
    }
}

impl Sink {
    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    pub(super) fn log_query(&self) -> bool {
        self.log_query
    }

    /// Hands over one line. Denials have room left when allowed requests no longer do.
    pub(super) fn append(&self, line: &[u8], allowed: bool) {
        match self.queue.append(line, allowed) {
            queue::Appended::First => self.shared.wake(),
            queue::Appended::HalfFull => self.shared.hurry(),
            queue::Appended::Behind => {}
            queue::Appended::Dropped => crate::telemetry::metrics::records_dropped(1),
        }
    }
}

#[cfg(test)]
mod tests;
