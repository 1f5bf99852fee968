//! The texts of a record that a caller chooses, copied as they are into one buffer that is used again and again.

use std::cell::RefCell;
use std::ops::Range;

/// A buffer larger than this is given back to the allocator.
const LARGEST_KEPT: usize = 16 * 1024;
/// Enough for the requests in flight on one worker of a busy sidecar.
const BUFFERS_KEPT: usize = 256;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

type Slot = Range<u32>;

#[derive(Default)]
pub(super) struct Texts {
    buffer: Vec<u8>,
    method: Slot,
    authority: Slot,
    path: Slot,
    request_id: Slot,
    tls_error: Slot,
}

impl Texts {
    pub(super) fn set_method(&mut self, value: &[u8]) {
        self.method = self.append(&[value]);
    }

    pub(super) fn set_authority(&mut self, value: &[u8]) {
        self.authority = self.append(&[value]);
    }

    pub(super) fn set_path(&mut self, path: &[u8], query: Option<&[u8]>) {
        self.path = match query {
            Some(query) => self.append(&[path, b"?", query]),
            None => self.append(&[path]),
        };
    }

    pub(super) fn set_request_id(&mut self, value: &[u8]) {
        self.request_id = self.append(&[value]);
    }

    pub(super) fn set_tls_error(&mut self, value: &[u8]) {
        self.tls_error = self.append(&[value]);
    }

    pub(super) fn method(&self) -> &[u8] {
        self.at(&self.method)
    }

    pub(super) fn authority(&self) -> &[u8] {
        self.at(&self.authority)
    }

    pub(super) fn path(&self) -> &[u8] {
        self.at(&self.path)
    }

    pub(super) fn request_id(&self) -> &[u8] {
        self.at(&self.request_id)
    }

    pub(super) fn tls_error(&self) -> &[u8] {
        self.at(&self.tls_error)
    }

    fn append(&mut self, parts: &[&[u8]]) -> Slot {
        if self.buffer.capacity() == 0 {
            self.buffer = BUFFERS
                .try_with(|buffers| buffers.borrow_mut().pop())
                .ok()
                .flatten()
                .unwrap_or_else(|| Vec::with_capacity(256));
        }
        let start = self.buffer.len();
        parts
            .iter()
            .for_each(|part| self.buffer.extend_from_slice(part));
        // Texts come from message heads, which are far smaller than 4 GiB; a slot that is not is left empty.
        match (u32::try_from(start), u32::try_from(self.buffer.len())) {
            (Ok(start), Ok(end)) => start..end,
            _ => 0..0,
        }
    }

    fn at(&self, slot: &Slot) -> &[u8] {
        self.buffer
            .get(slot.start as usize..slot.end as usize)
            .unwrap_or_default()
    }
}

impl Drop for Texts {
    fn drop(&mut self) {
        if self.buffer.capacity() == 0 || self.buffer.capacity() > LARGEST_KEPT {
            return;
        }
        self.buffer.clear();
        let buffer = std::mem::take(&mut self.buffer);
        // Only a thread that is being torn down keeps no buffers any more.
        let _ = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < BUFFERS_KEPT {
                buffers.push(buffer);
            }
        });
    }
}
