//! What the fuzz targets need and nobody else may use. Compiled by tests/fuzz/run alone.

use crate::correlation;

/// Ids from a caller come out well-formed, and what is sent on is read as what was recorded.
pub fn correlation(given: &[u8]) {
    let (id, new) = correlation::request_id(Some(given));
    assert!(new || id.as_str().as_bytes() == given);
    assert!(id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    assert!((1..=128).contains(&id.as_str().len()));

    let (trace, header) = correlation::trace(Some(given));
    assert!(trace.trace_id != [0; 16] && trace.span_id != [0; 8]);
    let (next, _) = correlation::trace(Some(&header));
    assert_eq!(next.trace_id, trace.trace_id);
    assert_eq!(next.parent_id, Some(trace.span_id));
}
