//! The cluster as the source of policies and workloads, in place of a folder: watched, never polled.
#![allow(dead_code, unused_imports)]

mod client;
mod documents;
mod kind;
mod object;
mod permission;
mod read;

mod substitute;
pub(crate) mod verdict;
mod watch;
