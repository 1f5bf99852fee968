//! gRPC by hand, over HTTP/2: what a gRPC library puts on the wire and nothing else (gRPC over HTTP/2,
//! `PROTOCOL-HTTP2.md`), so that it shows whether a proxy keeps streams, trailers and flow control as they are.
//!
//! ```proto
//! package kith.demo;
//! service Orders {
//!   rpc Get(GetOrder) returns (Order);
//!   rpc Watch(WatchOrders) returns (stream Order);
//!   rpc Chat(stream Note) returns (stream Note);
//! }
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

pub mod client;
pub mod server;

/// `message GetOrder { string id = 1; }`. The id `missing` is answered with NOT_FOUND.
#[derive(Clone, PartialEq, Message)]
pub struct GetOrder {
    /// Which order.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `message WatchOrders { uint32 count = 1; uint32 interval_ms = 2; }`
#[derive(Clone, PartialEq, Message)]
pub struct WatchOrders {
    /// How many orders to send; 0 = no end.
    #[prost(uint32, tag = "1")]
    pub count: u32,
    /// Milliseconds between two.
    #[prost(uint32, tag = "2")]
    pub interval_ms: u32,
}

/// `message Order { string id = 1; string state = 2; string served_by = 3; uint64 sequence = 4; }`
#[derive(Clone, PartialEq, Message)]
pub struct Order {
    /// Which order.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its state.
    #[prost(string, tag = "2")]
    pub state: String,
    /// The application that answered.
    #[prost(string, tag = "3")]
    pub served_by: String,
    /// Place in the stream, from 0.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
}

/// `message Note { string text = 1; }`
#[derive(Clone, PartialEq, Message)]
pub struct Note {
    /// Sent back as it came.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// A message with its prefix: not compressed, length.
fn encode(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    // A BytesMut grows as needed, so that encoding cannot fail.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// Takes whole messages out of bytes that come in any pieces.
#[derive(Debug, Default)]
struct Decoder(BytesMut);

impl Decoder {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message, `None` when more bytes are needed.
    fn next<M: Message + Default>(&mut self) -> Option<Result<M, String>> {
        let mut prefix = self.0.get(..5)?;
        let compressed = prefix.get_u8();
        let length = usize::try_from(prefix.get_u32()).ok()?;
        if self.0.len() < 5 + length {
            return None;
        }
        self.0.advance(5);
        let message = self.0.split_to(length).freeze();
        if compressed != 0 {
            return Some(Err("compressed although nobody agreed to it".to_owned()));
        }
        Some(M::decode(message).map_err(|error| error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_any_pieces() {
        let notes = ["one", "", "three"].map(|text| Note {
            text: text.to_owned(),
        });
        let bytes: Vec<u8> = notes
            .iter()
            .flat_map(|note| encode(note).to_vec())
            .collect();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(note) = decoder.next::<Note>() {
                    found.push(note.unwrap());
                }
            }
            assert_eq!(found, notes, "in pieces of {size}");
        }
    }
}
