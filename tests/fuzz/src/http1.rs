//! The first bytes of a connection, and HTTP/1.1.

use kith_policy::{EncodedSlash, normalise_target};
use kith_proxy::http1::{
    Body, ConnectionHeader, ForwardTarget, Limits, Parse, RequestHead, ResponseHead, Rewrite,
    Sniff, sniff, write_request_head,
};

/// More bytes never turn a verdict into another: a proxy that sees them in two pieces decides the same.
pub(crate) fn detect(data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let whole = sniff(data);
    for end in 1..data.len().min(64) {
        let early = sniff(&data[..end]);
        assert!(
            early == Sniff::NeedMore || early == whole,
            "{early:?} after {end}, then {whole:?}"
        );
    }
}

/// What is forwarded is read by the next parser as what was decided: the same method, host, path and framing; and what
/// was to be removed is gone, whatever `Connection` says.
pub(crate) fn request(data: &[u8]) {
    const REMOVED: [&str; 2] = ["x-forwarded-client-cert", "x-kith-*"];
    let limits = Limits::default();
    let mut head = RequestHead::default();
    let Ok(Parse::Complete(length)) = head.parse(data, &limits) else {
        return;
    };
    assert!(length <= data.len());
    let mut again = RequestHead::default();
    assert_eq!(
        again.parse(&data[..length], &limits).ok(),
        Some(Parse::Complete(length))
    );
    let (method, host) = (head.method(data), head.host(data));
    if head.is_connect() {
        return;
    }
    let Ok(target) = normalise_target(method, head.target(data).as_bytes(), EncodedSlash::Refuse)
    else {
        return;
    };
    let set: [(&str, &[u8]); 2] = [
        ("x-forwarded-client-cert", b"By=spiffe://a/b"),
        ("traceparent", b"00-1-2-03"),
    ];
    let rewrite = Rewrite {
        remove: &REMOVED,
        set: &set,
        connection: ConnectionHeader::Upgrade,
    };
    let forward = ForwardTarget {
        path: &target.path,
        query: target.query,
    };
    let mut out = Vec::new();
    write_request_head(&mut out, &head, data, forward, &rewrite);
    let mut next = RequestHead::default();
    let read = next.parse(&out, &limits);
    // Only the caps may be met by what was added.
    let Ok(Parse::Complete(end)) = read else {
        assert!(
            out.len() > limits.head_bytes / 2 || head.headers(data).count() + 4 > limits.headers,
            "{read:?}"
        );
        return;
    };
    assert_eq!(end, out.len());
    assert_eq!(next.method(&out), method);
    assert_eq!(next.host(&out), host);
    assert_eq!(next.framing(), head.framing());
    let decided = normalise_target(method, next.target(&out).as_bytes(), EncodedSlash::Refuse);
    let decided = decided.unwrap_or_else(|error| panic!("forwarded, and refused: {error:?}"));
    assert_eq!(decided.path, target.path);
    let proofs: Vec<_> = next.values(&out, "x-forwarded-client-cert").collect();
    assert_eq!(proofs, [b"By=spiffe://a/b".as_slice()]);
}

/// The framing of an answer never depends on bytes behind its head.
pub(crate) fn response(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let mut asked = RequestHead::default();
    let request: &[u8] = match choice % 3 {
        0 => b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        1 => b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
        _ => b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    };
    assert!(asked.parse(request, &Limits::default()).is_ok());
    let mut head = ResponseHead::default();
    let Ok(Parse::Complete(length)) = head.parse(data, &Limits::default(), asked.asked()) else {
        return;
    };
    let mut alone = ResponseHead::default();
    let read = alone.parse(&data[..length], &Limits::default(), asked.asked());
    assert_eq!(read.ok(), Some(Parse::Complete(length)));
    assert_eq!(
        (alone.status(), alone.framing()),
        (head.status(), head.framing())
    );
}

/// However a body is cut into pieces, the same bytes are consumed and the same ones are payload.
pub(crate) fn body(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else {
        return;
    };
    let head_of = |field: &str| {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n");
        let mut head = RequestHead::default();
        assert!(head.parse(text.as_bytes(), &Limits::default()).is_ok());
        head.framing()
    };
    for framing in [
        head_of("transfer-encoding: chunked"),
        head_of("content-length: 11"),
    ] {
        let mut whole = Body::new(framing);
        let at_once = whole
            .advance(data)
            .map(|progress| (progress.consumed, progress.done));
        let mut pieces = Body::new(framing);
        let mut consumed = 0;
        let mut outcome = Ok((0, false));
        while consumed < data.len() {
            let end = data.len().min(consumed + 1 + usize::from(*cut));
            match pieces.advance(&data[consumed..end]) {
                Ok(progress) => {
                    consumed += progress.consumed;
                    outcome = Ok((consumed, progress.done));
                    if progress.done {
                        break;
                    }
                    // What it does not take yet it wants to see again with more behind it; here there is no more.
                    if progress.consumed == 0 {
                        break;
                    }
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        match (at_once, outcome) {
            (Ok((all, true)), Ok((some, true))) => {
                assert_eq!(all, some);
                assert_eq!(whole.payload_bytes(), pieces.payload_bytes());
            }
            (Ok((_, true)), other) => panic!("whole it ends, in pieces {other:?}"),
            (other, Ok((_, true))) => panic!("in pieces it ends, whole {other:?}"),
            (Err(_), _) | (_, Err(_)) | (Ok(_), Ok(_)) => {}
        }
    }
}

/// What callers say of themselves is taken over only in a form that every reader of records reads alike.
pub(crate) fn correlation(data: &[u8]) {
    #[cfg(fuzzing)]
    kith_proxy::fuzzing::correlation(data);
    #[cfg(not(fuzzing))]
    let _ = data;
}

/// What a client writes into x-forwarded-for itself never counts for an address that a trusted hop saw.
pub(crate) fn forwarded(data: &[u8]) {
    #[cfg(fuzzing)]
    kith_proxy::fuzzing::remote_address(data);
    #[cfg(not(fuzzing))]
    let _ = data;
}
