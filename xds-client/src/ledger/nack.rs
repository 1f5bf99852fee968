//! The text of a NACK.

use super::{Rejection, rpc};

/// A person reads this in the control plane's status; a thousand bad resources say no more than the first few.
const MAX_REASONS: usize = 20;

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

pub(super) fn nack(message: String) -> rpc::Status {
    rpc::Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// One `name: field: message` per rejection, separated by `; `. None if nothing was rejected.
pub(super) fn reason(rejections: &[Rejection]) -> Option<String> {
    let shown = rejections.iter().take(MAX_REASONS).map(ToString::to_string);
    let mut reason = shown.collect::<Vec<String>>().join("; ");
    if let Some(more) = rejections
        .len()
        .checked_sub(MAX_REASONS)
        .filter(|more| *more > 0)
    {
        reason.push_str(&format!("; and {more} more"));
    }
    (!rejections.is_empty()).then_some(reason)
}
