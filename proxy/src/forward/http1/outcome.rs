//! How an exchange ended, and what the record wants to know of it.

use std::io;
use std::time::Duration;

use kith_policy::Reason;

use crate::http1::ParseError;
use crate::record::Record;
use crate::signal::Closing;

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered {
        /// Both connections can take another request.
        client_reusable: bool,
        server_reusable: bool,
    },
    /// 101, or 2xx to CONNECT: what follows is opaque.
    Switched,
    /// No answer came, or one that says that this server is not the one, and the request may be sent once more, as the
    /// terms have it. The client's bytes are where they were.
    Unsent(Broken),
    /// The request could not be sent, or no answer came. Nothing reached the client.
    NoAnswer(Broken),
    /// Failed when part of the answer had been sent.
    Cut(Broken),
    /// The client broke its own request. An answer is due when none has begun.
    BadRequest {
        error: ParseError,
        answered: bool,
    },
    ClientGone(io::Error),
    Asked(Closing),
}

#[derive(Debug)]
pub(crate) enum Broken {
    Io(io::Error),
    /// The server's answer is not HTTP.
    Malformed(ParseError),
    /// The server's proxy has no application for it.
    Refused,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(error) => error.fmt(f),
            Broken::Refused => f.write_str("its application is gone"),
            Broken::Malformed(error) => write!(f, "its answer is not HTTP/1.1: {error}"),
        }
    }
}

/// Facts of the answer, for the record.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: Option<u16>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// The reason that the server's own proxy gave.
    pub(crate) reason: Option<Reason>,
}

impl Answer {
    pub(crate) fn record(&self, record: &mut Record) {
        record.status = self.status;
        record.upstream = self.first_byte;
        record.bytes_in = self.bytes_in;
        record.bytes_out = self.bytes_out;
    }
}
