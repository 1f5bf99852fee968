//! What an exchange is given.

use std::rc::Rc;

use bytes::BytesMut;

use crate::connections::Live;
use crate::forward::again::Again;
use crate::http1::{Asked, Limits};
use crate::signal::Closing;
use crate::stream::Stream;

/// The client's end of HTTP/1.1 connections.
pub(crate) struct Downstream<'a> {
    pub(crate) stream: &'a mut Stream,
    /// Read and not yet used: the rest of this request, then the next.
    pub(crate) buffer: &'a mut BytesMut,
    pub(crate) live: &'a Rc<Live>,
}

/// What is fixed for one exchange.
pub(crate) struct Terms<'a> {
    pub(crate) asked: Asked,
    /// Fields of the answer that must not pass.
    pub(crate) remove: &'a [&'a str],
    /// The client's connection ends with this answer.
    pub(crate) close: bool,
    pub(crate) limits: &'a Limits,
    pub(crate) again: Again,
    /// Is this request still allowed? Asked when the policy changes while it is in flight.
    pub(crate) recheck: &'a dyn Fn() -> Result<(), Closing>,
}
