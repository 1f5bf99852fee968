//! The cluster as the source of policies and workloads, in place of a folder: watched, never polled.
#![allow(dead_code, unused_imports)]

mod client;
mod conditions;
mod documents;
mod heard;
mod kind;
mod leader;
mod object;
mod operate;
mod permission;
mod read;
mod replicas;
mod substitute;
pub(crate) mod verdict;
mod watch;
