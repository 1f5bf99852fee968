//! The cluster as the source of policies and workloads, in place of a folder: watched, never polled.

#[allow(
    dead_code,
    reason = "written and read by the parts of this module that follow"
)]
pub(crate) mod verdict;
