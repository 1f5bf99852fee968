//! A message body as it passes: where it ends, and that it is well-formed up to there.

use std::sync::Arc;

use super::chunked::Chunked;
use super::{Framing, ParseError};

/// Validates a body in whatever pieces it comes. The bytes it consumes are to be forwarded as they
/// are; after an error nothing more is, and the connection closes.
#[derive(Debug)]
pub struct Body {
    state: State,
    payload: u64,
}

#[derive(Debug)]
enum State {
    Length { remaining: u64 },
    Chunked(Chunked),
    UntilClose,
    Failed(ParseError),
}

/// What [`Body::advance`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Leading bytes that belong to this body, framing and trailers included. Less than what was
    /// given only when the body is done: what follows belongs to the next message.
    pub consumed: usize,
    pub done: bool,
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Length { remaining: 0 },
            Framing::Length(remaining) => State::Length { remaining },
            Framing::Chunked => State::Chunked(Chunked::default()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, payload: 0 }
    }

    /// Trailers can't bring these fields either: names in lower case, with `-` for `_`.
    #[must_use]
    pub fn guarding(mut self, names: Option<Arc<[String]>>) -> Self {
        if let State::Chunked(chunked) = &mut self.state {
            chunked.guard(names);
        }
        self
    }

    pub fn advance(&mut self, data: &[u8]) -> Result<Progress, ParseError> {
        let consumed = match &mut self.state {
            State::Length { remaining } => {
                let take = data
                    .len()
                    .min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= take as u64;
                self.payload += take as u64;
                take
            }
            State::Chunked(chunked) => match chunked.advance(data, &mut self.payload) {
                Ok(consumed) => consumed,
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            },
            State::UntilClose => {
                self.payload += data.len() as u64;
                data.len()
            }
            State::Failed(error) => return Err(*error),
        };
        Ok(Progress {
            consumed,
            done: self.is_done(),
        })
    }

    /// Whether the body is over. One that ends with the connection never says so by itself.
    pub fn is_done(&self) -> bool {
        match &self.state {
            State::Length { remaining } => *remaining == 0,
            State::Chunked(chunked) => chunked.is_done(),
            State::UntilClose | State::Failed(_) => false,
        }
    }

    /// Whether the body may end here with the connection.
    pub fn on_eof(&self) -> Result<(), ParseError> {
        match &self.state {
            State::Failed(error) => Err(*error),
            State::UntilClose => Ok(()),
            _ if self.is_done() => Ok(()),
            _ => Err(ParseError::Truncated),
        }
    }

    /// Content bytes so far, without chunk framing and trailers.
    pub fn payload_bytes(&self) -> u64 {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    enum Outcome {
        /// Bytes consumed, bytes of content.
        Done(usize, u64),
        Unfinished(u64),
        Refused(ParseError),
    }

    fn run<'a>(framing: Framing, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut body = Body::new(framing);
        let mut consumed = 0;
        for piece in pieces {
            match body.advance(piece) {
                Ok(progress) => {
                    consumed += progress.consumed;
                    if progress.done {
                        assert_eq!(body.on_eof(), Ok(()));
                        return Outcome::Done(consumed, body.payload_bytes());
                    }
                    assert_eq!(progress.consumed, piece.len());
                }
                Err(error) => {
                    assert_eq!(body.advance(b"0\r\n\r\n"), Err(error), "stays refused");
                    assert_eq!(body.on_eof(), Err(error));
                    return Outcome::Refused(error);
                }
            }
        }
        Outcome::Unfinished(body.payload_bytes())
    }

    /// Whole and byte by byte.
    fn check(framing: Framing, data: &[u8], expected: &Outcome) {
        let shown = String::from_utf8_lossy(data);
        assert_eq!(&run(framing, [data]), expected, "whole: {shown:?}");
        assert_eq!(&run(framing, data.chunks(1)), expected, "cut: {shown:?}");
    }

    #[test]
    fn ends_bodies_where_their_framing_says() {
        let mut none = Body::new(Framing::None);
        assert!(none.is_done());
        assert_eq!(
            none.advance(b"GET").unwrap(),
            Progress {
                consumed: 0,
                done: true
            }
        );
        check(Framing::Length(5), b"helloGET /", &Outcome::Done(5, 5));
        check(Framing::Length(5), b"hell", &Outcome::Unfinished(4));
        check(Framing::UntilClose, b"anything", &Outcome::Unfinished(8));
        for (data, consumed, payload) in [
            ("0\r\n\r\nGET /", 5, 0),
            ("5\r\nhello\r\n0\r\n\r\n", 15, 5),
            ("A\r\n0123456789\r\n00\r\n\r\nx", 21, 10),
            ("0000000000000001\r\nx\r\n0\r\n\r\n", 26, 1),
            ("1;a\r\nx\r\n0;b=c;d=\"e\\\";\"\r\n\r\n", 26, 1),
            (
                "0\r\nx-checksum: 1\r\nempty:\r\ngrpc-status:\t0 \r\n\r\n",
                45,
                0,
            ),
        ] {
            check(
                Framing::Chunked,
                data.as_bytes(),
                &Outcome::Done(consumed, payload),
            );
        }
    }

    #[test]
    fn row_08_refuses_bodies_that_end_early() {
        for (framing, data) in [
            (Framing::Length(5), "hell"),
            (Framing::Chunked, ""),
            (Framing::Chunked, "5\r\nhello\r\n"),
            (Framing::Chunked, "0\r\n"),
            (Framing::Chunked, "0\r\n\r"),
        ] {
            let mut body = Body::new(framing);
            body.advance(data.as_bytes()).unwrap();
            assert_eq!(body.on_eof(), Err(ParseError::Truncated), "{data:?}");
        }
        assert_eq!(Body::new(Framing::UntilClose).on_eof(), Ok(()));
    }

    #[test]
    fn row_08_refuses_malformed_chunks() {
        use ParseError::*;
        for (data, error) in [
            ("\r\n", ChunkSize),
            ("+5\r\nhello", ChunkSize),
            ("-5\r\nhello", ChunkSize),
            ("0x5\r\nhello", ChunkSize),
            (" 5\r\nhello", ChunkSize),
            ("5 \r\nhello", ChunkSize),
            ("5\t\r\nhello", ChunkSize),
            ("5_0\r\nhello", ChunkSize),
            ("g\r\n", ChunkSize),
            (";a\r\n", ChunkSize),
            ("8000000000000000\r\n", ChunkSize),
            ("ffffffffffffffff\r\n", ChunkSize),
            ("10000000000000000\r\n", ChunkSize),
            ("00000000000000005\r\nhello", ChunkSize),
            ("5\nhello\r\n", LineBreak),
            ("5\r\r\nhello", LineBreak),
            ("5\rhello", LineBreak),
            ("5\r\nhelloX\r\n", ChunkEnd),
            ("5\r\nhello\n0\r\n", ChunkEnd),
            ("5\r\nhello\rX", ChunkEnd),
            ("5\r\nhello0\r\n\r\n", ChunkEnd),
            ("0\r\n\n", LineBreak),
            ("0\r\n\rX", LineBreak),
            ("0\r\n\r\r\n", LineBreak),
            ("0\n\r\n", LineBreak),
        ] {
            check(Framing::Chunked, data.as_bytes(), &Outcome::Refused(error));
        }
    }

    #[test]
    fn row_08_refuses_malformed_chunk_extensions() {
        use ParseError::*;
        for (data, error) in [
            ("5;\r\n", ChunkExtension),
            ("5;;a\r\n", ChunkExtension),
            ("5;a=\r\n", ChunkExtension),
            ("5; a\r\n", ChunkExtension),
            ("5;a b\r\n", ChunkExtension),
            ("5;a=\"b\r\n", ChunkExtension),
            ("5;a=\"b\\\r\n", ChunkExtension),
            ("5;a=\"b\"c\r\n", ChunkExtension),
            ("5;a=\"\u{1}\"\r\n", ChunkExtension),
            ("5;=b\r\n", ChunkExtension),
            ("5;a\nhello", LineBreak),
            ("5;a=b\nhello", LineBreak),
            ("5;\nxx\r\n4c\r\n", LineBreak),
            ("5;a=\"\n\"\r\n", LineBreak),
            ("5;a\rxx\r\n", LineBreak),
        ] {
            check(Framing::Chunked, data.as_bytes(), &Outcome::Refused(error));
        }
    }

    #[test]
    fn row_07_refuses_trailers_that_frame_route_or_identify() {
        for name in [
            "Host",
            "content-length",
            "Content_Length",
            "Transfer-Encoding",
            "Connection",
            "TE",
            "Trailer",
            "Authorization",
            "Cookie",
            "Set-Cookie",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "X-Forwarded-Something-That-Is-Longer-Than-The-Kept-Part",
            "X-Kith-Reason",
            "Forwarded",
            "X-Request-Id",
            "traceparent",
        ] {
            let data = format!("0\r\nx-good: 1\r\n{name}: 5\r\n\r\n");
            check(
                Framing::Chunked,
                data.as_bytes(),
                &Outcome::Refused(ParseError::TrailerForbidden),
            );
        }
    }

    #[test]
    fn row_07_refuses_trailers_that_stand_for_claims_or_tokens() {
        let guarded: Arc<[String]> = [
            "x-user".to_owned(),
            format!("x-claim-{}", "of-a-long-name-".repeat(10)),
        ]
        .into();
        for name in ["x-user", "X-User", "x_user", &*guarded[1]] {
            let data = format!("0\r\nx-good: 1\r\n{name}: root\r\n\r\n");
            for cut in [1, 7, data.len()] {
                let mut body = Body::new(Framing::Chunked).guarding(Some(Arc::clone(&guarded)));
                let refused = data
                    .as_bytes()
                    .chunks(cut)
                    .find_map(|piece| body.advance(piece).err());
                assert_eq!(refused, Some(ParseError::TrailerForbidden), "{name}");
            }
        }
        for name in ["x-users", "x-use", "xuser"] {
            let data = format!("0\r\n{name}: root\r\n\r\n");
            let mut body = Body::new(Framing::Chunked).guarding(Some(Arc::clone(&guarded)));
            assert!(body.advance(data.as_bytes()).unwrap().done, "{name}");
        }
    }

    #[test]
    fn row_06_refuses_malformed_trailers() {
        use ParseError::*;
        for (trailer, error) in [
            ("x-a : 1\r\n", FieldName),
            (": 1\r\n", FieldName),
            ("x a: 1\r\n", FieldName),
            ("x-a\r\n", FieldName),
            (" folded\r\n", Folded),
            ("x-a: 1\r\n\tfolded\r\n", Folded),
            ("x-a: 1\n", LineBreak),
            ("x-a: 1\rb\r\n", LineBreak),
            ("x-a: \0\r\n", ControlByte),
            ("x-a: \u{b}chunked\r\n", ControlByte),
            ("x-a: \u{7f}\r\n", ControlByte),
        ] {
            let data = format!("0\r\n{trailer}\r\n");
            check(Framing::Chunked, data.as_bytes(), &Outcome::Refused(error));
        }
    }

    #[test]
    fn row_26_caps_trailers_and_chunk_extensions() {
        let long = format!("0\r\nx-a: {}\r\n\r\n", "b".repeat(10_000));
        let many = format!("0\r\n{}\r\n", "x-a: 1\r\n".repeat(101));
        for data in [long, many] {
            check(
                Framing::Chunked,
                data.as_bytes(),
                &Outcome::Refused(ParseError::TrailersTooLarge),
            );
        }
        let one = format!("1;{}\r\n", "e".repeat(5_000));
        let spread = "1;eeeeeeeeeeeeeee\r\nx\r\n".repeat(300);
        for data in [one, spread] {
            check(
                Framing::Chunked,
                data.as_bytes(),
                &Outcome::Refused(ParseError::ExtensionsTooLarge),
            );
        }
    }

    fn body_text() -> impl Strategy<Value = Vec<u8>> {
        let valid_chunk = proptest::collection::vec(any::<u8>(), 1..20).prop_map(|data| {
            let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
            chunk.extend(data);
            chunk.extend(b"\r\n");
            chunk
        });
        let piece = prop_oneof![
            6 => valid_chunk,
            2 => Just(b"0\r\n".to_vec()),
            2 => Just(b"\r\n".to_vec()),
            1 => Just(b"x-a: b\r\n".to_vec()),
            1 => Just(b"3;a=\"b;\"\r\nabc\r\n".to_vec()),
            1 => "[0-9a-f;=\" \r\n:h-z-]{0,6}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn row_08_fragmentation_never_changes_the_outcome(
            data in body_text(),
            sizes in proptest::collection::vec(1_usize..9, 1..60),
            framing in prop_oneof![
                8 => Just(Framing::Chunked),
                1 => (0_u64..60).prop_map(Framing::Length),
                1 => Just(Framing::UntilClose),
            ],
        ) {
            let mut rest = &data[..];
            let mut pieces = Vec::new();
            for size in sizes {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(run(framing, pieces), run(framing, [&data[..]]));
        }
    }
}
