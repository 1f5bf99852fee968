//! Makes `:authority` acceptable. gRPC's C core, and with it py-spiffe, sends the percent-encoded path of a Unix
//! socket there: a valid reg-name (RFC 3986 section 3.2.2) that the `http` crate refuses all the same, so that `h2`
//! answers every call with PROTOCOL_ERROR. On a Unix socket it means nothing; here a short name takes its place
//! before `h2` sees it.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// RFC 9113 section 3.4.
const PREFACE: usize = 24;
/// RFC 9113 section 4.1.
const FRAME_HEAD: usize = 9;
/// What a peer may send unless it is told otherwise (RFC 9113 section 4.2).
const LONGEST_FRAME: usize = 16_384;
/// RFC 9113 section 6.2.
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// RFC 7541 appendix A.
const NAME: &[u8] = b":authority";
const NAME_INDEX: usize = 1;
/// A string literal, not Huffman-coded: "u". It is never longer than what it replaces, so that the decoder's dynamic
/// table never evicts an entry that the client's still has (RFC 7541 section 4.4).
const STAND_IN: [u8; 2] = [1, b'u'];

/// A client's connection; what it sends is read with another `:authority`.
pub(super) struct AnyAuthority {
    stream: UnixStream,
    /// Received, and not a whole frame yet.
    received: BytesMut,
    /// To be read.
    ready: BytesMut,
    /// So many bytes more go on as they came.
    as_is: usize,
}

impl AnyAuthority {
    pub(super) fn new(stream: UnixStream) -> AnyAuthority {
        AnyAuthority {
            stream,
            received: BytesMut::new(),
            ready: BytesMut::new(),
            as_is: PREFACE,
        }
    }

    fn sort(&mut self) {
        while !self.received.is_empty() {
            if self.as_is > 0 {
                let now = self.as_is.min(self.received.len());
                self.ready.unsplit(self.received.split_to(now));
                self.as_is -= now;
                continue;
            }
            let &[a, b, c, kind, ..] = &self.received[..] else {
                return;
            };
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            // One that is too long is for `h2` to refuse.
            if kind != HEADERS || length > LONGEST_FRAME {
                self.as_is = FRAME_HEAD + length;
            } else if self.received.len() >= FRAME_HEAD + length {
                let mut frame = self.received.split_to(FRAME_HEAD + length);
                replace(&mut frame);
                self.ready.unsplit(frame);
            } else {
                return;
            }
        }
    }
}

/// Puts the stand-in into a HEADERS frame. One without a literal `:authority` stays as it is.
fn replace(frame: &mut BytesMut) {
    let Some(value) = value_in(frame) else { return };
    let rest = frame.split_off(value.end);
    frame.truncate(value.start);
    frame.extend_from_slice(&STAND_IN);
    frame.extend_from_slice(&rest);
    let length = u32::try_from(frame.len() - FRAME_HEAD).unwrap_or(0);
    frame[..3].copy_from_slice(&length.to_be_bytes()[1..]);
}

fn value_in(frame: &[u8]) -> Option<Range<usize>> {
    let flags = *frame.get(4)?;
    let mut start = FRAME_HEAD;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let value = value_in_block(frame.get(start..end)?)?;
    Some(start + value.start..start + value.end)
}

/// The string literal that is the value of `:authority`, with its length (RFC 7541 section 6).
fn value_in_block(block: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    while at < block.len() {
        let (prefix, literal) = match block[at] {
            // Sections 6.1, 6.2.1, 6.3; 6.2.2 and 6.2.3.
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (index, next) = integer(block, at, prefix)?;
        at = next;
        if !literal {
            continue;
        }
        let mut ours = index == NAME_INDEX;
        if index == 0 {
            let name = string(block, at)?;
            ours = block[name.clone()] == *NAME;
            at = name.end;
        }
        let value = string(block, at)?;
        if ours {
            return (!value.is_empty()).then_some(at..value.end);
        }
        at = value.end;
    }
    None
}

/// RFC 7541 section 5.2: where the string's bytes are, Huffman-coded or not.
fn string(block: &[u8], at: usize) -> Option<Range<usize>> {
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length)?;
    (end <= block.len()).then_some(start..end)
}

/// RFC 7541 section 5.1: the number, and where what follows it starts.
fn integer(block: &[u8], at: usize, prefix: u32) -> Option<(usize, usize)> {
    let full = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(at)?) & full;
    let mut at = at + 1;
    if value < full {
        return Some((value, at));
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(at)?;
        at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

impl AsyncRead for AnyAuthority {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.ready.is_empty() {
            let mut buffer = [0; 8 * 1024];
            let mut read = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                // Cut off in the middle of a frame, if anything is left.
                return Poll::Ready(Ok(()));
            }
            self.received.extend_from_slice(read.filled());
            self.sort();
        }
        let now = self.ready.len().min(out.remaining());
        out.put_slice(&self.ready[..now]);
        self.ready.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AnyAuthority {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for AnyAuthority {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(flags: u8, payload: &[u8]) -> BytesMut {
        let mut frame = BytesMut::from(
            &[
                0,
                0,
                u8::try_from(payload.len()).unwrap(),
                HEADERS,
                flags,
                0,
                0,
                0,
                1,
            ][..],
        );
        frame.extend_from_slice(payload);
        frame
    }

    #[track_caller]
    fn check(flags: u8, payload: &[u8], expected: &[u8]) {
        let mut frame = headers(flags, payload);
        replace(&mut frame);
        assert_eq!(frame, headers(flags, expected));
    }

    #[test]
    fn every_form_of_a_literal_authority_is_replaced() {
        let method = b"\x83";
        for form in [&b"\x41"[..], b"\x01", b"\x11", b"\x40\x0a:authority"] {
            let before = [method, form, b"\x05a%2Fb", b"\x86"].concat();
            let after = [method, form, b"\x01u", b"\x86"].concat();
            check(0x4, &before, &after);
        }
        // After other literals, a size update, and in a long form; Huffman-coded.
        let other = b"\x3f\xe1\x1f\x40\x01x\x01y\x04\x01/";
        let long = [b"\x41\x7f\x01", &[b'a'; 128][..]].concat();
        check(
            0x4,
            &[other, &long[..]].concat(),
            &[other, &b"\x41\x01u"[..]].concat(),
        );
        check(0x4, b"\x41\x83\x1d\x2e\x3f", b"\x41\x01u");
    }

    #[test]
    fn padding_and_priority_stay() {
        check(
            0x2c,
            b"\x02\0\0\0\0\x10\x41\x03a%b\0\0",
            b"\x02\0\0\0\0\x10\x41\x01u\0\0",
        );
    }

    #[test]
    fn what_has_no_literal_authority_stays() {
        for payload in [
            &b""[..],
            b"\x83\x86",
            b"\xbe",
            b"\x41\x00",
            b"\x41\x05ab",
            b"\x41",
            b"\x7f\xff\xff\xff\xff\xff\x01",
        ] {
            check(0x4, payload, payload);
        }
        check(0xc, b"\xff", b"\xff");
    }

    #[tokio::test]
    async fn frames_pass_whatever_the_pieces_they_come_in() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        let mut expected = sent.clone();
        let data = b"\0\0\x06\0\x01\0\0\0\x01\x41\x03a%b\0";
        for _ in 0..2 {
            sent.extend_from_slice(&headers(0x4, b"\x41\x03a%b"));
            expected.extend_from_slice(&headers(0x4, b"\x41\x01u"));
            sent.extend_from_slice(data);
            expected.extend_from_slice(data);
        }
        for piece in [1, 7, 1000] {
            let (mut client, server) = UnixStream::pair().unwrap();
            let sent = sent.clone();
            let say = tokio::spawn(async move {
                for piece in sent.chunks(piece) {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let mut heard = Vec::new();
            AnyAuthority::new(server)
                .read_to_end(&mut heard)
                .await
                .unwrap();
            say.await.unwrap();
            assert_eq!(heard, expected, "in pieces of {piece}");
        }
    }
}
