//! The other direction: an application whose answers can be read in two ways. Whatever it says to one request, the next
//! ones on the same pool get their own answers.

use std::sync::Arc;
use std::time::Duration;

use kith::app::client::Call;
use kith_tests::app::App;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// What would be the answer to somebody else's request.
const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

/// Method of the request, and what it is answered; `POISON` follows each.
const ANSWERS: &[(&str, &str)] = &[
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
    ),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok"),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\nok\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nok\n0\n\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n0\r\n\r\n",
    ),
    ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "GET",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    ),
    ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
    (
        "GET",
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "HEAD",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("HEAD", "HTTP/1.1 200 OK\r\n\r\n"),
    (
        "GET",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 100 Continue\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 199 What\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ),
    ("GET", "HTTP/1.1 099 What\r\n\r\n"),
    ("GET", "HTTP/1.1 1000 What\r\n\r\n"),
    ("GET", "HTTP/1.1 20 What\r\n\r\n"),
    ("GET", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nx: y\rcontent-length: 2\r\n\r\nok",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nx\0: y\r\ncontent-length: 2\r\n\r\nok",
    ),
    ("GET", "\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ("GET", "ok"),
    ("GET", "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "GET",
        "HTTP/1.1 205 Reset Content\r\ncontent-length: 2\r\n\r\nok",
    ),
    // Answered before all of the request was there.
    ("POST", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "POST",
        "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "POST",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
];

/// When what follows the answer comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Poison {
    Never,
    WithTheAnswer,
    /// When the answer has been read, and the connection is idle in a pool.
    Later,
}

/// `/evil/WHICH/POISON` gets that answer; everything else its own path.
async fn serve(mut stream: TcpStream, poisoned: Arc<Semaphore>) {
    loop {
        let Ok(head) = until(&mut stream, "\r\n\r\n").await else {
            return;
        };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut parts = path.split('/').skip(1);
        if parts.next() != Some("evil") {
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}",
                path.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let which: usize = parts.next().unwrap().parse().unwrap();
        let mut answer = if which < ANSWERS.len() {
            ANSWERS[which].1.to_owned()
        } else {
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(5_000)
                + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        };
        let poison = parts.next().unwrap();
        if poison == "WithTheAnswer" {
            answer.push_str(POISON);
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if poison == "Later" {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // Over loopback, what is written is with the receiver.
            let _ = stream.write_all(POISON.as_bytes()).await;
            poisoned.add_permits(1);
        }
        if poison != "Never" {
            // Whatever is said to it from now on, it has answered already.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            return;
        }
    }
}

#[tokio::test]
async fn row_08_no_answer_reaches_a_request_that_it_was_not_given_for() {
    let shop = Shop::open(&[(8080, "HTTP")], WEB_MAY_ALL).await;
    let poisoned = Arc::new(Semaphore::new(0));
    let poisons = Arc::clone(&poisoned);
    let _app = App::listen(&shop.orders, 8080, move |stream, _| {
        serve(stream, Arc::clone(&poisons))
    })
    .await;
    for poison in [Poison::Never, Poison::WithTheAnswer, Poison::Later] {
        for which in 0..=ANSWERS.len() {
            let (method, answer) = ANSWERS
                .get(which)
                .copied()
                .unwrap_or(("GET", "5,000 times 100"));
            let url = format!("http://orders.shop:8080/evil/{which}/{poison:?}");
            let mut call = Call::get(url.parse().unwrap());
            call.method = Some(method.to_owned());
            call.limit = Duration::from_millis(300);
            if method == "POST" {
                call.data = Some("body".repeat(64 * 1024));
            }
            // What becomes of it is tested elsewhere; some never end.
            let evil = shop.web.call(call).await;
            if let Ok(reply) = &evil {
                assert!(
                    !reply.text().contains("poison"),
                    "{answer:?}, {poison:?}: {}",
                    reply.text()
                );
            }
            if poison == Poison::Later {
                poisoned.acquire().await.unwrap().forget();
            }
            for victim in 0..3 {
                let path = format!("/victim/{which}/{poison:?}/{victim}");
                let reply = shop.get(&path, &[]).await;
                assert_eq!(
                    (reply.status, reply.text()),
                    (200, path.clone()),
                    "after {answer:?}, poison {poison:?}, itself {evil:?}"
                );
            }
        }
    }
}
