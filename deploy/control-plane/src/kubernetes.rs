//! The cluster as the source of policies and workloads, in place of a folder: watched, never polled.
#![allow(dead_code)]

mod conditions;
mod heard;
mod leader;
mod object;
mod operate;
mod replicas;
pub(crate) mod verdict;
