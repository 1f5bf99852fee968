//! Kith in a cluster: a real etcd and a real API server; the harness plays the node.

#![allow(clippy::unwrap_used, reason = "tests")]

mod churn;
mod crd;
mod documents;
mod harness;
mod impostors;
mod injection;
mod istio;
mod outage;
mod rotation;
mod shop;
mod story;
