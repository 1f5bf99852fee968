//! Requests that two parsers have been known to read differently, each refused here, and
//! properties that hold for any bytes (security.md, row 8).

use proptest::prelude::*;

use super::*;

/// What becomes of a connection's bytes: the requests on it, as method, path and content bytes,
/// until the first that is incomplete or refused.
fn read_all(bytes: &[u8]) -> (Vec<(String, String, u64)>, Option<ParseError>) {
    let mut requests = Vec::new();
    let mut head = RequestHead::default();
    let mut rest = bytes;
    loop {
        head.clear();
        let length = match head.parse(rest, &Limits::default()) {
            Ok(Parse::Complete(length)) => length,
            Ok(Parse::Partial) => return (requests, None),
            Err(error) => return (requests, Some(error)),
        };
        let mut body = Body::new(head.framing());
        let progress = match body.advance(&rest[length..]) {
            Ok(progress) if progress.done => progress,
            Ok(_) => return (requests, None),
            Err(error) => return (requests, Some(error)),
        };
        requests.push((
            head.method(rest).to_owned(),
            head.path(rest).to_owned(),
            body.payload_bytes(),
        ));
        rest = &rest[length + progress.consumed..];
    }
}

/// Nothing of the payload passes, and nothing behind it does.
fn refuses_all(fields: &str, body: &str) {
    let text = format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    let (requests, error) = read_all(text.as_bytes());
    assert_eq!(requests, [], "{fields:?} {body:?}");
    assert!(error.is_some(), "{fields:?} {body:?}");
}

#[test]
fn row_08_refuses_transfer_encoding_with_content_length() {
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: identity\r\n",
        "content-length: 4\r\ntransfer-encoding: xchunked\r\n",
        "Content-Length: 4\r\nTransfer-Encoding:\r\n",
        "Content-Length: 4\r\nX: y\r\nTRANSFER-ENCODING: CHUNKED\r\n",
    ] {
        refuses_all(fields, "0\r\n\r\n");
    }
}

#[test]
fn row_08_refuses_obfuscated_transfer_encoding() {
    for line in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: x chunked",
        "Transfer-Encoding: chunked x",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\n\rTransfer-Encoding: chunked",
        "Transfer-Encoding:\n chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:\r\n\tchunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer-Encoding\n: chunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding:\u{c}chunked",
        "Transfer-Encoding: \0chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: chunked\u{8}",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding: \u{ff}chunked",
        "Transfer-Encoding\u{ff}: chunked",
        "Transfer-Encoding\u{a0}: chunked",
        "Transfer-Encoding\0: chunked",
        "\u{feff}Transfer-Encoding: chunked",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunk",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding",
        "Transfer-Encoding chunked",
        "Transfer-Encoding; chunked",
        "Transfer-Encoding:: chunked",
        "Foo\r\nTransfer-Encoding: chunked",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    ] {
        refuses_all(&format!("{line}\r\n"), "0\r\n\r\n");
    }
}

#[test]
fn row_08_refuses_obfuscated_content_length() {
    for line in [
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5,5",
        "Content-Length: 5, 5",
        "Content-Length: 5, 6",
        "Content-Length: 5;",
        "Content-Length: 5 5",
        "Content-Length: 5\u{b}",
        "Content-Length: \u{c}5",
        "Content-Length: 5_0",
        "Content-Length: 5.0",
        "Content-Length: 5e0",
        "Content-Length: \"5\"",
        "Content-Length: five",
        "Content-Length: \u{0665}",
        "Content-Length:",
        "Content-Length : 5",
        "Content-Length\t: 5",
        " Content-Length: 5",
        "X: y\r\n Content-Length: 5",
        "X: y\nContent-Length: 5",
        "X: y\rContent-Length: 5",
        "Content-Length: 5\nX: y",
        "Content-Length:\r\n 5",
        "Content_Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 6",
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: 9223372036854775808",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551621",
        "Content-Length: 99999999999999999999999999",
        "Connection: Content-Length\r\nContent-Length: 5",
    ] {
        refuses_all(&format!("{line}\r\n"), "hello");
    }
}

#[test]
fn row_08_refuses_obfuscated_chunks() {
    for body in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\u{b}\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rhello\r\n0\r\n\r\n",
        "5;a=\"\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nhello",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "00000000000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
        "0\r\nX: y\nZ: w\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
    ] {
        refuses_all("Transfer-Encoding: chunked\r\n", body);
    }
}

#[test]
fn row_08_finds_pipelined_requests_behind_each_body() {
    let text = "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\
                POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n\
                GET /3 HTTP/1.1\r\nhost: a\r\n\r\nGET /4 HTTP/1.1\r\nhost: a\r\n";
    let expect = |method: &str, path: &str, content| (method.to_owned(), path.to_owned(), content);
    let (requests, error) = read_all(text.as_bytes());
    assert_eq!(
        requests,
        [
            expect("POST", "/1", 5),
            expect("POST", "/2", 3),
            expect("GET", "/3", 0)
        ]
    );
    assert_eq!(error, None);
}

#[test]
fn every_refusal_says_what_is_wrong_and_has_a_status() {
    for error in [
        ParseError::RequestLine,
        ParseError::CodingWithLength,
        ParseError::CodingUnknown,
        ParseError::Version,
        ParseError::TrailersTooLarge,
    ] {
        assert!(error.to_string().len() > 20);
        assert!((400..=505).contains(&error.status()));
    }
    assert_eq!(ParseError::CodingUnknown.status(), 501);
    assert_eq!(ParseError::Version.status(), 505);
    assert_eq!(ParseError::CodingWithLength.status(), 400);
}

/// Heads that are right more often than not, with the mistakes that matter.
fn head_text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => "(GET|POST) (http://a)?/[a-z?%/]{0,8} HTTP/1\\.[01]\r\n",
        2 => "(GET|OPTIONS|CONNECT) (\\*|http://[ab]|a:1) HTTP/1\\.[01]\r\n",
        1 => "[ -~]{0,20}\r\n",
    ];
    let field = prop_oneof![
        8 => "[a-zA-Z_-]{1,12}:[ \t]{0,2}[!-~][ -~\t]{0,20}\r\n",
        1 => Just("Content-Length: 5\r\n".to_owned()),
        1 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => "Connection: (close|te|upgrade|x-[a-c]|host)(, ?(close|x-[a-c]))?\r\n",
        1 => "[ -~\t\r\n\u{80}\0]{0,12}(\r\n)?",
    ];
    (line, proptest::collection::vec(field, 0..8))
        .prop_map(|(line, fields)| format!("{line}Host: a\r\n{}\r\n", fields.concat()).into_bytes())
}

const SMALL: Limits = Limits {
    head_bytes: 160,
    headers: 6,
};

proptest! {
    #[test]
    fn row_08_fragmentation_never_changes_what_a_head_is(
        text in head_text(),
        sizes in proptest::collection::vec(1_usize..20, 0..40),
        small in any::<bool>(),
    ) {
        let limits = if small { SMALL } else { Limits::default() };
        let mut whole = RequestHead::default();
        let expected = whole.parse(&text, &limits);

        let mut cut = RequestHead::default();
        let mut length = 0;
        let mut outcome = Ok(Parse::Partial);
        for size in sizes.into_iter().chain([text.len()]) {
            length = (length + size).min(text.len());
            outcome = cut.parse(&text[..length], &limits);
            if outcome != Ok(Parse::Partial) {
                break;
            }
        }
        prop_assert_eq!(outcome, expected);
        if let Ok(Parse::Complete(_)) = expected {
            prop_assert_eq!(
                cut.headers(&text).collect::<Vec<_>>(),
                whole.headers(&text).collect::<Vec<_>>()
            );
            prop_assert_eq!(cut.framing(), whole.framing());
        }
    }

    #[test]
    fn writing_then_parsing_gives_the_same_request(text in head_text()) {
        let mut head = RequestHead::default();
        let Ok(Parse::Complete(_)) = head.parse(&text, &Limits::default()) else {
            return Ok(());
        };
        let target = ForwardTarget { path: head.path(&text), query: head.query(&text) };
        let rewrite = Rewrite {
            remove: &["x-forwarded-client-cert"],
            set: &[("x-request-id", b"1")],
            connection: ConnectionHeader::Persist,
        };
        let mut out = Vec::new();
        write_request_head(&mut out, &head, &text, target, &rewrite);

        let mut again = RequestHead::default();
        prop_assert_eq!(again.parse(&out, &Limits::default()), Ok(Parse::Complete(out.len())));
        // The framing, stated anew, changes its place.
        let in_place = |(name, _): &(&str, &[u8])| !name.eq_ignore_ascii_case("transfer-encoding");
        let mut expected: Vec<_> = head.headers(&text).filter(in_place).collect();
        expected.push(("x-request-id", b"1"));
        prop_assert_eq!(again.headers(&out).filter(in_place).collect::<Vec<_>>(), expected);
        prop_assert_eq!(again.method(&out), head.method(&text));
        prop_assert_eq!(again.path(&out), head.path(&text));
        prop_assert_eq!(again.query(&out), head.query(&text));
        prop_assert_eq!(again.host(&out), head.host(&text));
        prop_assert_eq!(again.framing(), head.framing());
        prop_assert_eq!(again.version(), head.version());
    }

    #[test]
    fn row_30_no_bytes_make_the_parser_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        text in head_text(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        read_all(&bytes);
        sniff(&bytes);
        let mut mutated = text;
        let index = at.index(mutated.len());
        mutated[index] = byte;
        read_all(&mutated);
        let _ = ResponseHead::default().parse(&bytes, &Limits::default(), Asked::default());
        let mut response = b"HTTP/1.1 200 OK\r\n".to_vec();
        response.extend(&mutated);
        let _ = ResponseHead::default().parse(&response, &Limits::default(), Asked::default());
    }
}
