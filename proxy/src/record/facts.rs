//! What is fixed per connection, rendered once and shared by all records of it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use super::json::{Json, write_hex};
use super::meters::Meters;
use super::recorder::Sink;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// To this pod's application.
    Inbound,
    /// From it.
    Outbound,
}

impl Direction {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// The connection from the client, as it was accepted.
pub(crate) struct ConnectionFacts {
    direction: Direction,
    sink: Sink,
    /// `,"source.address":"…","destination.port":…`
    fragment: Box<[u8]>,
    /// `,"destination.address":…`, for records that know no better one.
    address: Box<[u8]>,
    /// For records without a hop.
    meters: Meters,
}

impl ConnectionFacts {
    /// `destination` is the address the client dialled. Both addresses canonical.
    pub(crate) fn new(
        sink: &Sink,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Rc<Self> {
        let mut fragment = Vec::with_capacity(96);
        let mut json = Json::fragment(&mut fragment);
        json.display("source.address", &source);
        json.number("destination.port", destination.port().into());
        let mut address = Vec::with_capacity(64);
        Json::fragment(&mut address).display("destination.address", &destination);
        Rc::new(ConnectionFacts {
            direction,
            sink: sink.clone(),
            fragment: fragment.into_boxed_slice(),
            address: address.into_boxed_slice(),
            meters: Meters::unidentified(),
        })
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    pub(super) fn fragment(&self) -> &[u8] {
        &self.fragment
    }

    pub(super) fn address(&self) -> &[u8] {
        &self.address
    }

    pub(super) fn meters(&self) -> &Meters {
        &self.meters
    }
}

/// What TLS settled on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    pub(crate) group: &'static str,
}

/// What an mTLS connection between two proxies proved. Inbound it is the client's connection, outbound the one to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HopFacts<'a> {
    /// Exporter output (RFC 8446 section 7.5), the same on both ends.
    pub(crate) id: &'a [u8; 16],
    /// The client's SVID: the peer's inbound, our own outbound.
    pub(crate) source_principal: &'a str,
    /// Serial number of the client's SVID, lower-case hex.
    pub(crate) source_serial: &'a str,
    pub(crate) source_expires: Option<SystemTime>,
    pub(crate) destination_principal: &'a str,
    /// Outbound: the endpoint connected to. Inbound: none, it is what the client dialled.
    pub(crate) destination_address: Option<SocketAddr>,
    pub(crate) tls: TlsFacts,
}

/// [`HopFacts`], rendered.
pub(crate) struct Hop {
    /// From `,"source.principal":…` on.
    fragment: Box<[u8]>,
    id: [u8; 32],
    has_address: bool,
    meters: Meters,
}

impl Hop {
    pub(crate) fn new(facts: &HopFacts<'_>) -> Rc<Self> {
        let mut fragment = Vec::with_capacity(384);
        let mut json = Json::fragment(&mut fragment);
        json.text("source.principal", facts.source_principal.as_bytes());
        json.text("source.serial", facts.source_serial.as_bytes());
        if let Some(expires) = facts.source_expires {
            json.time("source.expires", expires);
        }
        json.text(
            "destination.principal",
            facts.destination_principal.as_bytes(),
        );
        if let Some(address) = facts.destination_address {
            json.display("destination.address", &address);
        }
        json.text("tls.version", facts.tls.version.as_bytes());
        json.text("tls.cipher", facts.tls.cipher.as_bytes());
        json.text("tls.group", facts.tls.group.as_bytes());
        let mut id = [0; 32];
        write_hex(facts.id, &mut id);
        Rc::new(Hop {
            fragment: fragment.into_boxed_slice(),
            id,
            has_address: facts.destination_address.is_some(),
            meters: Meters::new(facts.source_principal, facts.destination_principal),
        })
    }

    pub(super) fn fragment(&self) -> &[u8] {
        &self.fragment
    }

    pub(super) fn id(&self) -> &[u8; 32] {
        &self.id
    }

    pub(super) fn has_address(&self) -> bool {
        self.has_address
    }

    pub(super) fn meters(&self) -> &Meters {
        &self.meters
    }
}
