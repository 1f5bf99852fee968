//! One worker's lines on their way to the writer: bounded, filled by one, emptied whole by the other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::WhenFull;

/// A quarter of a second of a stalled disk, at 24,000 requests a second of 700 bytes each.
pub(super) const CAPACITY: usize = 4 * 1024 * 1024;
/// What requests that were allowed may fill; the rest is for denials.
pub(super) const FOR_ALLOWED: usize = CAPACITY / 4 * 3;
/// A buffer is given back to the allocator when it is larger than this and was mostly empty.
const LARGEST_IDLE: usize = 64 * 1024;

/// Lines that belong together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

pub(super) struct Queue {
    filling: Mutex<Batch>,
    room: Condvar,
    when_full: WhenFull,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// Nothing was waiting: the writer may be asleep.
    First,
    Behind,
    /// The writer should come now, not when its time is due.
    HalfFull,
    Dropped,
}

impl Queue {
    pub(super) fn new(when_full: WhenFull) -> Self {
        Queue {
            filling: Mutex::default(),
            room: Condvar::new(),
            when_full,
        }
    }

    pub(super) fn append(&self, line: &[u8], allowed: bool) -> Appended {
        let limit = if allowed { FOR_ALLOWED } else { CAPACITY };
        let mut batch = self.lock();
        while batch.bytes.len() + line.len() > limit {
            if self.when_full == WhenFull::Drop {
                return Appended::Dropped;
            }
            batch = self
                .room
                .wait(batch)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let before = batch.bytes.len();
        batch.bytes.extend_from_slice(line);
        batch.lines += 1;
        if before == 0 {
            Appended::First
        } else if before < CAPACITY / 2 && batch.bytes.len() >= CAPACITY / 2 {
            Appended::HalfFull
        } else {
            Appended::Behind
        }
    }

    /// Takes everything away and leaves `empty` to be filled.
    pub(super) fn take(&self, empty: &mut Batch) {
        let mut batch = self.lock();
        std::mem::swap(&mut *batch, empty);
        drop(batch);
        self.room.notify_all();
    }

    /// Uncontended but for the moment of a swap. A poisoned lock is no reason to lose records: appending
    /// to a buffer has no half-way state.
    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    pub(super) fn clear(&mut self) {
        if self.bytes.capacity() > LARGEST_IDLE && self.bytes.len() < self.bytes.capacity() / 16 {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.lines = 0;
    }
}
