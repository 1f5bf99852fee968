//! What attackers send: one request that is also two, or none, to somebody. Each hides a request to `/admin`.

/// What must never reach the application.
const ADMIN: &str = "GET /admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n";

/// Spellings of Transfer-Encoding that one parser takes for chunked and another doesn't.
const TRANSFER_ENCODINGS: &[&str] = &[
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: \tchunked \t",
    " Transfer-Encoding: chunked",
    "X: x\n Transfer-Encoding: chunked",
    "X: x\nTransfer-Encoding: chunked",
    "X: x\rTransfer-Encoding: chunked",
    "Transfer-Encoding\n: chunked",
    "Transfer-Encoding:\n chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: \u{b}chunked",
    "Transfer-Encoding: \u{c}chunked",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: CHUNKED",
    "TRANSFER-ENCODING: cHuNkEd",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding\u{a0}: chunked",
    "Content-Encoding: chunked",
    "Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
    "TE: chunked",
    "\u{0}Transfer-Encoding: chunked",
];

/// Lengths; `N` is that of the hidden request.
const LENGTHS: &[&str] = &[
    "Content-Length: 0\r\nContent-Length: N",
    "Content-Length: N\r\nContent-Length: 0",
    "Content-Length: N\r\nContent-Length: N",
    "Content-Length: 0, N",
    "Content-Length: N, 0",
    "Content-Length: N,N",
    "Content-Length: +N",
    "Content-Length: -N",
    "Content-Length: -0",
    "Content-Length: 0x0",
    "Content-Length: 0b0",
    "Content-Length: N.0",
    "Content-Length: N ",
    "Content-Length: 0N",
    "Content-Length: 00000000000000000000000N",
    "Content-Length: 0 N",
    "Content-Length: 0_0",
    "Content-Length: 18446744073709551616",
    "Content-Length: 4294967296",
    "Content-Length:",
    "Content-Length: \u{b}N",
    "Content-Length:\r\n N",
    "Content-Length : N",
    "Content-Length\t: N",
    "Content-Length\0: N",
    "Content_Length: N",
    "Content-Length: N\nContent-Length: 0",
    "X: x\nContent-Length: N",
    "X: x\rContent-Length: N",
    "X: x\r\n\tContent-Length: N",
    "Connection: content-length\r\nContent-Length: N",
    "Connection: Content-Length, close\r\nContent-Length: N",
];

/// Chunked bodies, each followed by the hidden request.
const CHUNKS: &[&str] = &[
    "0\r\n\r\n",
    "0\n\n",
    "0\r\n\n",
    "0\n\r\n",
    "0\r\r\n\r\n",
    "\r\n0\r\n\r\n",
    "00000\r\n\r\n",
    "0;a=b\r\n\r\n",
    "0;a=\"\r\n\"\r\n\r\n",
    "0;a\nb\r\n\r\n",
    "0;\n\r\n",
    "0;a\rb\r\n\r\n",
    "0 \r\n\r\n",
    " 0\r\n\r\n",
    "0\t\r\n\r\n",
    "+0\r\n\r\n",
    "-0\r\n\r\n",
    "-1\r\n\r\n",
    "0x0\r\n\r\n",
    "0_0\r\n\r\n",
    "1\r\nZ0\r\n\r\n",
    "1\r\nZZ\r\n0\r\n\r\n",
    "1\r\nZ\n0\r\n\r\n",
    "1\nZ\r\n0\r\n\r\n",
    "1;\nZ\r\n0\r\n\r\n",
    "2\r\nZ\r\n0\r\n\r\n",
    "10000000000000000\r\n",
    "10000000000000000\r\n\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFF\r\n\r\n0\r\n\r\n",
    "100000000\r\n\r\n0\r\n\r\n",
    "fffffffffffffffe\r\n",
    "\r\n\r\n0\r\n\r\n",
    "Z\r\n\r\n0\r\n\r\n",
    "1\r\nZ\r\n\r\n0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "0\r\nContent-Length: 45\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "0\r\nHost: admin\r\n\r\n",
    "0\r\nX: y\n\n",
    "0\r\nX : y\r\n\r\n",
    "0\r\n X: y\r\n\r\n",
    // The hidden request is all of the trailer section.
    "0\r\n",
    "0\r\nX: y\r\n",
];

/// Whole heads; `P` is the path that the answer must be about.
const REQUESTS: &[&str] = &[
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nHost: admin\r\n\r\n",
    "GET P HTTP/1.1\r\n\r\n",
    "GET P HTTP/1.1\r\nHost:\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop:x\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop/admin\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop@admin\r\n\r\n",
    "GET http://orders.shopP HTTP/1.1\r\nHost: admin\r\n\r\n",
    "GET http://adminP HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET http://orders.shop/admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET http://orders.shop/admin HTTP/1.1\r\nHost: orders.shop/ok\r\n\r\n",
    "GET http://orders.shop HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET http:/admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET ftp://orders.shop/admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P#/admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P /admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P HTTP/1.1 HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P\tHTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P\rHTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET\tP HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET  P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P\0 HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P HTTP/1.1\nHost: orders.shop\n\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\n\n",
    "GET P HTTP/1.1\r\n Host: orders.shop\r\n\r\n",
    "GET P HTTP/1.1\r\n\r\nHost: orders.shop\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nX: y\r\n\rZ: a\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\n: y\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nX\r\n\r\n",
    "\r\nGET P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "\r\n\r\n\r\n\r\nGET P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "\nGET P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P\r\n\r\n",
    "GET P\r\n",
    "GET /admin\r\n",
    "GET P HTTP/0.9\r\n\r\n",
    "GET P HTTP/1.0\r\n\r\n",
    "GET P HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET P HTTP/1.0\r\nHost: orders.shop\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST P HTTP/1.0\r\nHost: orders.shop\r\nConnection: keep-alive\r\n\r\n",
    "GET P HTTP/1.2\r\nHost: orders.shop\r\n\r\n",
    "GET P HTTP/2.0\r\nHost: orders.shop\r\n\r\n",
    "GET P HTTP/1.1x\r\nHost: orders.shop\r\n\r\n",
    "GET P HTTP/01.1\r\nHost: orders.shop\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nUpgrade: websocket\r\n\r\n",
    "CONNECT orders.shop:8080 HTTP/1.1\r\nHost: orders.shop:8080\r\n\r\n",
    "CONNECT P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "CONNECT orders.shop:8080 HTTP/1.1\r\nHost: orders.shop\r\nContent-Length: 0\r\n\r\n",
    "HEAD P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "get P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nConnection: host\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nConnection: close\r\n\r\n",
    "GET P HTTP/1.1\r\nHost: orders.shop\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\n\r\n",
    "GET P/../admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P/%2e%2e/admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P%2f..%2fadmin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P\\..\\admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P/..;/admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET //admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET /%61dmin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET /admin?P HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
    "GET P%0d%0a%0d%0aGET%20/admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n",
];

/// Heads before a body of the hidden request's length.
const EXPECTATIONS: &[&str] = &[
    "Expect: 100-continue",
    "Expect: 100-Continue",
    "Expect:100-continue\r\nExpect: 100-continue",
    "Expect: 100-continue, x",
    "Expect: x",
    "Expect:",
    "Expect: 200-ok",
];

/// All of them, each of them for a path of its own: `/SERIES-NUMBER`.
pub(crate) fn all(series: &str) -> Vec<(String, Vec<u8>)> {
    let n = ADMIN.len();
    let post = |fields: &str| format!("POST P HTTP/1.1\r\nHost: orders.shop\r\n{fields}\r\n\r\n");
    let mut texts: Vec<String> = Vec::new();
    // CL.TE and TE.CL: the hidden request is behind the end of one reading, and inside of the other.
    for encoding in TRANSFER_ENCODINGS {
        let inside = format!("{n:x}\r\n{ADMIN}\r\n0\r\n\r\n");
        let behind = format!("0\r\n\r\n{ADMIN}");
        let whole = behind.len();
        texts.push(post(&format!("Content-Length: {whole}\r\n{encoding}")) + &behind);
        texts.push(post(&format!("{encoding}\r\nContent-Length: {whole}")) + &behind);
        texts.push(post(&format!("Content-Length: 4\r\n{encoding}")) + &inside);
        texts.push(post(encoding) + &inside);
        texts.push(post(encoding) + &behind);
    }
    for length in LENGTHS {
        texts.push(post(&length.replace('N', &n.to_string())) + ADMIN);
    }
    for chunks in CHUNKS {
        texts.push(post("Transfer-Encoding: chunked") + chunks + ADMIN);
    }
    texts.extend(REQUESTS.iter().map(|head| format!("{head}{ADMIN}")));
    for expectation in EXPECTATIONS {
        texts.push(post(&format!("Content-Length: {n}\r\n{expectation}")) + ADMIN + ADMIN);
        texts.push(post(&format!("Content-Length: 0\r\n{expectation}")) + ADMIN);
        texts.push(
            post(&format!("Transfer-Encoding: chunked\r\n{expectation}")) + "0\r\n\r\n" + ADMIN,
        );
    }
    // A body where none is expected, and none where one is.
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let head = format!("{method} P HTTP/1.1\r\nHost: orders.shop\r\n");
        texts.push(format!("{head}Content-Length: {n}\r\n\r\n{ADMIN}"));
        texts.push(format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{n:x}\r\n{ADMIN}\r\n0\r\n\r\n{ADMIN}"
        ));
    }
    texts.push(post("X: y") + ADMIN);
    texts
        .into_iter()
        .enumerate()
        .map(|(number, text)| {
            let path = format!("/{series}-{number}");
            let bytes = text
                .replace(" P", &format!(" {path}"))
                .replace("shopP", &format!("shop{path}"));
            let bytes = bytes
                .replace("adminP", &format!("admin{path}"))
                .replace("?P", &format!("?{path}"));
            (path, bytes.into_bytes())
        })
        .collect()
}
