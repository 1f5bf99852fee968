use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tracing::subscriber::DefaultGuard;

use super::*;
use crate::config::AdminListen;

fn state(ready: bool, drained: &Arc<AtomicUsize>, log: LogFilter) -> Arc<AdminState> {
    let drained = Arc::clone(drained);
    Arc::new(AdminState {
        ready: Box::new(move || Readiness {
            conditions: vec![
                Condition {
                    name: "svid",
                    met: true,
                    why: "valid until 2026-11-22T03:14:15Z".into(),
                },
                Condition {
                    name: "configuration",
                    met: ready,
                    why: "no answer from https://control:15010".into(),
                },
            ],
        }),
        config: Box::new(|| json!({"revision": "42"})),
        certs: Box::new(|| json!({"svid": {"id": "spiffe://example.org/a"}})),
        connections: Box::new(|| Box::pin(async { json!([{"direction": "inbound"}]) })),
        drain: Box::new(move || {
            drained.fetch_add(1, Ordering::SeqCst);
        }),
        log,
        probe: Box::new(|name| {
            let known = name == "app/readiness";
            known.then(|| -> Probed {
                Box::pin(async { (StatusCode::IM_A_TEAPOT, "as the application".into()) })
            })
        }),
        longest_probe: Duration::ZERO,
    })
}

struct Servers {
    admin: SocketAddr,
    health: SocketAddr,
    drained: Arc<AtomicUsize>,
    /// The log filter's, for this test's thread only.
    _log: DefaultGuard,
}

async fn serve(ready: bool) -> Servers {
    let drained = Arc::default();
    let (subscriber, log) = crate::telemetry::logging::build("info").unwrap();
    let state = state(ready, &drained, log);
    let health = bind_health("[::]:0".parse().unwrap()).await.unwrap();
    let health_at = SocketAddr::new([127, 0, 0, 1].into(), health.local_addr().unwrap().port());
    let admin = bind_admin(&AdminListen::Tcp("127.0.0.1:0".parse().unwrap()))
        .await
        .unwrap();
    let AdminListener::Tcp(listener) = &admin else {
        panic!("asked for TCP")
    };
    let admin_at = listener.local_addr().unwrap();
    tokio::spawn(serve_health(health, Arc::clone(&state)));
    tokio::spawn(serve_admin(admin, state));
    Servers {
        admin: admin_at,
        health: health_at,
        drained,
        _log: tracing::subscriber::set_default(subscriber),
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Status and body.
async fn ask(to: SocketAddr, method: &str, path: &str, more: &str) -> (u16, String) {
    let (headers, body) = more.split_once("\r\n\r\n").unwrap_or((more, ""));
    let host = if headers.to_lowercase().contains("host:") {
        ""
    } else {
        "host: localhost\r\n"
    };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}content-length: {length}\r\n\r\n{body}"
    );
    let answer = exchange(TcpStream::connect(to).await.unwrap(), &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("cache-control: no-store") && head.contains("connection: close"),
        "{head}"
    );
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

#[tokio::test]
async fn readiness_lists_every_condition_with_its_reason() {
    let servers = serve(false).await;
    let expected = "not ready\nok      svid: valid until 2026-11-22T03:14:15Z\nwaiting configuration: no answer from https://control:15010\n";
    assert_eq!(
        ask(servers.health, "GET", "/ready", "").await,
        (503, expected.into())
    );
    assert_eq!(
        ask(servers.health, "GET", "/live", "").await,
        (200, "live\n".into())
    );
    let servers = serve(true).await;
    let (status, body) = ask(servers.health, "GET", "/ready", "").await;
    assert_eq!((status, body.lines().next()), (200, Some("ready")));
    assert_eq!(
        ask(servers.health, "HEAD", "/ready", "").await,
        (200, String::new())
    );
}

#[tokio::test]
async fn health_makes_the_probes_that_there_are_and_says_what_to_do_about_others() {
    let servers = serve(true).await;
    let probe = |path| ask(servers.health, "GET", path, "");
    let expected = (418, "as the application\n".to_owned());
    assert_eq!(probe("/app-health/app/readiness").await, expected);
    for path in [
        "/app-health/app/liveness",
        "/app-health/",
        "/app-health/app/readiness/x",
    ] {
        let (status, why) = probe(path).await;
        assert!(
            status == 404 && why.contains("KITH_APP_PROBES"),
            "{path}: {why}"
        );
    }
    let posted = ask(servers.health, "POST", "/app-health/app/readiness", "").await;
    assert_eq!(posted.0, 405);
}

#[tokio::test]
async fn row_21_health_serves_its_paths_and_nothing_else() {
    let servers = serve(true).await;
    for path in [
        "/",
        "/config",
        "/certs",
        "/connections",
        "/logging",
        "/drain",
        "/ready/",
        "//ready",
        "/metrics/x",
        "/%72eady",
    ] {
        assert_eq!(ask(servers.health, "GET", path, "").await.0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(
            ask(servers.health, method, "/metrics", "").await.0,
            405,
            "{method}"
        );
    }
    let (status, text) = ask(servers.health, "GET", "/metrics", "").await;
    assert!(
        status == 200 && text.contains("kith_build_info{") && !text.contains("# EOF"),
        "{text}"
    );
    let (_, text) = ask(
        servers.health,
        "GET",
        "/metrics",
        "accept: application/openmetrics-text\r\n",
    )
    .await;
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn admin_shows_and_drains() {
    let servers = serve(true).await;
    for (path, expected) in [
        ("/config", json!({"revision": "42"})),
        ("/certs", json!({"svid": {"id": "spiffe://example.org/a"}})),
        ("/connections", json!([{"direction": "inbound"}])),
    ] {
        let (status, body) = ask(servers.admin, "GET", path, "").await;
        assert_eq!(
            (status, serde_json::from_str(&body).unwrap()),
            (200, expected)
        );
        assert_eq!(ask(servers.admin, "POST", path, "").await.0, 405, "{path}");
    }
    assert_eq!(ask(servers.admin, "GET", "/drain", "").await.0, 405);
    assert_eq!(ask(servers.admin, "GET", "/ready", "").await.0, 404);
    assert_eq!(servers.drained.load(Ordering::SeqCst), 0);
    assert_eq!(
        ask(servers.admin, "POST", "/drain", "").await,
        (202, "draining\n".into())
    );
    assert_eq!(servers.drained.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_log_filter_can_be_changed_while_running() {
    let servers = serve(true).await;
    assert_eq!(
        ask(
            servers.admin,
            "PUT",
            "/logging",
            "\r\n\r\ndebug,hyper=off\n"
        )
        .await,
        (200, "debug,hyper=off\n".into())
    );
    assert!(tracing::enabled!(target: "kith_proxy", tracing::Level::DEBUG));
    let (status, text) = ask(servers.admin, "PUT", "/logging", "\r\n\r\nloud").await;
    assert_eq!((status, text.as_str()), (400, "\"loud\" is not a level\n"));
    assert_eq!(
        ask(servers.admin, "GET", "/logging", "").await,
        (200, "debug,hyper=off\n".into())
    );
    assert_eq!(
        ask(
            servers.admin,
            "PUT",
            "/logging",
            &format!("\r\n\r\n{}", "a".repeat(5000))
        )
        .await
        .0,
        413
    );
    assert_eq!(
        ask(servers.admin, "PUT", "/logging", "\r\n\r\ninfo")
            .await
            .0,
        200
    );
    assert!(!tracing::enabled!(target: "kith_proxy", tracing::Level::DEBUG));
}

#[tokio::test]
async fn row_21_admin_answers_to_loopback_names_only() {
    let servers = serve(true).await;
    for host in [
        "localhost",
        "LOCALHOST:15000",
        "127.0.0.1",
        "127.0.0.1:15000",
        "[::1]:15000",
    ] {
        assert_eq!(
            ask(
                servers.admin,
                "GET",
                "/config",
                &format!("host: {host}\r\n")
            )
            .await
            .0,
            200,
            "{host}"
        );
    }
    for headers in [
        "host: evil.example\r\n",
        "host: localhost.evil.example\r\n",
        "host: 10.0.0.1:15000\r\n",
        "host: \r\n",
        "host: localhost\r\nhost: evil.example\r\n",
        "host: localhost\r\norigin: http://localhost\r\n",
        "host: localhost\r\norigin: null\r\n",
    ] {
        assert_eq!(
            ask(servers.admin, "POST", "/drain", headers).await.0,
            403,
            "{headers}"
        );
    }
    let bare = exchange(
        TcpStream::connect(servers.admin).await.unwrap(),
        "POST /drain HTTP/1.0\r\n\r\n",
    )
    .await;
    assert!(bare.starts_with("HTTP/1.0 403 "), "{bare}");
    assert_eq!(servers.drained.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn row_28_connections_held_open_keep_nobody_out() {
    let servers = serve(true).await;
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(servers.health).await.unwrap();
        // The server may have ended it already.
        let _ = stream.write_all(b"GET /ready HTTP/1.1\r\n").await;
        held.push(stream);
    }
    let started = Instant::now();
    assert_eq!(ask(servers.health, "GET", "/ready", "").await.0, 200);
    // Before the first of them is ended for being slow.
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn row_28_connections_that_one_opens_by_the_hundred_cut_nobody_else_off() {
    let servers = serve(true).await;
    let from = |last: u8| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(servers.health).await.unwrap()
    };
    // Its request is under way while the flood comes.
    let mut kubelet = from(2).await;
    kubelet.write_all(b"GET /ready HTTP/1.1\r\n").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(from(3).await);
    }
    // The last of them was accepted, so all of them were.
    let last = held.pop().unwrap();
    assert!(
        exchange(last, "GET /live HTTP/1.0\r\n\r\n")
            .await
            .starts_with("HTTP/1.0 200 ")
    );
    let answer = exchange(kubelet, "host: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn admin_on_a_unix_socket_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // One that a dead process left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (_subscriber, log) = crate::telemetry::logging::build("info").unwrap();
    let listener = bind_admin(&AdminListen::Unix(path.clone())).await.unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let server = tokio::spawn(serve_admin(listener, state(true, &Arc::default(), log)));

    let get = |path: &Path| {
        let path = path.to_owned();
        async move {
            exchange(
                UnixStream::connect(path).await.unwrap(),
                "GET /config HTTP/1.1\r\nhost: kith\r\n\r\n",
            )
            .await
        }
    };
    assert!(get(&path).await.starts_with("HTTP/1.1 200 "));
    let taken = bind_admin(&AdminListen::Unix(path.clone()))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        taken.ends_with("is in use; stop the program that has it, or choose another"),
        "{taken}"
    );
    assert!(
        get(&path).await.starts_with("HTTP/1.1 200 "),
        "the first is unharmed"
    );

    server.abort();
    let _ = server.await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_variable() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let _holder = std::net::TcpListener::bind(taken).unwrap();
    let error = bind_health(taken).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "KITH_HEALTH_LISTEN={taken} is in use; stop the program that has it, or choose another"
        )
    );
}
