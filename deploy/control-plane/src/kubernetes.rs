//! The cluster as the source of policies and workloads, in place of a folder: watched, never polled.
