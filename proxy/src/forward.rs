//! Moving bytes, requests and answers between the two ends, once a permit and a route are there.

pub(crate) mod again;
pub(crate) mod balance;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod http2_server;
pub(crate) mod pool;
pub(crate) mod pump;
pub(crate) mod tcp;
pub(crate) mod unreachable;
