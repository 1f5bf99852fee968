//! The cluster as the source of policies and workloads, in place of a folder: watched, never polled.
#![allow(dead_code)]

mod object;
pub(crate) mod verdict;
