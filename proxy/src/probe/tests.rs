use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::{AppProbes, Config, Flags};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// As the sidecar is told, so that what is read is what is done; but with time for a machine that does other things.
fn probes(json: &str) -> Probes {
    let mut probes = read(json);
    for probe in probes.values_mut() {
        probe.timeout = Duration::from_secs(20);
    }
    made_of(&probes)
}

fn made_of(probes: &AppProbes) -> Probes {
    Probes::new(probes, Some(LOOPBACK), None, [1, 2, 3, 4])
}

fn read(json: &str) -> AppProbes {
    let environment = [
        ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/agent.sock"),
        ("KITH_XDS_ADDRESS", "https://control:15010"),
        ("KITH_XDS_SPIFFE_ID", "spiffe://example.org/control"),
        ("KITH_NODE_ID", "shop/orders"),
        ("KITH_POD_IP", "10.0.0.5"),
        ("KITH_APP_PROBES", json),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::from_parts(environment.into_iter(), Flags::default())
        .unwrap()
        .app_probes
}

async fn made(probes: &Probes, name: &str) -> (u16, String) {
    let verdict = probes.make(name).unwrap().await;
    (verdict.status.as_u16(), verdict.why)
}

/// An application that answers by path, and gives back what it was asked.
async fn application(answers: &'static [(&'static str, &'static str)]) -> (u16, Heard) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Heard::default();
    let hearing = heard.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap().to_owned();
            hearing.lock().unwrap().push(request);
            let (_, answer) = answers.iter().find(|(known, _)| *known == path).unwrap();
            let answer = answer.replace("PORT", &port.to_string());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, heard)
}

type Heard = Arc<Mutex<Vec<String>>>;

async fn http(path: &str, answers: &'static [(&'static str, &'static str)]) -> (u16, String) {
    let (port, _) = application(answers).await;
    let json = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"{path}"}}}}}}"#);
    made(&probes(&json), "app/liveness").await
}

#[tokio::test]
async fn the_status_of_an_http_answer_decides_as_it_does_for_the_kubelet() {
    const ANSWERS: &[(&str, &str)] = &[
        ("/200", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("/304", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("/302", "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n"),
        (
            "/404",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        ),
        ("/500", "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"),
        ("/cut", "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok"),
        ("/ssh", "SSH-2.0-OpenSSH_9.6\r\n"),
    ];
    for (path, status, why) in [
        ("/200", 200, "the application answered 200 OK"),
        ("/304", 200, "the application answered 304 Not Modified"),
        // Without a place to go to.
        ("/302", 200, "the application answered 302 Found"),
        ("/404", 404, "the application answered 404 Not Found"),
        (
            "/500",
            500,
            "the application answered 500 Internal Server Error",
        ),
        ("/cut", 503, "the application's answer broke off"),
        ("/ssh", 503, "the application gave no HTTP/1.1 answer"),
    ] {
        let answer = http(path, ANSWERS).await;
        assert!(
            answer.0 == status && answer.1.starts_with(why),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn redirects_are_followed_within_the_pod_and_good_when_they_lead_elsewhere() {
    const ANSWERS: &[(&str, &str)] = &[
        ("/a/b", "HTTP/1.1 302 Found\r\nlocation: c?d#e\r\n\r\n"),
        (
            "/a/c?d",
            "HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:PORT/end\r\n\r\n",
        ),
        ("/end", "HTTP/1.1 418 I\r\ncontent-length: 0\r\n\r\n"),
        (
            "/away",
            "HTTP/1.1 301 Go\r\nlocation: https://example.org/\r\n\r\n",
        ),
        (
            "/near",
            "HTTP/1.1 301 Go\r\nlocation: //127.0.0.2:PORT/end\r\n\r\n",
        ),
        (
            "/own",
            "HTTP/1.1 301 Go\r\nlocation: http://127.0.0.1:3/metrics\r\n\r\n",
        ),
        ("/loop", "HTTP/1.1 301 Go\r\nlocation: /loop\r\n\r\n"),
    ];
    for (path, status, why) in [
        ("/a/b", 418, "the application answered 418"),
        (
            "/away",
            200,
            "the application answered 301 Moved Permanently, a redirect to another host that is not followed",
        ),
        ("/near", 200, "the application answered 301"),
        (
            "/own",
            503,
            "the application redirects to port 3, which is the sidecar's own",
        ),
        (
            "/loop",
            503,
            "the application redirected more than 10 times",
        ),
    ] {
        let answer = http(path, ANSWERS).await;
        assert!(
            answer.0 == status && answer.1.starts_with(why),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_request_has_the_headers_that_the_kubelet_would_send() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (port, heard) = application(Box::leak(Box::new([("/", answer)]))).await;
    let json = format!(
        r#"{{"a/liveness":{{"httpGet":{{"port":{port}}}}},
            "b/liveness":{{"httpGet":{{"port":{port},"httpHeaders":[
                {{"name":"Host","value":"orders.shop"}},{{"name":"X-Key","value":"1"}},{{"name":"X-Key","value":"2"}},
                {{"name":"User-Agent","value":"probe"}},{{"name":"Accept","value":""}},
                {{"name":"Content-Length","value":"9"}}]}}}}}}"#
    );
    let probes = probes(&json);
    for name in ["a/liveness", "b/liveness"] {
        assert_eq!(made(&probes, name).await.0, 200);
    }
    let heard = heard.lock().unwrap().clone();
    let fields = |request: &str| {
        let mut fields: Vec<_> = request.trim_end().lines().map(str::to_owned).collect();
        fields[1..].sort();
        fields
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        fields(&heard[0]),
        [
            "GET / HTTP/1.1".to_owned(),
            "accept: */*".into(),
            "connection: close".into(),
            format!("host: 127.0.0.1:{port}"),
            format!("user-agent: kube-probe/kith-{version}"),
        ]
    );
    assert_eq!(
        fields(&heard[1]),
        [
            "GET / HTTP/1.1",
            "connection: close",
            "host: orders.shop",
            "user-agent: probe",
            "x-key: 1",
            "x-key: 2"
        ]
    );
}

#[tokio::test]
async fn whoever_asks_while_a_probe_is_made_gets_its_answer_and_later_ones_another() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (go, wait) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut wait = wait.clone();
            wait.wait_for(|go| *go).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No\r\n\r\n").await;
        }
    });
    let json = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port}}}}}}}"#);
    let probes = probes(&json);
    let all: Vec<_> = (0..50)
        .map(|_| tokio::spawn(probes.make("app/liveness").unwrap()))
        .collect();
    while asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    go.send(true).unwrap();
    for one in all {
        assert_eq!(one.await.unwrap().status, 200);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(made(&probes, "app/liveness").await.0, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn only_what_is_configured_is_made_and_in_its_time() {
    let silent = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let nobody = {
        let gone = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let json = format!(
        r#"{{"app/liveness":{{"httpGet":{{"port":{port}}}}},"app/startup":{{"tcpSocket":{{"port":{port}}}}},
            "app/readiness":{{"tcpSocket":{{"port":{nobody}}}}},"tls/liveness":{{"httpGet":{{"port":{nobody},"scheme":"HTTPS"}}}}}}"#
    );
    let brief = made_of(&read(&json));
    assert_eq!(brief.longest(), Duration::from_secs(1));
    for name in [
        "app/prestop",
        "other/liveness",
        "",
        "/",
        "app/liveness/",
        "app",
    ] {
        assert!(brief.make(name).is_none(), "{name}");
    }
    let start = std::time::Instant::now();
    let late = (503, "no answer within 1 s".to_owned());
    assert_eq!(made(&brief, "app/liveness").await, late);
    assert!(start.elapsed() < Duration::from_secs(15));
    let probes = probes(&json);
    assert_eq!(
        made(&probes, "app/startup").await,
        (200, "the application accepts connections".into())
    );
    let why = format!("the application does not listen on port {nobody} of the pod's address");
    assert_eq!(made(&probes, "app/readiness").await, (503, why.clone()));
    assert_eq!(made(&probes, "tls/liveness").await, (503, why));
}

#[tokio::test]
async fn a_hook_is_made_for_those_only_who_know_its_key() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (port, heard) = application(Box::leak(Box::new([("/stop", answer)]))).await;
    let json = format!(
        r#"{{"app/prestop":{{"httpGet":{{"port":{port},"path":"/stop"}},"key":"0123456789abcdef"}},
            "app/liveness":{{"httpGet":{{"port":{port},"path":"/stop"}}}}}}"#
    );
    let probes = probes(&json);
    for name in [
        "app/prestop",
        "app/prestop/",
        "app/prestop/0123456789abcdeF",
        "app/prestop/0123456789abcde",
        "app/prestop/0123456789abcdef/",
        "app/prestop/0123456789abcdef0",
        "app//0123456789abcdef",
        "app/liveness/0123456789abcdef",
    ] {
        assert!(probes.make(name).is_none(), "{name}");
    }
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(made(&probes, "app/prestop/0123456789abcdef").await.0, 200);
    assert_eq!(made(&probes, "app/liveness").await.0, 200);
    assert!(!format!("{:?}", read(&json)).contains("0123456789abcdef"));
}

#[tokio::test]
async fn https_that_does_not_speak_tls_1_3_is_told_what_to_do() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        // What a server of TLS 1.2 answers: the alert protocol_version.
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 70]).await;
    });
    let json = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port},"scheme":"HTTPS"}}}}}}"#);
    let (status, why) = made(&probes(&json), "app/liveness").await;
    assert!(
        status == 503 && why.contains("The sidecar has no TLS 1.2"),
        "{why}"
    );
}

/// One answer of a gRPC server: its message and its trailers' status.
async fn grpc(answer: Option<&'static [u8]>, status: &'static str) -> (u16, String) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let (parts, mut body) = request.into_parts();
            tokio::spawn(async move {
                assert_eq!(parts.uri.path(), "/grpc.health.v1.Health/Check");
                assert_eq!(
                    body.data().await.unwrap().unwrap(),
                    &b"\0\0\0\0\x03\x0a\x01a"[..]
                );
                let head = ::http::Response::builder().header("content-type", "application/grpc");
                let mut send = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                if let Some(answer) = answer {
                    send.send_data(Bytes::from_static(answer), false).unwrap();
                }
                let mut trailers = ::http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                send.send_trailers(trailers).unwrap();
            });
        }
    });
    let json = format!(r#"{{"app/liveness":{{"grpc":{{"port":{port},"service":"a"}}}}}}"#);
    made(&probes(&json), "app/liveness").await
}

#[tokio::test]
async fn grpc_health_passes_when_serving_and_says_what_is_wrong_otherwise() {
    let serving: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
    for (message, status, expected) in [
        (
            Some(serving),
            "0",
            (200, r#"the application's service "a" is SERVING"#),
        ),
        (
            Some(&[0, 0, 0, 0, 2, 8, 2][..]),
            "0",
            (503, r#"the application's service "a" is NOT_SERVING"#),
        ),
        (
            Some(&[0, 0, 0, 0, 0][..]),
            "0",
            (503, r#"the application's service "a" is UNKNOWN"#),
        ),
        (
            Some(&[1, 0, 0, 0, 2, 8, 1][..]),
            "0",
            (
                503,
                r#"the application's service "a" gave no answer that grpc.health.v1 knows"#,
            ),
        ),
        (
            Some(serving),
            "13",
            (
                503,
                r#"the application's service "a" answered with gRPC status 13"#,
            ),
        ),
        (
            None,
            "5",
            (
                503,
                r#"the application's service "a" is not known to its health service (NOT_FOUND)"#,
            ),
        ),
        (
            None,
            "12",
            (
                503,
                "the application does not offer grpc.health.v1.Health (UNIMPLEMENTED); register it, or use another probe",
            ),
        ),
    ] {
        let expected = (expected.0, expected.1.to_owned());
        assert_eq!(grpc(message, status).await, expected);
    }
    let (port, _) = application(&[("*", "HTTP/1.1 400 Bad\r\n\r\n")]).await;
    let json = format!(r#"{{"app/liveness":{{"grpc":{{"port":{port}}}}}}}"#);
    let (status, why) = made(&probes(&json), "app/liveness").await;
    assert!(status == 503 && why.contains("gRPC"), "{why}");
}

#[tokio::test]
async fn a_grpc_server_that_closes_the_connection_after_its_answer_has_answered() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Until the question, the only frame of DATA (RFC 9113 section 4.1).
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == 0 {
                break;
            }
        }
        // SETTINGS, HEADERS with `:status 200`, DATA, HEADERS with `grpc-status: 0`, GOAWAY: all at once, and the end.
        let answer: [&[u8]; 5] = [
            &[0, 0, 0, 4, 0, 0, 0, 0, 0],
            &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88],
            &[0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 8, 1],
            b"\0\0\x0f\x01\x05\0\0\0\x01\0\x0bgrpc-status\x010",
            &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        ];
        stream.write_all(&answer.concat()).await.unwrap();
    });
    let json = format!(r#"{{"app/liveness":{{"grpc":{{"port":{port}}}}}}}"#);
    assert_eq!(
        made(&probes(&json), "app/liveness").await,
        (200, "the application is SERVING".into())
    );
}
