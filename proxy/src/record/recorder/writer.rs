//! The writer thread: sleeps until somebody has a line, lets lines gather for a moment, writes them all.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::COLLECT_EVERY;
use super::queue::{Batch, Queue};
use super::target::Target;

/// Nobody has a line.
const IDLE: u8 = 0;
/// Somebody has; let more gather.
const GATHERING: u8 = 1;
/// Somebody can't wait.
const URGENT: u8 = 2;

/// A broken log is said once in this time, not once a batch.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// How soon the writer notices that nobody is left who could ask.
const LOOK_ROUND_EVERY: Duration = Duration::from_secs(60);

/// What the workers and the writer share, beside the queues.
#[derive(Default)]
pub(super) struct Shared {
    queues: Mutex<Vec<Arc<Queue>>>,
    state: AtomicU8,
    reopen: AtomicBool,
    writer: OnceLock<Thread>,
    flushed: Mutex<Flushed>,
    flush_done: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Flushed {
    asked: u64,
    done: u64,
}

impl Shared {
    pub(super) fn writer_is(&self, thread: Thread) {
        // Set once, by the one who started it.
        let _ = self.writer.set(thread);
    }

    pub(super) fn add(&self, queue: &Arc<Queue>) {
        lock(&self.queues).push(Arc::clone(queue));
    }

    pub(super) fn wake(&self) {
        self.ask(GATHERING);
    }

    pub(super) fn hurry(&self) {
        self.ask(URGENT);
    }

    pub(super) fn ask_to_reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        self.ask(URGENT);
    }

    pub(super) fn flush(&self, deadline: Instant) -> bool {
        let mut flushed = lock(&self.flushed);
        flushed.asked += 1;
        let ticket = flushed.asked;
        drop(flushed);
        self.ask(URGENT);

        let mut flushed = lock(&self.flushed);
        while flushed.done < ticket {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            flushed = self
                .flush_done
                .wait_timeout(flushed, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// A queue whose worker is gone is listed once more, for the lines left in it.
    fn queues(&self) -> Vec<Arc<Queue>> {
        let mut queues = lock(&self.queues);
        let listed = queues.clone();
        // Two holders are this list and its copy.
        queues.retain(|queue| Arc::strong_count(queue) > 2);
        listed
    }

    /// Unparks only when that changes something: the usual line finds the writer asked already.
    fn ask(&self, how: u8) {
        if self.state.fetch_max(how, Ordering::AcqRel) < how
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }
}

/// Runs as long as there is a recorder or a sink.
pub(super) fn run(shared: &Arc<Shared>, mut target: Target) {
    let mut spare = Batch::default();
    let mut complained: Option<Instant> = None;
    loop {
        let alone = Arc::strong_count(shared) == 1;
        if !alone {
            gather(shared);
        }
        // What is asked from here on is for the next round.
        shared.state.store(IDLE, Ordering::Release);
        let asked = lock(&shared.flushed).asked;
        if shared.reopen.swap(false, Ordering::AcqRel)
            && let Err(error) = target.reopen()
        {
            tracing::error!("{error}; going on with the old file");
        }
        for queue in shared.queues() {
            queue.take(&mut spare);
            if !spare.bytes.is_empty() {
                write(&mut target, &spare, &mut complained);
            }
            spare.clear();
        }
        lock(&shared.flushed).done = asked;
        shared.flush_done.notify_all();
        if alone {
            return;
        }
    }
}

/// Sleeps until asked, then until it is time or urgent. Wakes now and then to see if anybody is left.
fn gather(shared: &Shared) {
    if shared.state.load(Ordering::Acquire) == IDLE {
        thread::park_timeout(LOOK_ROUND_EVERY);
    }
    let until = Instant::now() + COLLECT_EVERY;
    while shared.state.load(Ordering::Acquire) == GATHERING {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        thread::park_timeout(left);
    }
}

fn write(target: &mut Target, batch: &Batch, complained: &mut Option<Instant>) {
    let Err(error) = target.write(&batch.bytes) else {
        return;
    };
    crate::telemetry::metrics::records_dropped(batch.lines);
    if complained.is_none_or(|last| last.elapsed() > COMPLAIN_EVERY) {
        *complained = Some(Instant::now());
        tracing::error!(
            "{} records lost: the access log can't be written: {error}",
            batch.lines
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
