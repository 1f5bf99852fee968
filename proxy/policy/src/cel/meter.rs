//! What an evaluation may cost: the second line of defence behind the static bound, which assumes sizes.

use std::cell::Cell;

use super::error::EvalError;

/// What one evaluation may cost, in steps: each operation, element or 16 bytes looked at is one.
/// About a third of a millisecond's work.
pub(super) const MAX_COST: u64 = 100_000;

/// How deep values that are compared may nest.
const MAX_VALUE_DEPTH: u32 = 64;

pub(super) struct Meter {
    left: Cell<u64>,
    depth: Cell<u32>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            left: Cell::new(MAX_COST),
            depth: Cell::new(0),
        }
    }

    pub(super) fn spend(&self, steps: u64) -> Result<(), EvalError> {
        match self.left.get().checked_sub(steps) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(EvalError::Cost(MAX_COST))
            }
        }
    }

    pub(super) fn spend_bytes(&self, bytes: usize) -> Result<(), EvalError> {
        self.spend(steps(bytes as u64))
    }

    /// One level deeper into values inside values.
    pub(super) fn nested<T>(
        &self,
        compare: impl FnOnce() -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        if self.depth.get() == MAX_VALUE_DEPTH {
            return Err(EvalError::TooDeep);
        }
        self.depth.set(self.depth.get() + 1);
        let compared = compare();
        self.depth.set(self.depth.get() - 1);
        compared
    }

    #[cfg(test)]
    pub(super) fn spent(&self) -> u64 {
        MAX_COST - self.left.get()
    }
}

/// What looking at so many bytes costs.
pub(super) fn steps(bytes: u64) -> u64 {
    bytes / 16
}
